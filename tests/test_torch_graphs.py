"""Recorded steps on torch give what the eager loop gives.

A recorder on the CPU stands in for CUDA: it keeps the operations of a step with the memory that they work in, and does
them again on the same memory, as a CUDA graph does. It cannot say what CUDA itself allows.
"""

from __future__ import annotations

import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from mlp_xp import Adam, BatchNorm, Chain, Dense, Dropout, ReLU, SoftmaxCrossEntropy  # noqa: E402
from mlp_xp.nn.step import TrainStep  # noqa: E402
from mlp_xp_backends import BackendError, get_backend  # noqa: E402
from mlp_xp_backends.loop import plain_loop  # noqa: E402
from mlp_xp_backends.torch_graphs import EAGER, GRAPHS, GraphLoop, cuda_graph  # noqa: E402
from mlp_xp_backends.trees import ABSENT, leaves, tree_map  # noqa: E402

XP = get_backend("torch:cpu").xp


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "empty" not in func.name():  # an allocation is done once
            self.calls.append((func, args, kwargs or {}, out))
        return out

    def again(self) -> None:
        for func, args, kwargs, out in self.calls:
            new = func(*args, **kwargs)
            for here, a in zip(flat(out), flat(new), strict=True):
                if a is not here:
                    here.copy_(a)


def flat(out: Any) -> list[Any]:
    return [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]


class Loops:
    """A recorded loop beside the eager one, and how often it was recorded."""

    def __init__(self, body: Any) -> None:
        self.recorded = 0
        self.plain = plain_loop(XP, body, torch.stack)
        self.graphs = GraphLoop(XP, body, self.plain, self.capture)

    def capture(self, step: Any) -> Any:
        self.recorded += 1
        with Recorder() as recorder:
            step()
        return recorder.again

    def agree(self, carry: Any, consts: Any, items: Any) -> None:
        """On copies of the carry, which both may write over, the same bits."""
        (mine, out), (theirs, expected) = (
            f(tree_map(torch.clone, carry), consts, items) for f in (self.graphs, self.plain)
        )
        assert type(mine) is type(theirs)
        for a, b in zip((*leaves(mine), *leaves(out)), (*leaves(theirs), *leaves(expected)), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def t(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def average(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
    """Two carried arrays that change places, one of them written in place; outs of two shapes."""
    a, b = carry
    rows, rate = item
    a *= 0.5
    a += rate * xp.take(consts, rows, axis=0)
    return (b, a), (xp.sum(a), a - b)


def items(n: int, seed: int = 0) -> Any:
    rows = np.random.default_rng(seed).integers(0, 10, (n, 3)).astype("int32")
    return torch.from_numpy(rows), t(n, seed=seed)


def test_a_recorded_loop_is_the_eager_one() -> None:
    loops, carry, data = Loops(average), (t(3, 2), t(3, 2, seed=1)), t(10, 2, seed=2)
    for n, recordings in ((EAGER, 0), (7, 1), (7, 1), (3, 1), (9, 2), (7, 2)):
        loops.agree(carry, data, items(n, seed=n))
        assert loops.recorded == recordings


def test_data_are_read_anew_and_other_data_recorded_anew() -> None:
    loops, carry, data = Loops(average), (t(3, 2), t(3, 2, seed=1)), t(10, 2, seed=2)
    loops.agree(carry, data, items(EAGER))
    loops.agree(carry, data, items(4))
    data *= 2
    loops.agree(carry, data, items(4))
    assert loops.recorded == 1
    loops.agree(carry, data.clone(), items(EAGER))
    assert loops.recorded == 1


def test_results_outlast_the_next_call() -> None:
    loops, data = Loops(average), t(10, 2)
    loops.graphs((t(3, 2), t(3, 2)), data, items(EAGER))
    first = loops.graphs((t(3, 2), t(3, 2)), data, items(5))
    before = tree_map(torch.clone, first)
    loops.graphs((t(3, 2, seed=1), t(3, 2)), data, items(5, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(leaves(first), leaves(before), strict=True))


def test_what_cannot_be_recorded_runs_eagerly() -> None:
    tries = []

    def refuse(step: Any) -> Any:
        tries.append(step)
        raise RuntimeError("operation not permitted when stream is capturing")

    loops, carry, data = Loops(average), (t(3, 2), t(3, 2, seed=1)), t(10, 2)
    loops.graphs.capture = refuse
    loops.agree(carry, data, items(EAGER))
    with pytest.warns(RuntimeWarning, match="one operation at a time: operation not permitted when stream"):
        loops.agree(carry, data, items(EAGER))
    loops.agree(carry, data, items(EAGER))
    assert len(tries) == 1


def test_out_of_memory_is_reported_not_refused() -> None:
    def exhausted(step: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    loops, carry, data = Loops(average), (t(3, 2), t(3, 2, seed=1)), t(10, 2)
    loops.graphs.capture = exhausted
    loops.agree(carry, data, items(EAGER))
    for _ in range(2):  # memory may be free again the next time
        with pytest.raises(torch.OutOfMemoryError):
            loops.graphs(tree_map(torch.clone, carry), data, items(2))


def test_recordings_do_not_keep_data_alive() -> None:
    def capture(step: Any) -> Any:
        step()
        return lambda: None

    loops, carry = Loops(average), (t(3, 2), t(3, 2, seed=1))
    loops.graphs.capture = capture
    data = t(10, 2)
    for n in (EAGER, 2):
        loops.graphs(tree_map(torch.clone, carry), data, items(n))
    assert [seen.graph is not None for seen in loops.graphs.seen.values()] == [True]
    there = weakref.ref(data)
    del data
    assert there() is None
    loops.graphs(tree_map(torch.clone, carry), t(10, 2), items(2))
    assert [seen.graph is not None for seen in loops.graphs.seen.values()] == [False]


def test_data_in_other_memory_are_not_read_by_an_old_recording() -> None:
    loops, carry, data = Loops(average), (t(3, 2), t(3, 2, seed=1)), t(10, 2)
    loops.agree(carry, data, items(EAGER))
    loops.agree(carry, data, items(4))
    data.set_(t(10, 2, seed=9))
    loops.agree(carry, data, items(4))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that `cuda_graph` makes to CUDA, in order, recorded on a machine without CUDA."""
    log: list[str] = []

    class Context:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            log.append(f"enter {self.name}")

        def __exit__(self, kind: Any, *_: Any) -> None:
            log.append(f"leave {self.name}")
            if kind is not None and self.name == "recording":
                raise RuntimeError("capture invalidated")

    def noted(name: str) -> Any:
        return lambda *args, **options: log.append(" ".join(map(str, (name, *args))))

    generator = SimpleNamespace(clone_state=lambda: "state", graphsafe_set_state=noted("generator"))
    fakes = {
        "CUDAGraph": lambda: SimpleNamespace(replay=noted("replay")),
        "Stream": lambda device: SimpleNamespace(wait_stream=noted("capture stream waits for")),
        "current_stream": lambda device: SimpleNamespace(wait_stream=lambda s: log.append("join")),
        "graph": lambda graph, **options: Context("recording"),
        "stream": lambda stream: Context("stream"),
        "graph_pool_handle": lambda: "pool",
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": noted("sync"),
        "default_generators": (generator, generator),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("clearCublasWorkspaces", "endAllocateToPool", "releasePool"):
        monkeypatch.setattr(torch._C, f"_cuda_{name}", noted(name), raising=False)
    return log


def test_a_step_is_warmed_up_on_the_stream_of_its_recording(events: list[str]) -> None:
    replay = cuda_graph(torch.device("cuda:1"), lambda: events.append("step"))
    replay()
    assert [event for event in events if not event.startswith("capture stream waits")] == [
        "sync error", "enter stream", "step", "leave stream", "sync 0", "join",
        "clearCublasWorkspaces",
        "enter stream", "enter recording", "step", "leave recording", "leave stream",
        "clearCublasWorkspaces",
        "replay",
    ]  # fmt: skip


def test_a_step_that_waits_for_the_device_is_never_recorded(events: list[str]) -> None:
    def step() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        cuda_graph(torch.device("cuda:1"), step)
    assert "sync 0" in events
    assert "enter recording" not in events


def test_a_failed_recording_leaves_torch_as_it_was(events: list[str]) -> None:
    def step() -> None:
        if "enter recording" in events:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capture invalidated"):
        cuda_graph(torch.device("cuda:1"), step)
    assert events[-4:] == [
        "generator state", "endAllocateToPool 1 pool", "releasePool 1 pool", "clearCublasWorkspaces"
    ]  # fmt: skip


@pytest.mark.gpu
def test_cuda_records_a_training_step() -> None:
    try:
        backend = get_backend("torch:cuda")
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])
    plain = plain_loop(backend.xp, average, torch.stack)
    loop = GraphLoop(backend.xp, average, plain, partial(cuda_graph, torch.device(backend.device)))
    carry, data = tree_map(backend.asarray, ((t(3, 2), t(3, 2, seed=1)), t(10, 2)))
    for n in (EAGER, 7, 5):
        batch = tree_map(backend.asarray, items(n))
        (mine, out), (theirs, expected) = (f(tree_map(torch.clone, carry), data, batch) for f in (loop, plain))
        for a, b in zip((*leaves(mine), *leaves(out)), (*leaves(theirs), *leaves(expected)), strict=True):
            np.testing.assert_array_equal(backend.to_numpy(a), backend.to_numpy(b))
    assert [seen.graph is not None for seen in loop.seen.values()] == [True]


def test_few_recordings_are_kept() -> None:
    loops = Loops(average)
    for k in range(3 * GRAPHS):
        carry, data = (t(3, 2), t(3, 2)), t(10 + k, 2)
        loops.agree(carry, data, items(EAGER))
        loops.agree(carry, data, items(2))
    assert loops.recorded == 3 * GRAPHS
    assert len(loops.graphs.seen) == GRAPHS


def test_data_that_pass_by_are_not_recorded() -> None:
    """Windows of a stream: each a new array, often in the memory of one that is gone."""
    loops, carry = Loops(average), (t(3, 2), t(3, 2, seed=1))
    for k in range(2 * GRAPHS):
        loops.agree(carry, t(10, 2, seed=k), items(EAGER))
    assert loops.recorded == 0


def test_a_network_trains_the_same() -> None:
    """Dropout's masks and the running means of batch normalization change from step to step in the carry."""
    network = Chain(Dense(6, 8), BatchNorm(8), ReLU(), Dropout(0.3), Dense(8, 3))
    step = TrainStep(network, SoftmaxCrossEntropy(), Adam(0.01), l2=1e-3, clip_norm=1.0)
    rng = np.random.default_rng(0)
    params, layers = (
        tree_map(lambda a: torch.from_numpy(a.astype("float32") if a.dtype.kind == "f" else a), tree)
        for tree in (network.init(rng), network.init_state(rng))
    )
    x, y = t(40, 6), torch.from_numpy(rng.integers(0, 3, 40))

    def body(xp: Any, state: Any, consts: Any, item: Any) -> Any:
        rows, rates = item
        return step(xp, state, *(xp.take(a, rows, axis=0) for a in consts), ABSENT, rates)

    loops = Loops(body)
    state = step.init(XP, params, layers)
    table = [step.optimizer.rates(0.01, k + 1) for k in range(EAGER)]
    rates = tree_map(lambda *column: torch.tensor(column, dtype=torch.float32), *table)
    rows = torch.from_numpy(np.stack([rng.permutation(40)[:16] for _ in range(EAGER)]))
    for _ in range(3):
        loops.agree(state, (x, y), (rows, rates))
    assert loops.recorded == 1

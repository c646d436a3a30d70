"""Steps replayed as a CUDA graph are bitwise the same steps, whatever else the program does in between."""

from __future__ import annotations

import gc
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from benchmarks.launches import arguments
from mlp_xp.nn.layers import Chain, Dense, Dropout, ReLU
from mlp_xp.nn.losses import SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.trees import leaves, tree_map

pytestmark = pytest.mark.gpu

SMALL = TrainStep(Chain(Dense(784, 12), ReLU(), Dropout(0.25), Dense(12, 10)), SoftmaxCrossEntropy(), Adam())


@pytest.fixture(scope="module")
def backend() -> Any:
    if find_spec("nvmath") is None:
        pytest.skip("nvmath-python is not installed")
    try:
        return get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])


def compiled(body: Any) -> Any:
    from mlp_xp_backends.compiler.loop import CompiledLoop
    from mlp_xp_backends.compiler.targets.cuda.launch import target

    return CompiledLoop(body, lambda *_: pytest.fail("the step was not recorded"), target)


def on_device(backend: Any, tree: Any) -> Any:
    return tree_map(lambda a: backend.asarray(np.array(a)), tree)


def bits(backend: Any, tree: Any) -> list[bytes]:
    return [backend.to_numpy(a).tobytes() for a in leaves(tree)]


def run(backend: Any, graphs: bool, chunks: int, monkeypatch: pytest.MonkeyPatch, between: Any = None) -> Any:
    """``chunks`` times 50 steps; the state and the losses, and the number of graphs made."""
    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0 if graphs else 10**9)
    body, carry, consts, items = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in (carry, consts, items))
    losses = []
    for chunk in range(chunks):
        carry, out = loop(carry, consts, items)
        losses.append(out)
        if between is not None:
            between(chunk, carry, consts)
    (plan,) = loop.ready.values()
    assert (plan.graphs is not None) == graphs
    return bits(backend, (carry, tuple(losses)))


def test_a_thousand_steps_as_graphs_are_the_same_to_the_bit(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    held: list[Any] = []
    evaluate = backend.compile(_prediction(SMALL.network))

    def disturb(chunk: int, carry: Any, consts: Any) -> None:
        """Allocations, evaluations on the state, and everything free given back to the driver."""
        held.append(cupy.full((chunk + 1, 999), np.nan, np.float32))
        predicted = evaluate((), (carry.params, consts.x), backend.asarray(np.zeros(2)))[1]
        assert np.isfinite(backend.to_numpy(predicted)).all()
        if chunk % 2:
            held.clear()
            cupy.get_default_memory_pool().free_all_blocks()

    without = run(backend, False, 20, monkeypatch)
    assert run(backend, True, 20, monkeypatch) == without
    assert run(backend, True, 20, monkeypatch, disturb) == without


def _prediction(network: Chain) -> Any:
    def predict(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        params, x = consts
        for layer, p in zip(network.layers, params, strict=True):
            if not layer.stateful:
                x = layer.forward(xp, p, x)[0]
        return carry, x + item

    return predict


def test_a_hundred_recordings_leak_nothing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0)
    body, carry, consts, items = arguments(SMALL, batch=8, n=4)
    loop = compiled(body)
    consts, items = on_device(backend, consts), on_device(backend, items)
    used, pool = [], cupy.get_default_memory_pool()
    for _ in range(100):
        loop(on_device(backend, carry), consts, items)  # other arrays: recorded anew
        if len(used) % 10 == 0:
            gc.collect()
        used.append((pool.used_bytes(), cupy.cuda.runtime.memGetInfo()[0]))
    assert used[-1] == used[9]


def test_streams_and_threads_of_the_user_keep_working(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread trains on a stream of its own, with a graph of its own, while others record theirs."""
    import cupy

    from mlp_xp_backends.compiler.targets.cuda import launch

    expected = run(backend, False, 2, monkeypatch)
    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=50)
    results: dict[int, Any] = {}

    def work(k: int) -> None:
        with cupy.cuda.Stream(non_blocking=k % 2 == 0):
            loop = compiled(body)
            carry, consts, items = (on_device(backend, tree) for tree in trees)
            carry, first = loop(carry, consts, items)
            carry, second = loop(carry, consts, items)
            results[k] = bits(backend, (carry, (first, second)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(map(results.get, range(3))) == [expected] * 3


def test_one_loop_on_two_streams_keeps_their_order(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda import launch

    expected = run(backend, False, 4, monkeypatch)
    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    cupy.cuda.runtime.deviceSynchronize()
    losses = []
    for k in range(4):
        with cupy.cuda.Stream(non_blocking=True) if k % 2 else cupy.cuda.Stream.null:
            carry, out = loop(carry, consts, items)
            losses.append(out)
    cupy.cuda.runtime.deviceSynchronize()
    assert bits(backend, (carry, tuple(losses))) == expected


def test_what_cuda_refuses_to_record_runs_without_graphs(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp_backends.compiler.targets.cuda import graph, launch

    expected = run(backend, False, 2, monkeypatch)
    body, *trees = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    monkeypatch.setattr(launch, "WORTH", 0)
    monkeypatch.setattr(graph, "_captured", lambda *_: (_ for _ in ()).throw(RuntimeError("no capture today")))
    with pytest.warns(UserWarning, match="without CUDA graphs: no capture today"):
        carry, first = loop(carry, consts, items)
    carry, second = loop(carry, consts, items)
    assert bits(backend, (carry, (first, second))) == expected


def test_a_step_that_fails_while_it_is_recorded_leaves_the_stream_usable(backend: Any) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda.graph import StepGraphs

    def fail() -> None:
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        StepGraphs(lambda stream: [(fail, (), None)])
    assert float(cupy.arange(4.0).sum()) == 6.0


def test_the_loop_keeps_no_data_alive(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=4)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    after, _ = loop(carry, consts, items)
    watched = [weakref.ref(a) for a in leaves((carry, consts, items, after))]
    del carry, consts, items, after, _
    gc.collect()
    assert not any(there() is not None for there in watched)

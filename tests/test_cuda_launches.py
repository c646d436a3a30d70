"""A training step on CUDA takes few launches and never waits for the device."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from benchmarks.launches import arguments, recorded, steps
from mlp_xp import SGD, Sweep
from mlp_xp.nn.losses import SquaredError
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import Adam
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.compiler.program import Unrecordable
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cuda.emit import Emitted, emit
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.trees import leaves, tree_map
from tests.programs import draw

STEPS = dict(steps())
MOST = 20
WITHOUT_NORMS = 16
NORMS = ("layer norm", "dropout", "batch norm", "clip_norm")


@pytest.mark.parametrize("name", STEPS)
def test_few_launches_for_every_layer_loss_and_optimizer(name: str) -> None:
    emitted = emit(recorded(STEPS[name]))
    assert emitted.launches <= (MOST if any(word in name for word in NORMS) else WITHOUT_NORMS)


@pytest.mark.parametrize("name", STEPS)
def test_only_tickets_are_atomic(name: str) -> None:
    """Atomic additions of floating-point numbers would round in another order in every run."""
    source = emit(recorded(STEPS[name], weighted=True)).source
    assert re.findall(r"\batomic\w*\([^,]*", source) == ["atomicAdd((unsigned int*)ticket"]


@pytest.mark.parametrize("weighted", [False, True])
def test_an_adam_step_with_one_hidden_layer(weighted: bool) -> None:
    emitted = emit(recorded(STEPS["Adam"], weighted))
    assert emitted.products == 5
    assert emitted.launches <= 11


def test_deeper_networks_add_two_kernels_and_three_products_a_layer() -> None:
    shallow, deep = (emit(recorded(STEPS[name])) for name in ("Adam", "784-256-128-10, Adam"))
    assert (deep.products, deep.launches) == (shallow.products + 3, shallow.launches + 5)


def test_all_matrices_are_updated_by_one_launch() -> None:
    """With Adam's means of them; a bias is updated where its gradient is summed up."""
    emitted = emit(recorded(STEPS["Adam"]))
    written = [v for v in emitted.kernels[len(emitted.order) - 1].arrays if v.source and v.source[0] == "carry"]
    assert sum(v.shape in ((784, 128), (128, 10)) for v in written) == 6


def test_what_is_needed_at_once_does_not_share_memory() -> None:
    for name in ("Adam", "layer norm and dropout, Adam", "784-256-128-10, Adam"):
        check_places(emit(recorded(STEPS[name])))


@pytest.mark.parametrize("seed", range(60))
def test_places_of_programs_drawn_at_random(seed: int) -> None:
    body, carry, consts, items = draw(seed)
    try:
        emitted = emit(record(body, carry, consts, items))
    except (Unrecordable, Exception):
        return
    check_places(emitted)
    assert emitted.source == emit(record(body, carry, consts, items)).source  # which is what CuPy's cache goes by


@pytest.mark.slow
def test_many_layers_stay_within_the_parameters_of_a_kernel() -> None:
    step = TrainStep(mlp(8, *[8] * 90, 8), SquaredError(), Adam())
    emitted = emit(recorded(step, inputs=8, outputs=8))
    assert max(len(k.arrays) for k in emitted.kernels.values()) <= 500


def of_stack(models: int) -> Emitted:
    """The step of a stack of models, each with rows and a rate of its own."""
    body, state, data, (rows, rates) = arguments(STEPS["SGD, momentum"], batch=16)
    state = tree_map(lambda a: np.stack([a] * models), state)
    rates = tree_map(lambda a: np.stack([a] * models, axis=1)[..., None, None], rates)
    return emit(record(body, state, data, (np.stack([rows] * models, axis=1), rates)))


def test_launches_do_not_grow_with_the_models_of_a_stack() -> None:
    found = [(e.launches, e.products) for e in map(of_stack, (2, 4, 16, 256))]
    alone = emit(recorded(STEPS["SGD, momentum"], batch=16))
    assert found == [found[0]] * 4
    assert found[0] <= (alone.launches + 1, alone.products)


def check_places(emitted: Emitted) -> None:
    """No other result is written to the memory of a result between its launch and the last one that reads it."""
    makers = {op.out: k for k, launch in enumerate(emitted.order) for nest in launch for op in nest.at}
    spans = {v: (offset, offset + v.nbytes) for v, offset in emitted.offsets.items()}
    reads: dict[Any, int] = {}
    for k, launch in enumerate(emitted.order):
        for root in _pointers(emitted, k, launch):
            reads[root] = k
    for v, (start, end) in spans.items():
        assert 0 <= start < end <= emitted.size
        for w, (first, last) in spans.items():
            if v is not w and start < last and first < end:
                assert reads[v] < makers[w] or reads[w] < makers[v]


def _pointers(emitted: Emitted, k: int, launch: Any) -> list[Any]:
    op = launch[0].product
    return [v.root for v in (*op.inputs, op.out)] if op else list(emitted.kernels[k].arrays)


def wide(name: str) -> Any:
    """A body that reads elements more than 2^31 elements apart, with its arrays; only their layouts count."""

    def layout(dtype: str, shape: tuple[int, ...], *strides: int) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(
            np.zeros(1, dtype), shape, [s * np.dtype(dtype).itemsize for s in strides]
        )

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        match name:
            case "gather from a large table":
                return carry, xp.take(consts, item, axis=0) * 2
            case "columns of a large table":
                return carry, xp.sum(consts, axis=1)
            case "segments of distant rows":
                return carry, xp.segment_sum(consts, item, 5)
        return carry, consts[item.shape[0] :, ::50] * 2

    consts = layout("float32", (30_000, 100), 100_000, 1)
    if name == "gather from a large table":
        consts = layout("float32", (30_000_000, 250), 250, 1)
    rows = 30_000 if name == "segments of distant rows" else 8
    return body, (), consts, np.zeros((2, rows), np.int32)


@pytest.mark.parametrize(
    "name",
    ["gather from a large table", "columns of a large table", "segments of distant rows", "slices of distant rows"],
)
def test_offsets_beyond_32_bits_are_computed_with_64(name: str) -> None:
    source = emit(record(*wide(name))).source
    assert ("(long long)((" if name.startswith("gather") else " * 100000LL") in source
    assert re.search(r"i\d \* 100000\b(?!LL)", source) is None


def test_loops_of_more_than_32_bits_are_refused() -> None:
    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        return carry, xp.sum(xp.broadcast_to(consts, (60_000, 100_000)))

    with pytest.raises(Unrecordable, match="6000000000 elements"):
        emit(record(body, (), np.zeros(100_000, np.float32), np.zeros(2, np.float32)))


# On a device


@pytest.fixture(scope="module")
def cupy_backend() -> Any:
    try:
        return get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])


def on_device(backend: Any, tree: Any) -> Any:
    return tree_map(lambda a: backend.asarray(np.array(a)), tree)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in STEPS if "words" not in name])
def test_the_fused_step_is_the_plain_step(cupy_backend: Any, name: str) -> None:
    """Three steps of every layer, loss and optimizer beside NumPy, in float64."""
    body, *trees = arguments(STEPS[name], weighted=True, batch=16)
    carry, consts, items = (tree_map(lambda a: a.astype(float) if a.dtype.kind == "f" else a, tree) for tree in trees)
    got = cupy_backend.compile(body)(*(on_device(cupy_backend, tree) for tree in (carry, consts, items)))
    numpy = get_backend("numpy:plain").xp
    expected = plain_loop(numpy, body, np.stack)(tree_map(np.array, carry), consts, items)
    for a, b in zip(leaves(tree_map(cupy_backend.to_numpy, got)), leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * float(np.max(np.abs(b), initial=1.0)))


EVENTS = ("launches", "kernel step*", "cublas*", "cudaGraphLaunch", "cuda*Synchronize", "cudaMemcpy*", "cudaMalloc")


def counter() -> Callable[[bytes], int]:
    """The number of requests to the emulated device, by kind."""
    if "EMU_HOME" not in os.environ:
        pytest.skip("counts need the emulated device")
    return ctypes.CDLL(os.environ["EMU_HOME"] + "/lib/libcuda.so.1").emu_count


def counted(backend: Any, n: int) -> dict[str, int]:
    """The requests to the emulated device in a second call of ``n`` steps."""
    count = counter()
    body, carry, consts, items = arguments(STEPS["Adam"], batch=16, n=n)
    loop = backend.compile(body)
    carry, consts, items = (on_device(backend, tree) for tree in (carry, consts, items))
    carry = loop(carry, consts, items)[0]  # its losses go back to the pool of memory
    before = [count(event.encode()) for event in EVENTS]
    loop(carry, consts, items)
    return {event: count(event.encode()) - was for event, was in zip(EVENTS, before, strict=True)}


@pytest.mark.gpu
def test_launches_are_what_was_counted_and_nothing_waits(cupy_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 10**9)
    found, emitted = counted(cupy_backend, 20), emit(recorded(STEPS["Adam"], batch=16))
    assert found["kernel step*"] == 20 * (emitted.launches - emitted.products)
    assert found["cublas*"] == 20 * emitted.products
    assert found["launches"] == 20 * (emitted.launches - emitted.products) + 1  # and what fills in the table
    assert found["cuda*Synchronize"] == found["cudaMemcpy*"] == found["cudaMalloc"] == 0


@pytest.mark.gpu
def test_launches_of_a_sweep_do_not_grow_with_the_models_of_a_stack(
    cupy_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen models together launch in a step what four do. One may need a kernel less: it computes numbers inline."""
    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 10**9)
    count = counter()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((160, 12)), rng.integers(0, 3, 160)
    settings = [{"lr": 0.1 / (i + 1), "momentum": 0.02 * (i + 1), "l2": 0.01 * (i + 1), "seed": i} for i in range(16)]
    sweep = Sweep(mlp(12, 16, 3, dropout=0.2), optimizer=SGD(), settings=settings, device=cupy_backend)

    def events(together: int, epochs: int) -> dict[str, int]:
        before = [count(event.encode()) for event in EVENTS]
        sweep.fit(x, y, max_epochs=epochs, batch_size=16, together=together)
        return {event: count(event.encode()) - was for event, was in zip(EVENTS, before, strict=True)}

    def of_an_epoch(together: int) -> dict[str, float]:
        events(together, 1)  # compiles
        two, three = events(together, 2), events(together, 3)
        return {event: (three[event] - two[event]) * together / 16 for event in EVENTS}

    one, four, sixteen = map(of_an_epoch, (1, 4, 16))
    assert sixteen == four
    assert 10 * 10 < sixteen["kernel step*"] + sixteen["cublas*"] <= one["kernel step*"] + one["cublas*"] + 10
    assert sixteen["launches"] == sixteen["kernel step*"] + 1
    assert sixteen["cudaMemcpy*"] == one["cudaMemcpy*"]
    assert sixteen["cuda*Synchronize"] == sixteen["cudaMalloc"] == 0


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("nvmath") is None, reason="nvmath-python is not installed")
def test_graphs_take_eight_steps_at_once(cupy_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0)
    found = counted(cupy_backend, 20)
    assert found["cudaGraphLaunch"] == 20 // 8 + 20 % 8
    assert found["cuda*Synchronize"] == found["cudaMemcpy*"] == found["cudaMalloc"] == 0

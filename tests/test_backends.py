"""The contract of every backend: transfers to the device and back, its namespace, its loop, its errors."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlp_xp_backends import (
    DeviceMemoryError,
    Memory,
    get_backend,
)
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import as_host, host_memory, memory_guard, size
from mlp_xp_backends.namespace import CREATION
from mlp_xp_backends.probe import BACKENDS, probe

GPU = ("cupy", "torch:cuda", "jax:cuda")
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.gpu] if name in GPU else []) for name in BACKENDS])
def backend(request: pytest.FixtureRequest) -> Any:
    status = probe(request.param)
    if not status.usable:
        pytest.skip(status.reason)
    return get_backend(request.param)


# The way to the device and back


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T,
    "strided": lambda x: x[:, ::2],
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "0-d": lambda x: x[0, 0, ...],
    "empty": lambda x: x[:0],
    "foreign byte order": lambda x: x.astype(x.dtype.newbyteorder("S")),
    "read-only": lambda x: frozen(x),
}


def frozen(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def same(x: Any, y: np.ndarray) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == y.dtype and x.shape == y.shape and bool(np.all(x == y))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_keeps_shape_dtype_and_bits(backend: Any, dtype: str, layout: str) -> None:
    x = LAYOUTS[layout](np.arange(24).reshape(4, 6).astype(dtype))
    expected = x.astype(dtype)
    assert same(backend.to_numpy(backend.asarray(x)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", ["float64", "uint8", "int64"])
def test_asarray_converts(backend: Any, source: str, dtype: str) -> None:
    x = np.arange(5).astype(source)
    assert same(backend.to_numpy(backend.asarray(x, dtype)), x.astype(dtype))
    assert same(backend.to_numpy(backend.asarray(backend.asarray(x), dtype)), x.astype(dtype))


def test_asarray_of_its_own_array_is_no_copy(backend: Any) -> None:
    x = backend.asarray(np.arange(4.0))
    assert backend.asarray(x) is x or backend.asarray(x).data_ptr() == x.data_ptr()


def test_memory_maps_are_read(backend: Any, tmp_path: Path) -> None:
    x = np.arange(12, dtype="float32").reshape(3, 4)
    np.save(tmp_path / "x.npy", x)
    for mode in ("r", "c"):
        assert same(backend.to_numpy(backend.asarray(np.load(tmp_path / "x.npy", mmap_mode=mode))), x)
    assert same(np.load(tmp_path / "x.npy"), x)


@pytest.mark.parametrize("other", ["array_api_strict", "torch:cpu", "jax:cpu", "numpy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_asarray_takes_arrays_of_other_libraries(backend: Any, other: str, dtype: str) -> None:
    x = np.arange(6).reshape(2, 3).astype(dtype)
    assert same(backend.to_numpy(backend.asarray(get_backend(other).asarray(x))), x)


def add_one(xp: Any, carry: Any, consts: Any, item: Any) -> tuple[Any, Any]:
    carry += item
    return carry, ()


@pytest.mark.parametrize("name", ["torch:cpu", "jax:cpu"])
def test_read_only_memory_is_never_written_to(name: str) -> None:
    backend = get_backend(name)
    x = frozen(np.zeros(3))
    total, outs = backend.compile(add_one)(backend.asarray(x), (), backend.asarray(np.ones(4)))
    assert same(backend.to_numpy(total), np.full(3, 4.0))
    assert outs == ()
    assert not x.any()


def test_torch_shares_what_it_may_write_to() -> None:
    x = np.zeros(3)
    get_backend("torch:cpu").asarray(x)[0] = 7.0
    assert x[0] == 7.0


def test_torch_takes_tensors_that_learn() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(3, requires_grad=True)
    assert not get_backend("torch:cpu").asarray(x).requires_grad


def test_jax_arrays_do_not_change_with_the_array_they_came_from() -> None:
    x = np.zeros(1024)
    y = get_backend("jax:cpu").asarray(x)
    x[:] = 1.0
    assert not np.asarray(y).any()


def test_synchronize_and_memory(backend: Any) -> None:
    backend.synchronize()
    free, total = backend.memory()
    assert 0 < free <= total


class OnTheGPU:
    """An array that refuses an implicit copy to the host, like those of CuPy and torch."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, dl_device: tuple[int, int], **kwargs: Any) -> Any:
        assert dl_device == (1, 0)
        return self.x.__dlpack__(**kwargs)


def test_arrays_come_home_from_a_gpu_by_dlpack() -> None:
    x = np.arange(6.0).reshape(2, 3)
    assert same(as_host(OnTheGPU(x)), x)


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_host_memory(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    free, total = host_memory()
    assert 0 < free <= total


# The namespace


def standard_names() -> set[str]:
    """The names that array-api-strict exports, without its own additions."""
    names = pytest.importorskip("array_api_strict").__all__
    return {name for name in names if "strict" not in name.lower() and name != "Device" and name[0] != "_"}


def test_namespace_has_the_whole_standard(backend: Any) -> None:
    assert [name for name in standard_names() if not hasattr(backend.xp, name)] == []


def test_namespace_of_real_cupy_has_the_whole_standard() -> None:
    pytest.importorskip("cupy")
    made = importlib.import_module("mlp_xp_backends.cupy_backend").CupyBackend(0)
    assert [name for name in standard_names() if not hasattr(made.xp, name)] == []
    assert made.device == "cuda:0"


def device_of(x: Any) -> str:
    if hasattr(x, "devices"):
        (device,) = x.devices()
        return "cpu" if device.platform == "cpu" else f"cuda:{device.local_hardware_id}"
    if hasattr(x.device, "id"):
        return f"cuda:{x.device.id}"
    return "cpu" if "CPU" in str(x.device) else str(x.device)  # array-api-strict has a word of its own


CALLS: dict[str, Callable[[Any], Any]] = {
    "arange": lambda xp: xp.arange(3, dtype=xp.int64),
    "asarray": lambda xp: xp.asarray(1.5, dtype=xp.float64),
    "empty": lambda xp: 0 * xp.empty((2, 3), dtype=xp.int32),
    "eye": lambda xp: xp.eye(3, dtype=xp.float64),
    "full": lambda xp: xp.full((2,), 2.5, dtype=xp.float32),
    "linspace": lambda xp: xp.linspace(0.0, 1.0, 5, dtype=xp.float32),
    "ones": lambda xp: xp.ones((2, 3), dtype=xp.float32),
    "zeros": lambda xp: xp.zeros((2, 3), dtype=xp.float64),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation_functions_make_arrays_on_the_device(backend: Any, name: str) -> None:
    x = CALLS[name](backend.xp)
    assert device_of(x) == backend.device
    assert same(backend.to_numpy(x), np.asarray(CALLS[name](np)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "maximum with a number": lambda xp, x, i: xp.maximum(x, 0.0),
    "maximum of a number": lambda xp, x, i: xp.maximum(0.5, x),
    "maximum of arrays": lambda xp, x, i: xp.maximum(x, -x),
    "minimum with a number": lambda xp, x, i: xp.minimum(x, 0.5),
    "minimum of a number": lambda xp, x, i: xp.minimum(0.0, x),
    "where with a number": lambda xp, x, i: xp.where(x > 0, x, 0.0),
    "where of a number": lambda xp, x, i: xp.where(x > 0, 1.0, x),
    "logaddexp with a number": lambda xp, x, i: xp.logaddexp(x, 0.0),
    "logaddexp of a number": lambda xp, x, i: xp.logaddexp(1.0, x),
    "clip": lambda xp, x, i: xp.clip(x, -0.5, 0.5),
    "clip below": lambda xp, x, i: xp.clip(x, min=-0.5),
    "clip above": lambda xp, x, i: xp.clip(x, max=0.5),
    "sign": lambda xp, x, i: xp.sign(x),
    "take": lambda xp, x, i: xp.take(x, i, axis=1),
    "take by int64": lambda xp, x, i: xp.take(x, xp.astype(i, xp.int64), axis=0),
    "take_along_axis": lambda xp, x, i: xp.take_along_axis(x, xp.stack([i, i, i, i]), axis=-1),
    "rows by columns": lambda xp, x, i: x[xp.arange(2), i],
    "power of a number": lambda xp, x, i: xp.pow(2.0, x),
    "0-d factor": lambda xp, x, i: x * xp.asarray(0.5, dtype=x.dtype),
}


def called(backend: Any, f: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """``f`` of the arrays, as the only step of each kind of loop that the backend has."""

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> tuple[Any, Any]:
        return carry, f(xp, *consts)

    sent = tuple(map(backend.asarray, arrays))
    return [backend.to_numpy(c(body)((), sent, backend.asarray(np.zeros(1)))[1])[0] for c in loops(backend)]


def loops(backend: Any) -> list[Callable[[Any], Any]]:
    return [backend.compile, backend.eager] if hasattr(backend, "eager") else [backend.compile]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_that_libraries_disagree_on(backend: Any, name: str, dtype: str, rng: np.random.Generator) -> None:
    x, i = rng.normal(size=(4, 5)).astype(dtype), np.asarray([3, 1], "int32")
    x[1, 1] = 0.0
    expected = FUNCTIONS[name](np, x, i)
    for got in called(backend, FUNCTIONS[name], x, i):
        assert got.dtype == expected.dtype == np.dtype(dtype)
        np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["maximum with a number", "minimum of a number", "clip", "clip below", "sign"])
def test_nan_passes_through(backend: Any, name: str) -> None:
    for got in called(backend, FUNCTIONS[name], np.asarray([np.nan, 0.25]), np.asarray([0])):
        np.testing.assert_array_equal(np.isnan(got), [True, False])


def test_64_bits_survive_without_a_flag_of_the_whole_program() -> None:
    jax = pytest.importorskip("jax")
    backend = get_backend("jax:cpu")
    before = jax.config.jax_enable_x64
    x = backend.asarray(np.asarray([1.0 + 1e-12, 2.0**40 + 1]))
    assert same(backend.to_numpy(backend.xp.maximum(x, 0.0)), np.asarray([1.0 + 1e-12, 2.0**40 + 1]))
    assert str(backend.xp.linalg.vector_norm(x).dtype) == "float64"
    assert jax.config.jax_enable_x64 == before


# The loop


class Descent(NamedTuple):
    w: Any
    v: Any


class Outcome(NamedTuple):
    loss: Any
    nested: tuple[Any, tuple[()]]


def descend(xp: Any, carry: Descent, consts: tuple[Any, Any], item: tuple[Any, Any]) -> tuple[Descent, Outcome]:
    """Momentum on least squares, ``|X w - y|^2 / 2``, with a batch and a rate per step."""
    w, v = carry
    rows, rate = item
    X, y = (xp.take(const, rows, axis=0) for const in consts)
    r = xp.matmul(X, w) - y
    loss = 0.5 * xp.sum(r * r)
    v *= 0.9
    v -= rate * xp.matmul(xp.matrix_transpose(X), r)
    w += v
    return Descent(w, v), Outcome(loss, (xp.max(xp.abs(r), axis=0), ()))


class Problem(NamedTuple):
    carry: Descent
    consts: tuple[np.ndarray, np.ndarray]
    items: tuple[np.ndarray, np.ndarray]

    def on(self, backend: Any, dtype: str, steps: slice = slice(None)) -> tuple[Any, Any, Any]:
        def cast(a: np.ndarray) -> np.ndarray:
            return a.astype(dtype) if a.dtype.kind == "f" else a

        carry = Descent(*(backend.asarray(cast(a)) for a in self.carry))
        consts = tuple(backend.asarray(frozen(cast(a))) for a in self.consts)
        return carry, consts, tuple(backend.asarray(frozen(cast(a)[steps])) for a in self.items)

    def solved(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The same in float64 with explicit sums: ``w``, ``v``, losses, largest residuals."""
        (w, v), (X, y), (rows, rates) = self
        losses, largest = [], []
        for batch, rate in zip(rows, rates, strict=True):
            r = np.einsum("ij,jk->ik", X[batch], w) - y[batch]
            losses.append(0.5 * np.einsum("ik,ik->", r, r))
            largest.append(np.abs(r).max(axis=0))
            v = 0.9 * v - rate * np.einsum("ij,ik->jk", X[batch], r)
            w = w + v
        return w, v, np.asarray(losses), np.asarray(largest)


@pytest.fixture
def problem(rng: np.random.Generator) -> Problem:
    carry = Descent(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)))
    rows = rng.integers(0, 10, size=(8, 4)).astype("int32")
    return Problem(carry, (rng.normal(size=(10, 3)), rng.normal(size=(10, 2))), (rows, np.linspace(0.02, 0.01, 8)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loop_is_the_recurrence(backend: Any, problem: Problem, dtype: str) -> None:
    expected = problem.solved()
    for compiled in loops(backend):
        carry, outs = compiled(descend)(*problem.on(backend, dtype))
        assert isinstance(carry, Descent)
        assert isinstance(outs, Outcome)
        assert outs.nested[1] == ()
        got = [backend.to_numpy(x) for x in (*carry, outs.loss, outs.nested[0])]
        assert {x.dtype for x in got} == {np.dtype(dtype)}
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e3 * np.finfo(dtype).eps, atol=1e2 * np.finfo(dtype).eps)


def test_loop_in_parts_is_the_whole_loop(backend: Any, problem: Problem) -> None:
    for compiled in loops(backend):
        loop = compiled(descend)
        whole, outs = loop(*problem.on(backend, "float64"))
        carry, consts, first = problem.on(backend, "float64", slice(5))
        carry, outs1 = loop(carry, consts, first)
        carry, outs2 = loop(carry, consts, problem.on(backend, "float64", slice(5, None))[2])
        for x, y in zip(whole, carry, strict=True):
            np.testing.assert_allclose(backend.to_numpy(x), backend.to_numpy(y), rtol=1e-13)
        losses = np.concatenate([backend.to_numpy(outs1.loss), backend.to_numpy(outs2.loss)])
        np.testing.assert_allclose(losses, backend.to_numpy(outs.loss), rtol=1e-13)


def test_loop_leaves_constants_and_items_as_they_are(backend: Any, problem: Problem) -> None:
    for compiled in loops(backend):
        carry, consts, items = problem.on(backend, "float64")
        compiled(descend)(carry, consts, items)
        for x, y in zip((*consts, *items), (*problem.consts, *problem.items), strict=True):
            assert same(backend.to_numpy(x), y)


def test_same_start_gives_the_same_bits(backend: Any, problem: Problem) -> None:
    loop = backend.compile(descend)
    first, second = (loop(*problem.on(backend, "float32")) for _ in range(2))
    assert same(backend.to_numpy(first[0].w), backend.to_numpy(second[0].w))
    assert same(backend.to_numpy(first[1].loss), backend.to_numpy(second[1].loss))


def test_items_reach_the_body_as_0d_arrays(backend: Any) -> None:
    shapes = []

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> tuple[Any, Any]:
        shapes.append((item.shape, str(item.dtype).rpartition(".")[2]))
        return carry + item, item

    _, outs = backend.compile(body)(backend.asarray(np.zeros((1, 1))), (), backend.asarray(np.arange(3.0)))
    assert set(shapes) == {((), "float64")}
    assert same(backend.to_numpy(outs), np.arange(3.0))


def test_jax_compiles_each_shape_once(problem: Problem) -> None:
    backend = get_backend("jax:cpu")
    traces = []

    def counted(*args: Any) -> tuple[Any, Any]:
        traces.append(args)
        return descend(*args)

    loop = backend.compile(counted)
    for steps in (slice(0, 5), slice(2, 7), slice(0, 3), slice(5, 8), slice(0, 5)):
        loop(*problem.on(backend, "float32", steps))
    assert len(traces) <= 2  # five steps, three steps


@pytest.mark.parametrize("items", [(), (np.ones(2), np.ones(3)), np.ones(()), np.ones((0, 2))])
def test_items_of_no_common_length_are_refused(backend: Any, items: Any) -> None:
    sent = tuple(map(backend.asarray, items)) if isinstance(items, tuple) else backend.asarray(items)
    with pytest.raises(ValueError, match="leaves of items"):
        backend.compile(add_one)(backend.asarray(np.zeros(2)), (), sent)


def test_a_body_that_fails_says_so_itself(backend: Any) -> None:
    def body(xp: Any, carry: Any, consts: Any, item: Any) -> tuple[Any, Any]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        backend.compile(body)(backend.asarray(np.zeros(2)), (), backend.asarray(np.ones(2)))


# Out of memory


def test_too_large_an_array_is_one_clear_error(backend: Any) -> None:
    def body(xp: Any, carry: Any, consts: Any, item: Any) -> tuple[Any, Any]:
        return carry, xp.ones((2**29, 2**29), dtype=xp.float64) * item

    with pytest.raises(DeviceMemoryError, match=f"^{backend.device} is out of memory: [^B]*iB of [^B]*iB are free"):
        backend.compile(body)(backend.asarray(np.zeros(1)), (), backend.asarray(np.ones(1)))


class LibraryError(RuntimeError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 1.00 EiB for an array"),
        LibraryError("Out of memory allocating 8,000,000 bytes (allocated so far: 512 bytes)."),
        LibraryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words"),
        LibraryError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        LibraryError("RESOURCE_EXHAUSTED: Failed to allocate 8 bytes"),
    ],
)
def test_memory_errors_of_all_libraries_become_one(error: Exception) -> None:
    with pytest.raises(DeviceMemoryError) as caught, memory_guard("cuda:1", lambda: Memory(3 * 2**30, 2**32)):
        raise error
    first, remedy = str(caught.value).splitlines()
    assert first.startswith("cuda:1 is out of memory: 3.0 GiB of 4.0 GiB are free. The library says: ")
    assert first.endswith(str(error).partition("\n")[0] or "MemoryError")
    assert "smaller batch" in remedy
    assert isinstance(caught.value, MemoryError)
    assert caught.value.__cause__ is error


def test_memory_guard_passes_other_errors_and_survives_a_silent_device() -> None:
    with pytest.raises(LibraryError, match="shape"), memory_guard("cpu", lambda: Memory(1, 1)):
        raise LibraryError("shape")

    def silent() -> Memory:
        raise LibraryError("cudaErrorUnknown")

    with pytest.raises(DeviceMemoryError, match="free memory is unknown"), memory_guard("cuda:0", silent):
        raise MemoryError


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**50, "1024.0 TiB")])
def test_sizes(n: int, text: str) -> None:
    assert size(n) == text


def test_plain_loop_on_numpy_is_the_recurrence(problem: Problem) -> None:
    host = SimpleNamespace(asarray=np.array)
    (w, v), outs = plain_loop(np, descend, np.stack)(*problem.on(host, "float64"))
    for x, y in zip((w, v, outs.loss, outs.nested[0]), problem.solved(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)

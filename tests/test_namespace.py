"""`one_hot` and `segment_sum`, the two functions that every backend's namespace has in addition to the standard's."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends import get_backend
from mlp_xp_backends.namespace import extras

SHAPES = {"one model": (), "three models": (3,), "a grid of models": (2, 3)}


def textbook(values: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Row by row and model by model, in float64."""
    *models, rows, d = values.shape
    ids = np.broadcast_to(ids, (*models, rows))
    total = np.zeros((*models, n, d))
    for place in np.ndindex(*models):
        for row, i in enumerate(ids[place]):
            total[(*place, i)] += values[(*place, row)]
    return total


def called(backend: Any, f: Any, *arrays: np.ndarray) -> np.ndarray:
    """``f(xp, *arrays)`` in a compiled step."""

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        return carry, f(xp, *consts)

    sent = tuple(map(backend.asarray, arrays))
    return np.array(backend.to_numpy(backend.compile(body)((), sent, backend.asarray(np.zeros(1)))[1])[0])


@pytest.mark.parametrize("ids_dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_hot_marks_the_id(backend: Any, dtype: str, ids_dtype: str) -> None:
    ids = np.asarray([[3, 0, 299], [7, 7, 255]]) % (256 if ids_dtype == "uint8" else 300)
    expected = np.zeros((2, 3, 300), dtype)
    for place in np.ndindex(2, 3):
        expected[(*place, ids[place])] = 1
    got = called(backend, lambda xp, i: xp.one_hot(i, 300, dtype=getattr(xp, dtype)), ids.astype(ids_dtype))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_one_hot_of_a_number_is_a_row(backend: Any) -> None:
    got = backend.xp.one_hot(backend.asarray(np.asarray(2)), 4, dtype=backend.xp.float32)
    np.testing.assert_array_equal(backend.to_numpy(got), [0, 0, 1, 0])


@pytest.mark.parametrize("models", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("shared", [True, False], ids=["the same ids", "ids of each model"])
@pytest.mark.parametrize("ids_dtype", ["int32", "uint8"])
def test_segment_sum_is_the_textbook_loop(
    backend: Any, models: tuple[int, ...], shared: bool, ids_dtype: str, rng: np.random.Generator
) -> None:
    ids = rng.integers(0, 9, (*(() if shared else models), 41)).astype(ids_dtype)
    values = rng.normal(size=(*models, 41, 5))
    got = called(backend, lambda xp, v, i: xp.segment_sum(v, i, 11), values, ids)
    assert got.dtype == values.dtype
    np.testing.assert_allclose(got, textbook(values, ids, 11), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rows", [0, 1, 2, 64])
def test_segment_sum_of_few_rows_and_of_one_id(backend: Any, rows: int) -> None:
    values = np.ones((rows, 2), "float32")
    for i in (0, 3):
        ids = np.full(rows, i, "int32")
        got = backend.to_numpy(backend.xp.segment_sum(backend.asarray(values), backend.asarray(ids), 4))
        np.testing.assert_array_equal(got, textbook(values, ids, 4))


def test_segment_sum_gives_the_same_bits_every_time(backend: Any, rng: np.random.Generator) -> None:
    values, ids = rng.normal(size=(3000, 4)).astype("float32"), rng.integers(0, 7, 3000).astype("int32")
    first, *others = (called(backend, lambda xp, v, i: xp.segment_sum(v, i, 7), values, ids) for _ in range(4))
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_segment_sum_is_the_transpose_of_taking_rows(backend: Any, rng: np.random.Generator) -> None:
    """``<take(E, ids), dy> = <E, segment_sum(dy, ids)>``: the one is the gradient of the other."""
    E, dy, ids = rng.normal(size=(6, 3)), rng.normal(size=(20, 3)), rng.integers(0, 6, 20)
    dE = called(backend, lambda xp, v, i: xp.segment_sum(v, i, 6), dy, ids)
    assert np.sum(E[ids] * dy) == pytest.approx(np.sum(E * dE), rel=1e-12)


ROWS, IDS, WIDTH = 512, 50_000, 4
LARGEST = 4 * 8 * IDS * WIDTH
"""Bytes: four times the result in float64, a sixteenth of a one-hot matrix of the rows in float64."""


@pytest.mark.parametrize("name", ["numpy", "array_api_strict"])
def test_no_one_hot_matrix_is_allocated(name: str, rng: np.random.Generator) -> None:
    backend = get_backend(name)
    values, ids = backend.asarray(rng.normal(size=(ROWS, WIDTH))), backend.asarray(rng.integers(0, IDS, ROWS))
    tracemalloc.start()
    try:
        backend.xp.segment_sum(values, ids, IDS)
        assert tracemalloc.get_traced_memory()[1] < LARGEST
    finally:
        tracemalloc.stop()


def test_no_one_hot_matrix_is_allocated_by_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.bytes = max(self.bytes, out.nbytes)
            return out

    with Largest() as largest:
        values, ids = torch.from_numpy(rng.normal(size=(ROWS, WIDTH))), torch.from_numpy(rng.integers(0, IDS, ROWS))
        get_backend("torch:cpu").xp.segment_sum(values, ids, IDS)
    assert 0 < largest.bytes < LARGEST


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "as on a gpu"])
def test_no_one_hot_matrix_is_allocated_by_jax(gpu: bool, rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    xp = get_backend("jax:cpu").xp
    f = extras(jax.numpy)["segment_sum"] if gpu else xp.segment_sum
    values, ids = rng.normal(size=(ROWS, WIDTH)).astype("float32"), rng.integers(0, IDS, ROWS).astype("int32")
    with jax.enable_x64(True):
        compiled = jax.jit(f, static_argnums=2).lower(values, ids, IDS).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < LARGEST

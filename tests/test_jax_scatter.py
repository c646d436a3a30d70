"""JAX adds rows up by id where the math has a product with a one-hot matrix, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from mlp_xp_backends.jax_scatter import scattered  # noqa: E402

IDS = np.array([2, 0, 2, 3, 1, 2], np.int32)
ROWS = np.arange(18, dtype=np.float32).reshape(6, 3)


def one_hot(ids: Any, n: int) -> Any:
    return (ids[:, None] == jnp.arange(n, dtype=ids.dtype)).astype(jnp.float32)


def by_product(ids: Any, rows: Any) -> Any:
    return {"sum": one_hot(ids, 4).T @ rows, "count": rows.sum()}


def operations(f: Any, *args: Any) -> str:
    return str(jax.make_jaxpr(f)(*args))


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("ids", [IDS, IDS - 1, IDS + 1], ids=["all ids", "a negative id", "an id too large"])
def test_the_sums_are_those_of_the_product(ids: Any, jit: bool) -> None:
    """An id out of range has a row of zeros in the matrix, so it adds to nothing."""
    f = scattered(by_product)
    out = (jax.jit(f) if jit else f)(ids, ROWS)
    expected = np.zeros((4, 3), np.float32)
    for i, row in zip(ids, ROWS, strict=True):
        if 0 <= i < 4:
            expected[i] += row
    np.testing.assert_array_equal(out["sum"], expected)
    assert out["count"] == ROWS.sum()


def test_the_product_is_gone() -> None:
    assert "dot_general" in operations(by_product, IDS, ROWS)
    after = operations(scattered(by_product), IDS, ROWS)
    assert "scatter-add" in after
    assert "dot_general" not in after


OTHERS = {
    "a plain product": lambda ids, rows: rows.T @ rows,
    "numbers in another order": lambda ids, rows: (ids[:, None] == jnp.arange(4)[::-1]).astype(rows.dtype).T @ rows,
    "another comparison": lambda ids, rows: (ids[:, None] < jnp.arange(4, dtype=ids.dtype)).astype(rows.dtype).T @ rows,
    "the matrix itself": lambda ids, rows: one_hot(ids, 6) @ rows,
    "a stack of matrices": lambda ids, rows: jnp.tensordot(rows.reshape(2, 3, 3), rows[:3], axes=((1,), (0,))),
    "a vector": lambda ids, rows: one_hot(ids, 4).T @ rows[:, 0],
    "a table of ids": lambda ids, rows: (
        (jnp.stack([ids] * 4, axis=1) == jnp.arange(4, dtype=ids.dtype)).astype(rows.dtype).T @ rows
    ),
}


@pytest.mark.parametrize("f", OTHERS.values(), ids=OTHERS)
def test_every_other_product_stays(f: Any) -> None:
    assert "scatter" not in operations(scattered(f), IDS, ROWS)
    np.testing.assert_allclose(scattered(f)(IDS, ROWS), f(IDS, ROWS), rtol=1e-6)


def test_a_function_without_products_is_itself() -> None:
    literal = scattered(lambda x: (x, 2.0, x + 1.0))
    x, two, y = literal(ROWS)
    np.testing.assert_array_equal(x, ROWS)
    np.testing.assert_array_equal(y, ROWS + 1)
    assert two == 2.0

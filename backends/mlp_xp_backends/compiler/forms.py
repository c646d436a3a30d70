"""What each kind of operation means, and the form (shape and dtype) of its result.

The signature of a function names the operands in order and, after the star, the options; its docstring says what the
operation computes. The operands are the values of a program. A shape or dtype of `None` is one that they do not
determine. Operands that do not fit raise ValueError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlp_xp_backends.typing import Array

Shape = tuple[int, ...]
Form = tuple[Any, Any]
"""A shape and a dtype."""


def require(right: bool, message: str) -> None:
    """Raise ValueError unless ``right``."""
    if not right:
        raise ValueError(message)


def broadcast(*arrays: Array) -> Shape:
    """The shape of these arrays together."""
    shapes = {x.shape for x in arrays} - {()}
    return np.broadcast_shapes(*shapes) if len(shapes) > 1 else next(iter(shapes), ())


def elementwise(*x: Array, loop: tuple[np.dtype[Any], ...]) -> Form:
    """NumPy's ufunc `name` of broadcast ``x``, each first cast to its dtype in ``loop``."""
    return broadcast(*x), None


def copy(x: Array) -> Form:
    """``x`` in new contiguous memory, cast to the dtype of the result as C casts."""
    return x.shape, None


def where(condition: Array, x: Array, y: Array) -> Form:
    """``x`` where the condition holds, else ``y``; all broadcast."""
    return broadcast(condition, x, y), None


def matmul(a: Array, b: Array) -> Form:
    """``a b`` for (stacks of) matrices of one floating-point dtype."""
    fits = min(len(a.shape), len(b.shape)) >= 2 and a.shape[-1] == b.shape[-2]
    require(fits and a.dtype == b.dtype, f"a product of {a.dtype} {a.shape} times {b.dtype} {b.shape}")
    return (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype


def reduce(x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Form:
    """`name` (sum, prod, max, min, any, all) over sorted ``axes``."""
    require(tuple(sorted(set(axes))) == axes, f"axes {axes} are not in order")
    return tuple(1 if k in axes else n for k, n in enumerate(x.shape) if keepdims or k not in axes), None


def arg(x: Array, *, axis: int | None, keepdims: bool) -> Form:
    """The first position of the extreme (argmax, argmin) along ``axis``; with `None`, among all elements."""
    axes = tuple(range(len(x.shape))) if axis is None else (axis,)
    return reduce(x, axes=axes, keepdims=keepdims)[0], np.dtype(np.intp)


def take(x: Array, indices: Array, *, axis: int) -> Form:
    """Slices of ``x`` along ``axis``; indices may count from the end."""
    require(indices.dtype.kind in "iu", f"indices are not integers, but {indices.dtype}")
    return (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype


def concat(*x: Array, axis: int) -> Form:
    """All ``x`` joined along ``axis``."""
    before, after = x[0].shape[:axis], x[0].shape[axis + 1 :]
    fits = all((y.shape[:axis], y.shape[axis + 1 :]) == (before, after) for y in x)
    require(fits, f"shapes that do not fit: {[y.shape for y in x]}")
    return (*before, sum(y.shape[axis] for y in x), *after), None


def view(x: Array, *, args: tuple[Any, ...]) -> Form:
    """NumPy's function `name` of ``x`` and ``args``: the memory of ``x`` in another layout."""
    return None, x.dtype


def one_hot(ids: Array, *, n: int) -> Form:
    """1 at [..., id] and 0 elsewhere, for ids 0, ..., n - 1."""
    require(ids.dtype.kind in "iu", f"ids are not integers, but {ids.dtype}")
    return (*ids.shape, n), None


def segment_sum(values: Array, ids: Array, *, n: int) -> Form:
    """[..., i, :] is the sum of the rows of ``values`` with id i, in order."""
    fits = len(values.shape) > 1 and ids.shape in (values.shape[-2:-1], values.shape[:-1])
    require(fits and ids.dtype.kind in "iu", f"ids that do not fit: {ids.dtype} {ids.shape} for rows {values.shape}")
    return (*values.shape[:-2], n, values.shape[-1]), values.dtype


def call(*x: Array, f: Any, args: tuple[Any, ...], keywords: tuple[Any, ...]) -> Form:
    """NumPy's function ``f`` of ``args``, where `None` stands for the next ``x``."""
    return None, None


def all_sum(x: Array, *, f: Any, number: int) -> Form:
    """The sum of ``x`` over all ranks, ``f(x, out)``: neither removed nor moved."""
    return x.shape, x.dtype


def pack(x: Array, *more: Array) -> Form:
    """The elements of all operands, of one dtype, in one 1-D array."""
    require(all(y.dtype == x.dtype for y in more), f"dtypes that differ: {[str(y.dtype) for y in (x, *more)]}")
    return (sum(y.size for y in (x, *more)),), x.dtype


def gemm(a: Array, b: Array, alpha: Array, beta: Array | None = None, c: Array | None = None) -> Form:
    """``alpha a b``, or ``alpha a b + beta c``; factors of all matrices or one of each."""
    shape, dtype = matmul(a, b)
    _require_factors(shape, dtype, alpha, alpha if beta is None else beta)
    fits = c is None or np.broadcast_shapes(shape, c.shape) == shape
    require(fits and (c is None) == (beta is None), "what is added does not fit the product")
    return shape, dtype


def axpby(x: Array, alpha: Array, beta: Array, y: Array) -> Form:
    """``alpha x + beta y``; factors as of a gemm."""
    require((x.shape, x.dtype) == (y.shape, y.dtype) and x.is_contiguous, "x and y do not fit")
    _require_factors(x.shape, x.dtype, alpha, beta)
    return x.shape, x.dtype


def lessen(x: Array, places: Array) -> Form:
    """``x`` minus 1 at these positions of its flat elements."""
    return x.shape, x.dtype


def is_factor(s: Array, shape: Shape) -> bool:
    """Whether ``s`` is one number, or one for each matrix of a stack of this shape."""
    return s.shape in ((), (1, 1), (*shape[:-2], 1, 1))


def _require_factors(shape: Any, dtype: Any, *factors: Array) -> None:
    fits = all(is_factor(s, shape) and s.dtype == dtype for s in factors)
    require(fits, "a factor is not a number for each matrix, of the same dtype")

"""Products with one-hot matrices as sums of rows, which XLA does not find by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun

Makers = dict[Any, Any]
"""The equation that makes each variable of a recording (a jaxpr)."""


def scattered(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` with every ``onehot' y`` computed by adding row r of ``y`` to row ``ids[r]`` of the result.

    ``onehot`` is a matrix written as ``ids[:, None] == arange(n)``; ids that are not in the range add to nothing.
    """

    def g(*args: Any) -> Any:
        recorded, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        makers = {v: eqn for eqn in recorded.jaxpr.eqns for v in eqn.outvars}
        eqns = [_sum_of_rows(makers, eqn) or eqn for eqn in recorded.jaxpr.eqns]
        run = jaxpr_as_fun(ClosedJaxpr(recorded.jaxpr.replace(eqns=eqns), recorded.consts))
        return jax.tree.unflatten(jax.tree.structure(shapes), run(*jax.tree.leaves(args)))

    return g


def _sum_of_rows(makers: Makers, eqn: Any) -> Any:
    """The equation that stands for the product ``eqn``, or ``None`` if that is none of a one-hot matrix."""
    ids = _ids_of_product(makers, eqn)
    if ids is None:
        return None
    rows, out = eqn.invars[1], eqn.outvars[0]
    like = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in (rows, ids)]
    total = jax.jit(partial(jax.ops.segment_sum, num_segments=out.aval.shape[0]))
    return jax.make_jaxpr(total)(*like).eqns[0].replace(invars=[rows, ids], outvars=[out])


def _ids_of_product(makers: Makers, eqn: Any) -> Any:
    """The ids if ``eqn`` is the product of a transposed one-hot matrix with a matrix of its dtype, else ``None``."""
    if eqn.primitive.name != "dot_general" or eqn.params["dimension_numbers"] != (((1,), (0,)), ((), ())):
        return None
    left, right = eqn.invars
    if left.aval.ndim != 2 or right.aval.ndim != 2 or left.aval.dtype != right.aval.dtype:
        return None
    n, rows = left.aval.shape
    equal = _inputs(makers, left, "transpose", "convert_element_type", "eq")
    if equal is None or [v.aval.shape for v in equal] != [(rows, 1), (1, n)]:
        return None
    ids, numbers = (_inputs(makers, v, "broadcast_in_dim") for v in equal)
    if ids is None or numbers is None or _inputs(makers, numbers[0], "iota") is None:
        return None
    fits = [v.aval.shape for v in (*ids, *numbers)] == [(rows,), (n,)]
    small = ids[0].aval.dtype.kind in "iu" and ids[0].aval.dtype.itemsize <= 4  # segment_sum casts to int32
    return ids[0] if fits and small else None


def _inputs(makers: Makers, atom: Any, *primitives: str) -> Any:
    """What enters the last of these operations if each one's first input, and ``atom``, comes out of the next."""
    inputs = [atom]
    for name in primitives:
        eqn = makers.get(inputs[0]) if isinstance(inputs[0], Var) else None
        if eqn is None or eqn.primitive.name != name:
            return None
        inputs = eqn.invars
    return inputs

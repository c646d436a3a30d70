"""Compare two recordings of a body."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlp_xp_backends.compiler.program import Program, Value
from mlp_xp_backends.typing import Array


def alike(one: Program, two: Program) -> bool:
    """Whether two programs are equal, including the values of the body's own arrays."""
    numbers: tuple[dict[Value, int], dict[Value, int]] = ({}, {})

    def same_value(v: Value, w: Value) -> bool:
        if v.constant is not None or w.constant is not None:
            return _same_numbers(v.constant, w.constant)
        known = [n.setdefault(x, len(n)) for n, x in zip(numbers, (v, w), strict=True)]
        return known[0] == known[1] and v.source == w.source and (v.shape, v.dtype) == (w.shape, w.dtype)

    def same_values(vs: tuple[Value, ...], ws: tuple[Value, ...]) -> bool:
        return len(vs) == len(ws) and all(map(same_value, vs, ws))

    if len(one.ops) != len(two.ops):
        return False
    for a, b in zip(one.ops, two.ops, strict=True):
        if (a.kind, a.name) != (b.kind, b.name) or not same_values((*a.inputs, a.out), (*b.inputs, b.out)):
            return False
        if not all(_same_option(a[key], b[key]) for key in a.options):
            return False
    return same_values((*one.carry_out, *one.outs), (*two.carry_out, *two.outs))


def _same_numbers(a: Array, b: Array) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a is b or not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return a is b or bool((a == b).all())
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def _same_option(x: Any, y: Any) -> bool:
    return x is y or x == y

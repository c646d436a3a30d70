"""The operations recorded so far."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Unrecordable, Value, new_value, view_value
from mlp_xp_backends.typing import HostArray

NUMBERS = (bool, int, float, complex)
"""Types of numbers that are converted to the dtype of the arrays they are combined with."""


def layout_of(x: Any) -> tuple[tuple[int, ...], np.dtype[Any], tuple[int, ...]]:
    """Shape, dtype and strides of an array."""
    shape, dtype = tuple(x.shape), np.dtype(x.dtype)
    if dtype.kind not in "biufc" or not dtype.isnative:
        raise Unrecordable(f"an array of dtype {dtype}")
    return shape, dtype, tuple(x.strides)


class Tape:
    """A list of operations; the same operation on the same values is recorded once."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.seen: dict[Hashable, Value] = {}
        self.refused: Unrecordable | None = None

    def refuse(self, reason: str) -> Unrecordable:
        """The exception to raise for a body that cannot be recorded; kept in case the body catches it."""
        self.refused = Unrecordable(reason)
        return self.refused

    def constant(self, x: Any) -> Value:
        """The value of a number or an array that the body supplies."""
        an_array = hasattr(x, "strides") and hasattr(x, "dtype") and not isinstance(x, np.generic)
        array = x if an_array else np.asarray(x)
        value = Value(*layout_of(array), constant=array)  # keeps the array alive, so that its id stays unique
        number = isinstance(array, np.ndarray) and array.ndim == 0
        key = ("constant", value.dtype, array.tobytes()) if number else ("constant", id(array))
        return self.seen.setdefault(key, value)

    def emit(
        self, kind: Kind, name: str, inputs: Iterable[Value], shape: tuple[int, ...], dtype: Any, **options: Any
    ) -> Value:
        """The result, in new memory, of an operation, which is recorded unless an equal one was."""
        return self._record(Op(kind, name, tuple(inputs), new_value(shape, dtype), options))

    def view(self, name: str, f: Callable[..., HostArray], x: Value, *args: Any) -> Value:
        """``f(x, *args)`` as a view of ``x``; ValueError if that needs a copy."""
        if isinstance(x.constant, np.ndarray):
            return self.constant(f(x.constant, *args))
        return self._record(Op(Kind.VIEW, name, (x,), view_value(x, f, *args), {"args": args}))

    def _record(self, op: Op) -> Value:
        layout = (op.out.shape, op.out.dtype, op.out.strides, op.out.offset)
        key = (op.kind, op.name, op.inputs, layout, tuple(op.options.items()))
        try:
            known = self.seen.setdefault(key, op.out)
        except TypeError:
            raise self.refuse(f"{op.name} with an argument that is neither array nor number") from None
        if known is op.out:
            self.ops.append(op)
        return known

    def elementwise(self, name: str, args: Iterable[Any], into: np.dtype[Any] | None = None) -> Value:
        """An elementwise function of values and numbers, cast to ``into``; numbers take the arrays' dtype."""
        f, given = getattr(np, name), list(args)
        dtypes = [x.dtype if isinstance(x, Value) else np.dtype(bool) if type(x) is bool else type(x) for x in given]
        *loop, out = f.resolve_dtypes((*dtypes, None))
        if into is not None and not np.can_cast(out, into, "same_kind"):
            raise TypeError(f"{name} in place makes {out}, but the array is {into}")
        pairs = zip(given, loop, strict=True)
        inputs = [x if isinstance(x, Value) else self.constant(np.asarray(x, dtype)) for x, dtype in pairs]
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
        return self.emit(Kind.ELEMENTWISE, name, inputs, shape, into or out, loop=tuple(loop))

    def matmul(self, a: Value, b: Value) -> Value:
        """``a b`` of stacks of matrices; other products are recorded as calls."""
        if a.dtype != b.dtype or a.dtype.kind != "f" or min(len(a.shape), len(b.shape)) < 2:
            return self.call("matmul", (a, b), {})
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"a product of shapes {a.shape} and {b.shape}")
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        return self.emit(Kind.MATMUL, "matmul", (a, b), shape, a.dtype)

    def call(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Value:
        """NumPy's ``name(*args, **keywords)``, a function without a rule that returns one new array."""
        f = getattr(np, name)
        trial = [np.zeros(x.shape, x.dtype) if isinstance(x, Value) else x for x in args]
        result = f(*trial, **keywords)
        arrays = [x for x in trial if isinstance(x, np.ndarray)]
        if not isinstance(result, (np.ndarray, np.generic)):
            raise self.refuse(f"{name} does not return one array")
        if isinstance(result, np.ndarray) and any(np.may_share_memory(result, x) for x in arrays):
            raise self.refuse(f"{name} may return a view")
        inputs = [x for x in args if isinstance(x, Value)]
        frozen = tuple(None if isinstance(x, Value) else (x,) for x in args)
        words = tuple(keywords.items())
        return self.emit(Kind.CALL, name, inputs, result.shape, result.dtype, f=f, args=frozen, keywords=words)

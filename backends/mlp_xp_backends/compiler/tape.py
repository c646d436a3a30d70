"""A tape: operations in the order in which a body, or a pass, performs them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Unrecordable, Value, new_value, view_value
from mlp_xp_backends.typing import Array, HostArray


def layout_of(x: Any) -> tuple[tuple[int, ...], np.dtype[Any], tuple[int, ...]]:
    """Shape, dtype and strides of an array; raises `Unrecordable` for a dtype that is not one of native numbers."""
    shape, dtype = tuple(x.shape), np.dtype(x.dtype)
    if dtype.kind not in "biufc" or not dtype.isnative:
        raise Unrecordable(f"an array of dtype {dtype}")
    return shape, dtype, tuple(x.strides)


class Tape:
    """A list of operations, where the same operation on the same values is recorded once.

    So a body that runs a second time, after `rewind`, gets the values of its first run, unless it computes something
    else.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.refused: Unrecordable | None = None
        self._seen: dict[Hashable, Value] = {}
        self._arrays: dict[int, tuple[Value, Hashable, Array]] = {}
        self._earlier: list[tuple[Value, Hashable]] = []

    def refuse(self, reason: str) -> Unrecordable:
        """The exception to raise for a body that cannot be recorded; kept in case the body catches it."""
        self.refused = Unrecordable(reason)
        return self.refused

    def rewind(self) -> None:
        """Begin another run: its k-th array has the value of the k-th one of the previous run if both are equal.

        No array equals one that the body has changed since it was recorded.
        """
        self._earlier = [(v, was if _elements(array) == was else None) for v, was, array in self._arrays.values()]
        self._arrays = {}

    def constant(self, x: Any) -> Value:
        """The value of a number or an array that the body supplies."""
        an_array = hasattr(x, "strides") and hasattr(x, "dtype") and not isinstance(x, np.generic)
        array = x if an_array else np.asarray(x)
        if isinstance(array, np.ndarray) and array.ndim == 0:
            key = (array.dtype, array.tobytes())
            if key not in self._seen:
                self._seen[key] = Value(*layout_of(array), constant=array)
            return self._seen[key]
        if id(array) not in self._arrays:
            value, k, elements = Value(*layout_of(array), constant=array), len(self._arrays), _elements(array)
            if k < len(self._earlier) and self._earlier[k][1] == elements:
                value = self._earlier[k][0]
            self._arrays[id(array)] = value, elements, array  # kept alive, so that its id stays unique
        return self._arrays[id(array)][0]

    def emit(
        self,
        kind: Kind,
        name: str,
        inputs: Iterable[Value],
        dtype: Any = None,
        make: Callable[[], Value] | None = None,
        **options: Any,
    ) -> Value:
        """The result of an operation, which is recorded unless an equal one was.

        If the operands do not determine the dtype of the result, ``dtype`` does; if not its shape, ``make`` returns it.
        """
        operands = tuple(inputs)
        key = (kind, name, operands, dtype, *options.items())
        try:
            known = self._seen.get(key)
        except TypeError:
            raise self.refuse(f"{name} with an argument that is neither array nor number") from None
        if known is None:
            shape, same = kind.form(*operands, **options)
            known = new_value(shape, dtype if same is None else same) if make is None else make()
            self._seen[key] = known
            self.ops.append(Op(kind, name, operands, known, options))
        return known

    def view(self, name: str, f: Callable[..., HostArray], x: Value, *args: Any, **keywords: Any) -> Value:
        """``f(x, *args, **keywords)`` as a view of ``x``; ValueError if that needs a copy."""
        if isinstance(x.constant, np.ndarray):
            return self.constant(f(x.constant, *args, **keywords))
        given = (*args, *keywords.items())
        return self.emit(Kind.VIEW, name, (x,), make=lambda: view_value(x, f, *args, **keywords), args=given)

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        """``x``, which is contiguous, in another shape."""
        return x if x.shape == shape else self.view("reshape", np.reshape, x, shape)


def _elements(x: Array) -> Hashable:
    """Equal for arrays with the same elements; unlike the array itself, it stays the same if the body writes to it."""
    return tuple(x.shape), x.dtype, hash(x.tobytes())

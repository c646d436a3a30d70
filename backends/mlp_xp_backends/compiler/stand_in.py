"""Stand-ins for arrays: they have a shape and a dtype but no elements, and record the operations on them."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any, Self

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Value
from mlp_xp_backends.compiler.tape import NUMBERS, Tape
from mlp_xp_backends.typing import HostArray


class Storage:
    """The memory that a stand-in and its views share."""

    def __init__(self, writable: bool) -> None:
        self.writable, self.writes = writable, 0


class StandIn:
    """An array that records the operations on it."""

    __array_priority__ = 1000.0  # other libraries defer to the operators of a stand-in

    def __init__(self, tape: Tape, value: Value, writable: bool = True, storage: Storage | None = None) -> None:
        self._tape, self._value = tape, value
        self._is_view = storage is not None
        self._storage = storage or Storage(writable)
        self._seen = self._storage.writes

    def value(self) -> Value:
        """The current value."""
        if self._seen != self._storage.writes:
            raise self._tape.refuse("a view is read after its array was written to")
        return self._value

    def new(self, value: Value) -> StandIn:
        """A stand-in for a new array."""
        return StandIn(self._tape, value)

    def view(self, name: str, f: Callable[..., HostArray], *args: Any) -> StandIn:
        """A view of this array, stale once the array is written to."""
        return StandIn(self._tape, self._tape.view(name, f, self.value(), *args), storage=self._storage)

    def copy_of(self) -> StandIn:
        """A contiguous copy."""
        v = self.value()
        return self.new(self._tape.emit(Kind.COPY, "", (v,), v.shape, v.dtype))

    def write(self, value: Value) -> Self:
        """Assign ``value`` to this array."""
        if self._is_view or not self._storage.writable:
            raise self._tape.refuse("a write to a view or to an array that is not carried")
        if (value.shape, value.dtype) != (self.shape, self.dtype):
            raise self._tape.refuse("an augmented assignment that changes shape or dtype")
        self.value()
        self._storage.writes += 1
        self._value, self._seen = value, self._storage.writes
        return self

    @property
    def written(self) -> bool:
        """Whether the body wrote to this array."""
        return self._storage.writes > 0

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: len(self._value.shape))
    size = property(lambda self: self._value.size)
    mT = property(lambda self: self.view("matrix_transpose", np.matrix_transpose))
    T = property(lambda self: self.view("transpose", np.transpose))

    @property
    def device(self) -> str:
        """The device of NumPy's arrays, whatever array this stands for."""
        return "cpu"

    def __getitem__(self, key: Any) -> StandIn:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) == 1 and isinstance(key, StandIn) and key.ndim == 1 and key.dtype.kind in "iu" and self.ndim:
            return self.new(take(self._tape, self.value(), key.value(), 0))
        if not all(k is None or isinstance(k, (int, slice, EllipsisType)) for k in keys) or True in map(_is_bool, keys):
            raise self._tape.refuse(f"indexing with {key!r}")
        return self.view("index", index, *((k.start, k.stop, k.step) if isinstance(k, slice) else k for k in keys))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return int(self.shape[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._tape.refuse(f"attribute {name}")

    def __array_ufunc__(self, f: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        if f is np.matmul and method == "__call__" and not out and not options:
            return self.new(self._tape.matmul(*(value_of(self._tape, x) for x in inputs)))
        if method != "__call__" or f.signature is not None or f.nout != 1 or options:
            raise self._tape.refuse(f"{f.__name__} {method} with {sorted(options)}")
        return elementwise(self._tape, f.__name__, inputs, out[0] if out else None)

    def __array_function__(self, f: Any, types: Any, args: Any, keywords: Any) -> Any:
        from mlp_xp_backends.compiler.recorder import Recorder  # which is built from stand-ins

        return getattr(Recorder(self._tape), f.__name__)(*args, **keywords)

    def __deepcopy__(self, memo: Any) -> StandIn:
        return self.copy_of()

    def __copy__(self) -> StandIn:
        return self.copy_of()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise self._tape.refuse("an element of an array is read on the host inside a step")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __iter__ = __setitem__ = __array__ = _refuse
    __hash__ = object.__hash__


def _is_bool(key: Any) -> bool:
    return isinstance(key, (bool, np.bool))


def value_of(tape: Tape, x: Any) -> Value:
    """The value of a stand-in, or of an array or number that the body supplies."""
    return x.value() if isinstance(x, StandIn) else tape.constant(x)


def elementwise(tape: Tape, name: str, args: Any, out: Any = None) -> StandIn:
    """Record an elementwise function of stand-ins, arrays and numbers; assign the result to ``out``, if given."""
    given = [x if type(x) in NUMBERS else value_of(tape, x) for x in args]
    if out is None:
        return StandIn(tape, tape.elementwise(name, given))
    if not isinstance(out, StandIn):
        raise tape.refuse("a write to an array that the body supplies")
    return out.write(tape.elementwise(name, given, into=out.dtype))


def take(tape: Tape, x: Value, indices: Value, axis: int) -> Value:
    """The slices of ``x`` at ``indices`` along ``axis``."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices of dtype {indices.dtype}")
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return tape.emit(Kind.TAKE, "", (x, indices), shape, x.dtype, axis=axis)


def index(x: HostArray, *keys: Any) -> HostArray:
    """``x[keys]`` with slices as triples: always a view, even of a single element."""
    whole = keys if Ellipsis in keys else (*keys, ...)
    return x[tuple(slice(*k) if isinstance(k, tuple) else k for k in whole)]


OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "mod": "remainder",
    "floordiv": "floor_divide", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift",
}  # fmt: skip
COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
               "ne": "not_equal"}  # fmt: skip
UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


def _define_operators() -> None:
    def binary(name: str, swapped: bool) -> Callable[[StandIn, Any], StandIn]:
        return lambda x, y: elementwise(x._tape, name, (y, x) if swapped else (x, y))

    def product(swapped: bool) -> Callable[[StandIn, Any], StandIn]:
        def f(x: StandIn, y: Any) -> StandIn:
            a, b = (value_of(x._tape, z) for z in ((y, x) if swapped else (x, y)))
            return x.new(x._tape.matmul(a, b))

        return f

    def pair(swapped: bool) -> Callable[[StandIn, Any], tuple[StandIn, StandIn]]:
        quotient, rest = binary("floor_divide", swapped), binary("remainder", swapped)
        return lambda x, y: (quotient(x, y), rest(x, y))

    for name, f in OPERATORS.items():
        setattr(StandIn, f"__{name}__", binary(f, False))
        setattr(StandIn, f"__r{name}__", binary(f, True))
        setattr(StandIn, f"__i{name}__", lambda x, y, f=f: elementwise(x._tape, f, (x, y), x))
    for name, f in COMPARISONS.items():
        setattr(StandIn, f"__{name}__", binary(f, False))
    for name, f in UNARY.items():
        setattr(StandIn, f"__{name}__", lambda x, f=f: elementwise(x._tape, f, (x,)))
    for prefix, swapped in (("", False), ("r", True)):
        setattr(StandIn, f"__{prefix}matmul__", product(swapped))
        setattr(StandIn, f"__{prefix}divmod__", pair(swapped))


_define_operators()

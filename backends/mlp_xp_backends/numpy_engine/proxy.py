"""Stand-ins for arrays: they have a shape and a dtype and no numbers, and remember what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any, Self

import numpy as np

from mlp_xp_backends.numpy_engine.tape import NDArray, Tape, Untraceable, Value, blank

Number = (bool, int, float, complex)


def value_of(tape: Tape, x: Any) -> Value:
    """The value of a stand-in, or of an array or number of the body's own."""
    return x.value() if isinstance(x, Proxy) else tape.constant(x)


def elementwise_of(tape: Tape, f: np.ufunc, *args: Any, into: np.dtype[Any] | None = None) -> Value:
    """An elementwise function; Python numbers take the dtype that the arrays settle on."""
    given = [x if type(x) in Number else value_of(tape, x) for x in args]
    dtypes = [x.dtype if isinstance(x, Value) else np.dtype(bool) if type(x) is bool else type(x) for x in given]
    *loop, out = f.resolve_dtypes((*dtypes, None))
    inputs = [x if isinstance(x, Value) else tape.constant(np.asarray(x, d)) for x, d in zip(given, loop, strict=True)]
    if into is not None and not np.can_cast(out, into, "same_kind"):
        raise Untraceable(f"{f.__name__} in place makes {out}, the array is {into}")
    shape = np.broadcast_shapes(*(v.shape for v in inputs))
    return tape.emit("ufunc", f, inputs, blank(shape, into or out))


class Proxy:
    """An array that remembers what is done to it."""

    __array_ufunc__ = None  # NumPy leaves operators with a stand-in to the stand-in

    def __init__(self, tape: Tape, value: Value, writable: bool = True, base: Proxy | None = None) -> None:
        self._tape, self._value, self._writable, self._base = tape, value, writable, base
        self._writes = 0
        self._born = base._writes if base is not None else 0

    def value(self) -> Value:
        """The value now."""
        if self._base is not None and self._base._writes != self._born:
            raise Untraceable("a view is read after its array was written to")
        return self._value

    def view(self, f: Callable[..., NDArray], *args: Any) -> Proxy:
        """A view of this array, stale once this array is written to."""
        value = self._tape.view(f, self.value(), *args)
        return Proxy(self._tape, value, writable=False, base=self._base if self._base is not None else self)

    def _write(self, f: np.ufunc, other: Any) -> Self:
        if not self._writable:
            raise Untraceable("augmented assignment to what is not carried")
        value = elementwise_of(self._tape, f, self, other, into=self.dtype)
        if value.shape != self.shape:
            raise Untraceable("augmented assignment that changes the shape")
        self._value, self._writes = value, self._writes + 1
        return self

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: len(self._value.shape))
    size = property(lambda self: self._value.size)
    device = property(lambda self: "cpu")
    mT = property(lambda self: self.view(matrix_transpose))
    T = property(lambda self: self.view(np.transpose))

    def __getitem__(self, key: Any) -> Proxy:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) == 1 and isinstance(key, Proxy) and key.ndim == 1 and key.dtype.kind in "iu":
            return Proxy(self._tape, self._tape.take(self.value(), key.value(), 0))
        if not all(k is None or isinstance(k, (int, slice, EllipsisType)) for k in keys):
            raise Untraceable(f"indexing with {key!r}")
        return self.view(_index, *((k.start, k.stop, k.step) if isinstance(k, slice) else k for k in keys))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Untraceable(f"attribute {name}")

    def _refuse(self, *_: Any) -> Any:
        raise Untraceable("the number of an array is asked for inside a step")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __iter__ = __setitem__ = __array__ = _refuse
    __hash__ = object.__hash__


def matrix_transpose(x: NDArray) -> NDArray:
    """The last two axes swapped."""
    return x.mT


def _index(x: NDArray, *keys: Any) -> NDArray:
    whole = keys if Ellipsis in keys else (*keys, ...)  # a view even of a single element
    return x[tuple(slice(*k) if isinstance(k, tuple) else k for k in whole)]


OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "mod": np.remainder,
    "floordiv": np.floor_divide, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift, "matmul": np.matmul,
}  # fmt: skip
COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal
}  # fmt: skip
UNARY = {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}


def _define_operators() -> None:
    def binary(f: np.ufunc, swapped: bool) -> Callable[[Proxy, Any], Proxy]:
        def op(x: Proxy, y: Any) -> Proxy:
            pair = (y, x) if swapped else (x, y)
            if f is np.matmul:
                return Proxy(x._tape, x._tape.matmul(*(value_of(x._tape, a) for a in pair)))
            return Proxy(x._tape, elementwise_of(x._tape, f, *pair))

        return op

    for name, f in OPERATORS.items():
        setattr(Proxy, f"__{name}__", binary(f, False))
        setattr(Proxy, f"__r{name}__", binary(f, True))
        if f is not np.matmul:
            setattr(Proxy, f"__i{name}__", lambda x, y, f=f: x._write(f, y))
    for name, f in COMPARISONS.items():
        setattr(Proxy, f"__{name}__", binary(f, False))
    for name, f in UNARY.items():
        setattr(Proxy, f"__{name}__", lambda x, f=f: Proxy(x._tape, elementwise_of(x._tape, f, x)))


_define_operators()

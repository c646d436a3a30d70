"""Recording: the body runs once on stand-ins that have a shape and a dtype and no numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np

from mlp_xp_backends.numpy_tape import NDArray, Program, Tape, Untraceable, Value
from mlp_xp_backends.protocol import Body, Tree
from mlp_xp_backends.trees import leaves, unflatten

Number = (bool, int, float, complex)
REDUCTIONS = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
REDUCTIONS |= {"any": np.logical_or, "all": np.logical_and}
DATA_DEPENDENT = {"nonzero", "argwhere", "flatnonzero", "repeat", "extract", "compress", "searchsorted"}


def record(body: Body, carry: Tree, consts: Tree, items: Tree) -> Program:
    """The program of ``body`` for arrays like these; `Untraceable` if it has none."""
    tape = Tape()

    def stand_ins(tree: Tree, kind: str, like: Callable[[NDArray], NDArray]) -> tuple[Tree, list[Value]]:
        values = [Value(like(a), source=(kind, k)) for k, a in enumerate(leaves(tree))]
        return unflatten(tree, (Proxy(tape, v, writable=kind == "carry") for v in values)), values

    carry_tree, carry_in = stand_ins(carry, "carry", lambda a: np.empty(a.shape, a.dtype))
    const_tree, const_in = stand_ins(consts, "const", lambda a: a)
    item_tree, item_in = stand_ins(items, "item", lambda a: np.empty(a.shape[1:], a.dtype))
    trees = body(Recorder(tape), carry_tree, const_tree, item_tree)
    carry_out, outs = ([_value(tape, x) for x in leaves(tree)] for tree in trees)
    if [(v.shape, v.dtype) for v in carry_out] != [(v.shape, v.dtype) for v in carry_in]:
        raise Untraceable("the carry changes shape or dtype")
    structure = tuple(unflatten(tree, iter(leaves(tree))) for tree in trees)
    program = Program(tape.ops, carry_in, carry_out, const_in, item_in, outs, (structure[0], structure[1]))
    program.live()
    return program


def _value(tape: Tape, x: Any) -> Value:
    return x.value() if isinstance(x, Proxy) else tape.constant(x)


def _ufunc(tape: Tape, f: np.ufunc, *args: Any, into: np.dtype[Any] | None = None) -> Value:
    """An elementwise function; Python numbers take the dtype that the arrays settle on."""
    given = [x if type(x) in Number else _value(tape, x) for x in args]
    dtypes = [x.dtype if isinstance(x, Value) else np.dtype(bool) if type(x) is bool else type(x) for x in given]
    *loop, out = f.resolve_dtypes((*dtypes, None))
    inputs = [x if isinstance(x, Value) else tape.constant(np.asarray(x, d)) for x, d in zip(given, loop, strict=True)]
    if into is not None and not np.can_cast(out, into, "same_kind"):
        raise Untraceable(f"{f.__name__} in place makes {out}, the array is {into}")
    shape = np.broadcast_shapes(*(v.shape for v in inputs))
    return tape.emit("ufunc", f, inputs, np.empty(shape, into or out))


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

    def _write(self, f: np.ufunc, other: Any) -> Proxy:
        if not self._writable:
            raise Untraceable("augmented assignment to what is not carried")
        value = _ufunc(self._tape, f, self, other, into=self.dtype)
        if value.shape != self.shape:
            raise Untraceable("augmented assignment that changes the shape")
        self._value, self._writes = value, self._writes + 1
        return self

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: len(self._value.shape))
    size = property(lambda self: self._value.size)
    device = property(lambda self: "cpu")
    mT = property(lambda self: self.view(_matrix_transpose))  # noqa: N815
    T = property(lambda self: self.view(np.transpose))

    def __getitem__(self, key: Any) -> Proxy:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) == 1 and isinstance(key, Proxy) and key.ndim == 1 and key.dtype.kind in "iu":
            return Recorder(self._tape).take(self, key, axis=0)
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


def _matrix_transpose(x: NDArray) -> NDArray:
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
            return Recorder(x._tape).matmul(*pair) if f is np.matmul else Proxy(x._tape, _ufunc(x._tape, f, *pair))

        return op

    for name, f in OPERATORS.items():
        setattr(Proxy, f"__{name}__", binary(f, False))
        setattr(Proxy, f"__r{name}__", binary(f, True))
        if f is not np.matmul:
            setattr(Proxy, f"__i{name}__", lambda x, y, f=f: x._write(f, y))
    for name, f in COMPARISONS.items():
        setattr(Proxy, f"__{name}__", binary(f, False))
    for name, f in UNARY.items():
        setattr(Proxy, f"__{name}__", lambda x, f=f: Proxy(x._tape, _ufunc(x._tape, f, x)))


_define_operators()


class Recorder:
    """NumPy's namespace for stand-ins. What it has no rule for is recorded as a call, if it returns one array."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Any:
        f = getattr(np, name)
        if isinstance(f, np.ufunc) and f.signature is None and f.nout == 1:
            return lambda *args: self._new(_ufunc(self._tape, f, *args))
        if name in REDUCTIONS:
            return lambda x, /, **options: self._reduce(name, x, **options)
        if not callable(f) or isinstance(f, type):
            return f
        return lambda *args, **options: self._call(name, f, args, options)

    def _new(self, value: Value) -> Proxy:
        return Proxy(self._tape, value)

    def _call(self, name: str, f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """``f`` as it is on what is no stand-in, else a recorded call."""
        flat = [x for arg in (*args, *options.values()) for x in (arg if isinstance(arg, (tuple, list)) else [arg])]
        if not any(isinstance(x, Proxy) for x in flat):
            return f(*args, **options)
        if name in ("finfo", "iinfo", "isdtype", "can_cast", "result_type") or name.endswith("_like"):
            return f(*(_as_abstract(x) for x in args), **options)
        if name in DATA_DEPENDENT or name.startswith("unique") or any(isinstance(x, Proxy) for x in options.values()):
            raise Untraceable(name)
        return self._new(self._tape.call(f, tuple(x.value() if isinstance(x, Proxy) else x for x in args), **options))

    def _reduce(self, name: str, x: Any, *, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Proxy:
        f, v = REDUCTIONS[name], _value(self._tape, x)
        axes = tuple(range(len(v.shape))) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(operator.index(a) % len(v.shape) for a in axes)
        out = getattr(np, name)(np.ones((1,), v.dtype), **({} if dtype is None else {"dtype": dtype})).dtype
        shape = tuple(1 if a in axes else n for a, n in enumerate(v.shape) if keepdims or a not in axes)
        return self._new(self._tape.emit("reduce", f, (v,), np.empty(shape, out), (axes, keepdims)))

    def mean(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Proxy:
        total = self._reduce("sum", x, axis=axis, keepdims=keepdims)
        return total / float(x.size // max(total.size, 1))

    def argmax(self, x: Any, /, *, axis: int | None = None, keepdims: bool = False, f: Any = np.argmax) -> Proxy:
        like = f(np.zeros(x.shape, x.dtype), axis=axis, keepdims=keepdims)
        value = _value(self._tape, x)
        return self._new(self._tape.emit("arg", f, (value,), np.empty(like.shape, like.dtype), (axis, keepdims)))

    def argmin(self, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Proxy:
        return self.argmax(x, axis=axis, keepdims=keepdims, f=np.argmin)

    def matmul(self, x: Any, y: Any, /) -> Proxy:
        a, b = _value(self._tape, x), _value(self._tape, y)
        if a.dtype != b.dtype or a.dtype.kind != "f" or min(len(a.shape), len(b.shape)) < 2:
            return self._new(self._tape.call(np.matmul, (a, b)))
        if a.shape[-1] != b.shape[-2]:
            raise Untraceable("shapes that do not fit")
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        return self._new(self._tape.emit("matmul", np.matmul, (a, b), np.empty(shape, a.dtype)))

    def astype(self, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Proxy:
        if not isinstance(x, Proxy):
            x = self._new(self._tape.constant(x))
        if x.dtype == np.dtype(dtype):
            return self._new(x.value()) if copy else x
        return self._new(self._tape.emit("cast", np.copyto, (x.value(),), np.empty(x.shape, dtype)))

    def asarray(self, x: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
        if isinstance(x, Proxy):
            return self.astype(x, x.dtype if dtype is None else dtype, copy=bool(copy))
        return np.asarray(x, dtype=dtype, copy=copy)

    def where(self, condition: Any, x: Any, y: Any, /) -> Proxy:
        given = [a if type(a) in Number else _value(self._tape, a) for a in (x, y)]
        dtype = np.result_type(*(a.dtype if isinstance(a, Value) else a for a in given))
        a, b = (v if isinstance(v, Value) else self._tape.constant(np.asarray(v, dtype)) for v in given)
        c = _value(self._tape, condition)
        shape = np.broadcast_shapes(c.shape, a.shape, b.shape)
        return self._new(self._tape.emit("where", np.where, (c, a, b), np.empty(shape, dtype)))

    def clip(self, x: Any, /, min: Any = None, max: Any = None) -> Proxy:
        x = x if min is None else self.maximum(x, min)
        return x if max is None else self.minimum(x, max)

    def take(self, x: Any, indices: Any, /, *, axis: int | None = None) -> Proxy:
        a, rows = _value(self._tape, x), _value(self._tape, indices)
        axis = 0 if axis is None else axis % len(a.shape)
        shape = (*a.shape[:axis], *rows.shape, *a.shape[axis + 1 :])
        return self._new(self._tape.emit("take", np.take, (a, rows), np.empty(shape, a.dtype), (axis,)))

    def concat(self, arrays: Any, /, *, axis: int | None = 0) -> Proxy:
        parts = [_value(self._tape, x) for x in arrays]
        if axis is None:
            parts, axis = [self._tape.view(np.reshape, v, (-1,)) for v in parts], 0
        axis %= len(parts[0].shape)
        shape = list(parts[0].shape)
        shape[axis] = sum(v.shape[axis] for v in parts)
        dtype = np.result_type(*(v.dtype for v in parts))
        return self._new(self._tape.emit("concat", np.concat, parts, np.empty(shape, dtype), (axis,)))

    def stack(self, arrays: Any, /, *, axis: int = 0) -> Proxy:
        return self.concat([self.expand_dims(x, axis=axis) for x in arrays], axis=axis)

    def reshape(self, x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
        return self._view(x, np.reshape, shape)

    def matrix_transpose(self, x: Any, /) -> Any:
        return self._view(x, _matrix_transpose)

    def permute_dims(self, x: Any, /, axes: Any) -> Any:
        return self._view(x, np.transpose, tuple(axes))

    def moveaxis(self, x: Any, source: Any, destination: Any, /) -> Any:
        return self._view(x, np.moveaxis, source, destination)

    def expand_dims(self, x: Any, /, *, axis: Any = 0) -> Any:
        return self._view(x, np.expand_dims, axis)

    def squeeze(self, x: Any, /, axis: Any) -> Any:
        return self._view(x, np.squeeze, axis)

    def broadcast_to(self, x: Any, /, shape: Any) -> Any:
        return self._view(x, np.broadcast_to, tuple(shape))

    def flip(self, x: Any, /, *, axis: Any = None) -> Any:
        return self._view(x, np.flip, axis)

    def _view(self, x: Any, f: Callable[..., NDArray], *args: Any) -> Any:
        return x.view(f, *args) if isinstance(x, Proxy) else f(x, *args)


def _as_abstract(x: Any) -> Any:
    """A stand-in as an array of its shape and dtype without memory behind it."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, Proxy) else x

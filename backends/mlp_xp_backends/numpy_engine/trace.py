"""Recording: the body runs once on stand-ins that have a shape and a dtype and no numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mlp_xp_backends.numpy_engine.proxy import Number, Proxy, elementwise_of, matrix_transpose, value_of
from mlp_xp_backends.numpy_engine.tape import NDArray, Program, Tape, Untraceable, Value, blank
from mlp_xp_backends.numpy_namespace import xp
from mlp_xp_backends.protocol import Body
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Tree

REDUCTIONS = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
REDUCTIONS |= {"any": np.logical_or, "all": np.logical_and}
DATA_DEPENDENT = {"nonzero", "argwhere", "flatnonzero", "repeat", "extract", "compress", "searchsorted"}


def record(body: Body, carry: Tree, consts: Tree, items: Tree) -> Program:
    """The program of ``body`` for arrays like these; `Untraceable` if it has none."""
    tape = Tape()

    def stand_ins(tree: Tree, kind: str, like: Callable[[NDArray], NDArray]) -> tuple[Tree, list[Value]]:
        values = [Value(like(a), source=(kind, k)) for k, a in enumerate(leaves(tree))]
        return unflatten(tree, (Proxy(tape, v, writable=kind == "carry") for v in values)), values

    carry_tree, carry_in = stand_ins(carry, "carry", lambda a: blank(a.shape, a.dtype))
    const_tree, const_in = stand_ins(consts, "const", lambda a: a)
    item_tree, item_in = stand_ins(items, "item", lambda a: blank(a.shape[1:], a.dtype))
    trees = body(Recorder(tape), carry_tree, const_tree, item_tree)
    carry_out, outs = ([value_of(tape, x) for x in leaves(tree)] for tree in trees)
    if [(v.shape, v.dtype) for v in carry_out] != [(v.shape, v.dtype) for v in carry_in]:
        raise Untraceable("the carry changes shape or dtype")
    structure = tuple(unflatten(tree, iter(leaves(tree))) for tree in trees)
    program = Program(tape.ops, carry_in, carry_out, const_in, item_in, outs, (structure[0], structure[1]))
    program.live()
    return program


class Recorder:
    """NumPy's namespace for stand-ins. What it has no rule for is recorded as a call, if it returns one array."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Any:
        rule = getattr(type(self), f"_{name}", None)
        if rule is not None:
            return partial(rule, self)
        f = getattr(xp, name)
        if isinstance(f, np.ufunc) and f.signature is None and f.nout == 1:
            return lambda *args: self._new(elementwise_of(self._tape, f, *args))
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
        f, v = REDUCTIONS[name], value_of(self._tape, x)
        axes = tuple(range(len(v.shape))) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(operator.index(a) % len(v.shape) for a in axes)
        out = getattr(np, name)(np.ones((1,), v.dtype), **({} if dtype is None else {"dtype": dtype})).dtype
        shape = tuple(1 if a in axes else n for a, n in enumerate(v.shape) if keepdims or a not in axes)
        return self._new(self._tape.emit("reduce", f, (v,), blank(shape, out), (axes, keepdims)))

    def _mean(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Proxy:
        total = self._reduce("sum", x, axis=axis, keepdims=keepdims).value()
        count = float(x.size // max(total.size, 1))
        return self._new(elementwise_of(self._tape, np.true_divide, self._new(total), count))

    def _argmax(self, x: Any, /, *, axis: int | None = None, keepdims: bool = False, f: Any = np.argmax) -> Proxy:
        like = f(np.zeros(x.shape, x.dtype), axis=axis, keepdims=keepdims)
        value = value_of(self._tape, x)
        return self._new(self._tape.emit("arg", f, (value,), blank(like.shape, like.dtype), (axis, keepdims)))

    def _argmin(self, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Proxy:
        return self._argmax(x, axis=axis, keepdims=keepdims, f=np.argmin)

    def _matmul(self, x: Any, y: Any, /) -> Proxy:
        return self._new(self._tape.matmul(value_of(self._tape, x), value_of(self._tape, y)))

    def _astype(self, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Proxy:
        if not isinstance(x, Proxy):
            x = self._new(self._tape.constant(x))
        if x.dtype == np.dtype(dtype):
            return self._new(x.value()) if copy else x
        return self._new(self._tape.emit("cast", np.copyto, (x.value(),), blank(x.shape, dtype)))

    def _asarray(self, x: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
        if isinstance(x, Proxy):
            return self._astype(x, x.dtype if dtype is None else dtype, copy=bool(copy))
        return np.asarray(x, dtype=dtype, copy=copy)

    def _where(self, condition: Any, x: Any, y: Any, /) -> Proxy:
        given = [a if type(a) in Number else value_of(self._tape, a) for a in (x, y)]
        dtype = np.result_type(*(a.dtype if isinstance(a, Value) else a for a in given))
        a, b = (v if isinstance(v, Value) else self._tape.constant(np.asarray(v, dtype)) for v in given)
        c = value_of(self._tape, condition)
        shape = np.broadcast_shapes(c.shape, a.shape, b.shape)
        return self._new(self._tape.emit("where", np.where, (c, a, b), blank(shape, dtype)))

    def _clip(self, x: Any, /, min: Any = None, max: Any = None) -> Any:
        for f, bound in ((np.maximum, min), (np.minimum, max)):
            x = x if bound is None else self._new(elementwise_of(self._tape, f, x, bound))
        return self._asarray(x)

    def _take(self, x: Any, indices: Any, /, *, axis: int = 0) -> Proxy:
        a, rows = value_of(self._tape, x), value_of(self._tape, indices)
        return self._new(self._tape.take(a, rows, axis % len(a.shape)))

    def _concat(self, arrays: Any, /, *, axis: int | None = 0) -> Proxy:
        parts = [value_of(self._tape, x) for x in arrays]
        if axis is None:
            parts, axis = [self._tape.view(np.reshape, v, (-1,)) for v in parts], 0
        axis %= len(parts[0].shape)
        shape = list(parts[0].shape)
        shape[axis] = sum(v.shape[axis] for v in parts)
        dtype = np.result_type(*(v.dtype for v in parts))
        return self._new(self._tape.emit("concat", np.concat, parts, blank(tuple(shape), dtype), (axis,)))

    def _stack(self, arrays: Any, /, *, axis: int = 0) -> Proxy:
        return self._concat([self._expand_dims(x, axis=axis) for x in arrays], axis=axis)

    def _reshape(self, x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
        return self._view(x, np.reshape, shape)

    def _matrix_transpose(self, x: Any, /) -> Any:
        return self._view(x, matrix_transpose)

    def _permute_dims(self, x: Any, /, axes: Any) -> Any:
        return self._view(x, np.transpose, tuple(axes))

    def _moveaxis(self, x: Any, source: Any, destination: Any, /) -> Any:
        return self._view(x, np.moveaxis, source, destination)

    def _expand_dims(self, x: Any, /, *, axis: Any = 0) -> Any:
        return self._view(x, np.expand_dims, axis)

    def _squeeze(self, x: Any, /, axis: Any) -> Any:
        return self._view(x, np.squeeze, axis)

    def _broadcast_to(self, x: Any, /, shape: Any) -> Any:
        return self._view(x, np.broadcast_to, tuple(shape))

    def _flip(self, x: Any, /, *, axis: Any = None) -> Any:
        return self._view(x, np.flip, axis)

    def _view(self, x: Any, f: Callable[..., NDArray], *args: Any) -> Any:
        return x.view(f, *args) if isinstance(x, Proxy) else f(x, *args)


def _as_abstract(x: Any) -> Any:
    """A stand-in as an array of its shape and dtype without memory behind it."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, Proxy) else x

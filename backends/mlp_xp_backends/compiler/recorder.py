"""Recording: the body runs once on stand-ins, which have a shape and a dtype but no elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from mlp_xp_backends.compiler.program import Kind, Program, Value, new_value
from mlp_xp_backends.compiler.stand_in import StandIn, elementwise, take, value_of
from mlp_xp_backends.compiler.tape import NUMBERS, Tape, layout_of
from mlp_xp_backends.namespace import CREATION
from mlp_xp_backends.protocol import Body
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Array, HostArray, Tree

REDUCTIONS = {"sum", "prod", "max", "min", "any", "all"}
VIEWS = {"transpose", "matrix_transpose", "swapaxes", "moveaxis", "expand_dims", "squeeze", "broadcast_to", "flip"}
DATA_DEPENDENT = {"nonzero", "argwhere", "flatnonzero", "repeat", "extract", "compress"}
ABOUT_DTYPES = {"finfo", "iinfo", "isdtype", "can_cast", "result_type"}
OTHER_NAMES = {"permute_dims": "transpose", "amax": "max", "amin": "min", "concatenate": "concat"}
OTHER_NAMES |= {"empty": "zeros", "empty_like": "zeros_like"}  # equal in every recording


AllSum = Callable[[Array, Array], Any]
"""``f(x, out)``: write the sum of ``x`` over all ranks to ``out``."""


def record(body: Body, carry: Tree, consts: Tree, items: Tree, all_sum: AllSum | None = None) -> Program:
    """The program of ``body`` for arrays of these layouts, on the host or a device; raises `Unrecordable`.

    Only the shapes and dtypes of the arrays count, and the strides of ``consts``. ``all_sum``, not called here,
    is recorded where the body calls ``xp.all_sum``; without it, such a body cannot be recorded. Other exceptions of
    the body on stand-ins propagate.
    """
    tape = Tape()

    def stand_ins(tree: Tree, kind: str, value: Callable[[Array, tuple[str, int]], Value]) -> tuple[Tree, list[Value]]:
        values = [value(a, (kind, k)) for k, a in enumerate(leaves(tree))]
        return unflatten(tree, (StandIn(tape, v, writable=kind == "carry") for v in values)), values

    carry_tree, carry_in = stand_ins(carry, "carry", lambda a, source: new_value(*layout_of(a)[:2], source))
    const_tree, const_in = stand_ins(consts, "const", lambda a, source: Value(*layout_of(a), source=source))
    item_tree, item_in = stand_ins(items, "item", lambda a, source: new_value(a.shape[1:], layout_of(a)[1], source))
    carried = leaves(carry_tree)
    trees = body(Recorder(tape, all_sum), carry_tree, const_tree, item_tree)
    if tape.refused is not None:
        raise tape.refused
    carry_out, outs = ([value_of(tape, x) for x in leaves(tree)] for tree in trees)
    if [(v.shape, v.dtype) for v in carry_out] != [(v.shape, v.dtype) for v in carry_in]:
        raise tape.refuse("the carry changes shape or dtype")
    if unflatten(trees[0], iter(carry_in)) != unflatten(carry, iter(carry_in)):
        raise tape.refuse("the carry changes its structure")
    if any(x.written for x in carried) and _aliased(carry_in, carry_out):
        raise tape.refuse("arrays that are written to share their memory from the next step on")
    structure = tuple(unflatten(tree, (None for _ in leaves(tree))) for tree in trees)
    members = tuple((k,) for k in range(len(carry_in)))
    values = (tuple(carry_in), tuple(carry_out), tuple(const_in), tuple(item_in), tuple(outs))
    return Program((), *values, (structure[0], structure[1]), members).with_ops(tape.ops)


def _aliased(before: list[Value], after: list[Value]) -> bool:
    """Whether leaves of the returned carry share memory with each other or with any other array."""
    roots = [v.root for v in after]
    pairs = zip(roots, before, strict=True)
    given = any((r.source is not None or r.constant is not None) and r is not b for r, b in pairs)
    return given or len(set(roots)) < len(roots)


class Recorder:
    """NumPy's namespace for stand-ins. Functions without a rule are recorded as calls if they return one new array."""

    def __init__(self, tape: Tape, all_sum: AllSum | None = None) -> None:
        self._tape, self._sum_of_ranks = tape, all_sum

    def __getattr__(self, name: str) -> Any:
        name = OTHER_NAMES.get(name, name)
        rule = getattr(type(self), f"_{name}", None)
        if rule is not None:
            return partial(rule, self)
        f = getattr(np, name)
        if isinstance(f, np.ufunc) and f.signature is None and f.nout == 1:
            return lambda *args, out=None: elementwise(self._tape, f.__name__, args, out)
        if name in REDUCTIONS:
            return partial(self._reduce, name)
        if name in VIEWS:
            return partial(self._view, name, f)
        if name in CREATION or name.endswith("_like"):
            return partial(self._create, f, name.endswith("_like"))
        if not callable(f) or isinstance(f, type):
            return f
        return partial(self._call, name, f)

    def _new(self, value: Value) -> StandIn:
        return StandIn(self._tape, value)

    def _value(self, x: Any) -> Value:
        return value_of(self._tape, x)

    def _stand_in(self, x: Any) -> StandIn:
        if isinstance(x, StandIn):
            return x
        return StandIn(self._tape, self._tape.constant(x), writable=False)

    def _create(self, f: Callable[..., HostArray], like: bool, *args: Any, **options: Any) -> StandIn:
        given = [*args[like:], *options.values()]
        if any(isinstance(x, StandIn) for x in given):
            raise self._tape.refuse("an array created from the elements of another")
        options.pop("device", None)
        first = (np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, StandIn) else x for x in args[:like])
        return self._new(self._tape.constant(f(*first, *args[like:], **options)))

    def _call(self, name: str, f: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A recorded call of ``f``, or ``f`` itself if no argument is a stand-in."""
        if name in ABOUT_DTYPES:
            return f(*(x.dtype if isinstance(x, StandIn) else x for x in args), **options)
        nested = [y for x in (*args, *options.values()) for y in (x if isinstance(x, (tuple, list)) else ())]
        if any(isinstance(x, StandIn) for x in (*nested, *options.values())):
            raise self._tape.refuse(f"{name} of a sequence of arrays")
        if not any(isinstance(x, StandIn) for x in args):
            return f(*args, **options)
        if name in DATA_DEPENDENT or name.startswith("unique"):
            raise self._tape.refuse(name)
        values = tuple(x.value() if isinstance(x, StandIn) else x for x in args)
        return self._new(self._tape.call(name, values, options))

    def _reduce(self, name: str, x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> StandIn:
        v = self._value(x)
        axes = tuple(range(len(v.shape))) if axis is None else tuple(sorted(normalize_axis_tuple(axis, len(v.shape))))
        out = getattr(np, name)(np.ones((1,), v.dtype), **({} if dtype is None else {"dtype": dtype})).dtype
        shape = tuple(1 if a in axes else n for a, n in enumerate(v.shape) if keepdims or a not in axes)
        return self._new(self._tape.emit(Kind.REDUCE, name, (v,), shape, out, axes=axes, keepdims=bool(keepdims)))

    def _mean(self, x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> StandIn:
        x = self._stand_in(x)
        kind = np.dtype(x.dtype if dtype is None else dtype)
        if x.size == 0 or kind == np.float16 or (dtype is not None and kind.kind not in "fc"):
            raise self._tape.refuse(f"a mean of {x.size} numbers in {kind}")
        total = self._reduce("sum", x, axis, np.float64 if kind.kind in "biu" and dtype is None else kind, keepdims)
        return elementwise(self._tape, "true_divide", (total, float(x.size // total.size)))

    def _argmax(self, x: Any, axis: int | None = None, *, keepdims: bool = False, name: str = "argmax") -> StandIn:
        v = self._value(x)
        if v.size == 0:
            raise ValueError(f"{name} of an empty array")
        axes = range(len(v.shape)) if axis is None else (normalize_axis_index(axis, len(v.shape)),)
        shape = tuple(1 if a in axes else n for a, n in enumerate(v.shape) if keepdims or a not in axes)
        axis = None if axis is None else axes[0]
        return self._new(self._tape.emit(Kind.ARG, name, (v,), shape, np.intp, axis=axis, keepdims=bool(keepdims)))

    def _argmin(self, x: Any, axis: int | None = None, *, keepdims: bool = False) -> StandIn:
        return self._argmax(x, axis, keepdims=keepdims, name="argmin")

    def _matmul(self, x: Any, y: Any, /) -> StandIn:
        return self._new(self._tape.matmul(self._value(x), self._value(y)))

    def _astype(self, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> StandIn:
        a = self._stand_in(x)
        if a.dtype != np.dtype(dtype):
            return self._new(self._tape.emit(Kind.CAST, "", (a.value(),), a.shape, dtype))
        return a.copy_of() if copy else a

    def _asarray(self, x: Any, dtype: Any = None, *, device: Any = None, copy: bool | None = None) -> StandIn:
        if isinstance(x, StandIn):
            return self._astype(x, x.dtype if dtype is None else dtype, copy=bool(copy))
        array = np.asarray(x, dtype=dtype, copy=copy)
        return StandIn(self._tape, self._tape.constant(array), writable=not np.may_share_memory(array, np.asarray(x)))

    def _copy(self, x: Any) -> StandIn:
        return self._stand_in(x).copy_of()

    def _where(self, condition: Any, x: Any, y: Any, /) -> StandIn:
        given = [a if type(a) in NUMBERS else self._value(a) for a in (x, y)]
        dtype = np.result_type(*(a.dtype if isinstance(a, Value) else a for a in given))
        a, b = (v if isinstance(v, Value) else self._tape.constant(np.asarray(v, dtype)) for v in given)
        c = self._value(condition)
        shape = np.broadcast_shapes(c.shape, a.shape, b.shape)
        return self._new(self._tape.emit(Kind.WHERE, "", (c, a, b), shape, dtype))

    def _clip(self, x: Any, min: Any = None, max: Any = None) -> StandIn:
        if min is None and max is None:
            return self._stand_in(x).copy_of()
        for name, bound in (("maximum", min), ("minimum", max)):
            x = x if bound is None else elementwise(self._tape, name, (x, bound))
        return self._stand_in(x)

    def _take(self, x: Any, indices: Any, axis: int | None = None) -> StandIn:
        x = self._stand_in(x)
        if axis is None:
            x, axis = self._reshape(x, (-1,)), 0
        return self._new(take(self._tape, x.value(), self._value(indices), normalize_axis_index(axis, x.ndim)))

    def _one_hot(self, ids: Any, n: int, *, dtype: Any) -> StandIn:
        v = self._integers(ids)
        return self._new(self._tape.emit(Kind.ONE_HOT, "", (v,), (*v.shape, n), dtype, n=n))

    def _segment_sum(self, values: Any, ids: Any, n: int) -> StandIn:
        v, i = self._value(values), self._integers(ids)
        if len(v.shape) < 2 or i.shape not in (v.shape[-2:-1], v.shape[:-1]):
            raise ValueError(f"segment_sum of values {v.shape} by ids {i.shape}")
        shape = (*v.shape[:-2], n, v.shape[-1])
        return self._new(self._tape.emit(Kind.SEGMENT_SUM, "", (v, i), shape, v.dtype, n=n))

    def _all_sum(self, x: Any) -> StandIn:
        if self._sum_of_ranks is None:
            raise self._tape.refuse("all_sum")
        v, number = self._value(x), sum(op.kind is Kind.ALL_SUM for op in self._tape.ops)
        return self._new(self._tape.emit(Kind.ALL_SUM, "", (v,), v.shape, v.dtype, f=self._sum_of_ranks, number=number))

    def _integers(self, ids: Any) -> Value:
        v = self._value(ids)
        if v.dtype.kind not in "iu":
            raise TypeError(f"ids of dtype {v.dtype}")
        return v

    def _concat(self, arrays: Any, /, axis: int | None = 0) -> StandIn:
        parts = [self._stand_in(x) for x in arrays]
        if axis is None:
            parts, axis = [self._reshape(x, (-1,)) for x in parts], 0
        axis = normalize_axis_index(axis, parts[0].ndim)
        rests = {(*x.shape[:axis], *x.shape[axis + 1 :]) for x in parts}
        if len(rests) != 1:
            raise ValueError(f"concat of shapes {[x.shape for x in parts]} along axis {axis}")
        shape = list(parts[0].shape)
        shape[axis] = sum(x.shape[axis] for x in parts)
        dtype = np.result_type(*(x.dtype for x in parts))
        values = [x.value() for x in parts]
        return self._new(self._tape.emit(Kind.CONCAT, "", values, tuple(shape), dtype, axis=axis))

    def _stack(self, arrays: Any, /, axis: int = 0) -> StandIn:
        return self._concat([self.expand_dims(x, axis) for x in arrays], axis)

    def _reshape(self, x: Any, /, shape: Any, *, copy: bool | None = None) -> StandIn:
        a = self._stand_in(x)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if copy:
            a = a.copy_of()
        try:
            return a.view("reshape", reshape, shape)
        except ValueError:
            return a.copy_of().view("reshape", reshape, shape)

    def _ravel(self, x: Any) -> StandIn:
        return self._reshape(x, (-1,))

    def _view(self, name: str, f: Callable[..., HostArray], x: Any, *args: Any, **options: Any) -> StandIn:
        given = (tuple(a) if isinstance(a, list) else a for a in (*args, *options.values()))
        keywords = tuple(options)
        return self._stand_in(x).view(name, partial(_with_keywords, f, keywords), *given)

    def _divmod(self, x: Any, y: Any, /) -> tuple[StandIn, StandIn]:
        quotient, rest = divmod(self._stand_in(x), y)
        return quotient, rest


def _with_keywords(f: Callable[..., HostArray], keywords: tuple[str, ...], x: HostArray, *given: Any) -> HostArray:
    """Call ``f`` with its last arguments by name."""
    n = len(given) - len(keywords)
    return f(x, *given[:n], **dict(zip(keywords, given[n:], strict=True)))


def reshape(x: HostArray, shape: tuple[int, ...]) -> HostArray:
    """``x`` in another shape without copying; raises ValueError if that needs a copy."""
    return np.reshape(x, shape, copy=False)

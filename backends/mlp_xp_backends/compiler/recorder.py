"""Recording: the body runs on stand-ins, which have a shape and a dtype but no elements.

It runs twice on the same tape, so that bodies that compute something else at every call are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, partialmethod
from itertools import repeat
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from mlp_xp_backends.compiler.program import Kind, Program, Unrecordable, Value, new_value
from mlp_xp_backends.compiler.stand_in import StandIn, index
from mlp_xp_backends.compiler.tape import Tape, layout_of
from mlp_xp_backends.namespace import CREATION
from mlp_xp_backends.protocol import Body
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Array, HostArray, Tree

NUMBERS = (bool, int, float, complex)
"""Types of numbers that are converted to the dtype of the arrays they are combined with."""
REDUCTIONS = {"sum", "prod", "max", "min", "any", "all"}
VIEWS = {"transpose", "matrix_transpose", "swapaxes", "moveaxis", "expand_dims", "squeeze", "broadcast_to", "flip"}
DATA_DEPENDENT = {"nonzero", "argwhere", "flatnonzero", "repeat", "extract", "compress"}
ABOUT_DTYPES = {"finfo", "iinfo", "isdtype", "can_cast", "result_type"}
OTHER_NAMES = {"permute_dims": "transpose", "amax": "max", "amin": "min", "concatenate": "concat"}
OTHER_NAMES |= {"empty": "zeros", "empty_like": "zeros_like"}  # equal in every run
RESHAPED = partial(np.reshape, copy=False)  # a view; ValueError if that needs a copy

AllSum = Callable[[Array, Array], Any]
"""``f(x, out)``: write the sum of ``x`` over all ranks to ``out``."""


class Unrepeatable(Unrecordable):
    """The body computes something else at every call."""


def record(body: Body, carry: Tree, consts: Tree, items: Tree, all_sum: AllSum | None = None) -> Program:
    """The program of ``body`` for arrays of these layouts, on the host or a device.

    Only the shapes and dtypes of the arrays count, and the strides of ``consts``. ``all_sum``, not called here,
    is recorded where the body calls ``xp.all_sum``; without it, such a body cannot be recorded.
    Raises `Unrecordable`, `Unrepeatable`, and whatever the body raises on stand-ins.
    """
    tape = Tape()
    carry_in = tuple(new_value(*layout_of(a)[:2], ("carry", k)) for k, a in enumerate(leaves(carry)))
    const_in = tuple(Value(*layout_of(a), source=("const", k)) for k, a in enumerate(leaves(consts)))
    item_in = tuple(new_value(a.shape[1:], layout_of(a)[1], ("item", k)) for k, a in enumerate(leaves(items)))
    given = (carry, carry_in), (consts, const_in), (items, item_in)
    once, again = (_run(Recorder(tape, all_sum), body, *given) for _ in range(2))
    if again != once:
        raise Unrepeatable("the body computes something else at every call")
    carry_out, outs, structures, _ = once
    members = tuple((k,) for k in range(len(carry_in)))
    program = Program((), carry_in, carry_out, const_in, item_in, outs, structures, members).with_ops(tape.ops)
    return replace(program, bounds=frozenset(_bounds(program)))


def _bounds(program: Program) -> Iterator[tuple[str, int, int]]:
    """The `Program.bounds` of row numbers, columns and segment ids."""
    for op in program.ops:
        leaf = program.leaf_of(op.inputs[-1]) if op.kind in (Kind.TAKE, Kind.ONE_HOT, Kind.SEGMENT_SUM) else None
        if leaf is not None:
            yield *leaf, op.inputs[0].shape[op["axis"]] if op.kind is Kind.TAKE else op["n"]


def _run(xp: Recorder, body: Body, *given: tuple[Tree, tuple[Value, ...]]) -> tuple[Any, ...]:
    """The leaves of the carry and the out that the body returns, their structures, and the sums over ranks, in order.

    ``given`` are the trees of the carry, the constants and the item, each with the values of its leaves.
    """
    stand_ins = [[StandIn(xp, v, writable=k == 0) for v in values] for k, (_, values) in enumerate(given)]
    trees = body(xp, *(unflatten(tree, iter(xs)) for (tree, _), xs in zip(given, stand_ins, strict=True)))
    if xp.tape.refused is not None:
        raise xp.tape.refused
    carry_out, outs = (tuple(map(xp._value, leaves(tree))) for tree in trees)
    structures = tuple(unflatten(tree, repeat(None)) for tree in trees)
    carry, carry_in = given[0]
    if [(v.shape, v.dtype) for v in carry_out] != [(v.shape, v.dtype) for v in carry_in]:
        raise xp.tape.refuse("the carry changes shape or dtype")
    if structures[0] != unflatten(carry, repeat(None)):
        raise xp.tape.refuse("the carry changes its structure")
    written = any(x.value() is not v for x, v in zip(stand_ins[0], carry_in, strict=True))
    if written and _aliased(carry_in, carry_out):
        raise xp.tape.refuse("arrays that are written to share their memory from the next step on")
    return carry_out, outs, structures, xp._sums


def _aliased(before: tuple[Value, ...], after: tuple[Value, ...]) -> bool:
    """Whether leaves of the returned carry share memory with each other or with any other array."""
    roots = [v.root for v in after]
    pairs = zip(roots, before, strict=True)
    given = any((r.source is not None or r.constant is not None) and r is not b for r, b in pairs)
    return given or len(set(roots)) < len(roots)


class Recorder:
    """NumPy's namespace for stand-ins, in one run of a body.

    The method ``_f`` records NumPy's function ``f``. Functions without a rule or a method here are recorded as calls if
    they return one new array.
    """

    def __init__(self, tape: Tape, all_sum: AllSum | None = None) -> None:
        tape.rewind()
        self.tape, self._sum_of_ranks = tape, all_sum
        self._sums: list[Value] = []

    def __getattr__(self, name: str) -> Any:
        name = OTHER_NAMES.get(name, name)
        method = getattr(type(self), f"_{name}", None)
        if method is not None:
            return partial(method, self)
        f = getattr(np, name)
        if isinstance(f, np.ufunc) and f.signature is None and f.nout == 1:
            return partial(self._elementwise, f.__name__)
        if name in REDUCTIONS:
            return partial(self._reduce, name)
        if name in VIEWS:
            return partial(self._view, name, f)
        if name in CREATION or name.endswith("_like"):
            return partial(self._create, f, name.endswith("_like"))
        if not callable(f) or isinstance(f, type):
            return f
        return partial(self._call, name, f)

    def _value(self, x: Any) -> Value:
        """The value of a stand-in, or of an array or number that the body supplies."""
        return x.value() if isinstance(x, StandIn) else self.tape.constant(x)

    def _stand_in(self, x: Any) -> StandIn:
        return x if isinstance(x, StandIn) else StandIn(self, self.tape.constant(x), writable=False)

    def _new(self, kind: Kind, name: str, *inputs: Any, dtype: Any = None, **options: Any) -> StandIn:
        """A stand-in for the result of an operation on stand-ins and arrays."""
        return StandIn(self, self.tape.emit(kind, name, map(self._value, inputs), dtype, **options))

    def _create(self, f: Callable[..., HostArray], like: bool, *args: Any, **options: Any) -> StandIn:
        given = [*args[like:], *options.values()]
        if any(isinstance(x, StandIn) for x in given):
            raise self.tape.refuse("an array created from the elements of another")
        options.pop("device", None)
        first = (np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, StandIn) else x for x in args[:like])
        return StandIn(self, self.tape.constant(f(*first, *args[like:], **options)))

    def _call(self, name: str, f: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The result of ``f``, recorded as a call after a trial on zeros, if an argument is a stand-in."""
        if name in ABOUT_DTYPES:
            return f(*(x.dtype if isinstance(x, StandIn) else x for x in args), **options)
        nested = (y for x in (*args, *options.values()) for y in (x if isinstance(x, (tuple, list)) else ()))
        if any(isinstance(x, StandIn) for x in (*nested, *options.values())):
            raise self.tape.refuse(f"{name} of a sequence of arrays, or of one as an option")
        if not any(isinstance(x, StandIn) for x in args):
            return f(*args, **options)
        if name in DATA_DEPENDENT or name.startswith("unique"):
            raise self.tape.refuse(name)

        def out() -> Value:
            trial = [np.zeros(x.shape, x.dtype) if isinstance(x, StandIn) else x for x in args]
            result = f(*trial, **options)
            if not isinstance(result, (np.ndarray, np.generic)):
                raise self.tape.refuse(f"{name} does not return one array")
            if any(np.may_share_memory(result, x) for x in trial if isinstance(x, np.ndarray)):
                raise self.tape.refuse(f"{name} may return a view")
            return new_value(result.shape, result.dtype)

        inputs = tuple(x.value() for x in args if isinstance(x, StandIn))
        given = tuple(None if isinstance(x, StandIn) else (x,) for x in args)
        keywords = tuple(options.items())
        return StandIn(self, self.tape.emit(Kind.CALL, name, inputs, make=out, f=f, args=given, keywords=keywords))

    def _elementwise(self, name: str, *args: Any, out: Any = None) -> StandIn:
        given = [x if type(x) in NUMBERS else self._stand_in(x) for x in args]
        dtypes = (x.dtype if isinstance(x, StandIn) else np.dtype(bool) if type(x) is bool else type(x) for x in given)
        *loop, made = getattr(np, name).resolve_dtypes((*dtypes, None))
        dtype = made if out is None else out.dtype
        if not np.can_cast(made, dtype, "same_kind"):
            raise TypeError(f"{name} in place makes {made}, but the array is {dtype}")
        pairs = zip(given, loop, strict=True)
        inputs = (x.value() if isinstance(x, StandIn) else self.tape.constant(np.asarray(x, d)) for x, d in pairs)
        return self._into(out, self.tape.emit(Kind.ELEMENTWISE, name, inputs, dtype, loop=tuple(loop)))

    def _matmul(self, x: Any, y: Any, /, out: Any = None) -> StandIn:
        a, b = self._stand_in(x), self._stand_in(y)
        if a.dtype != b.dtype or a.dtype.kind != "f" or min(a.ndim, b.ndim) < 2:
            return self._into(out, self._call("matmul", np.matmul, a, b).value())
        return self._into(out, self.tape.emit(Kind.MATMUL, "matmul", (a.value(), b.value())))

    def _into(self, out: Any, value: Value) -> StandIn:
        """A stand-in for ``value``; ``out``, if given, after writing ``value`` to it."""
        if out is None:
            return StandIn(self, value)
        if not isinstance(out, StandIn):
            raise self.tape.refuse("a write to an array that the body supplies")
        return out.write(value)

    def _divmod(self, x: Any, y: Any, /) -> tuple[StandIn, StandIn]:
        return self._elementwise("floor_divide", x, y), self._elementwise("remainder", x, y)

    def _clip(self, x: Any, min: Any = None, max: Any = None) -> StandIn:
        if min is None and max is None:
            return self._copy(x)
        for name, bound in (("maximum", min), ("minimum", max)):
            x = x if bound is None else self._elementwise(name, x, bound)
        return self._stand_in(x)

    def _where(self, condition: Any, x: Any, y: Any, /) -> StandIn:
        given = [a if type(a) in NUMBERS else self._stand_in(a) for a in (x, y)]
        dtype = np.result_type(*(a.dtype if isinstance(a, StandIn) else a for a in given))
        arrays = (a if isinstance(a, StandIn) else np.asarray(a, dtype) for a in given)
        return self._new(Kind.WHERE, "", condition, *arrays, dtype=dtype)

    def _copy(self, x: Any) -> StandIn:
        return self._astype(x, self._stand_in(x).dtype)

    def _astype(self, x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> StandIn:
        x, dtype = self._stand_in(x), np.dtype(dtype)
        return self._new(Kind.COPY, "", x, dtype=dtype) if copy or x.dtype != dtype else x

    def _asarray(self, x: Any, dtype: Any = None, *, device: Any = None, copy: bool | None = None) -> StandIn:
        if isinstance(x, StandIn):
            return self._astype(x, x.dtype if dtype is None else dtype, copy=bool(copy))
        array = np.asarray(x, dtype=dtype, copy=copy)
        return StandIn(self, self.tape.constant(array), writable=not np.may_share_memory(array, np.asarray(x)))

    def _reduce(self, name: str, x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> StandIn:
        x = self._stand_in(x)
        axes = range(x.ndim) if axis is None else sorted(normalize_axis_tuple(axis, x.ndim))
        out = getattr(np, name)(np.ones((1,), x.dtype), **({} if dtype is None else {"dtype": dtype})).dtype
        return self._new(Kind.REDUCE, name, x, dtype=out, axes=tuple(axes), keepdims=bool(keepdims))

    def _mean(self, x: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> StandIn:
        x = self._stand_in(x)
        kind = np.dtype(x.dtype if dtype is None else dtype)
        if x.size == 0 or kind == np.float16 or (dtype is not None and kind.kind not in "fc"):
            raise self.tape.refuse(f"a mean of {x.size} numbers in {kind}")
        total = self._reduce("sum", x, axis, np.float64 if kind.kind in "biu" and dtype is None else kind, keepdims)
        return self._elementwise("true_divide", total, float(x.size // total.size))

    def _arg(self, name: str, x: Any, axis: int | None = None, *, keepdims: bool = False) -> StandIn:
        x = self._stand_in(x)
        if x.size == 0:
            raise ValueError(f"{name} of an empty array")
        axis = None if axis is None else normalize_axis_index(axis, x.ndim)
        return self._new(Kind.ARG, name, x, axis=axis, keepdims=bool(keepdims))

    _argmax, _argmin = partialmethod(_arg, "argmax"), partialmethod(_arg, "argmin")

    def _take(self, x: Any, indices: Any, axis: int | None = None) -> StandIn:
        x = self._reshape(x, -1) if axis is None else self._stand_in(x)
        return self._new(Kind.TAKE, "", x, indices, axis=normalize_axis_index(axis or 0, x.ndim))

    def _one_hot(self, ids: Any, n: int, *, dtype: Any) -> StandIn:
        return self._new(Kind.ONE_HOT, "", ids, dtype=np.dtype(dtype), n=n)

    def _segment_sum(self, values: Any, ids: Any, n: int) -> StandIn:
        return self._new(Kind.SEGMENT_SUM, "", values, ids, n=n)

    def _all_sum(self, x: Any) -> StandIn:
        if self._sum_of_ranks is None:
            raise self.tape.refuse("all_sum")
        total = self._new(Kind.ALL_SUM, "", x, f=self._sum_of_ranks, number=len(self._sums))
        self._sums.append(total.value())
        return total

    def _concat(self, arrays: Any, /, axis: int | None = 0) -> StandIn:
        parts = [self._reshape(x, -1) if axis is None else self._stand_in(x) for x in arrays]
        dtype = np.result_type(*(x.dtype for x in parts))
        return self._new(Kind.CONCAT, "", *parts, dtype=dtype, axis=normalize_axis_index(axis or 0, parts[0].ndim))

    def _stack(self, arrays: Any, /, axis: int = 0) -> StandIn:
        return self._concat([self.expand_dims(x, axis) for x in arrays], axis)

    def _reshape(self, x: Any, /, shape: Any, *, copy: bool | None = None) -> StandIn:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not copy:
            try:
                return self._view("reshape", RESHAPED, x, shape)
            except ValueError:
                pass
        return self._view("reshape", RESHAPED, self._copy(x), shape)

    def _ravel(self, x: Any) -> StandIn:
        return self._reshape(x, -1)

    def _index(self, x: Any, *keys: Any) -> StandIn:
        return self._view("index", index, x, *keys)

    def _view(self, name: str, f: Callable[..., HostArray], x: Any, *args: Any, **options: Any) -> StandIn:
        """A view of ``x``, stale once that is written to."""
        of = self._stand_in(x)
        given = [tuple(a) if isinstance(a, list) else a for a in args]
        keywords = {key: tuple(a) if isinstance(a, list) else a for key, a in options.items()}
        return StandIn(self, self.tape.view(name, f, of.value(), *given, **keywords), of)

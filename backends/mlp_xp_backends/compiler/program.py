"""The program of a body: a flat list of operations in single-assignment form, independent of the machine.

Every operation makes one new `Value`; an augmented assignment is an operation like any other. The
memory planner of a target decides later which values share memory. `RULES` defines each kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mlp_xp_backends.typing import Array, HostArray, Tree


class Unrecordable(BaseException):
    """The body does something that a flat list of array operations cannot express.

    Not an `Exception`, so that an ``except Exception`` in the body does not catch it.
    """


class Kind(Enum):
    """The kinds of operations; `RULES` defines each."""

    ELEMENTWISE = auto()
    CAST = auto()
    COPY = auto()
    WHERE = auto()
    MATMUL = auto()
    REDUCE = auto()
    ARG = auto()
    TAKE = auto()
    CONCAT = auto()
    VIEW = auto()
    ONE_HOT = auto()
    SEGMENT_SUM = auto()
    CALL = auto()
    ALL_SUM = auto()
    # created only by passes
    PACK = auto()
    GEMM = auto()
    AXPBY = auto()
    LESSEN = auto()


class Rule(NamedTuple):
    """The meaning of a kind of operation."""

    operands: tuple[str, ...]
    """Names of the operands in order; ``*`` marks any number of them."""
    options: tuple[str, ...]
    """Names of further arguments; `Op` is indexed by them."""
    over: slice
    """The operands that the result may overwrite: each element is read before it is written."""
    meaning: str


NONE, ALL = slice(0), slice(None)

RULES: dict[Kind, Rule] = {
    Kind.ELEMENTWISE: Rule(("*x",), ("loop",), ALL, "NumPy's ufunc `name` of broadcast x, each first cast to its loop"),
    Kind.CAST: Rule(("x",), (), NONE, "x in the dtype of the result, as C casts"),
    Kind.COPY: Rule(("x",), (), NONE, "x in new contiguous memory"),
    Kind.WHERE: Rule(("condition", "x", "y"), (), slice(2, 3), "x where the condition holds, else y; all broadcast"),
    Kind.MATMUL: Rule(("a", "b"), (), NONE, "a b for (stacks of) matrices of one real floating-point dtype"),
    Kind.REDUCE: Rule(("x",), ("axes", "keepdims"), NONE, "`name` (sum, prod, max, min, any, all) over sorted axes"),
    Kind.ARG: Rule(("x",), ("axis", "keepdims"), NONE, "`name` (argmax, argmin): first position; axis None: flat"),
    Kind.TAKE: Rule(("x", "indices"), ("axis",), NONE, "slices of x along axis; indices may count from the end"),
    Kind.CONCAT: Rule(("*x",), ("axis",), NONE, "x joined along an axis"),
    Kind.VIEW: Rule(("x",), ("args",), NONE, "`name` of x, without copying: the memory of x in another layout"),
    Kind.ONE_HOT: Rule(("ids",), ("n",), NONE, "1 at [..., id], else 0; ids are 0, ..., n - 1"),
    Kind.SEGMENT_SUM: Rule(("values", "ids"), ("n",), NONE, "[..., i, :] is the sum of the rows with id i, in order"),
    Kind.CALL: Rule(("*x",), ("f", "args", "keywords"), NONE, "NumPy's function f of args, where None is the next x"),
    Kind.ALL_SUM: Rule(("x",), ("f", "number"), NONE, "the sum of x over all ranks, f(x, out): never removed or moved"),
    Kind.PACK: Rule(("*x",), (), NONE, "the elements of all x in one 1-D array"),
    Kind.GEMM: Rule(
        ("a", "b", "alpha", "beta", "c"),
        (),
        slice(4, 5),
        "alpha a b + beta c, or alpha a b; numbers of all matrices or of each",
    ),
    Kind.AXPBY: Rule(("x", "alpha", "beta", "y"), (), slice(3, 4), "alpha x + beta y; numbers as of a gemm"),
    Kind.LESSEN: Rule(("x", "places"), (), slice(0, 1), "x minus 1 at these positions of its flat elements"),
}


def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes from one element to the next along each axis, in row-major order without gaps."""
    return tuple(itemsize * prod(shape[k + 1 :]) for k in range(len(shape)))


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """An array of a program. Compared and hashed by identity."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    """Bytes from one element to the next along each axis."""
    base: Value | None = None
    """The value whose memory a view refers to (itself not a view); `None` if this is not a view."""
    offset: int = 0
    """Bytes from the first element of `base` to the first element of this view."""
    source: tuple[str, int] | None = None
    """``carry``, ``const`` or ``item`` and the position among its leaves, if this is an argument of the loop."""
    constant: Array | None = None
    """The array itself, on the host or the device, if the body supplies it."""

    @property
    def root(self) -> Value:
        """The base of a view; any other value itself."""
        return self if self.base is None else self.base

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are stored in row-major order without gaps."""
        expected = contiguous(self.shape, self.dtype.itemsize)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return self.size == 0 or all(n == 1 or s == e for n, s, e in pairs)

    @property
    def like(self) -> HostArray:
        """An array of this layout, to let NumPy compute views of it. Its elements must not be accessed."""
        return as_strided(np.empty(1, self.dtype), self.shape, self.strides)


def new_value(shape: tuple[int, ...], dtype: Any, source: tuple[str, int] | None = None) -> Value:
    """A value in new contiguous memory."""
    dtype = np.dtype(dtype)
    return Value(tuple(shape), dtype, contiguous(tuple(shape), dtype.itemsize), source=source)


def view_value(x: Value, f: Callable[..., HostArray], *args: Any) -> Value:
    """``f(x, *args)`` seen in the memory of ``x``; ValueError if that would need a copy."""
    like = x.like
    seen = f(like, *args)
    offset = seen.ctypes.data - like.ctypes.data if seen.size else 0
    return Value(seen.shape, x.dtype, seen.strides, x.root, x.offset + offset)


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """An operation that computes ``out`` from ``inputs``; see `RULES`."""

    kind: Kind
    name: str
    """NumPy's name of the function, for the kinds that cover several."""
    inputs: tuple[Value, ...]
    out: Value
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    @property
    def rule(self) -> Rule:
        """The rule of its kind."""
        return RULES[self.kind]

    def overwritable(self) -> list[Value]:
        """The operands that the result may overwrite, provided that no later operation reads them."""
        found = []
        for x in self.inputs[self.rule.over]:
            others = [y for y in self.inputs if y is not x]
            same = (x.shape, x.dtype, x.strides) == (self.out.shape, self.out.dtype, self.out.strides)
            once = self.rule.over == ALL or self.inputs.count(x) == 1
            if x.base is None and same and once and all(y.root is not x for y in others):
                found.append(x)
        return found


@dataclass(frozen=True, eq=False)
class Program:
    """A body as a list of operations in an order in which they can run. Passes return new programs."""

    ops: tuple[Op, ...]
    """The operations of one step."""
    carry: tuple[Value, ...]
    """The carried arrays before the step, contiguous."""
    carry_out: tuple[Value, ...]
    """The carried arrays after the step, in the same order."""
    consts: tuple[Value, ...]
    items: tuple[Value, ...]
    """The leaves of one step's item, contiguous."""
    outs: tuple[Value, ...]
    trees: tuple[Tree, Tree]
    """The structures of the carry and the out that the body returns; their leaves mean nothing."""
    members: tuple[tuple[int, ...], ...] = ()
    """For each of ``carry``, the positions of the leaves that it holds: one, or several in one 1-D array."""
    bounds: frozenset[tuple[str, int, int]] = frozenset()
    """(``item`` or ``const``, position, n) of the leaves whose integers must be in [0, n)."""

    @cached_property
    def makers(self) -> dict[Value, Op]:
        """The operation that computes each value."""
        return {op.out: op for op in self.ops}

    @cached_property
    def readers(self) -> dict[Value, list[Op]]:
        """The operations with each value as an operand; readers of a view of it are not included."""
        readers: dict[Value, list[Op]] = {}
        for op in self.ops:
            for v in dict.fromkeys(op.inputs):
                readers.setdefault(v, []).append(op)
        return readers

    @cached_property
    def kept(self) -> frozenset[Value]:
        """The values that are used after the step."""
        return frozenset((*self.carry_out, *self.outs))

    def only_reader(self, v: Value) -> Op | None:
        """The only operation that reads ``v``; `None` if there are others or ``v`` is used after the step."""
        readers = self.readers.get(v, [])
        return readers[0] if len(readers) == 1 and v not in self.kept else None

    def leaf_of(self, ids: Value) -> tuple[str, int] | None:
        """The item or constant that contains all these integers, if there is one: its range can be checked once."""
        root, maker = ids.root, self.makers.get(ids.root)
        while maker is not None and maker.kind in (Kind.TAKE, Kind.CAST) and maker.inputs[0].dtype.kind in "iu":
            root = maker.inputs[0].root
            maker = self.makers.get(root)
        return root.source if root.source is not None and root.source[0] in ("item", "const") else None

    def with_ops(self, ops: Iterable[Op]) -> Program:
        """The program with these operations, without those whose results are unused (dead-code elimination).

        Sums over ranks stay, because other ranks wait for them.
        """
        needed, kept = set(self.kept), []
        for op in reversed(list(ops)):
            if op.out in needed or op.kind is Kind.ALL_SUM:
                kept.append(op)
                needed.update(op.inputs)
        return replace(self, ops=tuple(kept[::-1]))

    def substituted(self, new: Mapping[Value, Value]) -> Program:
        """The program with ``new[v]``, a value of the same layout or a view, in place of each ``v``, also in views."""
        moved: dict[Value, Value] = dict(new)

        def now(v: Value) -> Value:
            if v.base is not None and v.base in new and v not in moved:
                there = new[v.base]
                moved[v] = replace(v, base=there.root, offset=there.offset + v.offset)
            return moved.get(v, v)

        ops = (replace(op, inputs=tuple(map(now, op.inputs)), out=now(op.out)) for op in self.ops)
        carry_out, outs = (tuple(map(now, values)) for values in (self.carry_out, self.outs))
        return replace(self, ops=tuple(ops), carry_out=carry_out, outs=outs)

"""What a body does to its arrays: a flat list of operations in single-assignment form, for no machine in particular.

Every operation makes one new `Value`; an augmented assignment is an operation like any other. Which values share memory
is decided later, by the memory planner of a target. `RULES` states what each kind of operation means.
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
    """The body does something that a flat list of array operations cannot say.

    An answer, not a failure; no `Exception`, so that a body's ``except Exception`` does not catch it.
    """


class Kind(Enum):
    """What an operation does; `RULES` has the details."""

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
    # made by passes alone
    PACK = auto()
    GEMM = auto()
    LESSEN = auto()


class Rule(NamedTuple):
    """The meaning of a kind of operation."""

    operands: tuple[str, ...]
    """Names of the operands in their order; the last one may stand for any number of them (``*``) or be left out."""
    options: tuple[str, ...]
    """Names of what else it needs to know, by which `Op` is indexed."""
    over: slice
    """The operands that the result may be written over: they are read before, element by element."""
    meaning: str


NONE, ALL = slice(0), slice(None)

RULES: dict[Kind, Rule] = {
    Kind.ELEMENTWISE: Rule(("*x",), ("loop",), ALL, "NumPy's ufunc `name` of broadcast x, each first cast to its loop"),
    Kind.CAST: Rule(("x",), (), NONE, "x in the dtype of the result, as C casts"),
    Kind.COPY: Rule(("x",), (), NONE, "x in contiguous memory of its own"),
    Kind.WHERE: Rule(("condition", "x", "y"), (), slice(2, 3), "x where the condition holds, else y; all broadcast"),
    Kind.MATMUL: Rule(("a", "b"), (), NONE, "a b for (stacks of) matrices of one real floating-point dtype"),
    Kind.REDUCE: Rule(("x",), ("axes", "keepdims"), NONE, "`name` (sum, prod, max, min, any, all) over sorted axes"),
    Kind.ARG: Rule(("x",), ("axis", "keepdims"), NONE, "`name` (argmax, argmin): first position; axis None: flat"),
    Kind.TAKE: Rule(("x", "indices"), ("axis",), NONE, "slices of x along axis; indices may count from the end"),
    Kind.CONCAT: Rule(("*x",), ("axis",), NONE, "x one after the other along an axis"),
    Kind.VIEW: Rule(("x",), ("args",), NONE, "`name` of x, without copying: the memory of x in another layout"),
    Kind.ONE_HOT: Rule(("ids",), ("n",), NONE, "1 at [..., id], else 0; ids are 0, ..., n - 1"),
    Kind.SEGMENT_SUM: Rule(("values", "ids"), ("n",), NONE, "[..., i, :] is the sum of the rows with id i, in order"),
    Kind.CALL: Rule(("*x",), ("f", "args", "keywords"), NONE, "NumPy's function f of args, where None is the next x"),
    Kind.ALL_SUM: Rule(
        ("x",), ("f", "number"), NONE, "the sum of x over all ranks, f(x, out): never left out or moved"
    ),
    Kind.PACK: Rule(("*x",), (), NONE, "the elements of all x one behind the other, in 1-D"),
    Kind.GEMM: Rule(("a", "b", "alpha", "beta", "c"), (), slice(4, 5), "alpha a b + beta c; alpha a b without c"),
    Kind.LESSEN: Rule(("x", "places"), (), slice(0, 1), "x, less by 1 at the places of its flat elements"),
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
    """The value in whose memory this one is seen, if it is a view: one that is no view itself."""
    offset: int = 0
    """Bytes from the first element of `base` to the first element of this view."""
    source: tuple[str, int] | None = None
    """``carry``, ``const`` or ``item`` and the position among the leaves, of what is handed in."""
    constant: Array | None = None
    """The array itself, of the host or the device, if it is one of the body's own."""

    @property
    def root(self) -> Value:
        """The value whose memory this one is seen in: itself, unless it is a view."""
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
        """Whether the elements lie in row-major order without gaps."""
        expected = contiguous(self.shape, self.dtype.itemsize)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return self.size == 0 or all(n == 1 or s == e for n, s, e in pairs)

    @property
    def like(self) -> HostArray:
        """An array of this layout to ask NumPy about: it has no memory, so its elements must not be touched."""
        return as_strided(np.empty(1, self.dtype), self.shape, self.strides)


def new_value(shape: tuple[int, ...], dtype: Any, source: tuple[str, int] | None = None) -> Value:
    """A value with contiguous memory of its own."""
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
    """``out`` from ``inputs``; `RULES` says what that means for each kind."""

    kind: Kind
    name: str
    """The function, for the kinds that stand for several; in NumPy's spelling."""
    inputs: tuple[Value, ...]
    out: Value
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    @property
    def rule(self) -> Rule:
        """What the kind means."""
        return RULES[self.kind]

    def overwritable(self) -> list[Value]:
        """The operands that the result may be written over, if nobody reads them later."""
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
    """A body as a list of operations in an order in which they can run. Passes make new programs of it."""

    ops: tuple[Op, ...]
    """What runs in every step."""
    carry: tuple[Value, ...]
    """The carried arrays as they come in, contiguous."""
    carry_out: tuple[Value, ...]
    """What is carried on, in the same order."""
    consts: tuple[Value, ...]
    items: tuple[Value, ...]
    """The leaves of one step's item, contiguous."""
    outs: tuple[Value, ...]
    trees: tuple[Tree, Tree]
    """The trees that the body returns, its carry and its out, with anything for leaves."""
    members: tuple[tuple[int, ...], ...] = ()
    """For each of ``carry``, the leaves of the tree that it holds: one, or several one behind the other."""
    bounds: frozenset[tuple[str, int, int]] = frozenset()
    """Leaves (``item`` or ``const`` and position) whose integers must be at least 0 and below a number."""

    @cached_property
    def makers(self) -> dict[Value, Op]:
        """The operation that makes each value."""
        return {op.out: op for op in self.ops}

    @cached_property
    def readers(self) -> dict[Value, list[Op]]:
        """The operations that read each value, views of it not counted but for the operation that makes them."""
        readers: dict[Value, list[Op]] = {}
        for op in self.ops:
            for v in dict.fromkeys(op.inputs):
                readers.setdefault(v, []).append(op)
        return readers

    @cached_property
    def kept(self) -> frozenset[Value]:
        """The values that outlast a step."""
        return frozenset((*self.carry_out, *self.outs))

    def only_reader(self, v: Value) -> Op | None:
        """The operation that reads ``v`` if it is the only one and ``v`` does not outlast the step."""
        readers = self.readers.get(v, [])
        return readers[0] if len(readers) == 1 and v not in self.kept else None

    def leaf_of(self, ids: Value) -> tuple[str, int] | None:
        """The leaf, an item or a constant, that holds all these integers, if there is one: it can be checked once."""
        root, maker = ids.root, self.makers.get(ids.root)
        while maker is not None and maker.kind in (Kind.TAKE, Kind.CAST) and maker.inputs[0].dtype.kind in "iu":
            root = maker.inputs[0].root
            maker = self.makers.get(root)
        return root.source if root.source is not None and root.source[0] in ("item", "const") else None

    def with_ops(self, ops: Iterable[Op]) -> Program:
        """The same with other operations, without those whose results nobody needs (dead-code elimination).

        Sums over ranks stay, because other ranks wait for them.
        """
        needed, kept = set(self.kept), []
        for op in reversed(list(ops)):
            if op.out in needed or op.kind is Kind.ALL_SUM:
                kept.append(op)
                needed.update(op.inputs)
        return replace(self, ops=tuple(kept[::-1]))

    def substituted(self, new: Mapping[Value, Value]) -> Program:
        """The same, reading ``new[v]``, a value of the same layout or a view, wherever ``v`` was read or seen."""
        moved: dict[Value, Value] = dict(new)

        def now(v: Value) -> Value:
            if v.base is not None and v.base in new and v not in moved:
                there = new[v.base]
                moved[v] = replace(v, base=there.root, offset=there.offset + v.offset)
            return moved.get(v, v)

        ops = (replace(op, inputs=tuple(map(now, op.inputs)), out=now(op.out)) for op in self.ops)
        carry_out, outs = (tuple(map(now, values)) for values in (self.carry_out, self.outs))
        return replace(self, ops=tuple(ops), carry_out=carry_out, outs=outs)

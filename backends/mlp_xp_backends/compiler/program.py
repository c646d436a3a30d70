"""The program of a body: a flat list of operations in single-assignment form, independent of the machine.

Every operation makes one new `Value`; an augmented assignment is an operation like any other. The
memory planner of a target decides later which values share memory. `forms` defines each kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mlp_xp_backends.compiler import forms
from mlp_xp_backends.typing import Array, HostArray, Tree


class Unrecordable(BaseException):
    """The body does something that a flat list of array operations cannot express.

    Not an `Exception`, so that an ``except Exception`` in the body does not catch it.
    """


NONE, ALL = slice(0), slice(None)


class Kind(Enum):
    """The kinds of operations: the function in `forms` that defines each, and the operands that it may overwrite.

    A result may overwrite an operand if each element is read before it is written.
    """

    ELEMENTWISE = forms.elementwise, ALL
    COPY = forms.copy, NONE
    WHERE = forms.where, slice(2, 3)
    MATMUL = forms.matmul, NONE
    REDUCE = forms.reduce, NONE
    ARG = forms.arg, NONE
    TAKE = forms.take, NONE
    CONCAT = forms.concat, NONE
    VIEW = forms.view, NONE
    ONE_HOT = forms.one_hot, NONE
    SEGMENT_SUM = forms.segment_sum, NONE
    CALL = forms.call, NONE
    ALL_SUM = forms.all_sum, NONE
    # created only by passes
    PACK = forms.pack, NONE
    GEMM = forms.gemm, slice(4, 5)
    AXPBY = forms.axpby, slice(3, 4)
    LESSEN = forms.lessen, slice(0, 1)

    def __init__(self, form: Callable[..., forms.Form], over: slice) -> None:
        self.form, self.over = form, over


@lru_cache(4096)
def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes from one element to the next along each axis, in row-major order without gaps."""
    return tuple(itemsize * prod(shape[k + 1 :]) for k in range(len(shape)))


@dataclass(eq=False, slots=True)
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
        steps = zip(self.shape, self.strides, expected, strict=True)
        return self.strides == expected or self.size == 0 or all(n == 1 or s == e for n, s, e in steps)


def new_value(shape: tuple[int, ...], dtype: Any, source: tuple[str, int] | None = None) -> Value:
    """A value in new contiguous memory."""
    dtype = np.dtype(dtype)
    return Value(tuple(shape), dtype, contiguous(tuple(shape), dtype.itemsize), source=source)


def view_value(x: Value, f: Callable[..., HostArray], *args: Any, **keywords: Any) -> Value:
    """``f(x, *args, **keywords)`` as a view of ``x``; ValueError if that needs a copy."""
    like = as_strided(np.empty(1, x.dtype), x.shape, x.strides)  # whose elements must not be accessed
    seen = f(like, *args, **keywords)
    offset = seen.ctypes.data - like.ctypes.data if seen.size else 0
    return Value(seen.shape, x.dtype, seen.strides, x.root, x.offset + offset)


@dataclass(eq=False, slots=True)
class Op:
    """An operation that computes ``out`` from ``inputs``; see `Kind`."""

    kind: Kind
    name: str
    """NumPy's name of the function, for the kinds that cover several."""
    inputs: tuple[Value, ...]
    out: Value
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def overwritable(self) -> list[Value]:
        """The operands that the result may overwrite, provided that no later operation reads them."""

        def fits(x: Value) -> bool:
            same = (x.shape, x.dtype, x.strides) == (self.out.shape, self.out.dtype, self.out.strides)
            shared = [y for y in self.inputs if y.root is x]
            return same and x in shared and all(y is x for y in shared) and (self.kind.over == ALL or len(shared) == 1)

        return list(filter(fits, self.inputs[self.kind.over]))


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
    """(``item`` or ``const``, position, n): the integers of this leaf must be in [0, n)."""

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
        """The item or constant that contains all these integers, if there is one: `bounds` limits it."""
        root, maker = ids.root, self.makers.get(ids.root)
        while (
            maker is not None
            and maker.kind in (Kind.TAKE, Kind.COPY)
            and np.can_cast(maker.inputs[0].dtype, root.dtype)
        ):
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
        """The program with ``new[v]``, a value of the same layout or a view, in place of each ``v``, also in views.

        Operations whose results are unused are removed.
        """
        moved: dict[Value, Value] = dict(new)

        def now(v: Value) -> Value:
            there = None if v.base is None or v in moved else new.get(v.base)
            if there is not None:
                moved[v] = replace(v, base=there.root, offset=there.offset + v.offset)
            return moved.get(v, v)

        ops = (Op(op.kind, op.name, tuple(map(now, op.inputs)), now(op.out), op.options) for op in self.ops)
        carry_out, outs = (tuple(map(now, values)) for values in (self.carry_out, self.outs))
        return replace(self, carry_out=carry_out, outs=outs).with_ops(ops)

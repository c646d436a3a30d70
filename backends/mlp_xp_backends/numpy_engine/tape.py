"""What a body does to its arrays, as a flat list of operations without side effects.

A `Program` is in single-assignment form: every operation makes a new `Value`, and an augmented assignment is an
operation like any other. Which values share memory is decided later.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from math import prod
from mmap import PAGESIZE as PAGE
from mmap import mmap
from typing import Any

import numpy as np

from mlp_xp_backends.typing import Tree

NDArray = np.ndarray[Any, Any]


def blank(shape: tuple[int, ...], dtype: Any) -> NDArray:
    """An array whose memory nobody touches, so that it takes none."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    return np.ndarray(shape, dtype, buffer=mmap(-1, size)) if size > PAGE else np.empty(shape, dtype)


class Untraceable(Exception):  # noqa: N818  an answer, not a failure
    """The body does something that a flat list of array operations cannot say."""


@dataclass(eq=False, slots=True)
class Value:
    """An array of a program: made by ``op``, or handed in from ``source``, or a ``constant``."""

    like: NDArray
    """An array of the shape, dtype and memory layout that the value has; its numbers mean nothing."""
    op: Op | None = None
    source: tuple[str, int] | None = None
    """``carry``, ``const`` or ``item`` and the position among the leaves."""
    constant: NDArray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        shape: tuple[int, ...] = self.like.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype."""
        dtype: np.dtype[Any] = self.like.dtype
        return dtype

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.like.size

    @property
    def root(self) -> Value:
        """The value whose memory this one is seen in: itself, unless it is a view."""
        return self.op.inputs[0].root if self.op is not None and self.op.kind == "view" else self


@dataclass(eq=False, slots=True)
class Op:
    """``out`` from ``inputs``.

    ``kind`` says how: ``ufunc``, ``matmul``, ``reduce``, ``arg``, ``cast``, ``where``, ``take``, ``concat``, ``view``
    and ``call`` are recorded; ``gemm``, ``axpby``, ``quotient``, ``root``, ``onehot``, ``scatter``, ``lessen`` and
    ``pack`` come in by rewriting. ``f`` is the function behind it.
    """

    kind: str
    f: Any
    inputs: tuple[Value, ...]
    out: Value
    options: tuple[Any, ...] = ()


@dataclass(eq=False)
class Program:
    """A body as a list of operations in an order in which they can run."""

    ops: list[Op]
    carry: list[Value]
    carry_out: list[Value]
    consts: list[Value]
    items: list[Value]
    outs: list[Value]
    trees: tuple[Tree, Tree]
    """The trees that the body returns, its carry and its out, with anything for leaves."""
    members: list[tuple[int, ...]] = field(default_factory=list)
    """For each of ``carry``, the leaves that it holds: one, or several packed one behind the other."""

    bounds: set[tuple[str, int, int]] = field(default_factory=set)
    """Leaves of the items or the constants whose integers must be at least 0 and below a number."""

    def __post_init__(self) -> None:
        self.members = [(k,) for k in range(len(self.carry))]

    def live(self) -> None:
        """Drop the operations that nothing depends on."""
        needed = {id(v) for v in (*self.carry_out, *self.outs)}
        kept = []
        for op in reversed(self.ops):
            if id(op.out) in needed:
                kept.append(op)
                needed.update(map(id, op.inputs))
        self.ops = kept[::-1]

    def readers(self) -> dict[int, list[Op]]:
        """The operations that read a value, by its id."""
        readers: dict[int, list[Op]] = {}
        for op in self.ops:
            for v in dict.fromkeys(op.inputs):
                readers.setdefault(id(v), []).append(op)
        return readers

    def replace(self, new: dict[int, Value]) -> None:
        """Read ``new[id(v)]`` wherever ``v`` is read."""
        for op in self.ops:
            op.inputs = tuple(new.get(id(v), v) for v in op.inputs)
        self.carry_out = [new.get(id(v), v) for v in self.carry_out]
        self.outs = [new.get(id(v), v) for v in self.outs]


class Tape:
    """The operations so far; the same operation on the same values is recorded once."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.seen: dict[Hashable, Value] = {}

    def constant(self, x: Any) -> Value:
        """The value of a number or an array of the body's own."""
        a = np.asarray(x)
        if a.dtype == object:
            raise Untraceable("an object that is no array")
        value = Value(a, constant=a)  # holds on to ``a``, so that its id stays its own
        return self.seen.setdefault(("constant", a.dtype, a.tobytes() if a.ndim == 0 else id(a)), value)

    def emit(self, kind: str, f: Any, inputs: Iterable[Value], like: NDArray, options: tuple[Any, ...] = ()) -> Value:
        """The result of an operation, recorded unless it was before."""
        out = Value(like)
        out.op = op = Op(kind, f, tuple(inputs), out, options)
        try:
            known = self.seen.setdefault((kind, f, *map(id, op.inputs), like.dtype, like.shape, options), out)
        except TypeError:
            raise Untraceable(f"{f} with an argument that is neither array nor number") from None
        if known is out:
            self.ops.append(op)
        return known

    def view(self, f: Callable[..., NDArray], x: Value, *args: Any) -> Value:
        """``f(x, *args)``; what cannot be seen in the memory of ``x`` is seen in that of a copy."""
        if x.constant is not None:
            return self.constant(f(x.constant, *args))
        like = f(x.like, *args)
        if like.size and not np.may_share_memory(like, x.like):
            x = self.emit("cast", np.copyto, (x,), blank(x.shape, x.dtype))
            like = f(x.like, *args)
        return self.emit("view", f, (x,), like, args)

    def matmul(self, a: Value, b: Value) -> Value:
        """``a b`` of stacks of matrices; of anything else it is any other function."""
        if a.dtype != b.dtype or a.dtype.kind != "f" or min(len(a.shape), len(b.shape)) < 2:
            return self.call(np.matmul, (a, b))
        if a.shape[-1] != b.shape[-2]:
            raise Untraceable("shapes that do not fit")
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        return self.emit("matmul", np.matmul, (a, b), blank(shape, a.dtype))

    def take(self, a: Value, rows: Value, axis: int) -> Value:
        """The slices of ``a`` along ``axis`` that ``rows`` numbers."""
        shape = (*a.shape[:axis], *rows.shape, *a.shape[axis + 1 :])
        return self.emit("take", np.take, (a, rows), blank(shape, a.dtype), (axis,))

    def call(self, f: Callable[..., Any], args: tuple[Any, ...], **options: Any) -> Value:
        """``f(*args, **options)`` for a function that needs no rule of its own: it returns one array."""
        trial = [np.zeros(x.shape, x.dtype) if isinstance(x, Value) else x for x in args]
        like = f(*trial, **options)
        if not isinstance(like, (np.ndarray, np.generic)):
            raise Untraceable(f"{f} does not return one array")
        frozen = tuple(None if isinstance(x, Value) else (x,) for x in args)
        inputs = [x for x in args if isinstance(x, Value)]
        return self.emit("call", f, inputs, blank(like.shape, like.dtype), (frozen, tuple(options.items())))

"""Elements of arrays as expressions in CUDA C++: loads, constants, and the values that a nest computes from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Value
from mlp_xp_backends.compiler.targets.cuda.access import operand_axes
from mlp_xp_backends.compiler.targets.cuda.functions import c_type, expression, literal
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph, Nest
from mlp_xp_backends.compiler.targets.cuda.lower import is_wide
from mlp_xp_backends.typing import HostArray

Axes = Sequence[int | None]


@dataclass
class Kernel:
    """The source of a kernel. Its parameters are the table and the arrays in ``arrays``, in this order."""

    name: str
    slots: Sequence[Value]
    """Arrays whose addresses change from call to call: the items and the results, in the order of the table."""
    tickets: int
    """The position in the table of the first unused counter; counters follow the addresses."""
    arrays: list[Value] = field(default_factory=list)
    scratch: list[Value] = field(default_factory=list)
    """The arrays among ``arrays`` that only this kernel uses."""
    blocks: int = 0
    source: str = ""

    def pointer(self, v: Value) -> str:
        """The address of the first element of ``v``, as an expression."""
        if v in self.slots:
            return f"((({c_type(v.dtype)}*)table[{2 + self.slots.index(v)}]) + step * {v.size}LL)"
        if v not in self.arrays:
            self.arrays.append(v)
        return f"p{self.arrays.index(v)}"


class Elements:
    """Names of the elements that one thread processes at one point of a nest, each computed once."""

    def __init__(self, graph: Graph, nest: Nest, kernel: Kernel) -> None:
        self.graph, self.nest, self.kernel = graph, nest, kernel
        self.outer: dict[Value | str, str] = {}  # names of values that a thread computes once
        self.inner: dict[Value | str, str] = {}  # names of values computed in every iteration
        self.lines: list[str] = []
        self.turn: list[str] = []
        self.count = 0

    def operand(self, op: Op, k: int) -> str:
        """The element of operand ``k`` that ``op`` reads at this point."""
        v, axes, at = op.inputs[k], operand_axes(op, k), self.nest.at.get(op)
        assert axes is not None
        index = [None if a is None or at is None else at[a] for a in axes]
        return self._element(v, index)

    def _element(self, v: Value, index: Axes) -> str:
        """The element of ``v`` at the indices of these axes of the domain."""
        root = v.root
        if root.constant is not None:
            return self._constant(v, index)
        maker = self.graph.step.maker.get(root)
        if maker is not None and (maker in self.nest.at or root in self.graph.step.inline):
            return self.value(root, self.nest.at.get(maker))
        full = any(a in self.nest.folds for a in index if a is not None)
        return self._named(f"{self.kernel.pointer(root)}[{self.place(v, index)}]", v, full)

    def place(self, v: Value, index: Axes) -> str:
        """The offset, in elements from the address of its root, of the element of ``v`` at these indices."""
        strides = [s // v.dtype.itemsize for s in v.strides]
        along = {a: s for a, s in zip(index, strides, strict=True) if a is not None and s}
        start = [str(v.offset // v.dtype.itemsize)] if v.offset else []
        domain = self.nest.domain
        if not self.nest.folds and along == {a: prod(domain[a + 1 :]) for a in range(len(domain))}:
            return " + ".join([*start, "o"])
        terms = [f"i{a}" if s == 1 else f"i{a} * {_factor(s, v)}" for a, s in along.items()]
        return " + ".join([*start, *terms]) or "0"

    def _constant(self, v: Value, index: Axes) -> str:
        constant = v.constant if isinstance(v.constant, np.ndarray) else None
        if constant is not None and (constant == constant.flat[0]).all():
            return literal(constant.flat[0])
        start_step = _arithmetic(constant) if constant is not None else None
        wide = [a for a in index if a is not None]
        if start_step is not None and len(wide) == 1:
            return f"({c_type(v.dtype)})({start_step[0]}LL + {start_step[1]}LL * i{wide[0]})"
        full = any(a in self.nest.folds for a in wide)
        return self._named(f"{self.kernel.pointer(v)}[{self.place(v, index)}]", v, full)

    def value(self, v: Value, at: Axes | None) -> str:
        """The name of a result that this nest computes, after adding the code that computes it."""
        op = self.graph.step.maker[v]
        if v in self.outer or v in self.inner:
            return self.outer.get(v) or self.inner[v]
        full = at is not None and any(a in self.nest.folds for a in at if a is not None)
        text = self._expression(op, at, full)
        name = self._named(text, v, full)
        (self.inner if full else self.outer)[v] = name
        return name

    def _named(self, text: str, v: Value, full: bool) -> str:
        known = self.inner if full else self.outer
        if text.isidentifier():
            return text
        if text not in known:
            self.count += 1
            known[text] = f"v{self.count}"
            lines = self.turn if full or not self.nest.folds else self.lines
            lines.append(f"const {c_type(v.dtype)} {known[text]} = {text};")
        return known[text]

    def _expression(self, op: Op, at: Axes | None, full: bool) -> str:
        if op.kind is Kind.TAKE:
            return self._taken(op, at or ())
        if op.kind is Kind.SEGMENT_SUM:
            return self._segment_sum(op, at or (), full)
        args = [self.operand(op, k) for k in range(len(op.inputs))]
        if op.kind is Kind.WHERE:
            return f"{args[0]} ? {args[1]} : {args[2]}"
        if op.kind is Kind.ONE_HOT:
            last = None if at is None else at[-1]
            return f"{args[0]} == {'0' if last is None else f'i{last}'}"
        if op.kind is Kind.ELEMENTWISE:
            triples = zip(args, op.inputs, op["loop"], strict=True)
            args = [a if v.dtype == d else f"(({c_type(d)}){a})" for a, v, d in triples]
            return expression(getattr(np, op.name).__name__, list(op["loop"]), args)
        if op.kind is Kind.ARG:
            return "0"
        same = op.inputs[0].dtype == op.out.dtype
        return args[0] if same else f"({c_type(op.out.dtype)}){args[0]}"

    def _taken(self, op: Op, at: Axes) -> str:
        """The element of a gather; indices out of range wrap around, as in CuPy."""
        x, axis = op.inputs[0], op["axis"]
        n, after = x.shape[axis], len(x.shape) - axis - 1
        row = self.operand(op, 1)
        index = [*at[:axis], None, *at[len(at) - after :]] if after else [*at[:axis], None]
        inside = f"({row} % {n} + {n}) % {n}" if op.inputs[1].dtype.kind == "i" else f"{row} % {n}"
        index_type = "long long" if is_wide(x) else "int"
        stride = x.strides[axis] // x.dtype.itemsize
        root = x.root if x.root.constant is None else x
        wide = [a if m > 1 else None for a, m in zip(index, x.shape, strict=True)]
        return f"{self.kernel.pointer(root)}[{self.place(x, wide)} + ({index_type})({inside}) * {stride}]"

    def _segment_sum(self, op: Op, at: Axes, full: bool) -> str:
        """The sum, in order, over the rows whose id is the index of this point; bisection finds them."""
        (values, order), n, self.count = op.inputs, len(op.out.shape), self.count + 1
        rows, name = values.shape[-2], f"v{self.count}"
        lead = [a if m > 1 else None for a, m in zip(at[: n - 2], values.shape[:-2], strict=True)]
        sorted_ids = f"{self.kernel.pointer(order)} + {self.place(order, [*lead[n - len(order.shape) :], None, None])}"
        stride = _factor(values.strides[-2] // values.dtype.itemsize, values)
        place = f"{self.place(values, [*lead, None, at[-1]])} + s[{rows} + a] * {stride}"
        wanted = "0" if at[-2] is None else f"i{at[-2]}"
        (self.turn if full or not self.nest.folds else self.lines).append(
            f"{c_type(op.out.dtype)} {name} = 0; {{ const int* s = {sorted_ids}; int a = 0, e = {rows}; "
            f"while (a < e) {{ const int m = (a + e) / 2; if (s[m] < {wanted}) a = m + 1; else e = m; }} "
            f"for (; a < {rows} && s[a] == {wanted}; ++a) {name} += {self.kernel.pointer(values.root)}[{place}]; }}"
        )
        return name

    def order(self, op: Op, at: Axes) -> str:
        """Store the id and the row of this point at their position in ascending order: their number of predecessors."""
        (ids,), n = op.inputs, len(op.inputs[0].shape)
        rows, row = ids.shape[-1], "0" if at[-1] is None else f"i{at[-1]}"
        others = f"{self.kernel.pointer(ids.root)} + {self.place(ids, [*at[: n - 1], None])}"
        stride = _factor(ids.strides[-1] // ids.dtype.itemsize, ids)
        place = self.place(op.out, [*at[: n - 1], None, None])
        return (
            f"{{ const {c_type(ids.dtype)}* s = {others}; const int id = (int)s[{row} * {stride}]; int rank = 0; "
            f"for (int k = 0; k < {rows}; ++k) {{ const int other = (int)s[k * {stride}]; "
            f"rank += other < id || (other == id && k < {row}); }} "
            f"int* to = {self.kernel.pointer(op.out)} + {place} + rank; to[0] = id; to[{rows}] = {row}; }}"
        )


def _factor(stride: int, v: Value) -> str:
    """A stride in the memory of ``v`` as a factor: with 64 bits if the product needs them."""
    return f"{stride}LL" if is_wide(v) else str(stride)


def _arithmetic(a: HostArray) -> tuple[int, int] | None:
    """First element and common difference of integers that form an arithmetic sequence, otherwise None."""
    if a.dtype.kind not in "iu" or a.size < 2 or a.size != max(a.shape):
        return None
    flat = a.reshape(-1).astype(object)
    first, step = int(flat[0]), int(flat[1]) - int(flat[0])
    same = bool((a.reshape(-1).astype(np.int64) == first + step * np.arange(a.size)).all())
    return (first, step) if same else None

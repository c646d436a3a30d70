"""CUDA C++ for launches of nests: one block of the source for each nest, and ranges of thread blocks for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Value
from mlp_xp_backends.compiler.targets.cuda.access import folded, operand_axes, result_axes
from mlp_xp_backends.compiler.targets.cuda.functions import c_type, combination, expression, extremum, literal
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph, Nest

THREADS = 256
SHORT_ROW = 256
"""Elements up to which a row is folded by 32 threads instead of a whole block."""
SHORT_COLUMN = 64
"""Elements up to which a column is folded by 8 threads, of 32 columns side by side, instead of 32 of 8."""


@dataclass
class Kernel:
    """A kernel as text; its parameters are the table and the arrays of ``arrays``, in this order."""

    name: str
    arrays: list[Value] = field(default_factory=list)
    slots: Sequence[Value] = ()
    """What lies at another place in every call: the items and the results, in the order of the table."""
    blocks: int = 0
    source: str = ""

    def pointer(self, v: Value) -> str:
        """The address of the first element."""
        if v in self.slots:
            return f"((({c_type(v.dtype)}*)table[{2 + self.slots.index(v)}]) + step * {v.size}LL)"
        if v not in self.arrays:
            self.arrays.append(v)
        return f"p{self.arrays.index(v)}"


def kernel(name: str, graph: Graph, launch: list[Nest], slots: Sequence[Value], first: bool, last: bool) -> Kernel:
    """The kernel of ``launch``. The first one of a step counts it, the last one makes that the number of the next."""
    k = Kernel(name, slots=slots)
    body = []
    for nest in launch:
        writer = _Writer(graph, nest, k)
        body.append(f"if (blockIdx.x >= {k.blocks} && blockIdx.x < {k.blocks + writer.blocks}) {{")
        body.append(f"const int block = blockIdx.x - {k.blocks};")
        body += [*writer.text(), "}"]
        k.blocks += writer.blocks
    one = "if (blockIdx.x == 0 && threadIdx.x == 0)"
    tail = [f"{one} table[1] = step + 1;"] if first else [f"{one} table[0] = step + 1;"] if last else []
    parameters = ", ".join(["long long* table", *(f"{c_type(v.dtype)}* p{i}" for i, v in enumerate(k.arrays))])
    head = f'extern "C" __global__ void {name}({parameters}) {{\nconst long long step = table[{int(not first)}]'
    k.source = "\n".join([head + (";" if first else " - 1;"), *body, *tail, "}", ""])
    return k


class _Writer:
    """The source of one nest: a loop over the folded axes for each reduction that waits for another one."""

    def __init__(self, graph: Graph, nest: Nest, k: Kernel) -> None:
        self.graph, self.nest, self.kernel = graph, nest, k
        self.size = prod(nest.domain[a] for a in nest.kept)
        self.fold = prod(nest.domain[a] for a in nest.folds)
        self.rows = bool(nest.folds) and len(nest.domain) - 1 in nest.folds
        if not nest.folds:
            self.lanes = 1
        elif self.rows:
            self.lanes = 32 if self.fold <= SHORT_ROW else THREADS
        else:
            self.lanes = 8 if self.fold <= SHORT_COLUMN else 32
        self.side = THREADS // self.lanes
        self.blocks = -(-self.size // self.side)
        self.outer: dict[Value | str, str] = {}  # names of what one thread computes once
        self.inner: dict[Value | str, str] = {}  # and in every turn of a loop
        self.lines: list[str] = []
        self.turn: list[str] = []
        self.stores: list[str] = []  # after all that is computed: they may overwrite what that reads
        self.count = 0

    def text(self) -> list[str]:
        thread = "threadIdx.x"
        if not self.nest.folds:
            self.lines = [f"const int o = block * {THREADS} + {thread};", f"if (o < {self.size}) {{"]
        else:
            lane, o = (f"{thread} % {self.lanes}", f"{thread} / {self.lanes}")
            lane, o = (lane, o) if self.rows else (f"{thread} / {self.side}", f"{thread} % {self.side}")
            self.lines = [f"const int lane = {lane}, mine = block * {self.side} + {o};"]
            self.lines.append(f"const int o = mine < {self.size} ? mine : {self.size - 1};")
        self.lines += self._indices("o", self.nest.kept)
        stores = [op for op in self.nest.at if self.graph.stored(op)]
        if not self.nest.folds:
            for op in stores:
                self._store(op)
            return [*self.lines, *self.turn, *self.stores, "}"]
        self._loops(stores)
        ends = [op for op in stores if not self._is_full(op)]
        self.stores = []
        for op in ends:
            self._store(op)
        guarded = [f"if (lane == 0 && mine < {self.size}) {{", *self.stores, "}"]
        return [*self.lines, *(["__syncthreads();", *guarded] if ends else [])]

    def _indices(self, flat: str, axes: list[int]) -> list[str]:
        """The index along each of ``axes``, which lie one behind the other in ``flat``."""
        text = []
        for n, a in enumerate(axes):
            inner = prod(self.nest.domain[b] for b in axes[n + 1 :])
            index = f"{flat} / {inner}" if inner > 1 else flat
            text.append(f"const int i{a} = {index}" + (f" % {self.nest.domain[a]};" if n else ";"))
        return text

    def _loops(self, stores: list[Op]) -> None:
        """One loop for each number of reductions that have to be known before."""
        folds = [op for op in self.nest.at if folded(op)]
        depth = {op: self._depth(op) for op in self.nest.at}
        full = [op for op in stores if self._is_full(op)]
        deepest = max([depth[op] - 1 for op in folds] + [depth[op] for op in full])
        when = {op: deepest if self._overwrites(op) else depth[op] for op in full}
        for stage in range(deepest + 1):
            self.inner, self.turn, self.stores = {}, [], []
            here = [op for op in folds if depth[op] - 1 == stage]
            for op in here:
                self._accumulate(op)
            for op in full:
                if when[op] == stage:
                    self._store(op, f"mine < {self.size}")
            loop = f"for (int k = lane; k < {self.fold}; k += {self.lanes}) {{"
            self.lines += [loop, *self._indices("k", sorted(self.nest.folds)), *self.turn, *self.stores, "}"]
            for op in here:
                self._collect(op)

    def _accumulate(self, op: Op) -> None:
        """Each thread folds its elements, in order."""
        n = self.count = self.count + 1
        self.outer[op.out] = f"r{n}"
        x = self._operand(op, 0)
        if op.kind is Kind.ARG:
            dtype = op.inputs[0].dtype
            self.lines.append(f"{c_type(dtype)} a{n} = 0; int n{n} = -1;")
            self.turn.append(f"if (n{n} < 0 || {_better(op, x, f'a{n}')}) {{ a{n} = {x}; n{n} = k; }}")
            return
        join, start = combination(op.name, op.out.dtype)
        t = c_type(op.out.dtype)
        self.lines.append(f"{t} a{n} = {literal(np.asarray(start, op.out.dtype))};")
        self.turn.append(f"a{n} = {join.format(a=f'a{n}', b=f'({t}){x}')};")

    def _collect(self, op: Op) -> None:
        """All threads of a row or a column fold what each of them has, as a tree of fixed shape."""
        name = self.outer[op.out]
        n, t, stride = name[1:], c_type(op.out.dtype), 1 if self.rows else self.side
        if op.kind is Kind.ARG:
            v = c_type(op.inputs[0].dtype)
            a, b = f"s{n}[threadIdx.x]", f"s{n}[threadIdx.x + h * {stride}]"
            i, j = (x.replace("s", "t", 1) for x in (a, b))
            better = f"{j} >= 0 && ({i} < 0 || {_better(op, b, a)} || (!({_better(op, a, b)}) && {j} < {i}))"
            shared = f"__shared__ {v} s{n}[{THREADS}]; __shared__ int t{n}[{THREADS}];"
            fill, join = f"{a} = a{n}; {i} = n{n};", f"if ({better}) {{ {a} = {b}; {i} = {j}; }}"
            got = f"t{n}[threadIdx.x - lane * {stride}]"
        else:
            a, b = f"s{n}[threadIdx.x]", f"s{n}[threadIdx.x + h * {stride}]"
            shared, fill = f"__shared__ {t} s{n}[{THREADS}];", f"{a} = a{n};"
            join = f"{a} = {combination(op.name, op.out.dtype)[0].format(a=a, b=b)};"
            got = f"s{n}[threadIdx.x - lane * {stride}]"
        tree = f"for (int h = {self.lanes // 2}; h; h /= 2) {{ if (lane < h) {{ {join} }} __syncthreads(); }}"
        self.lines += [shared, fill, "__syncthreads();", tree, f"const {t} {name} = {got};"]

    def _depth(self, op: Op) -> int:
        """How many reductions one after the other ``op`` stands at the end of, itself included."""
        makers = (self.graph.step.maker.get(r.root) for r in self.graph.reads[op])
        before = max((self._depth(m) for m in makers if m is not None and m in self.nest.at), default=0)
        return before + bool(folded(op))

    def _is_full(self, op: Op) -> bool:
        """Whether the result has an element for each turn of the loops."""
        at = self.nest.at[op]
        return any(a is not None and at[a] in self.nest.folds for a in result_axes(op))

    def _overwrites(self, op: Op) -> bool:
        return self.graph.step.target.get(op.out, ("", 0))[0] == "carry"

    def _store(self, op: Op, guard: str = "") -> None:
        target = self.graph.step.target.get(op.out)
        program = self.graph.step.program
        place = op.out
        if target is not None:
            place = program.carry[target[1]] if target[0] == "carry" else op.out
        at = self.nest.at[op]
        index = [None if a is None else at[a] for a in result_axes(op)]
        value = self._value(op.out, at)
        address = f"{self.kernel.pointer(place)}[{self._offset(op.out, index)}]"
        self.stores.append(f"{f'if ({guard}) ' if guard else ''}{address} = {value};")

    def _offset(self, v: Value, index: Sequence[int | None]) -> str:
        terms = [] if not v.offset else [f"{v.offset // v.dtype.itemsize}"]
        for a, s in zip(index, v.strides, strict=True):
            stride = s // v.dtype.itemsize
            if a is not None and stride:
                terms.append(f"i{a}" if stride == 1 else f"i{a} * {stride}")
        return " + ".join(terms) or "0"

    def _operand(self, op: Op, k: int) -> str:
        """The element of operand ``k`` that is needed at this point."""
        v, axes, at = op.inputs[k], operand_axes(op, k), self.nest.at.get(op)
        assert axes is not None
        index = [None if a is None or at is None else at[a] for a in axes]
        return self._element(v, index)

    def _element(self, v: Value, index: Sequence[int | None]) -> str:
        """The element of ``v`` at the indices of these axes of the domain."""
        root = v.root
        if root.constant is not None:
            return self._constant(v, index)
        maker = self.graph.step.maker.get(root)
        if maker is not None and (maker in self.nest.at or root in self.graph.step.inline):
            return self._value(root, self.nest.at.get(maker))
        full = any(a in self.nest.folds for a in index if a is not None)
        return self._named(f"{self.kernel.pointer(root)}[{self._offset(v, index)}]", v, full)

    def _constant(self, v: Value, index: Sequence[int | None]) -> str:
        constant = v.constant if isinstance(v.constant, np.ndarray) else None
        if constant is not None and (constant == constant.flat[0]).all():
            return literal(constant.flat[0])
        start_step = _arithmetic(constant) if constant is not None else None
        wide = [a for a in index if a is not None]
        if start_step is not None and len(wide) == 1:
            return f"({c_type(v.dtype)})({start_step[0]}LL + {start_step[1]}LL * i{wide[0]})"
        full = any(a in self.nest.folds for a in wide)
        return self._named(f"{self.kernel.pointer(v)}[{self._offset(v, index)}]", v, full)

    def _value(self, v: Value, at: Sequence[int | None] | None) -> str:
        """The name of a result that this nest computes."""
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

    def _expression(self, op: Op, at: Sequence[int | None] | None, full: bool) -> str:
        if op.kind is Kind.TAKE:
            return self._taken(op, at or ())
        if op.kind is Kind.SEGMENT_SUM:
            return self._segment_sum(op, at or (), full)
        args = [self._operand(op, k) for k in range(len(op.inputs))]
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

    def _taken(self, op: Op, at: Sequence[int | None]) -> str:
        """The element in the slice that the index names; indices run round as CuPy's do."""
        x, axis = op.inputs[0], op["axis"]
        n, after = x.shape[axis], len(x.shape) - axis - 1
        row = self._operand(op, 1)
        index = [*at[:axis], None, *at[len(at) - after :]] if after else [*at[:axis], None]
        inside = f"(int)(({row} % {n} + {n}) % {n})" if op.inputs[1].dtype.kind == "i" else f"(int)({row} % {n})"
        stride = x.strides[axis] // x.dtype.itemsize
        root = x.root if x.root.constant is None else x
        wide = [a if m > 1 else None for a, m in zip(index, x.shape, strict=True)]
        return f"{self.kernel.pointer(root)}[{self._offset(x, wide)} + {inside} * {stride}]"

    def _segment_sum(self, op: Op, at: Sequence[int | None], full: bool) -> str:
        """The sum over the rows with the id that the index names, in order."""
        (values, ids), n, self.count = op.inputs, len(op.out.shape), self.count + 1
        rows, t, name = values.shape[-2], c_type(op.out.dtype), f"v{self.count}"

        def along(v: Value, index: Sequence[int | None], stride: int) -> str:
            return f"{self.kernel.pointer(v.root)}[{self._offset(v, index)} + j * {stride // v.dtype.itemsize}]"

        lead = [a if m > 1 else None for a, m in zip(at[: n - 2], values.shape[:-2], strict=True)]
        row = along(values, [*lead, None, at[-1]], values.strides[-2])
        number = along(ids, [*lead[n - 2 - (len(ids.shape) - 1) :], None], ids.strides[-1])
        wanted = "0" if at[-2] is None else f"i{at[-2]}"
        (self.turn if full or not self.nest.folds else self.lines).append(
            f"{t} {name} = 0; for (int j = 0; j < {rows}; ++j) if ({number} == {wanted}) {name} += {row};"
        )
        return name


def _better(op: Op, x: str, y: str) -> str:
    """Whether ``x`` comes before ``y``: it is NaN and ``y`` is not, or it is larger, or smaller for argmin."""
    return f"({x} {'>' if op.name == 'argmax' else '<'} {y} || ({x} != {x} && {y} == {y}))"


def _arithmetic(a: np.ndarray) -> tuple[int, int] | None:
    """First element and difference of integers that have the same difference."""
    if a.dtype.kind not in "iu" or a.size < 2 or a.size != max(a.shape):
        return None
    flat = a.reshape(-1).astype(object)
    first, step = int(flat[0]), int(flat[1]) - int(flat[0])
    same = bool((a.reshape(-1).astype(np.int64) == first + step * np.arange(a.size)).all())
    return (first, step) if same else None

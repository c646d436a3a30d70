"""CUDA C++ for launches of nests: each nest gets a section of the source and a range of thread blocks."""

from __future__ import annotations

from math import prod

from mlp_xp_backends.compiler.program import Kind, Op, new_value
from mlp_xp_backends.compiler.targets.cuda.access import ORDER, folded, result_axes
from mlp_xp_backends.compiler.targets.cuda.elements import Elements, Kernel
from mlp_xp_backends.compiler.targets.cuda.functions import c_type, start
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph, Nest
from mlp_xp_backends.compiler.targets.cuda.prelude import THREADS

SHORT_ROW = 256
"""A row of at most so many elements is folded by 32 threads instead of a whole block."""
SHORT_COLUMN = 64
"""A column of at most so many elements is folded by 8 threads instead of 32, with 32 columns in a block, not 8."""


FEW, PART = 32, 1024
"""A fold that occupies at most `FEW` blocks of threads is split into parts of at least `PART` elements."""
PARTS = 128
"""The largest number of parts."""


def write(k: Kernel, graph: Graph, launch: list[Nest], first: bool, last: bool) -> None:
    """Write the source of ``k``. The first kernel of a step computes the next step's number; the last one stores it."""
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
    head = f'extern "C" __global__ void {k.name}({parameters}) {{\nconst long long step = table[{int(not first)}]'
    k.source = "\n".join([head + (";" if first else " - 1;"), *body, *tail, "}", ""])


class _Writer(Elements):
    """The source of one nest: one loop over the folded axes for each level of reductions that depend on each other.

    A fold to few results is split among several blocks of threads; the block that finishes last folds the parts, in
    their order.
    """

    def __init__(self, graph: Graph, nest: Nest, k: Kernel) -> None:
        super().__init__(graph, nest, k)
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
        self.groups = -(-self.size // self.side)
        self.stores: list[str] = []  # after all computations, whose operands they may overwrite
        self.folds = [op for op in nest.at if folded(op)]
        self.depth = {op: self._depth(op) for op in nest.at}
        self.kept_stores = [op for op in nest.at if graph.stored(op) and not self._is_full(op)]
        self.full_stores = [op for op in nest.at if graph.stored(op) and self._is_full(op)]
        self.parts = self._parts()
        self.blocks = self.groups * self.parts

    def _parts(self) -> int:
        """The number of parts into which the fold is split; more than 1 only if no fold depends on another."""
        plain = all(op.kind is Kind.REDUCE and self.depth[op] == 1 for op in self.folds)
        if not self.folds or not plain or self.groups > FEW or any(self.depth[op] for op in self.full_stores):
            return 1
        return min(PARTS, max(1, self.fold // (PART * self.lanes // THREADS)))

    def text(self) -> list[str]:
        """The lines of the source."""
        thread = "threadIdx.x"
        if not self.nest.folds:
            self.lines = [f"const int o = block * {THREADS} + {thread};", f"if (o < {self.size}) {{"]
            self.lines += self._indices("o", self.nest.kept)
            for op in self.kept_stores:
                self._store(op)
            return [*self.lines, *self.turn, *self.stores, "}"]
        by_row = (f"{thread} % {self.lanes}", f"{thread} / {self.lanes}")
        lane, o = by_row if self.rows else (f"{thread} / {self.side}", f"{thread} % {self.side}")
        self.lines = [f"const int lane = {lane}, mine = block / {self.parts} * {self.side} + {o};"]
        self.lines.append(f"const int o = mine < {self.size} ? mine : {self.size - 1};")
        self.lines += self._indices("o", self.nest.kept)
        self._loops()
        self.stores = []
        for op in self.kept_stores:
            self._store(op)
        guarded = [f"if (lane == 0 && mine < {self.size}) {{", *self.stores, "}"]
        ends = ["__syncthreads();", *guarded] if self.kept_stores else []
        return [*self.lines, *ends, *(["}"] if self.parts > 1 else [])]

    def _indices(self, flat: str, axes: list[int]) -> list[str]:
        """Definitions of the index along each of ``axes`` from ``flat``, the row-major index of the point."""
        text = []
        for n, a in enumerate(axes):
            inner = prod(self.nest.domain[b] for b in axes[n + 1 :])
            index = f"{flat} / {inner}" if inner > 1 else flat
            text.append(f"const int i{a} = {index}" + (f" % {self.nest.domain[a]};" if n else ";"))
        return text

    def _loops(self) -> None:
        """One loop for each level of reductions: a loop can use the results of the loops before it."""
        deepest = max([self.depth[op] - 1 for op in self.folds] + [self.depth[op] for op in self.full_stores])
        for stage in range(deepest + 1):
            self.inner, self.turn, self.stores = {}, [], []
            here = [op for op in self.folds if self.depth[op] - 1 == stage]
            mine = {op: self._accumulate(op) for op in here}
            for op in self.full_stores:
                if stage == (deepest if self._overwrites(op) else self.depth[op]):
                    self._store(op, f"mine < {self.size}")
            first = f"lane + block % {self.parts} * {self.lanes}" if self.parts > 1 else "lane"
            loop = f"for (int k = {first}; k < {self.fold}; k += {self.lanes * self.parts}) {{"
            self.lines += [loop, *self._indices("k", sorted(self.nest.folds)), *self.turn, *self.stores, "}"]
            for op in here:
                self._collect(op, mine[op])
            if self.parts > 1:
                self._join(here)

    def _join(self, folds: list[Op]) -> None:
        """Store the results of this part; the block that finishes last continues with the results of all parts."""
        ticket = f"table + {self.kernel.tickets} + block / {self.parts}"
        self.kernel.tickets += self.groups
        scratch = {op: new_value((self.parts, self.size), op.out.dtype) for op in folds}
        for op, found in scratch.items():
            self.kernel.scratch.append(found)
            place = f"{self.kernel.pointer(found)}[block % {self.parts} * {self.size} + o]"
            self.lines.append(f"if (lane == 0 && mine < {self.size}) {place} = {self.outer[op.out]};")
        self.lines.append(f"if (comes_last({ticket}, {self.parts})) {{")
        for op, found in scratch.items():
            mine = self._started(op)
            part = f"((volatile {c_type(op.out.dtype)}*){self.kernel.pointer(found)})[k * {self.size} + o]"
            step = self._joined(op, mine, part)
            self.lines.append(f"for (int k = lane; k < {self.parts}; k += {self.lanes}) {step}")
            self._collect(op, mine)

    def _accumulate(self, op: Op) -> str:
        """The name of the variable in which each thread folds its elements, in order."""
        mine, x = self._started(op), self.operand(op, 0)
        self.turn.append(self._joined(op, mine, f"{{{x}, k}}" if op.kind is Kind.ARG else x))
        return mine

    def _type(self, op: Op) -> str:
        """The C++ type of the fold."""
        return f"Place<{c_type(op.inputs[0].dtype)}>" if op.kind is Kind.ARG else c_type(op.out.dtype)

    def _started(self, op: Op) -> str:
        self.count += 1
        dtype = op.inputs[0].dtype if op.kind is Kind.ARG else op.out.dtype
        self.lines.append(f"{self._type(op)} a{self.count} = {start(op.name, dtype)};")
        return f"a{self.count}"

    def _joined(self, op: Op, mine: str, other: str) -> str:
        t = self._type(op)
        cast = f"{t}{other}" if op.kind is Kind.ARG else f"({t}){other}"
        return f"{mine} = {op.name.capitalize()}::join({mine}, {cast});"

    def _collect(self, op: Op, mine: str) -> None:
        """Fold the results of all threads of a row or a column."""
        self.count += 1
        name = self.outer[op.out] = f"v{self.count}"
        found = f"folded<{op.name.capitalize()}>({mine}, lane, {self.lanes}, {1 if self.rows else self.side})"
        self.lines.append(f"const {c_type(op.out.dtype)} {name} = {found}{'.k' if op.kind is Kind.ARG else ''};")

    def _depth(self, op: Op) -> int:
        """The length of the longest chain of dependent reductions that ends with ``op``."""
        makers = (self.graph.step.maker.get(r.root) for r in self.graph.reads[op])
        before = max((self._depth(m) for m in makers if m is not None and m in self.nest.at), default=0)
        return before + bool(folded(op))

    def _is_full(self, op: Op) -> bool:
        """Whether the result has an element for each iteration of the loops over folded axes."""
        at = self.nest.at[op]
        return any(a is not None and at[a] in self.nest.folds for a in result_axes(op))

    def _overwrites(self, op: Op) -> bool:
        return self.graph.step.target.get(op.out, ("", 0))[0] == "carry"

    def _store(self, op: Op, guard: str = "") -> None:
        if op.kind is ORDER:
            self.stores.append(self.order(op, self.nest.at[op]))
            return
        target = self.graph.step.target.get(op.out)
        program = self.graph.step.program
        place = op.out
        if target is not None:
            place = program.carry[target[1]] if target[0] == "carry" else op.out
        at = self.nest.at[op]
        index = [None if a is None else at[a] for a in result_axes(op)]
        value = self.value(op.out, at)
        address = f"{self.kernel.pointer(place)}[{self.place(op.out, index)}]"
        self.stores.append(f"{f'if ({guard}) ' if guard else ''}{address} = {value};")

"""Python source for a laid-out program: one line an operation, its arrays bound to names beforehand."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from mlp_xp_backends.numpy_engine.cores import cores, on_cores
from mlp_xp_backends.numpy_engine.layout import Layout
from mlp_xp_backends.numpy_engine.lines import axpby_call, lines
from mlp_xp_backends.numpy_engine.names import Arrays, Names
from mlp_xp_backends.numpy_engine.openblas import Blas
from mlp_xp_backends.numpy_engine.order import BLOCK
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Program, Value

SHARED = 131_072
"""Elements for each core from which on a chain is worth the cores that it wakes."""


class Source:
    """A function ``run(n, items, outs)`` as text; its other names are bound by ``names``."""

    def __init__(self, program: Program, layout: Layout, stacked: dict[int, Value], blas: Blas | None) -> None:
        self.program, self.layout, self.stacked = program, layout, stacked
        self.names = Names(program, layout, blas)
        self.stacks = {id(v): f"s{k}" for k, v in enumerate(stacked.values())}
        self.stacks |= {id(v): f"t{k}" for k, v in enumerate(program.items)}
        self.chains: list[str] = []
        in_step = [*self._cells(), *(line for step in layout.steps for line in self._step(step)), *self._epilogue()]
        before = [*self._prologue(), *(line for step in layout.once for line in self._step(step))]
        text = ["def run(n, items, outs):", *("    " + line for line in before), "    for i in range(n):"]
        self.text = "\n".join([*self.chains, *text, *("        " + line for line in in_step), "        pass", ""])

    def _prologue(self) -> list[str]:
        """Items and outs by name, and the numbers that are computed for all steps at once."""
        text = [f"t{k} = items[{k}]" for k in range(len(self.program.items))]
        text += [f"o{k} = outs[{k}]" for k in range(len(self.program.outs))]
        for v in self.stacked.values():
            if v.op is not None:
                args = (self.stacks.get(id(x)) or self.names.array(x) for x in v.op.inputs)
                text.append(f"{self.stacks[id(v)]} = {self.names.object(v.op.f)}({', '.join(args)})")
        return text

    def _cells(self) -> list[str]:
        """What comes anew in every step, copied to where the operations expect it."""
        readers = self.program.readers()
        kept = {id(v.root) for v in (*self.program.outs, *self.program.carry_out)}
        values = [*self.program.items, *(v for v in self.stacked.values() if v.op is not None)]
        return [
            f"{self.names.array(v)}[...] = {self.stacks[id(v)]}[i]"
            for v in values
            if id(v) in kept or any(id(op.out) not in self.stacked for op in readers.get(id(v), ()))
        ]

    def _epilogue(self) -> list[str]:
        array, carry, after = self.names.array, self.program.carry, self.program.carry_out
        return [
            *(f"o{k}[i] = {array(v)}" for k, v in enumerate(self.program.outs)),
            *(f"{array(carry[k])}[...] = {array(after[k])}" for k in self.layout.copies),
        ]

    def _step(self, step: list[Op]) -> list[str]:
        return lines(self.names, step[0]) if len(step) == 1 else self._chain(step)

    def _chain(self, step: list[Op]) -> list[str]:
        """A call of a function that does the operations on one block of every array after the other."""
        names = self.names
        arrays = {id(v): v for op in step for v in (*op.inputs, op.out) if v.shape != ()}
        local = {key: f"b{k}" for k, key in enumerate(arrays)}
        sums = {id(op): f"a{k}" for k, op in enumerate(step) if op.kind == "axpby"}
        blocks = names.bound(("blocks", id(step)), "blocks", partial(self._blocks, step, list(arrays.values())))
        name = f"chain{id(step)}"
        text = [f"def {name}(blocks):", f"    for {', '.join([*local.values(), *sums.values()])}, in blocks:"]
        for op in step:
            out = local[id(op.out)]
            if op.kind == "axpby":
                f = names.bound(("axpby", op.out.dtype), "axpby", partial(self._axpby, op))
                start = names.start(op, op.inputs[0], out, local[id(op.inputs[0])])
                text += ["        " + line for line in (*start, f"{f}(*{sums[id(op)]})")]
            else:
                args = [local.get(id(v)) or names.array(v) for v in op.inputs]
                text.append(f"        {names.object(op.f)}({', '.join(args)}, out={out})")
        self.chains += text
        return [f"{names.object(on_cores)}({name}, {blocks})"]

    def _axpby(self, op: Op, at: Arrays) -> Any:
        return axpby_call(self.names, op, lambda v: v.like)[0]

    def _blocks(self, step: list[Op], values: list[Value], at: Arrays) -> list[list[tuple[Any, ...]]]:
        """For each core the blocks: their arrays, and the arguments of BLAS."""
        size = step[0].out.size
        starts = range(0, size, BLOCK)
        n_parts = min(cores(), size // SHARED) or 1
        ends = [len(starts) * k // n_parts for k in range(n_parts + 1)]
        return [self._part(step, values, at, starts[a:b], own=a > 0) for a, b in pairwise(ends)]

    def _part(self, step: list[Op], values: list[Value], at: Arrays, starts: range, own: bool) -> list[tuple[Any, ...]]:
        """The blocks from ``starts`` on; with memory of their ``own`` for what exists within a block only."""
        inside = self.layout.inside
        size = step[0].out.size
        places: dict[Any, NDArray] = {}

        def scratch(v: Value) -> NDArray:
            place = self.layout.places[id(v)]
            return places.setdefault((place, v.dtype), np.empty(BLOCK, v.dtype)) if own else at(v)

        whole = [(v, scratch(v) if id(v) in inside else at(v).reshape(-1), id(v) in inside) for v in values]

        def block(start: int) -> tuple[Any, ...]:
            n = min(BLOCK, size - start)
            of = {id(v): a[:n] if short else a[start : start + n] for v, a, short in whole}

            def there(v: Value) -> NDArray:
                return of[id(v)] if id(v) in of else at(v)

            sums = (axpby_call(self.names, op, there)[1] for op in step if op.kind == "axpby")
            return (*of.values(), *sums)

        return [block(start) for start in starts]

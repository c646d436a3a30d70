"""Python source for a laid-out program: one line an operation, its arrays bound to names beforehand."""

from __future__ import annotations

from functools import partial
from typing import Any

from mlp_xp_backends.numpy_engine.blas import Blas, Call
from mlp_xp_backends.numpy_engine.calls import block_of, library_call
from mlp_xp_backends.numpy_engine.layout import Layout
from mlp_xp_backends.numpy_engine.lines import lines
from mlp_xp_backends.numpy_engine.names import Arrays, Names
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Program, Value


class Source:
    """A function ``run(n, items, outs)`` as text; its other names are bound by ``names``."""

    def __init__(self, program: Program, layout: Layout, stacked: dict[int, Value], blas: Blas | None) -> None:
        self.program, self.layout, self.stacked = program, layout, stacked
        self.names = Names(program, layout, blas)
        self.stacks = {id(v): f"s{k}" for k, v in enumerate(stacked.values())}
        self.stacks |= {id(v): f"t{k}" for k, v in enumerate(program.items)}
        in_step = [*self._cells(), *(line for step in layout.steps for line in self._step(step)), *self._epilogue()]
        before = [*self._prologue(), *(line for step in layout.once for line in self._step(step))]
        text = ["def run(n, items, outs):", *("    " + line for line in before), "    for i in range(n):"]
        self.text = "\n".join([*text, *("        " + line for line in in_step), "        pass", ""])

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
        """The operations on one block of every array after the other."""
        names = self.names
        arrays = {id(v): v for op in step for v in (*op.inputs, op.out) if v.size > 1}
        local = {key: f"b{k}" for k, key in enumerate(arrays)}
        called = [op for op in step if library_call(names.blas, op, lambda v: v.like) is not None]
        given = {id(op): f"a{k}" for k, op in enumerate(called)}
        blocks = names.bound(("blocks", id(step)), "blocks", partial(self._blocks, step, called, list(arrays.values())))
        text = [f"for {', '.join([*local.values(), *given.values()])}, in {blocks}:"]
        for op in step:
            out = local[id(op.out)]
            if id(op) in given:
                f = names.bound(("blas", 0, id(op), ""), "blas", partial(self._function, op))
                start = names.start(op, op.inputs[0], out, local[id(op.inputs[0])]) if op.kind == "axpby" else []
                text += ["    " + line for line in (*start, f"{f}(*{given[id(op)]})")]
            else:
                args = [local.get(id(v)) or self._number(v) for v in op.inputs]
                call = f"{names.object(op.f)}({', '.join(args)}, out={out})" if op.kind == "ufunc" else None
                text.append(f"    {call or f'{out}[...] = {args[0]}'}")
        return text

    def _number(self, v: Value) -> str:
        """The name of a single number, without its axes."""
        return self.names.bound(("number", id(v)), "number", lambda at: at(v).reshape(()))

    def _function(self, op: Op, at: Arrays) -> Any:
        return self._call(op, lambda v: v.like)[0]

    def _call(self, op: Op, at: Arrays) -> Call:
        call = library_call(self.names.blas, op, at)
        assert call is not None
        return call

    def _blocks(self, step: list[Op], called: list[Op], values: list[Value], at: Arrays) -> list[tuple[Any, ...]]:
        """For each block the arrays, and the arguments of the calls."""
        whole = [(v, at(v).reshape(-1), id(v) in self.layout.inside) for v in values]
        size, most = step[0].out.size, block_of(self.names.blas, step)

        def block(start: int) -> tuple[Any, ...]:
            n = min(most, size - start)
            of = {id(v): a[:n] if inside else a[start : start + n] for v, a, inside in whole}

            def there(v: Value) -> NDArray:
                return of[id(v)] if id(v) in of else at(v)

            return (*of.values(), *(self._call(op, there)[1] for op in called))

        return [block(start) for start in range(0, size, most)]

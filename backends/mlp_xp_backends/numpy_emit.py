"""Python source for a laid-out program: one line an operation, its arrays bound to names beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlp_xp_backends.numpy_fuse import AXPY_THREADED
from mlp_xp_backends.numpy_layout import BLOCK, Layout
from mlp_xp_backends.numpy_tape import NDArray, Op, Program, Value
from mlp_xp_backends.openblas import Blas

Arrays = Callable[[Value], NDArray]
Binding = Callable[[Arrays], Any]


class Source:
    """The lines, and for every name in them how to find its object once the arrays are there."""

    def __init__(self, program: Program, layout: Layout, stacked: dict[int, Value], blas: Blas | None) -> None:
        self.program, self.layout, self.stacked, self.blas = program, layout, stacked, blas
        self.bindings: dict[str, Binding] = {}
        self.names: dict[Any, str] = {}
        self.clipped: list[tuple[int, Value, int]] = []
        """Items that are row numbers: leaf, the array that they number, its axis."""
        self.lines = ["def run(n, items, outs):"]
        self._prologue()
        self.lines.append("    for i in range(n):")
        self._cells()
        for step in layout.steps:
            self._step(step, "        ")
        self._epilogue()

    @property
    def text(self) -> str:
        return "\n".join([*self.lines, ""])

    def name(self, v: Value) -> str:
        """The name of an array."""
        return self._bound(("array", id(v)), "v", lambda at: at(v))

    def _bound(self, key: Any, letter: str, binding: Binding) -> str:
        if key not in self.names:
            self.names[key] = f"{letter}{len(self.names)}"
            self.bindings[self.names[key]] = binding
        return self.names[key]

    def _object(self, x: Any) -> str:
        return self._bound(("object", id(x)), getattr(x, "__name__", "k"), lambda _: x)

    def _prologue(self) -> None:
        for k, v in enumerate(self.program.items):
            self.names["stack", id(v)] = f"s{k}"
            self.lines.append(f"    s{k} = items[{k}]")
        for k in range(len(self.program.outs)):
            self.lines.append(f"    o{k} = outs[{k}]")
        for v in self.stacked.values():
            if v.op is not None:
                args = (self.names.get(("stack", id(x))) or self.name(x) for x in v.op.inputs)
                self.names["stack", id(v)] = f"s{len(self.names)}"
                self.lines.append(f"    {self.names['stack', id(v)]} = {self._object(v.op.f)}({', '.join(args)})")
        for step in self.layout.once:
            self._step(step, "    ")

    def _cells(self) -> None:
        """What comes anew in every step, copied to where the operations expect it."""
        readers = self.program.readers()
        kept = {id(v.root) for v in (*self.program.outs, *self.program.carry_out)}
        for v in (*self.program.items, *(v for v in self.stacked.values() if v.op is not None)):
            if id(v) in kept or any(id(op.out) not in self.stacked for op in readers.get(id(v), ())):
                self.lines.append(f"        {self.name(v)}[...] = {self.names['stack', id(v)]}[i]")

    def _epilogue(self) -> None:
        for k, v in enumerate(self.program.outs):
            self.lines.append(f"        o{k}[i] = {self.name(v)}")
        for k in self.layout.copies:
            self.lines.append(f"        {self.name(self.program.carry[k])}[...] = {self.name(self.program.carry_out[k])}")

    def _step(self, step: list[Op], indent: str) -> None:
        if len(step) > 1:
            self._blocks(step, indent)
            return
        (op,) = step
        if op.kind != "view":
            self.lines += [indent + line for line in getattr(self, f"_{op.kind}")(op)]

    def _blocks(self, step: list[Op], indent: str) -> None:
        """The chain on one block of every array after the other."""
        arrays = list({id(v): v for op in step for v in (*op.inputs, op.out) if v.shape != ()}.values())
        local = {id(v): f"b{k}" for k, v in enumerate(arrays)}
        size = step[0].out.size

        def slices(at: Arrays) -> list[tuple[NDArray, ...]]:
            whole = [at(v).reshape(-1) for v in arrays]
            inside = [id(v) in self.layout.inside for v in arrays]
            starts = range(0, size, BLOCK)
            return [
                tuple(a[: min(BLOCK, size - s)] if i else a[s : s + BLOCK] for a, i in zip(whole, inside, strict=True))
                for s in starts
            ]

        blocks = self._bound(("blocks", id(step)), "blocks", slices)
        self.lines.append(f"{indent}for {', '.join(local.values())}, in {blocks}:")
        for op in step:
            args = [local.get(id(v)) or self.name(v) for v in op.inputs]
            self.lines.append(f"{indent}    {self._object(op.f)}({', '.join(args)}, out={local[id(op.out)]})")

    def _ufunc(self, op: Op) -> list[str]:
        x, *others = op.inputs
        added = op.f is np.add and len(others) == 1 and self._same_place(x, op.out) and op.out.size >= AXPY_THREADED
        if added and x.dtype == others[0].dtype == op.out.dtype and others[0].shape == x.shape:
            one = np.ones((), x.dtype)
            line = self._blas(lambda blas, at: blas.axpy(at(op.out), at(others[0]), one), op)
            if line is not None:
                return [line]
        return [f"{self._object(op.f)}({', '.join(map(self.name, op.inputs))}, out={self.name(op.out)})"]

    def _axpy(self, op: Op) -> list[str]:
        y, x, s = op.inputs
        line = self._blas(lambda blas, at: blas.axpy(at(op.out), at(x), at(s)), op)
        out = self.name(op.out)
        first = [] if self._same_place(y, op.out) else [f"{out}[...] = {self.name(y)}"]
        return [*first, line or f"{out}[...] += {self.name(s)} * {self.name(x)}"]

    def _gemm(self, op: Op) -> list[str]:
        a, b, alpha, *rest = op.inputs
        zero = np.zeros((), op.out.dtype)
        line = self._blas(
            lambda blas, at: blas.gemm(at(op.out), at(a), at(b), at(alpha), at(rest[0]) if rest else zero), op
        )
        out = self.name(op.out)
        product = f"{self.name(alpha)} * {self._object(np.matmul)}({self.name(a)}, {self.name(b)})"
        if not rest:
            return [line or f"{out}[...] = {product}"]
        first = [] if self._same_place(rest[1], op.out) else [f"{out}[...] = {self.name(rest[1])}"]
        return [*first, *([line] if line else [f"{out}[...] *= {self.name(rest[0])}", f"{out}[...] += {product}"])]

    def _blas(self, call: Callable[[Blas, Arrays], Any], op: Op) -> str | None:
        """A line that calls BLAS, if the arrays lie as it needs them."""
        blas = self.blas
        if blas is None or call(blas, lambda v: v.like) is None:
            return None
        f, args = (self._bound(("blas", part, id(op)), "blas", lambda at, k=k: call(blas, at)[k]) for k, part in enumerate("fa"))
        return f"{f}(*{args})"

    def _same_place(self, x: Value, y: Value) -> bool:
        places = self.layout.places
        if x.root is not x or x.shape != y.shape:
            return False
        if x.source is not None and x.source[0] in ("carry", "pack"):
            place = places.get(id(y))
            return place is not None and place.kind == "carry" and self.program.carry[place.index] is x
        return id(x) in places and places[id(x)] == places.get(id(y))

    def _matmul(self, op: Op) -> list[str]:
        a, b = op.inputs
        one, zero = np.ones((), op.out.dtype), np.zeros((), op.out.dtype)
        line = self._blas(lambda blas, at: blas.gemm(at(op.out), at(a), at(b), one, zero), op)
        return [line or f"{self._object(np.matmul)}({self.name(a)}, {self.name(b)}, {self.name(op.out)})"]

    def _reduce(self, op: Op) -> list[str]:
        axes, keepdims = op.options
        f = self._bound(("reduce", op.f), f"{op.f.__name__}_reduce", lambda _: op.f.reduce)
        dtype = self._object(op.out.dtype) if op.f in (np.add, np.multiply) else "None"
        return [f"{f}({self.name(op.inputs[0])}, {axes}, {dtype}, {self.name(op.out)}, {keepdims})"]

    def _arg(self, op: Op) -> list[str]:
        axis, keepdims = op.options
        return [f"{self._object(op.f)}({self.name(op.inputs[0])}, {axis}, {self.name(op.out)}, keepdims={keepdims})"]

    def _cast(self, op: Op) -> list[str]:
        return [f"{self.name(op.out)}[...] = {self.name(op.inputs[0])}"]

    def _where(self, op: Op) -> list[str]:
        condition, x, y = op.inputs
        out = self.name(op.out)
        first = [] if self._same_place(y, op.out) else [f"{out}[...] = {self.name(y)}"]
        return [*first, f"{self._object(np.copyto)}({out}, {self.name(x)}, where={self.name(condition)})"]

    def _take(self, op: Op) -> list[str]:
        a, rows = op.inputs
        mode = "raise"
        if rows.root.source is not None and rows.root.source[0] == "item":
            mode = "clip"  # checked for all steps at once
            self.clipped.append((rows.root.source[1], a, op.options[0]))
        take = self._bound(("take", id(a)), "take", lambda at: at(a).take)
        return [f"{take}({self.name(rows)}, {op.options[0]}, {self.name(op.out)}, {mode!r})"]

    def _concat(self, op: Op) -> list[str]:
        lines, start, axis = [], 0, op.options[0]
        for k, v in enumerate(op.inputs):
            key = (*[slice(None)] * axis, slice(start, start + v.shape[axis]))
            there = self._bound(("part", id(op), k), "part", lambda at, key=key: at(op.out)[key])
            lines.append(f"{there}[...] = {self.name(v)}")
            start += v.shape[axis]
        return lines

    def _pack(self, op: Op) -> list[str]:
        """What is not in its place already, copied there."""
        lines, start = [], 0
        base = self.layout.places[id(op.out)]
        for k, v in enumerate(op.inputs):
            place = self.layout.places.get(id(v))
            if place is None or place[:2] != base[:2] or place.offset != base.offset + start or v.root is not v:
                there = self._bound(
                    ("part", id(op), k), "part", lambda at, s=start, v=v: at(op.out)[s : s + v.size].reshape(v.shape)
                )
                lines.append(f"{there}[...] = {self.name(v)}")
            start += v.size
        return lines

    def _call(self, op: Op) -> list[str]:
        frozen, options = op.options
        names = iter(map(self.name, op.inputs))
        args = [next(names) if x is None else self._object(x[0]) for x in frozen]
        args += [f"{key}={self._object(value)}" for key, value in options]
        return [f"{self.name(op.out)}[...] = {self._object(op.f)}({', '.join(args)})"]

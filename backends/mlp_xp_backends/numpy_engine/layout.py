"""Memory: where the result of each operation lies.

Memory is reused as soon as its last reader is through, results go where an operand of theirs ends, and what is carried
on is written over what came in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from mlp_xp_backends.numpy_engine.blas import Blas
from mlp_xp_backends.numpy_engine.calls import block_of
from mlp_xp_backends.numpy_engine.order import fixed_results, in_chains, ordered
from mlp_xp_backends.numpy_engine.tape import Op, Program, Value, blank

OWN = ("pack", "onehot")
"""Operations whose results lie where they say."""


class Place(NamedTuple):
    """Where a value lies: in the carried array or the buffer of that number, from ``offset`` (in elements) on."""

    kind: Literal["carry", "buffer"]
    number: int
    offset: int = 0


@dataclass(eq=False)
class Layout:
    """A program with its order and its memory."""

    once: list[list[Op]] = field(default_factory=list)
    """What does not change from step to step."""
    steps: list[list[Op]] = field(default_factory=list)
    """One operation each, or a chain of elementwise ones that runs block by block."""
    places: dict[int, Place] = field(default_factory=dict)
    """By the id of a value that is no view."""
    buffers: list[int] = field(default_factory=list)
    """Sizes in bytes."""
    inside: dict[int, int] = field(default_factory=dict)
    """The values, by id, that exist within a block only, and the elements of the block."""
    copies: list[int] = field(default_factory=list)
    """The carried arrays whose new value has to be copied to them at the end of a step."""


def lay_out(program: Program, stacked: set[int], blas: Blas | None) -> Layout:
    """``stacked`` are the values, by id, that are computed for all steps at once."""
    _separate_carried(program)
    fixed = fixed_results(program)
    ops = [op for op in program.ops if id(op.out) not in stacked]
    layout = Layout(once=[[op] for op in ops if id(op.out) in fixed])
    order = ordered(program, [op for op in ops if id(op.out) not in fixed])
    layout.steps = in_chains(order)
    _Placer(program, layout, fixed, blas).run()
    return layout


def _separate_carried(program: Program) -> None:
    """A carried array that is handed on as another one is copied first, or it would be overwritten."""
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if after is not before and after.root.source is not None and after.root.source[0] in ("carry", "pack"):
            copy = Value(blank(after.shape, after.dtype))
            copy.op = Op("cast", np.copyto, (after,), copy)
            program.ops.append(copy.op)
            program.carry_out[k] = copy


class _Placer:
    """Gives every result a place, in the order in which the operations run."""

    def __init__(self, program: Program, layout: Layout, fixed: set[int], blas: Blas | None) -> None:
        self.program, self.layout, self.fixed, self.blas = program, layout, fixed, blas
        self.flat = [op for step in layout.steps for op in step]
        self.position = {id(op): k for k, op in enumerate(self.flat)}
        self.parts: dict[int, tuple[Value, int]] = {}  # what is packed lies in the pack from the beginning
        self.free: list[int] = []
        self.free_inside: list[int] = []
        self.handed: set[int] = set()

    def run(self) -> None:
        for (op,) in self.layout.once:
            if op.kind != "view":
                self.layout.places[id(op.out)] = Place("buffer", self._new(op.out.like.nbytes))
        self._place_parts()
        self._find_last_reads()
        self._place_carried()
        self._find_inside()
        dying: dict[int, list[Value]] = {}
        for v, k in self.last.values():
            dying.setdefault(k, []).append(v)
        for step in self.layout.steps:
            ended: list[Value] = []
            for op in step:
                self._place(op)
                for v in dying.get(self.position[id(op)], ()):
                    if id(v) in self.layout.inside:
                        self._release(v)
                    else:
                        ended.append(v)
            for v in ended:  # within a chain, what ends in one block is read again in the next
                self._release(v)
            self.free += self.free_inside
            self.free_inside = []

    def _owner(self, v: Value) -> Value:
        """The value whose memory decides about that of ``v``."""
        root = v.root
        return self.parts[id(root)][0] if id(root) in self.parts else root

    def _place_parts(self) -> None:
        ends = {id(v) for v in self.program.carry_out}
        for op in self.flat:
            if op.kind != "pack":
                continue
            offset = 0
            for v in op.inputs:
                alone = v.op is not None and id(v.op) in self.position and id(v) not in self.parts and id(v) not in ends
                if alone and v.op is not None and v.op.kind not in OWN and v.dtype == op.out.dtype:
                    self.parts[id(v)] = (op.out, offset)
                offset += v.size

    def _find_last_reads(self) -> None:
        """For each memory that operations write to: its value and the position of its last reader."""
        self.last: dict[int, tuple[Value, int]] = {}
        for k, op in enumerate(self.flat):
            for v in (*op.inputs, op.out):
                owner = self._owner(v)
                self.last[id(owner)] = (owner, k)
        for v in (*self.program.carry_out, *self.program.outs):
            owner = self._owner(v)
            self.last[id(owner)] = (owner, len(self.flat))

    def _place_carried(self) -> None:
        kept = {id(v.root) for v in self.program.outs}
        for k, (before, after) in enumerate(zip(self.program.carry, self.program.carry_out, strict=True)):
            if after is before:
                continue
            after_op = after.op
            taken = id(after) in self.layout.places or id(after) in self.parts or id(before) in kept
            if (
                after_op is None
                or after_op.kind in OWN
                or id(after_op) not in self.position
                or taken
                or not self._over(before, after_op)
            ):
                self.layout.copies.append(k)
                continue
            self.layout.places[id(after)] = Place("carry", k)
            value: Value | None = after
            while value is not None:  # the steps on the way to it, as far back as they can
                op, value = value.op, None
                for x in in_place(op) if op is not None else ():
                    produced = x.op is not None and id(x.op) in self.position and x.op.kind not in OWN
                    produced = produced and id(x) not in self.layout.places
                    ends = self.last[id(self._owner(x))][1] == self.position[id(op)]
                    if produced and ends and id(x) not in self.parts and x.op is not None and self._over(before, x.op):
                        self.layout.places[id(x)] = Place("carry", k)
                        value = x
                        break

    def _over(self, before: Value, op: Op) -> bool:
        """Whether the result of ``op`` may be written over ``before``."""
        if before.shape != op.out.shape or before.dtype != op.out.dtype:
            return False
        _, last = self.last.get(id(before), (before, -1))
        here = self.position[id(op)]
        return last < here or (last == here and any(x is before for x in in_place(op)))

    def _find_inside(self) -> None:
        """What is made and used within one chain needs no more memory than a block."""
        for step in self.layout.steps:
            if len(step) < 2:
                continue
            end, block = self.position[id(step[-1])], block_of(self.blas, step)
            for op in step:
                free = id(op.out) not in self.layout.places and id(op.out) not in self.parts
                if free and self.last[id(op.out)][1] <= end:
                    self.layout.inside[id(op.out)] = block

    def _place(self, op: Op) -> None:
        if op.kind == "onehot":  # it has memory of its own
            return
        places = self.layout.places
        owner = self._owner(op.out)
        if id(owner) not in places:
            here = self.position[id(op)]
            for x in in_place(op) if owner is op.out else ():
                same = (id(x) in self.layout.inside) == (id(op.out) in self.layout.inside)
                ends = id(x) in self.last and self._owner(x) is x and self.last[id(x)][1] == here
                place = places.get(id(x))
                if same and ends and id(x) not in self.fixed and place is not None and place.kind == "buffer":
                    places[id(op.out)] = place
                    self.handed.add(id(x))
                    break
            else:
                block = self.layout.inside.get(id(owner))
                size = owner.like.nbytes if block is None else block * owner.dtype.itemsize
                places[id(owner)] = Place("buffer", self._new(size, [] if block is None else self.free_inside))
        if owner is not op.out:
            whole = places[id(owner)]
            places[id(op.out)] = whole._replace(offset=whole.offset + self.parts[id(op.out)][1])

    def _new(self, size: int, more: list[int] | None = None) -> int:
        """A buffer of at least that many bytes: a free one that is large enough, or one made so, or a new one."""
        sizes = self.layout.buffers
        pools = [pool for pool in (more or [], self.free) if pool]
        if not pools:
            sizes.append(size)
            return len(sizes) - 1
        pool = pools[0]
        index = min(pool, key=lambda k: (sizes[k] < size, abs(sizes[k] - size)))
        pool.remove(index)
        sizes[index] = max(sizes[index], size)
        return index

    def _release(self, v: Value) -> None:
        place = self.layout.places.get(id(v))
        if place is None or place.kind != "buffer" or id(v) in self.handed or id(v) in self.fixed:
            return
        (self.free_inside if id(v) in self.layout.inside else self.free).append(place.number)


def in_place(op: Op) -> list[Value]:
    """The operands that the result may be written over."""
    of_kind = {
        "ufunc": op.inputs,
        "axpby": op.inputs[:1],
        "gemm": op.inputs[4:],
        "quotient": op.inputs,
        "root": op.inputs,
        "where": op.inputs[2:],
        "lessen": op.inputs[:1],
    }
    return [
        x
        for x in of_kind.get(op.kind, ())
        if x.root is x
        and x.shape == op.out.shape
        and x.dtype == op.out.dtype
        and all(y is x or y.root is not x for y in op.inputs)
        and (op.kind == "ufunc" or sum(y is x for y in op.inputs) == 1)
    ]

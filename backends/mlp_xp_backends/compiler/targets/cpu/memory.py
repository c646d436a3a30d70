"""Memory planning: from the lifetimes of values to their places in memory.

Memory is reused after its last reader, a result may overwrite an operand without later readers, and the new value of a
carried array overwrites the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value, new_value


class Place(NamedTuple):
    """A place in memory: the carried array or the buffer of that number, from ``offset`` (in bytes)."""

    kind: Literal["carry", "buffer"]
    number: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}" + (f" + {self.offset}" if self.offset else "")


OWN = (Kind.PACK, Kind.ONE_HOT, Kind.VIEW)
"""Operations whose results have memory of their own, or that of an operand."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The places of the results of a program."""

    places: dict[Value, Place]
    """Of every result that is not a view."""
    buffers: tuple[int, ...]
    """Sizes in bytes."""
    copies: tuple[int, ...]
    """Positions of the carried arrays to which the new value is copied at the end of a step."""


def separate(program: Program) -> Program:
    """Copy each carried array that is returned as another one, before it is overwritten."""
    ops, after_all = list(program.ops), list(program.carry_out)
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if after is not before and after.root in program.carry:
            after_all[k] = new_value(after.shape, after.dtype)
            ops.append(Op(Kind.COPY, "", (after,), after_all[k]))
    return replace(program, ops=tuple(ops), carry_out=tuple(after_all))


def plan_memory(program: Program) -> Plan:
    """Places for the results of a program that `separate` rewrote."""
    return _Planner(program).run()


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.position = {op: k for k, op in enumerate(program.ops)}
        self.places: dict[Value, Place] = {}
        self.buffers: list[int] = []
        self.free: list[int] = []
        self.copies: list[int] = []
        self.parts = self._parts()
        self.last = self._last_reads()

    def run(self) -> Plan:
        self._place_carried()
        dying: dict[int, list[Value]] = {}
        for v, k in self.last.items():
            dying.setdefault(k, []).append(v)
        for k, op in enumerate(self.program.ops):
            handed = self._place(op) if op.kind is not Kind.VIEW else None
            for v in dying.get(k, ()):
                place, maker = self.places.get(v), self.program.makers.get(v)
                lent = maker is not None and maker.kind is not Kind.ONE_HOT
                if lent and v is not handed and place is not None and place.kind == "buffer":
                    self.free.append(place.number)
        return Plan(self.places, tuple(self.buffers), tuple(self.copies))

    def _parts(self) -> dict[Value, tuple[Value, int]]:
        """The values that can be computed directly in a pack, with the pack and the offset in bytes."""
        parts: dict[Value, tuple[Value, int]] = {}
        for op in self.program.ops:
            offset = 0
            for v in op.inputs if op.kind is Kind.PACK else ():
                maker = self.program.makers.get(v)
                free = v.base is None and v not in parts and v not in self.program.carry_out
                if free and maker is not None and maker.kind not in OWN and v.dtype == op.out.dtype:
                    parts[v] = (op.out, offset)
                offset += v.nbytes
        return parts

    def _owner(self, v: Value) -> Value:
        """The value whose memory contains that of ``v``."""
        return self.parts[v.root][0] if v.root in self.parts else v.root

    def _last_reads(self) -> dict[Value, int]:
        """The position of the last operation that reads or writes the memory of each owner."""
        last = {}
        for k, op in enumerate(self.program.ops):
            for v in (*op.inputs, op.out):
                last[self._owner(v)] = k
        return last | {self._owner(v): len(self.program.ops) for v in self.program.kept}

    def _place_carried(self) -> None:
        outs = {v.root for v in self.program.outs}
        for k, (before, after) in enumerate(zip(self.program.carry, self.program.carry_out, strict=True)):
            if after is before:
                continue
            maker = self.program.makers.get(after)
            usable = after not in self.places and after not in self.parts and before not in outs
            if maker is None or not usable or not self._over(before, maker):
                self.copies.append(k)
                continue
            op: Op | None = maker
            while op is not None:  # and the operations before it that can work in place
                self.places[op.out] = Place("carry", k)
                op = self._step_before(before, op)

    def _step_before(self, before: Value, op: Op) -> Op | None:
        """The operation whose result ``op`` overwrites, if that result may overwrite ``before``, too."""
        for x in op.overwritable():
            maker = self.program.makers.get(x)
            if maker is not None and x not in self.places and x not in self.parts and self._ends(x, op):
                return maker if self._over(before, maker) else None
        return None

    def _ends(self, x: Value, op: Op) -> bool:
        return self.last.get(self._owner(x)) == self.position[op]

    def _over(self, before: Value, op: Op) -> bool:
        """Whether the result of ``op`` may overwrite ``before``."""
        if op.kind in OWN:
            return False
        if (before.shape, before.dtype) != (op.out.shape, op.out.dtype):
            return False
        last, here = self.last.get(before, -1), self.position[op]
        return last < here or (last == here and any(x is before for x in op.overwritable()))

    def _place(self, op: Op) -> Value | None:
        """Assign a place to the result; return the operand whose place it takes over, if any."""
        owner, handed = self._owner(op.out), None
        if owner not in self.places:
            for x in op.overwritable() if owner is op.out else ():
                place, maker = self.places.get(x), self.program.makers.get(x)
                lent = maker is not None and maker.kind is not Kind.ONE_HOT
                if lent and self._owner(x) is x and self._ends(x, op) and place is not None and place.kind == "buffer":
                    self.places[op.out], handed = place, x
                    break
            else:
                own = op.kind is Kind.ONE_HOT  # the positions of its ones persist between steps
                self.places[owner] = self._buffer(owner.nbytes, new=own)
        if owner is not op.out:
            self.places[op.out] = self.places[owner]._replace(offset=self.parts[op.out][1])
        return handed

    def _buffer(self, size: int, new: bool = False) -> Place:
        """A buffer of at least that many bytes: a free one, enlarged if necessary, or a new one."""
        if not self.free or new:
            self.buffers.append(size)
            return Place("buffer", len(self.buffers) - 1)
        number = min(self.free, key=lambda k: (self.buffers[k] < size, abs(self.buffers[k] - size)))
        self.free.remove(number)
        self.buffers[number] = max(self.buffers[number], size)
        return Place("buffer", number)

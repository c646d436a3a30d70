"""Memory planning: from the lifetimes of values to their places in memory.

Memory is reused after its last reader, a result may overwrite an operand without later readers, and the new value of a
carried array overwrites the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value


class Place(NamedTuple):
    """A place in memory: the carried array or the buffer of that number, from ``offset`` (in bytes)."""

    kind: Literal["carry", "buffer"]
    number: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}" + (f" + {self.offset}" if self.offset else "")


@dataclass(frozen=True, eq=False)
class Plan:
    """The places of the results of a program."""

    places: dict[Value, Place]
    """Of every result that is not a view."""
    buffers: tuple[int, ...]
    """Sizes in bytes."""
    copies: tuple[int, ...]
    """Positions of the carried arrays to which the new value is copied at the end of a step."""


def plan_memory(program: Program) -> Plan:
    """Places for the results of a program that `separate` rewrote.

    The operations are visited from the last to the first: a value needs memory from its last reader on, which is
    visited first, until the operation that computes it.
    """
    planner, copies = _Planner(program), []
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if after is not before and not planner.put(after, Place("carry", k)):
            copies.append(k)
    for v in (*program.carry_out, *program.outs):
        planner.allocate(v.root)
    for op in reversed(program.ops):
        if op.kind is not Kind.VIEW:
            planner.visit(op)
    return Plan(planner.places, tuple(planner.buffers), tuple(copies))


class _Planner:
    def __init__(self, program: Program) -> None:
        self.carry, self.makers = program.carry, program.makers
        self.places: dict[Value, Place] = {}
        self.buffers: list[int] = []
        self.users: list[int] = []
        """For each buffer, the number of values in it whose operations were not visited yet."""
        self.position = {op: k for k, op in enumerate(program.ops)}
        self.last_read = {v.root: k for k, op in enumerate(program.ops) for v in op.inputs}
        self.last_read |= {v.root: len(program.ops) for v in program.outs}

    def visit(self, op: Op) -> None:
        """Place the operands that no later operation reads; then the memory of the result is no longer needed."""
        self.allocate(op.out)
        place, start = self.places[op.out], 0
        for x in op.inputs if op.kind is Kind.PACK else ():
            self.put(x, place._replace(offset=place.offset + start))
            start += x.nbytes
        for x in op.overwritable():
            if self.put(x, place):
                break
        for x in op.inputs:
            self.allocate(x.root)
        if place.kind == "buffer":
            self.users[place.number] -= 1

    def put(self, v: Value, place: Place) -> bool:
        """Compute ``v`` at this place, which is also that of another value, if possible; return whether it is."""
        op = self.makers.get(v)
        if op is None or v in self.places or op.kind is Kind.VIEW:
            return False
        if place.kind == "carry" and not self._over(self.carry[place.number], op):
            return False
        if place.kind == "buffer":
            self.users[place.number] += 1
        self.places[v] = place
        return True

    def _over(self, before: Value, op: Op) -> bool:
        """Whether the result of ``op`` may overwrite the carried array ``before``."""
        if op.kind is Kind.PACK or (before.shape, before.dtype) != (op.out.shape, op.out.dtype):
            return False  # parts of a pack are computed in place only in a buffer
        last, here = self.last_read.get(before, -1), self.position[op]
        return last < here or (last == here and before in op.overwritable())

    def allocate(self, v: Value) -> None:
        """Compute ``v``, if it is a result without a place, in a free buffer, enlarged if necessary, or a new one."""
        if v in self.places or v not in self.makers:
            return
        free = [k for k, users in enumerate(self.users) if not users]
        if not free:
            free = [len(self.buffers)]
            self.buffers.append(v.nbytes)
            self.users.append(0)
        number = min(free, key=lambda k: (self.buffers[k] < v.nbytes, abs(self.buffers[k] - v.nbytes)))
        self.buffers[number] = max(self.buffers[number], v.nbytes)
        self.users[number] += 1
        self.places[v] = Place("buffer", number)

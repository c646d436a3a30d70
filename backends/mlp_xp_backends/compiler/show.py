"""A program as text: one line for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value


def show(program: Program, places: Mapping[Value, Any] | None = None) -> str:
    """One line for each operation: the result with its dtype, shape and place, and the operands.

    ``places`` has the planned memory of values. Results are numbered in order (``%``);
    ``c`` numbers carried arrays, ``k`` constants of the call, ``i`` items, ``=`` marks the body's own constants.
    """
    names: dict[Value, str] = {}
    for letter, group in (("c", program.carry), ("k", program.consts), ("i", program.items)):
        names |= {v: f"{letter}{k}" for k, v in enumerate(group)}
    names |= {op.out: f"%{k}" for k, op in enumerate(program.ops)}
    places = places or {}

    def name(v: Value) -> str:
        if v in names:
            return names[v]
        number = v.shape == () and v.constant is not None
        return f"={v.constant:.6g}" if number and v.dtype.kind == "f" else f"={v.dtype}{list(v.shape)}"

    lines = [f"{name(v):>5} : {_form(v)}" for v in (*program.carry, *program.consts, *program.items)]
    for op in program.ops:
        place = f" @ {places[op.out]}" if op.out in places else ""
        lines.append(f"{name(op.out):>5} : {_form(op.out)}{place} = {_call(op, name)}")
    lines.append(f"carry {', '.join(map(name, program.carry_out))}")
    lines.append(f"out   {', '.join(map(name, program.outs))}")
    return "\n".join(lines)


def _form(v: Value) -> str:
    return f"{v.dtype}{list(v.shape)}"


def _call(op: Op, name: Any) -> str:
    word = op.name if op.kind in (Kind.ELEMENTWISE, Kind.REDUCE, Kind.ARG, Kind.CALL) else op.kind.name.lower()
    if op.kind is Kind.VIEW:
        word = f"view {op.name}"
    known = {"loop", "f"}
    options = [f"{key}={value}" for key, value in op.options.items() if key not in known]
    return f"{word}({', '.join([*map(name, op.inputs), *options])})"

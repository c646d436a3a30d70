"""Entries of a header: every one of the right type and in range, a missing one at its default, unknown ones refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlp_xp._checks import shown

Json = Any
Check = Callable[[str, Json], Any]
REQUIRED: Any = object()
"""The default of an entry that has none."""
MAX_COUNT = 2**53


def take(header: Json, what: str, **expected: tuple[Check, Any]) -> list[Any]:
    """The checked values of the entries that ``expected`` names with their checks and defaults, in its order."""
    if not isinstance(header, dict):
        raise ValueError(f"{what} must be a JSON object, not {shown(header)}")
    if unknown := header.keys() - expected.keys():
        raise ValueError(f"{what} has no field {min(unknown)!r}: update mlp_xp if a newer one wrote the file")
    values = []
    for name, (check, default) in expected.items():
        if name not in header and default is REQUIRED:
            raise ValueError(f"the field {name} of {what} is missing")
        values.append(check(name, header[name]) if name in header else default)
    return values


def anything(name: str, value: Json) -> Json:
    """``value``, which is checked elsewhere."""
    return value


def integer(least: int) -> Check:
    """An integer from ``least`` on, below 2^53."""

    def check(name: str, value: Json) -> int:
        if type(value) is not int or not least <= value < MAX_COUNT:
            raise ValueError(f"{name} must be an integer from {least} to 2^53, not {shown(value)}")
        return value

    return check


def number(name: str, value: Json) -> float:
    """A number, infinite ones and NaN included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is out of range") from None


def text(name: str, value: Json) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {shown(value)}")
    return value


def flag(name: str, value: Json) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {shown(value)}")
    return value


def one_of(*choices: str) -> Check:
    """One of these strings."""

    def check(name: str, value: Json) -> str:
        if text(name, value) not in choices:
            raise ValueError(f"{name} must be {' or '.join(choices)}, not {shown(value)}")
        return str(value)

    return check


def axes(name: str, value: Json) -> tuple[int, ...]:
    """The lengths of the leading axes of a stack of models."""
    if not isinstance(value, list) or len(value) > 8:
        raise ValueError(f"{name} must be a short list of lengths, not {shown(value)}")
    return tuple(integer(1)(name, n) for n in value)


DTYPE = one_of("float32", "float64")
COUNT = integer(0)
POSITIVE = integer(1)

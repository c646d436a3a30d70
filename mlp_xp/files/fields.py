"""Checks of the fields of a header: types and ranges, defaults for missing fields, errors for unknown ones."""

from __future__ import annotations

import math
from typing import Any

from mlp_xp._checks import Flag, OneOf, Rule, shown
from mlp_xp.files.container import Json
from mlp_xp.files.snapshot import Best, Plan
from mlp_xp_backends.trees import ABSENT

REQUIRED: Any = object()
"""The default of an entry that has none."""
MAX_COUNT = 2**53
FLAG = Flag()


def take(header: Json, what: str, **expected: tuple[Rule, Any]) -> list[Any]:
    """Return the checked values of the entries in ``expected``, which gives their rules and defaults, in its order."""
    if not isinstance(header, dict):
        raise ValueError(f"{what} must be a JSON object, not {shown(header)}")
    if unknown := header.keys() - expected.keys():
        raise ValueError(f"{what} has no field {min(unknown)!r}: update mlp_xp if a newer one wrote it")
    values = []
    for name, (rule, default) in expected.items():
        if name not in header and default is REQUIRED:
            raise ValueError(f"the field {name} of {what} is missing")
        values.append(rule(name, header[name]) if name in header else default)
    return values


def anything(name: str, value: Json) -> Json:
    """``value``, which is checked elsewhere."""
    return value


def count(name: str, value: Json, least: int = 0) -> int:
    """An integer of at least ``least`` and below 2^53."""
    if type(value) is not int or not least <= value < MAX_COUNT:
        raise ValueError(f"{name} must be an integer from {least} to 2^53, not {shown(value)}")
    return value


def positive(name: str, value: Json) -> int:
    """A positive integer below 2^53."""
    return count(name, value, 1)


def number(name: str, value: Json) -> float:
    """A number, possibly infinite or NaN."""
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


def axes(name: str, value: Json) -> tuple[int, ...]:
    """The lengths of the leading axes of a stack of models."""
    if not isinstance(value, list) or len(value) > 8:
        raise ValueError(f"{name} must be a short list of lengths, not {shown(value)}")
    return tuple(positive(name, n) for n in value)


def columns(name: str, value: Json) -> dict[str, str]:
    """The columns of the history."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object")
    return {key: OneOf("int", "float")(key, kind) for key, kind in value.items()}


def plan(name: str, value: Json) -> Plan | None:
    """The plan, if there is one."""
    if value is None:
        return None
    return Plan(
        *take(
            value,
            name,
            max_epochs=(positive, REQUIRED),
            batch_size=(positive, REQUIRED),
            shuffle=(FLAG, True),
            rows=(positive, REQUIRED),
        )
    )


def check_position(plan: Plan | None, position: int, updates: int) -> None:
    """Raise `ValueError` unless a run with this plan can have this position."""
    if position > updates:
        raise ValueError(f"it has {position} steps in the current epoch, but {updates} in all")
    if position and (plan is None or position > -(-plan.rows // plan.batch_size)):
        raise ValueError(f"it has {position} steps in the current epoch of a run with the plan {plan}")


def best(name: str, value: Json) -> Best | None:
    """The best epoch, if there is one, still without its network."""
    if value is None:
        return None
    epoch, score, monitor, mode = take(
        value,
        name,
        epoch=(count, REQUIRED),
        score=(number, REQUIRED),
        monitor=(text, "valid_loss"),
        mode=(OneOf("min", "max"), "min"),
    )
    return Best(epoch, score, monitor, mode, ABSENT, ABSENT)


def class_weight_to_json(value: Any) -> Json:
    """``value`` with pairs in place of a dict, since keys of JSON are strings."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {"pairs": [[int(c), float(w)] for c, w in value.items()]}
    return [float(w) for w in value]


def class_weight(name: str, value: Json) -> Any:
    """The class weights, if there are any."""
    if value is None or value == "balanced":
        return value
    if isinstance(value, list):
        return [_weight(name, w) for w in value]
    pairs = value.get("pairs") if isinstance(value, dict) else None
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{name} must be 'balanced', a list, or pairs of class and weight, not {shown(value)}")
    return {count(name, c): _weight(name, w) for c, w in pairs}


def _weight(name: str, value: Json) -> float:
    w = number(name, value)
    if not 0.0 < w < math.inf:
        raise ValueError(f"{name} must hold finite numbers above 0, not {shown(value)}")
    return w

"""The structured entries of the header of a checkpoint; `mlp_xp.files.fields` has the simple ones."""

from __future__ import annotations

import math
from typing import Any

from mlp_xp._checks import shown
from mlp_xp.files import fields
from mlp_xp.files.snapshot import Best, Plan
from mlp_xp_backends.trees import ABSENT

Json = Any


def check_position(plan: Plan | None, position: int, updates: int) -> None:
    """Raise `ValueError` unless a run with this plan can have this position."""
    if position > updates:
        raise ValueError(f"it has {position} steps in the current epoch, but {updates} in all")
    if position and (plan is None or position > -(-plan.rows // plan.batch_size)):
        raise ValueError(f"it has {position} steps in the current epoch of a run with the plan {plan}")


def columns(name: str, value: Json) -> dict[str, str]:
    """The columns of the history."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object")
    return {key: fields.one_of("int", "float")(key, kind) for key, kind in value.items()}


def plan(name: str, value: Json) -> Plan | None:
    """The plan, if there is one."""
    if value is None:
        return None
    return Plan(
        *fields.take(
            value,
            name,
            max_epochs=(fields.POSITIVE, fields.REQUIRED),
            batch_size=(fields.POSITIVE, fields.REQUIRED),
            shuffle=(fields.flag, True),
            rows=(fields.POSITIVE, fields.REQUIRED),
        )
    )


def best(name: str, value: Json) -> Best | None:
    """The best epoch, if there is one, still without its network."""
    if value is None:
        return None
    epoch, score, monitor, mode = fields.take(
        value,
        name,
        epoch=(fields.COUNT, fields.REQUIRED),
        score=(fields.number, fields.REQUIRED),
        monitor=(fields.text, "valid_loss"),
        mode=(fields.one_of("min", "max"), "min"),
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
    return {fields.COUNT(name, c): _weight(name, w) for c, w in pairs}


def _weight(name: str, value: Json) -> float:
    w = fields.number(name, value)
    if not 0.0 < w < math.inf:
        raise ValueError(f"{name} must hold finite numbers above 0, not {shown(value)}")
    return w

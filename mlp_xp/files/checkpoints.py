"""Checkpoints as files: a run that is killed and resumed from one ends with the same bits as an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID251  files hold arrays of the host

from mlp_xp.files import config, fields, generators, history, safetensors
from mlp_xp.files.config import Decoder, check_known
from mlp_xp.files.networks import (
    check_network,
    fill,
    fill_network,
    initial_state,
    named,
    of_arrays,
    of_network,
    stack_of,
)
from mlp_xp.files.safetensors import Content, Entry
from mlp_xp.files.snapshot import Best, Plan, Snapshot
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends.typing import HostArray

Json = Any


def write_snapshot(path: str | Path, snapshot: Snapshot) -> None:
    """Write ``snapshot`` to ``path``, a safetensors file, atomically.

    `TypeError` or `ValueError` if it cannot be saved, before anything is written; `FileError` if writing fails.
    """
    header, arrays = pack(snapshot)
    safetensors.write(path, "checkpoint", arrays, header)


def read_snapshot(path: str | Path, known: Iterable[type] = ()) -> Snapshot:
    """The snapshot in ``path``; ``known`` and the errors are those of `mlp_xp.files.models.read_model`."""
    known = check_known(known)
    with safetensors.opened(path) as content:
        return unpack(content, content.header(("checkpoint",))[1], Decoder(known))


def check_savable(snapshot: Snapshot) -> None:
    """Raise `TypeError` or `ValueError` unless ``snapshot`` can be written and read again. Writes nothing."""
    header, arrays = pack(snapshot)
    found = safetensors.entries(arrays)
    safetensors.index("checkpoint", found, header)
    step = snapshot.step
    config.encode_checked(step)
    check_network(step.network, step.loss)
    state = initial_state(step, stack_of(snapshot.state.params), snapshot.dtype)
    expected = of_arrays(named(**state._asdict()))
    safetensors.check_entries({name: found[name] for name in named(**snapshot.state._asdict())}, expected)


def pack(snapshot: Snapshot) -> tuple[Json, dict[str, HostArray]]:
    """The header and the arrays of a file."""
    best = snapshot.best
    check_position(snapshot.plan, snapshot.position, snapshot.updates)
    columns, arrays = history.encode(snapshot.history)
    arrays |= named(**snapshot.state._asdict())
    if snapshot.position:
        arrays["losses"] = snapshot.losses
    if best is not None:
        arrays |= named(**{"best.params": best.params, "best.layers": best.layers})
    header = {
        "step": config.encode(snapshot.step),
        "dtype": snapshot.dtype,
        "models": list(stack_of(snapshot.state.params)),
        "history": columns,
        "generator": generators.encode(snapshot.generator),
        "plan": None if snapshot.plan is None else snapshot.plan._asdict(),
        "position": snapshot.position,
        "updates": snapshot.updates,
        "samples": snapshot.samples,
        "best": None if best is None else {key: getattr(best, key) for key in ("epoch", "score", "monitor", "mode")},
        "stopped": snapshot.stopped,
        "class_weight": _class_weight_to_json(snapshot.class_weight),
    }
    return header, arrays


def unpack(content: Content, header: Json, decode: Decoder) -> Snapshot:
    """The snapshot in an open file; `ValueError` if there is none."""
    step, dtype, models, columns, generator, plan, position, updates, samples, best, stopped, class_weight = (
        fields.take(
            header,
            "its header",
            step=(fields.anything, fields.REQUIRED),
            dtype=(fields.DTYPE, "float32"),
            models=(fields.axes, ()),
            history=(_columns, {}),
            generator=(fields.anything, fields.REQUIRED),
            plan=(_plan, None),
            position=(fields.COUNT, 0),
            updates=(fields.COUNT, 0),
            samples=(fields.COUNT, 0),
            best=(_best, None),
            stopped=(fields.flag, False),
            class_weight=(_class_weight, None),
        )
    )
    step, generator = decode(step), generators.decode(generator)
    if not isinstance(step, TrainStep):
        raise ValueError("its step is not a TrainStep")
    check_network(step.network, step.loss)
    check_position(plan, position, updates)
    like = initial_state(step, models, dtype)
    expected = of_network(step.network, models, dtype) | of_arrays(named(slots=like.slots, ratio=like.ratio))
    expected |= _of_history(content, columns)
    if position:
        expected["losses"] = Entry(dtype, (position, *models))
    if best is not None:
        expected |= of_network(step.network, models, dtype, "best.")
    arrays = content.arrays(expected)
    state = TrainState(
        *fill_network(step.network, arrays), fill(like.slots, "slots", arrays), fill(like.ratio, "ratio", arrays)
    )
    records = history.decode(columns, arrays.get("history", np.empty((0, len(columns)))), arrays.get("history.present"))
    losses = arrays.get("losses", np.empty((0, *models), dtype))
    if best is not None:
        params, layers = fill_network(step.network, arrays, "best.")
        best = Best(*best, params=params, layers=layers)
    return Snapshot(
        step, dtype, state, records, generator, plan, position, losses, updates, samples, best, stopped, class_weight
    )  # fmt: skip


def check_position(plan: Plan | None, position: int, updates: int) -> None:
    """Raise `ValueError` unless a run with this plan can be there."""
    if position > updates:
        raise ValueError(f"it has {position} steps in the current epoch, but {updates} in all")
    if position and (plan is None or position > -(-plan.rows // plan.batch_size)):
        raise ValueError(f"it has {position} steps in the current epoch of a run with the plan {plan}")


def _of_history(content: Content, columns: dict[str, str]) -> dict[str, Entry]:
    """The entries of the history, as long as the file has it."""
    if not columns:
        return {}
    shape = (content.size_of("history") // len(columns), len(columns))
    entries = {"history": Entry("float64", shape)}
    return entries | ({"history.present": Entry("bool", shape)} if "history.present" in content.entries else {})


def _columns(name: str, value: Json) -> dict[str, str]:
    """The columns of the history."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object")
    return {key: fields.one_of("int", "float")(key, kind) for key, kind in value.items()}


def _plan(name: str, value: Json) -> Plan | None:
    """The plan, if there is one."""
    if value is None:
        return None
    plan = Plan(
        *fields.take(
            value,
            name,
            max_epochs=(fields.POSITIVE, fields.REQUIRED),
            batch_size=(fields.POSITIVE, fields.REQUIRED),
            shuffle=(fields.flag, True),
            rows=(fields.POSITIVE, fields.REQUIRED),
        )
    )
    return plan


def _best(name: str, value: Json) -> list[Any] | None:
    """The fields of the best epoch except its network, if there is one."""
    if value is None:
        return None
    return fields.take(
        value,
        name,
        epoch=(fields.COUNT, fields.REQUIRED),
        score=(fields.number, fields.REQUIRED),
        monitor=(fields.text, "valid_loss"),
        mode=(fields.one_of("min", "max"), "min"),
    )


def _class_weight_to_json(value: Any) -> Json:
    """A dict becomes pairs: keys of JSON are strings."""
    return {"pairs": [[c, weight] for c, weight in value.items()]} if isinstance(value, dict) else value


def _class_weight(name: str, value: Json) -> Any:
    """The class weights, if there are any."""
    if value is None or value == "balanced":
        return value
    if isinstance(value, list):
        return [_weight(name, weight) for weight in value]
    if isinstance(value, dict) and isinstance(value.get("pairs"), list):
        pairs = value["pairs"]
        if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return {fields.COUNT(name, c): _weight(name, weight) for c, weight in pairs}
    raise ValueError(f"{name} must be 'balanced', a list, or pairs of class and weight")


def _weight(name: str, value: Json) -> float:
    weight: float = fields.number(name, value)
    if not 0.0 < weight < float("inf"):
        raise ValueError(f"{name} must hold finite numbers above 0")
    return weight

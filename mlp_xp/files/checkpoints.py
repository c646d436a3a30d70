"""Checkpoints as files: a run resumed from one is bitwise identical to an uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID251  files hold host arrays

from mlp_xp._checks import DTYPE
from mlp_xp.files import config, container, fields, generators, history, models
from mlp_xp.files.config import Decoder, check_known
from mlp_xp.files.container import Content, Entry, Json
from mlp_xp.files.models import (
    SavedModel,
    check_network,
    entry_of,
    fill,
    fill_network,
    named,
    of_network,
    stack_of,
)
from mlp_xp.files.snapshot import Snapshot
from mlp_xp.nn.layers.base import Spec
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import HostArray


def write_snapshot(path: str | Path, snapshot: Snapshot) -> None:
    """Write ``snapshot`` atomically to ``path``, a safetensors file.

    Raises `TypeError` or `ValueError` if it cannot be saved, before anything is written, and `FileError` if writing
    fails.
    """
    header, arrays = pack(snapshot)
    container.write(path, "checkpoint", arrays, header)


def read_snapshot(path: str | Path, known: Iterable[type] = ()) -> Snapshot:
    """Read the snapshot in ``path``; ``known`` and the errors are those of `read_model`."""
    known = check_known(known)
    with container.opened(path) as content:
        return unpack(content, content.header(("checkpoint",))[1], Decoder(known))


def read_model(path: str | Path, known: Iterable[type] = ()) -> SavedModel:
    """Read the model in ``path``, the file of a model or a checkpoint.

    ``known`` lists the classes of custom layers and losses and, for a checkpoint, of custom optimizers and schedules.
    Raises `FileError` if the file is damaged or comes from another program or version, or if its arrays do not fit its
    network.
    """
    known = check_known(known)
    with container.opened(path) as content:
        kind, header = content.header(("model", "checkpoint"))
        if kind == "model":
            return models.unpack(content, header, Decoder(known))
        run = unpack(content, header, Decoder(known))
        return SavedModel(run.step.network, run.step.loss, run.state.params, run.state.layers, {}, run.dtype)


def check_savable(snapshot: Snapshot) -> None:
    """Raise `TypeError` or `ValueError` unless ``snapshot`` can be written and read again. Writes nothing."""
    header, arrays = pack(snapshot)
    container.metadata("checkpoint", arrays, header)
    step = snapshot.step
    config.encode_checked(step)
    check_network(step.network, step.loss)
    state = initial_state(step, stack_of(snapshot.state.params), snapshot.dtype)
    expected = container.entries(named(**state._asdict()))
    container.check_entries(container.entries(named(**snapshot.state._asdict())), expected)


def pack(snapshot: Snapshot) -> tuple[Json, dict[str, HostArray]]:
    """The header and the arrays of a file."""
    best = snapshot.best
    fields.check_position(snapshot.plan, snapshot.position, snapshot.updates)
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
        "class_weight": fields.class_weight_to_json(snapshot.class_weight),
    }
    return header, arrays


def unpack(content: Content, header: Json, decode: Decoder) -> Snapshot:
    """Read the snapshot in an open file. Raises `ValueError` if there is none."""
    step, dtype, models, columns, generator, plan, position, updates, samples, best, stopped, class_weight = (
        fields.take(
            header,
            "its header",
            step=(fields.anything, fields.REQUIRED),
            dtype=(DTYPE, "float32"),
            models=(fields.axes, ()),
            history=(fields.columns, {}),
            generator=(fields.anything, fields.REQUIRED),
            plan=(fields.plan, None),
            position=(fields.count, 0),
            updates=(fields.count, 0),
            samples=(fields.count, 0),
            best=(fields.best, None),
            stopped=(fields.FLAG, False),
            class_weight=(fields.class_weight, None),
        )
    )
    step, generator = decode(step), generators.decode(generator)
    if not isinstance(step, TrainStep):
        raise ValueError("its step is not a TrainStep")
    check_network(step.network, step.loss)
    fields.check_position(plan, position, updates)
    like = initial_state(step, models, dtype)
    expected = of_network(step.network, models, dtype) | container.entries(named(slots=like.slots, ratio=like.ratio))
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
        best = best._replace(params=params, layers=layers)
    return Snapshot(
        step, dtype, state, records, generator, plan, position, losses, updates, samples, best, stopped, class_weight
    )  # fmt: skip


def _of_history(content: Content, columns: dict[str, str]) -> dict[str, Entry]:
    """The expected entries of the history, with the number of epochs in the file."""
    if not columns:
        return {}
    shape = (content.size_of("history") // len(columns), len(columns))
    present = {"history.present": Entry("bool", shape)} if "history.present" in content.entries else {}
    return {"history": Entry("float64", shape), **present}


def initial_state(step: TrainStep, models: tuple[int, ...], dtype: str) -> TrainState:
    """A state with the shapes and dtypes of all states of ``step``; its arrays occupy almost no memory."""

    def zeros(spec: Spec) -> HostArray:
        entry = entry_of(spec, models, dtype)
        return np.broadcast_to(np.zeros((), entry.dtype), entry.shape)

    return step.init(_Sizes(), *tree_map(zeros, (step.network.specs(), step.network.state_specs())))


class _Sizes:
    """NumPy, except that ``zeros_like`` allocates a single number."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def zeros_like(x: HostArray) -> HostArray:
        return np.broadcast_to(np.zeros((), x.dtype), x.shape)

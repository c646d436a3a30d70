"""Until the trainer produces snapshots: models and trainers to and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID251

from mlp_xp._checks import shown
from mlp_xp.files.checkpoints import read_snapshot, write_snapshot
from mlp_xp.files.models import SavedModel, read_model, write_model
from mlp_xp.files.snapshot import Best, Plan, Snapshot
from mlp_xp.model import Model, as_backend
from mlp_xp_backends.trees import tree_map


def save(path: str | Path, model: Model) -> None:
    """Write a model."""
    if not isinstance(model, Model):
        raise TypeError(f"save writes a model to a path: save('net.safetensors', trainer.model), not {shown(model)}")
    params, state = tree_map(model.backend.to_numpy, (model.params, model.state))
    write_model(path, SavedModel(model.network, model.loss, params, state, model.extra, model.dtype))


def load(path: str | Path, device: Any = "auto", known: tuple[type, ...] = ()) -> Model:
    """Read a model."""
    saved, backend = read_model(path, known), as_backend(device)
    params, state = tree_map(backend.asarray, (saved.params, saved.state))
    return Model(saved.network, saved.loss, params, state, backend, saved.extra)


def save_checkpoint(path: str | Path, trainer: Any) -> None:
    """Write a trainer."""
    host = trainer.backend.to_numpy
    best = trainer.best
    if best is not None:
        best = Best(best.epoch, best.score, "valid_loss", "min", *tree_map(host, (best.params, best.layers)))
    losses = [host(part) for part in trainer.losses] or [np.empty(0, trainer.dtype)]
    state = trainer.epoch_generator if trainer.position else trainer.rng.bit_generator.state
    snapshot = Snapshot(
        trainer.step, trainer.dtype, tree_map(host, trainer.state), trainer.history, state,
        None if trainer.run is None else Plan(*trainer.run), trainer.position, np.concatenate(losses),
        trainer.updates, trainer.samples, best, False,
    )  # fmt: skip
    write_snapshot(path, snapshot)


def load_checkpoint(cls: type[Any], path: str | Path, device: Any, known: tuple[type, ...] = ()) -> Any:
    """Read a trainer."""
    from mlp_xp.training.early_stopping import Best as OldBest
    from mlp_xp.training.trainer import Run

    s = read_snapshot(path, known)
    t = cls(
        s.step.network, s.step.loss, s.step.optimizer, device=device, dtype=s.dtype, l2=s.step.l2,
        clip_norm=s.step.clip_norm, max_norm=s.step.max_norm,
    )  # fmt: skip
    bits = getattr(np.random, s.generator["bit_generator"])()
    bits.state = s.generator
    t.rng = np.random.Generator(bits)
    t.state = tree_map(t.backend.asarray, s.state)
    t.updates, t.samples, t.position, t.history = s.updates, s.samples, s.position, s.history
    t.run = None if s.plan is None else Run(*s.plan)
    t.losses = [t.backend.asarray(s.losses)] if s.position else []
    if s.best is not None:
        params, layers = tree_map(t.backend.asarray, (s.best.params, s.best.layers))
        t.best = OldBest(s.best.epoch, s.best.score, params, layers)
    return t

"""Everything that the rest of a training run depends on: produced and accepted by the trainer, stored by this package."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends.typing import HostArray, Tree


class Plan(NamedTuple):
    """What a run was asked to do."""

    max_epochs: int
    batch_size: int
    shuffle: bool
    rows: int


class Best(NamedTuple):
    """The best epoch so far by the monitored quantity, and the network after it."""

    epoch: int
    score: float
    monitor: str
    mode: str
    params: Tree
    layers: Tree


class Snapshot(NamedTuple):
    """The state of a run between two steps, on the host."""

    step: TrainStep
    dtype: str
    state: TrainState
    """Host arrays."""
    history: list[dict[str, float]]
    generator: dict[str, Any]
    """The bit generator's state at the start of the current epoch."""
    plan: Plan | None
    position: int
    """Steps done in the current epoch."""
    losses: HostArray
    """Their losses, (position,)."""
    updates: int
    samples: int
    best: Best | None
    stopped: bool
    """Whether early stopping ended the run."""

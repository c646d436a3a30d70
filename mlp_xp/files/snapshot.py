"""Snapshots: everything that the rest of a training run depends on, on the host.

The trainer produces and accepts snapshots; the file layer reads and writes them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends.typing import HostArray, Tree


class Plan(NamedTuple):
    """The options of `Trainer.fit` with which an unfinished epoch must be completed."""

    max_epochs: int
    batch_size: int
    shuffle: bool
    rows: int


class Best(NamedTuple):
    """The best epoch so far by the monitored value, and the network after it."""

    epoch: int
    score: float
    """The monitored value of that epoch; NaN until an epoch has another value."""
    monitor: str
    mode: Literal["min", "max"]
    params: Tree
    layers: Tree

    def __repr__(self) -> str:
        return f"<Best: epoch {self.epoch}, {self.monitor} {self.score:g}>"


class Snapshot(NamedTuple):
    """A run between two steps.

    >>> trainer = Trainer(mlp(2, 2), device="cpu")
    >>> snapshot = trainer.snapshot()
    >>> snapshot
    <Snapshot after 0 epochs and 0 steps, float32>
    >>> Trainer.from_snapshot(snapshot, device="cpu").epoch
    0
    """

    step: TrainStep
    dtype: str
    state: TrainState
    """Arrays on the host."""
    history: list[dict[str, float]]
    generator: dict[str, Any]
    """The state of the NumPy bit generator at the start of the current epoch."""
    plan: Plan | None
    position: int
    """The number of steps done in the current epoch."""
    losses: HostArray
    """The losses of these steps, (position,)."""
    updates: int
    """The number of steps done in all."""
    samples: int
    """The number of rows processed before the current epoch."""
    best: Best | None
    stopped: bool
    """Whether early stopping ended the run."""
    class_weight: str | list[float] | dict[int, float] | None = None
    """The class weights of the trainer."""

    def __repr__(self) -> str:
        return f"<Snapshot after {len(self.history)} epochs and {self.position} steps, {self.dtype}>"

"""Early stopping: end the training when validation no longer improves, and keep the best network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Tree = Any


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after ``patience`` epochs without an improvement of ``monitor`` by more than ``min_delta``; keep the best.

    ``monitor`` is a key of the history, such as ``valid_loss``; of losses the lowest is best, of all else the highest.
    """

    monitor: str = "valid_loss"
    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, not {self.patience}")

    def score(self, record: Mapping[str, float]) -> float:
        """How good an epoch was: the larger, the better."""
        if self.monitor not in record:
            how = "monitor one of these" if any("_" in key for key in record) else "pass validation data"
            raise ValueError(
                f"early stopping monitors {self.monitor!r}, but an epoch records {', '.join(record)}: {how}"
            )
        return -record[self.monitor] if self.monitor.endswith("loss") else record[self.monitor]


class Best(NamedTuple):
    """The best epoch so far, its score, and the network after it."""

    epoch: int
    score: float
    params: Tree
    layers: Tree

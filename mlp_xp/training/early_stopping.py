"""Early stopping: end the training when a monitored value no longer improves, and keep the best network."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from mlp_xp._checks import NOT_NEGATIVE, Count, conform, shown
from mlp_xp.files.snapshot import Best
from mlp_xp.training.history import Record
from mlp_xp_backends.typing import Tree

MODES = {"loss": "min", "error": "min", "accuracy": "max"}
"""The mode of a monitored value, by the last word of its name."""


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after ``patience`` epochs without an improvement of ``monitor`` by more than ``min_delta``.

    The parameters of the best epoch are then restored.

    Parameters
    ----------
    monitor
        A column of the history, such as ``valid_loss`` or ``valid_accuracy``. An epoch in which its value is NaN is
        never the best.
    mode
        ``"min"`` if lower values are better, ``"max"`` if higher ones are. By default the name decides: ``min`` for
        losses and errors, ``max`` for accuracies; required for any other name.

    Examples
    --------
    >>> EarlyStopping(patience=5)
    EarlyStopping(monitor='valid_loss', mode='min', patience=5, min_delta=0.0)
    """

    _: KW_ONLY
    monitor: str = "valid_loss"
    mode: Literal["min", "max"] = None  # type: ignore[assignment]  # set below
    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be the name of a column, not {shown(self.monitor)}")
        mode = MODES.get(self.monitor.rpartition("_")[2]) if self.mode is None else self.mode
        if mode not in ("min", "max"):
            raise ValueError(
                f"EarlyStopping: mode must be 'min' or 'max' for monitor={self.monitor!r}, not {shown(self.mode)}"
            )
        object.__setattr__(self, "mode", mode)
        conform(self, patience=Count(), min_delta=NOT_NEGATIVE)

    def check(self, columns: Collection[str]) -> None:
        """Raise `ValueError` unless epochs with these columns record the monitored value."""
        if self.monitor not in columns:
            how = "monitor one of these" if any("_" in name for name in columns) else "pass validation_data"
            raise ValueError(
                f"early stopping monitors {self.monitor!r}, but an epoch records {', '.join(columns)}: {how}"
            )

    def improves(self, score: float, best: Best) -> bool:
        """Whether an epoch with ``score`` is better than the best so far."""
        if math.isnan(score) or math.isnan(best.score):
            return not math.isnan(score)
        gain = best.score - score if self.mode == "min" else score - best.score
        return gain > self.min_delta


def same_rule(rule: EarlyStopping, best: Best) -> bool:
    """Whether ``best`` is the best epoch by the value that ``rule`` monitors."""
    return (best.monitor, best.mode) == (rule.monitor, rule.mode)


def best_epoch(rule: EarlyStopping, best: Best | None, record: Record, copied: Callable[[], tuple[Tree, Tree]]) -> Best:
    """``best``, or the epoch of ``record`` if it is better.

    ``copied`` returns copies of the parameters and the layers' state after that epoch.
    """
    epoch, score = int(record["epoch"]), record[rule.monitor]
    if best is None or rule.improves(score, best):
        return Best(epoch, score, rule.monitor, rule.mode, *copied())
    return best


def is_over(rule: EarlyStopping, best: Best, epoch: int) -> bool:
    """Whether the last ``patience`` epochs of a run of ``epoch`` epochs brought no improvement."""
    return epoch - best.epoch >= rule.patience

"""Successive halving that continues runs: the weakest settings are dropped, the others continue where they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from mlp_xp._checks import Count, Number, conform
from mlp_xp.sweep.run import Run
from mlp_xp.training.early_stopping import EarlyStopping


@dataclass(frozen=True)
class Halving:
    """Keep the best ``1 / factor`` of the settings after ``min_epochs``, ``min_epochs factor``, ... epochs.

    Successive halving (Jamieson and Talwalkar 2016, fig. 3). ``monitor`` is a column of the history; the score of a
    setting that is trained on several folds is the mean over the folds. Unlike in scikit-learn, nothing is trained
    twice.

    >>> Halving(factor=3, min_epochs=2).rungs(60, settings=27)
    [2, 6, 18]
    """

    _: KW_ONLY
    factor: float = 3.0
    min_epochs: int = 1
    monitor: str = "valid_loss"
    mode: Literal["min", "max"] = None  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        conform(self, factor=Number(2.0, ends="[)"), min_epochs=Count())
        rule = EarlyStopping(monitor=self.monitor, mode=self.mode)
        object.__setattr__(self, "mode", rule.mode)

    def rungs(self, max_epochs: int, settings: int) -> list[int]:
        """The numbers of epochs after which settings are dropped."""
        found, epochs = [], float(self.min_epochs)
        while math.ceil(epochs) < max_epochs and settings > 1:
            found.append(math.ceil(epochs))
            epochs *= self.factor
            settings = math.ceil(settings / self.factor)
        return found

    def survivors(self, runs: Sequence[Run], chosen: Collection[int], folds: int, until: int) -> set[int]:
        """The runs to continue, by their values in epoch ``until`` (or the last epoch before it)."""
        settings = sorted({i // folds for i in chosen})
        scores = {s: self._score(runs[s * folds : (s + 1) * folds], until) for s in settings}
        best = sorted(settings, key=lambda s: (scores[s], s))[: math.ceil(len(settings) / self.factor)]
        return {s * folds + i for s in best for i in range(folds)}

    def _score(self, runs: Sequence[Run], until: int) -> float:
        """The mean over the folds, where lower is better; infinite if a model has diverged."""
        values = [run.records[:until][-1][self.monitor] if run.records else math.nan for run in runs]
        mean = sum(values) / len(values)
        if math.isnan(mean) or any(run.diverged is not None and run.diverged <= until for run in runs):
            return math.inf
        return mean if self.mode == "min" else -mean

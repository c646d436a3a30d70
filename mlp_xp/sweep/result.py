"""The result of a sweep: a table, the models, predictions for held-out rows, plots."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np  # noqa: TID251  predictions are host arrays

from mlp_xp._checks import shown
from mlp_xp.model import Model, as_backend
from mlp_xp.sweep.folds import Folds
from mlp_xp.sweep.run import Run
from mlp_xp.sweep.settings import Setting
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp.training.history import History
from mlp_xp.training.trainer import Trainer
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import to_device
from mlp_xp_backends.typing import Array, HostArray

BESIDE = ("epoch", "seconds", "lr")
OWN = ("model", "fold", "epochs", "diverged", "loss")
"""Columns of a table that no parameter replaces."""


class SweepResult:
    """The result of a `Sweep`: one record per model, in the order of the settings and folds.

    ``monitor`` and ``mode`` define the ``best`` model: they are those of early stopping, otherwise ``valid_loss``, or
    ``loss`` without validation data, and ``min``. All models stay in the memory of the host, with what their
    optimizers store and, with early stopping, the parameters of the best epoch: three to four times the parameters for
    Adam.

    >>> x = np.random.default_rng(0).standard_normal((100, 2))
    >>> sweep = Sweep(mlp(2, 8, 2), grid={"lr": [0.001, 0.1], "seed": [0, 1]}, device="cpu")
    >>> result = sweep.fit(x, (x[:, 0] > 0.0).astype(int), max_epochs=5)
    >>> [record["lr"] for record in result.records]
    [0.001, 0.001, 0.1, 0.1]
    """

    def __init__(
        self, runs: Sequence[tuple[Setting, Run]], folds: Folds, backend: Backend, x: Array, rule: EarlyStopping | None
    ) -> None:
        self._runs, self._folds, self._backend, self._x, self._rule = list(runs), folds, backend, x, rule
        measured = any("valid_loss" in run.records[-1] for _, run in runs if run.records)
        self.monitor = rule.monitor if rule is not None else "valid_loss" if measured else "loss"
        self.mode = "min" if rule is None else rule.mode

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        try:
            best = f"; the best has {self.monitor} {self.best[self.monitor]:.4g}"
        except ValueError:
            best = ", all of which diverged"
        return f"SweepResult of {len(self)} models{best}"

    @property
    def records(self) -> list[dict[str, Any]]:
        """For each model, its number ``model``, its setting, ``fold``, ``epochs``, ``diverged`` and its values.

        The values are those of its last epoch or, with early stopping, of its best epoch. ``diverged`` is the epoch in
        which the loss became infinite or NaN, or ``None``. A parameter called ``loss``, or as another of these columns,
        is in the column ``setting_loss``.
        """
        return [self._record(i) for i in range(len(self))]

    def _record(self, i: int) -> dict[str, Any]:
        setting, run = self._runs[i]
        setting = {f"setting_{name}" if name in OWN else name: value for name, value in setting.items()}
        fold = {} if run.candidate.fold is None else {"fold": run.candidate.fold}
        at = run.best.epoch if run.best is not None else len(run.records)
        last = run.records[at - 1] if run.records else {}
        values = {name: value for name, value in last.items() if name not in BESIDE}
        return {"model": i, **setting, **fold, "epochs": len(run.records), "diverged": run.diverged, **values}

    @property
    def best(self) -> dict[str, Any]:
        """The record of the best model. Raises `ValueError` if all models have diverged."""
        found = [r for r in self.records if r["diverged"] is None and not math.isnan(r.get(self.monitor, math.nan))]
        if not found:
            raise ValueError(f"no model has a finite {self.monitor}: all have diverged; try smaller learning rates")
        return (min if self.mode == "min" else max)(found, key=lambda record: record[self.monitor])

    def setting(self, model: int) -> Setting:
        """The setting of a model."""
        return dict(self._runs[model][0])

    def history(self, model: int) -> History:
        """The history of a model."""
        return History(list(self._runs[model][1].records))

    def member(self, model: int | None = None, *, device: str | Backend | None = None) -> Model:
        """Return the model with this number, by default the best one; with early stopping, at its best epoch."""
        run = self._runs[self.best["model"] if model is None else model][1]
        backend = self._backend if device is None else as_backend(device)
        best = run.snapshot.state if run.best is None else run.best
        params, layers = to_device(backend, (best.params, best.layers))
        return Model(run.candidate.step.network, run.candidate.step.loss, params, layers, backend)

    def trainer(self, model: int, *, device: str | Backend | None = None) -> Trainer:
        """Return a trainer that continues a model."""
        return Trainer.from_snapshot(self._runs[model][1].snapshot, device=self._backend if device is None else device)

    def to_pandas(self) -> Any:
        """The records as a `pandas.DataFrame`; needs pandas."""
        import pandas as pd

        return pd.DataFrame(self.records)

    def out_of_fold(self, setting: int | None = None) -> HostArray:
        """Return ``predict_proba`` for every row by the model of ``setting`` that was not trained on it, (rows, n_out).

        ``setting`` is a position among the settings, by default that with the best mean. Rows that no fold holds out
        are NaN; for rows that several folds hold out, the result is the mean.
        """
        if not self._folds:
            raise ValueError("out_of_fold needs a sweep over folds: pass folds=5 to fit")
        k = len(self._folds)
        setting = self.best_setting if setting is None else setting
        found: Any = 0.0
        counts = np.zeros(int(np.shape(self._x)[0]))
        for fold, (_, held) in enumerate(self._folds):
            p = self.member(setting * k + fold).predict_proba(self._x[held])
            found = np.zeros((len(counts), p.shape[1]), p.dtype) if fold == 0 else found
            found[held] += p
            counts[held] += 1.0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: HostArray = found / np.where(counts > 0.0, counts, np.nan)[:, None]
        return mean.astype(found.dtype)

    @property
    def best_setting(self) -> int:
        """The position of the setting with the best mean over its folds; without folds, the number of the model."""
        worst, choose = (math.inf, np.nanargmin) if self.mode == "min" else (-math.inf, np.nanargmax)
        values = [r.get(self.monitor, math.nan) if r["diverged"] is None else worst for r in self.records]
        means = np.array(values).reshape(-1, len(self._folds) or 1).mean(axis=1)
        if not np.isfinite(means).any():
            raise ValueError(f"no setting has a finite {self.monitor} on all folds; try smaller learning rates")
        return int(choose(means))

    def values(self, column: str, *parameters: str) -> dict[tuple[Any, ...], list[float]]:
        """Return the values of ``column`` by those of the parameters: a list over seeds, folds and so on.

        Models whose setting lacks one of the parameters are left out.
        """
        found: dict[tuple[Any, ...], list[float]] = {}
        records = [record | setting for record, (setting, _) in zip(self.records, self._runs, strict=True)]
        for name in parameters:
            if not any(name in record for record in records):
                known = sorted({key for setting, _ in self._runs for key in setting})
                raise ValueError(f"{shown(name)} is not a parameter of this sweep; these are {', '.join(known)}")
        measured = sorted({key for _, run in self._runs for record in run.records for key in record} - set(BESIDE))
        if measured and column not in measured:
            raise ValueError(f"{shown(column)} is not a column of this sweep; these are {', '.join(measured)}")
        for record, own in zip(records, self.records, strict=True):
            if all(name in record for name in parameters):
                value = math.nan if record["diverged"] is not None else own.get(column, math.nan)
                found.setdefault(tuple(_key(record[name]) for name in parameters), []).append(value)
        return found

    def plot_curves(self, column: str | None = None) -> Any:
        """Draw ``column`` of all models against the epochs, the best highlighted; needs matplotlib."""
        from mlp_xp.sweep.plots import curves

        return curves(self, column or self.monitor)

    def plot_heatmap(self, across: str, down: str, *, column: str | None = None) -> Any:
        """Draw the mean of ``column`` over two parameters; needs matplotlib."""
        from mlp_xp.sweep.plots import heatmap

        return heatmap(self, across, down, column or self.monitor)

    def plot_spread(self, parameter: str, *, column: str | None = None) -> Any:
        """Draw ``column`` against a parameter: every model, the mean and the standard deviation; needs matplotlib."""
        from mlp_xp.sweep.plots import spread

        return spread(self, parameter, column or self.monitor)


def _key(value: Any) -> Any:
    """``value`` as a key."""
    try:
        hash(value)
    except TypeError:
        return f"array {zlib.crc32(np.asarray(value).tobytes()):08x}" if hasattr(value, "shape") else repr(value)
    return value

"""The validation set, measured after each epoch, and the records of scores and losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import check_scoring

from mlp_xp.data.feed import Batch
from mlp_xp.forward import blocks, outputs
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp.sklearn.network import lists
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import HostArray, Tree


class Setting(NamedTuple):
    """The network to train, its loss, and where."""

    backend: Backend
    network: Chain
    loss: Loss
    dtype: str


class Held(NamedTuple):
    """Rows held out from training."""

    given: Any
    """The rows as the user passed them, for scorers."""
    x: Any  # (rows, n_in)
    target: HostArray  # (rows, n_out), as the loss takes it
    y: HostArray  # labels or values
    w: HostArray | None


class Validation:
    """Scores and losses of the network on held-out rows, which are sent to the device once."""

    def __init__(self, estimator: Any, setting: Setting, held: Held) -> None:
        self.estimator, self.setting, self.held = estimator, setting, held

    @cached_property
    def batches(self) -> list[Batch]:
        """The rows on the device."""
        backend, network, _, dtype = self.setting
        return list(blocks(backend, network, Batch(self.held.x, ABSENT, ABSENT), dtype, pad=True))

    def __call__(self, params: Tree, state: Tree) -> tuple[float, float]:
        """The score by the estimator's ``scoring`` and the mean loss of a row; NaN if the network has diverged."""
        backend, network, _, _ = self.setting
        z = outputs(backend, network, params, state, self.batches, len(self.held.target))
        return self.of_outputs(z, lambda: params)

    def of_outputs(self, z: HostArray, params: Callable[[], Tree]) -> tuple[float, float]:
        """The same from the outputs for the held-out rows; only a scorer of scikit-learn needs the parameters."""
        loss = self.setting.loss
        with np.errstate(all="ignore"):
            cost, _ = loss.rows(np, z, self.held.target)
            mean = float(np.average(cost, weights=self.held.w))
            scoring = self.estimator.scoring
            if scoring == "loss":
                return -mean, mean
            if scoring is None:
                return self._default_score(loss.output(np, z)), mean
        return self._score(scoring, params()), mean

    def _default_score(self, p: HostArray) -> float:
        if not np.all(np.isfinite(p)):
            return math.nan
        return float(self.estimator._measure(self.held.y, self.estimator._decide(p), self.held.w))

    def _score(self, scoring: Any, params: Tree) -> float:
        """The score by a scorer of scikit-learn, which sees the estimator in its present state."""
        e = self.estimator
        e.coefs_, e.intercepts_ = lists(on_host(self.setting.backend, params))
        weights = {} if self.held.w is None else {"sample_weight": self.held.w}
        return float(check_scoring(e, scoring)(e, self.held.given, self.held.y, **weights))


def on_host(backend: Backend, tree: Tree) -> Tree:
    """A copy of a tree on the host, which further training leaves unchanged."""
    return tree_map(lambda a: np.array(backend.to_numpy(a)), tree)


def note_score(e: Any, score: float) -> bool:
    """Record a validation score; return whether it is the best so far."""
    e.validation_scores_.append(score)
    if e.early_stopping:
        _count(e, score < e.best_validation_score_ + e.tol)
    is_best = bool(score > e.best_validation_score_)
    if is_best:
        e.best_validation_score_ = score
    return is_best


def note_loss(e: Any, loss: float) -> None:
    """Compare the loss of an epoch with the best."""
    _count(e, loss > e.best_loss_ - e.tol)
    if loss < e.best_loss_:
        e.best_loss_ = loss


def _count(e: Any, no_better: bool) -> None:
    e._no_improvement_count = e._no_improvement_count + 1 if no_better else 0

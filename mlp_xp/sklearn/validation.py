"""The validation set, which is evaluated after each epoch."""

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
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree


class Setting(NamedTuple):
    """The network, its loss, and the backend."""

    backend: Backend
    network: Chain
    loss: Loss
    dtype: str


class Held(NamedTuple):
    """Rows held out from training."""

    given: Any
    """The rows as the user passed them, for scorers."""
    data: Batch
    """The rows, (rows, n_in), the targets as the loss takes them, (rows, n_out), and the weights."""
    labels: HostArray
    """Labels or values."""


class Validation:
    """Scores and losses of the network on held-out rows, which are sent to the device once."""

    def __init__(self, estimator: Any, setting: Setting, held: Held) -> None:
        self.e, self.setting, self.held = estimator, setting, held
        self.w = None if held.data.w is ABSENT else held.data.w
        if getattr(estimator, "validation_scores_", None) is None:
            estimator.validation_scores_, estimator.best_validation_score_ = [], -math.inf
            estimator.validation_loss_curve_ = []

    @cached_property
    def batches(self) -> list[Batch]:
        """The rows on the device."""
        backend, network, _, dtype = self.setting
        return list(blocks(backend, network, Batch(self.held.data.x, ABSENT, ABSENT), dtype, pad=True))

    def __call__(self, params: Tree, state: Tree) -> tuple[float, float]:
        """The score by the estimator's ``scoring`` and the mean loss per row; NaN if the network has diverged."""
        backend, network, _, _ = self.setting
        z = outputs(backend, network, params, state, self.batches, len(self.held.labels))
        return self.of_outputs(z, lambda: params)

    def of_outputs(self, z: HostArray, params: Callable[[], Tree]) -> tuple[float, float]:
        """The same from the outputs for the held-out rows; only a scorer of scikit-learn needs the parameters."""
        e, (given, data, labels), loss, score = self.e, self.held, self.setting.loss, math.nan
        with np.errstate(all="ignore"):
            cost, _ = loss.rows(np, z, data.y)
            mean = float(np.average(cost, weights=self.w))
            if e.scoring is None and np.all(np.isfinite(p := loss.output(np, z))):
                score = e._metric(labels, e._decide(p), sample_weight=self.w)
        if isinstance(e.scoring, str) and e.scoring == "loss":
            score = -mean
        elif e.scoring is not None:  # a scorer uses the estimator in its current state
            e.coefs_, e.intercepts_ = lists(to_host(self.setting.backend, params()))
            weights = {} if self.w is None else {"sample_weight": self.w}
            score = check_scoring(e, e.scoring)(e, given, labels, **weights)
        return float(score), mean

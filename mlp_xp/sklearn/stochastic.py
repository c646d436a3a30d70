"""Training by the stochastic solvers: epochs until the loss, or the validation score, stops improving."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import check_scoring

from mlp_xp.data.feed import Batch
from mlp_xp.forward import blocks, outputs
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sklearn.arrays import SparseRows, scaled
from mlp_xp.sklearn.network import Setting, Weights, layer_states, lists, tree
from mlp_xp.sklearn.solver import Course, is_over, make_solver, note, warn_of_the_end
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.training.callbacks import Interrupt
from mlp_xp.training.epoch import epoch_loop, losses_on_host, mean_loss, run_epoch
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends import get_backend
from mlp_xp_backends.memory import to_device, to_host
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

PLAIN_WORK = 10**7
"""Up to so many multiply-adds of a forward pass, `partial_fit` runs NumPy's loop uncompiled, which is then faster."""


class Held(NamedTuple):
    """Rows held out from training."""

    given: Any  # as the user passed them, for scorers
    data: Batch  # rows (rows, n_in), targets as the loss takes them (rows, n_out), weights
    labels: HostArray  # or values


def fit_stochastic(
    e: Any, setting: Setting, data: Batch, held: Held | None, tasks: Tasks, incremental: bool, ranks: Ranks
) -> bool:
    """Fit the estimator ``e`` to ``data``, for one epoch if ``incremental``; return whether training has ended."""
    if not incremental or not hasattr(e, "_optimizer"):
        e._optimizer = make_solver(e)
    if not hasattr(e, "loss_curve_"):  # after lbfgs
        e._start_records()
    weights = sum(W.size for W in e.coefs_)
    if incremental and setting.backend.name == "numpy" and weights * len(data.x) < PLAIN_WORK:
        setting = setting._replace(backend=get_backend("numpy:plain"))
    validation = None if held is None else Validation(e, setting, held)
    epochs, prints = Epochs(e, setting, data, ranks), ranks.rank == 0
    e.n_iter_, stopped, order = 0, False, np.arange(epochs.rows)
    with Interrupt() as interrupt:
        for _ in range(1 if incremental else e.max_iter):
            if e.shuffle:
                order = order[e._random_state.permutation(epochs.rows)]
            tasks.begin(f"epoch {e.n_iter_}")
            loss = epochs.run(order, interrupt)
            if loss is None:
                warnings.warn("Training interrupted by user.", stacklevel=5)
                break
            scored = None
            if validation is not None:
                score, cost = validation(epochs.state.params, epochs.state.layers)
                scored = ranks.first(score), ranks.first(cost)
            if note(e, epochs, loss, scored, prints):
                e._best_coefs, e._best_intercepts = epochs.weights()
            wants_stop = ranks.any(tasks.end(lambda: epochs.weights()._asdict()))
            stopped = is_over(e, prints) or wants_stop
            if stopped:
                break
        else:
            if not incremental:
                warn_of_the_end(e)
    adopt(e, to_host(setting.backend, epochs.state))
    if e.early_stopping and (stopped or not incremental):
        e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
    return stopped


class Epochs(Course):
    """A data set on its device, and the training state that epochs change."""

    def __init__(self, e: Any, setting: Setting, data: Batch, ranks: Ranks) -> None:
        super().__init__(e, len(data.x), data.w)
        self.backend, network, loss, dtype = setting
        step = TrainStep(network, loss, e._optimizer.optimizer)
        self.loop = epoch_loop(ranks.bound(self.backend), step)
        self.state = to_device(self.backend, first_state(e, setting, step))
        self.ranks, self.cut = ranks, ranks.division(self.rows, sharded=False).cut
        resident = False if isinstance(data.x, SparseRows) else None
        self.feed = ranks.feed(self.backend, network, data._replace(w=scaled(data.w)), dtype, resident)

    def run(self, order: HostArray, interrupt: Interrupt) -> float | None:
        """Train on all rows in that order; return the mean loss of a row, or ``None`` after Ctrl-C."""
        losses, l2 = [], self.penalties(order)
        chunks = run_epoch(self.loop, self.feed, self.state, order, self.batch_size, self.rates(), l2=l2, cut=self.cut)
        for chunk in self.ranks.steps(chunks):
            self.state = chunk.state
            losses.append(chunk.losses)
            if self.ranks.any(interrupt.requested):
                return None
        return float(mean_loss(losses_on_host(self.backend, losses), self.sizes))

    def weights(self) -> Weights:
        """The current weights, as the estimator would store them."""
        return lists(to_host(self.backend, self.state.params))


def first_state(e: Any, setting: Setting, step: TrainStep) -> TrainState:
    """The state to continue from, on the host."""
    params = tree(setting.network, e.coefs_, e.intercepts_, partial(np.asarray, dtype=setting.dtype))
    if e._optimizer.memory is None:
        return step.init(np, params, layer_states(setting.network, e._random_state))
    return TrainState(params, *e._optimizer.memory)


def adopt(e: Any, state: TrainState) -> None:
    """Set the learned attributes from a state on the host."""
    e.coefs_, e.intercepts_ = lists(state.params)
    e._optimizer.memory = tuple(state[1:])


class Validation:
    """Scores and losses of the network on held-out rows, which are sent to the device once."""

    def __init__(self, estimator: Any, setting: Setting, held: Held) -> None:
        self.e, self.setting, self.held = estimator, setting, held
        self.w = None if held.data.w is ABSENT else held.data.w
        self.batches: list[Batch] = []  # on the device, once they are needed
        if getattr(estimator, "validation_scores_", None) is None:
            estimator.validation_scores_, estimator.best_validation_score_ = [], -math.inf
            estimator.validation_loss_curve_ = []

    def __call__(self, params: Tree, state: Tree) -> tuple[float, float]:
        """The score by the estimator's ``scoring`` and the mean loss per row; NaN if the network has diverged."""
        backend, network, _, dtype = self.setting
        if not self.batches:
            self.batches = list(blocks(backend, network, Batch(self.held.data.x, ABSENT, ABSENT), dtype, pad=True))
        z = outputs(backend, network, params, state, self.batches, len(self.held.labels))
        return self.of_outputs(z, lambda: params)

    def of_outputs(self, z: HostArray, params: Callable[[], Tree]) -> tuple[float, float]:
        """Score and loss from the outputs for the held-out rows; only scikit-learn's scorers need the parameters."""
        e, (given, data, labels), loss, score = self.e, self.held, self.setting.loss, math.nan
        with np.errstate(all="ignore"):
            cost, _ = loss.rows(np, z, data.y)
            mean = float(np.average(cost, weights=self.w))
            if e.scoring is None and np.all(np.isfinite(p := loss.output(np, z))):
                score = e._metric(labels, e._decide(p), sample_weight=self.w)
        if e.scoring == "loss":
            score = -mean
        elif e.scoring is not None:  # a scorer uses the estimator in its current state
            e.coefs_, e.intercepts_ = lists(to_host(self.setting.backend, params()))
            weights = {} if self.w is None else {"sample_weight": self.w}
            score = check_scoring(e, e.scoring)(e, given, labels, **weights)
        return float(score), mean

"""The stochastic solvers from epoch to epoch: update rule, learning rate, penalty, records, and the end of training."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

from mlp_xp._checks import check_kind
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, Rates
from mlp_xp.nn.schedules import ConstantRate, InverseScaling, Moment, Schedule, as_schedule
from mlp_xp.training.epoch import batch_weights, rate_table
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree


@dataclass
class Solver(SGDOptimizer):  # type: ignore[misc]  # scikit-learn has no types
    """The state of a solver between two epochs, on the host: it is pickled with the estimator.

    It stops, or lowers its ``learning_rate`` instead, as scikit-learn's (``trigger_stopping``).
    """

    optimizer: Optimizer
    schedule: Schedule
    learning_rate: float  # at which the next epoch begins
    lr_schedule: str  # "adaptive" or anything else
    steps: int = 0
    epochs: int = 0
    memory: Tree | None = None  # layer states, optimizer slots and schedule state, on the host

    @property
    def by_epoch(self) -> bool:
        """Whether the rate of an epoch is ``learning_rate``."""
        return isinstance(self.schedule, (ConstantRate, InverseScaling))


def make_solver(e: Any) -> Solver:
    """The solver that an estimator's parameters describe, before its first step."""
    lr = e.learning_rate
    if isinstance(lr, str):
        first = float(e.learning_rate_init)
        lr = InverseScaling(first, power=e.power_t) if lr == "invscaling" and e.solver == "sgd" else ConstantRate(first)
    if not isinstance(e.solver, str):
        check_kind("solver", e.solver, ("rates", "init", "update"), "'adam' or Adam(0.001)")
        optimizer = e.solver
    elif e.solver == "adam":
        optimizer = Adam(lr, b1=e.beta_1, b2=e.beta_2, eps=e.epsilon, eps_hat=True)
    elif e.solver == "adamw":
        optimizer = AdamW(lr, b1=e.beta_1, b2=e.beta_2, eps=e.epsilon, weight_decay=e.alpha)
    else:
        momentum = min(float(e.momentum), math.nextafter(1.0, 0.0))  # scikit-learn admits 1, `SGD` only less
        optimizer = SGD(lr, momentum=momentum, nesterov=e.nesterovs_momentum and momentum > 0.0)
    schedule, adaptive = as_schedule(optimizer.lr), e.solver == "sgd" and e.learning_rate == "adaptive"
    return Solver(optimizer, schedule, schedule.rate(Moment(0, 1, 0, 0)), "adaptive" if adaptive else "")


class Course:
    """The part of the epochs of an estimator that the host plans, on ``rows`` rows with the weights ``w``.

    An epoch minimizes ``(sum_i w_i l_i + alpha |W|^2 / 2) / sum_i w_i`` over the rows of each batch, so that the
    penalty is stronger the smaller the batch. With ``l2_mode="constant"`` it is ``alpha |W|^2 / 2`` plus the mean loss.
    """

    def __init__(self, e: Any, rows: int, w: Any) -> None:
        if e.batch_size != "auto" and e.batch_size > rows:
            clipped = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            warnings.warn(clipped, stacklevel=7)
        self.e, self.w, self.rows = e, w, rows
        self.batch_size = min(200 if e.batch_size == "auto" else int(e.batch_size), rows)
        self.sizes = batch_weights(np.arange(rows), self.batch_size)
        self.steps = len(self.sizes)
        self.even = self._penalties(self.sizes)  # of rows without weights

    def moment(self) -> Moment:
        """The current position, for schedules."""
        e, solver = self.e, self.e._optimizer
        losses = getattr(e, "validation_loss_curve_", None) or e.loss_curve_
        return Moment(solver.steps, self.steps * e.max_iter, solver.epochs, e.t_, losses[len(losses) - solver.epochs :])

    def rates(self) -> Rates:
        """The optimizer's coefficients for the next epoch, (steps,) each."""
        solver: Solver = self.e._optimizer
        schedule = ConstantRate(solver.learning_rate) if solver.by_epoch else solver.schedule
        return rate_table(solver.optimizer, schedule, self.moment(), self.steps)

    def penalties(self, order: HostArray) -> Any:
        """The penalty of each batch, (steps,), or `ABSENT`."""
        return self.even if self.w is ABSENT else self._penalties(batch_weights(order, self.batch_size, self.w))

    def _penalties(self, sums: HostArray) -> Any:
        """The penalties of batches whose weights have these sums."""
        alpha = float(self.e.alpha)
        if alpha == 0.0 or self.e.solver == "adamw":
            return ABSENT
        if self.e.l2_mode == "constant":
            return np.full(self.steps, alpha)
        return np.divide(alpha, sums, out=np.zeros_like(sums), where=sums > 0.0)  # without weight, no change


def note(e: Any, course: Course, loss: float, scored: tuple[float, float] | None, prints: bool = True) -> bool:
    """Record the results of an epoch; return whether its weights have the best score so far."""
    solver: Solver = e._optimizer
    solver.steps += course.steps
    solver.epochs += 1
    e.n_iter_ += 1
    e.t_ += course.rows
    e.loss_ = loss
    e.loss_curve_.append(loss)
    if e.verbose and prints:
        print(f"Iteration {e.n_iter_}, loss = {loss:.8f}")
    is_best = no_better = False
    if scored is not None:
        score, cost = scored
        e.validation_scores_.append(score)
        e.validation_loss_curve_.append(cost)
        if e.verbose and prints:
            print(f"Validation score: {score:f}")
        is_best, no_better = score > e.best_validation_score_, score < e.best_validation_score_ + e.tol
        e.best_validation_score_ = max(e.best_validation_score_, score)
    if not e.early_stopping:
        best = math.inf if e.best_loss_ is None else e.best_loss_  # early stopping has been switched off
        no_better = loss > best - e.tol
        e.best_loss_ = min(best, loss)
    e._no_improvement_count = e._no_improvement_count + 1 if no_better else 0
    if not isinstance(solver.schedule, ConstantRate):  # which only `is_over` changes
        solver.learning_rate = solver.schedule.rate(course.moment())
    return is_best


def is_over(e: Any, prints: bool = True) -> bool:
    """Whether too many epochs have passed without an improvement, and the solver does not lower its rate instead."""
    if e._no_improvement_count <= e.n_iter_no_change:
        return False
    what = "Validation score" if e.early_stopping else "Training loss"
    says = f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs."
    stops = bool(e._optimizer.trigger_stopping(says, e.verbose and prints))
    if not stops:
        e._no_improvement_count = 0
    return stops


def warn_of_the_end(e: Any) -> None:
    """Issue scikit-learn's warning about a fit that ended at ``max_iter``."""
    warnings.warn(
        f"Stochastic Optimizer: Maximum iterations ({e.max_iter}) reached and the optimization hasn't converged yet.",
        ConvergenceWarning,
        stacklevel=6,
    )

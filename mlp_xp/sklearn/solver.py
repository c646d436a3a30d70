"""The stochastic solvers: the update rule, and the learning rate and penalty of each epoch."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlp_xp._checks import check_kind
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, Rates
from mlp_xp.nn.schedules import ConstantRate, InverseScaling, Moment, Schedule, as_schedule
from mlp_xp.training.epoch import batch_weights, rate_table, step_count
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree


@dataclass
class Solver:
    """The state of a solver between two epochs, on the host: it is pickled with the estimator."""

    optimizer: Optimizer
    schedule: Schedule
    adaptive: bool
    learning_rate: float
    """The learning rate at the start of the next epoch."""
    steps: int = 0
    epochs: int = 0
    memory: Tree | None = None
    """Layer states, optimizer slots and schedule state, on the host."""

    @property
    def by_epoch(self) -> bool:
        """Whether the rate of an epoch is ``learning_rate``."""
        return isinstance(self.schedule, (ConstantRate, InverseScaling))


def make_solver(e: Any) -> Solver:
    """The solver that an estimator's parameters describe, before its first step."""
    lr = float(e.learning_rate_init)
    schedule: Schedule = ConstantRate(lr) if isinstance(e.learning_rate, str) else e.learning_rate
    if not isinstance(e.solver, str):
        check_kind("solver", e.solver, ("rates", "init", "update"), "'adam' or Adam(0.001)")
        optimizer, schedule = e.solver, as_schedule(e.solver.lr)
    elif e.solver == "adam":
        optimizer = Adam(schedule, b1=e.beta_1, b2=e.beta_2, eps=e.epsilon, eps_hat=True)
    elif e.solver == "adamw":
        optimizer = AdamW(schedule, b1=e.beta_1, b2=e.beta_2, eps=e.epsilon, weight_decay=e.alpha)
    else:
        momentum = min(float(e.momentum), math.nextafter(1.0, 0.0))  # scikit-learn admits 1, `SGD` only less
        optimizer = SGD(schedule, momentum=momentum, nesterov=e.nesterovs_momentum and momentum > 0.0)
        if e.learning_rate == "invscaling":
            schedule = InverseScaling(lr, power=e.power_t)
    start = schedule.rate(Moment(0, 1, 0, 0))
    return Solver(optimizer, schedule, e.solver == "sgd" and e.learning_rate == "adaptive", start)


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
        self.steps = step_count(rows, self.batch_size)

    def moment(self) -> Moment:
        """The current position, for schedules."""
        e, solver = self.e, self.e._optimizer
        curve = getattr(e, "validation_loss_curve_", None)
        losses = e.loss_curve_ if curve is None else curve
        return Moment(solver.steps, self.steps * e.max_iter, solver.epochs, e.t_, losses[len(losses) - solver.epochs :])

    def rates(self) -> Rates:
        """The optimizer's coefficients for the next epoch, (steps,) each."""
        solver: Solver = self.e._optimizer
        schedule = ConstantRate(solver.learning_rate) if solver.by_epoch else solver.schedule
        return rate_table(solver.optimizer, schedule, self.moment(), self.steps)

    def penalties(self, order: HostArray) -> Any:
        """The penalty of each batch, (steps,)."""
        alpha = float(self.e.alpha)
        if alpha == 0.0 or self.e.solver == "adamw":
            return ABSENT
        if self.e.l2_mode == "constant":
            return np.full(self.steps, alpha)
        sums = batch_weights(order, self.batch_size, self.w)
        return np.divide(alpha, sums, out=np.zeros_like(sums), where=sums > 0.0)  # without weight, no change

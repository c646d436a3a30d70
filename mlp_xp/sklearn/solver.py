"""The stochastic solvers: the update rule, and the learning rate from epoch to epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlp_xp._checks import check_kind
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, Rates
from mlp_xp.nn.schedules import ConstantRate, InverseScaling, Moment, Schedule, as_schedule
from mlp_xp.training.epoch import rate_table
from mlp_xp_backends.typing import Tree

SMALLEST_RATE = 1e-6
"""The rate at which ``adaptive`` stops."""


@dataclass
class Solver:
    """The state of a solver between two epochs, on the host: it is pickled with the estimator."""

    optimizer: Optimizer
    schedule: Schedule
    adaptive: bool
    learning_rate: float
    """The rate at which the next epoch begins."""
    steps: int = 0
    epochs: int = 0
    memory: Tree | None = None
    """Layer states, optimizer slots and schedule state, on the host."""

    def rates(self, at: Moment, n: int) -> Rates:
        """The optimizer's numbers for the ``n`` steps of an epoch that begins ``at``, (n,) float64 each."""
        return rate_table(self.optimizer, ConstantRate(self.learning_rate) if self.by_epoch else self.schedule, at, n)

    @property
    def by_epoch(self) -> bool:
        """Whether the rate of an epoch is ``learning_rate``."""
        return isinstance(self.schedule, (ConstantRate, InverseScaling))

    def epoch_ends(self, at: Moment) -> None:
        """Set the rate of the epoch that begins ``at``; only `stalls` changes a constant one."""
        if not isinstance(self.schedule, ConstantRate):
            self.learning_rate = self.schedule.rate(at)

    def stalls(self) -> str:
        """Respond to epochs without improvement: return ``""`` to continue, otherwise the reason to stop."""
        if not self.adaptive:
            return "Stopping."
        if self.learning_rate <= SMALLEST_RATE:
            return "Learning rate too small. Stopping."
        self.learning_rate /= 5.0
        return ""


def make_solver(estimator: Any) -> Solver:
    """The solver that an estimator's parameters describe, before its first step."""
    e = estimator
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

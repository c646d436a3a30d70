"""One model of a sweep, with the same state on the host as in a trainer, so that it equals a model trained alone."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  orders, rates and losses are host arrays

from mlp_xp.files.snapshot import Best, Plan, Snapshot
from mlp_xp.nn.optimizers import Rates
from mlp_xp.nn.schedules import Moment, as_schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sweep.stack import EpochPlan
from mlp_xp.training import epoch as epochs
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp.training.history import Record, monitored
from mlp_xp.training.run import first_snapshot, generator, generator_in
from mlp_xp_backends.trees import ABSENT, leaves
from mlp_xp_backends.typing import HostArray


class Candidate(NamedTuple):
    """A model to be trained: the configuration of a trainer and of its fit."""

    step: TrainStep
    seed: int
    batch_size: int
    max_epochs: int
    class_weight: Any
    fold: int | None
    """The fold whose rows are held out."""
    sample_weight: Any = None
    """The weights of all rows, or ``None`` for those of the fit."""


class Run:
    """A model in training. Between two calls of the driver, its state is stored here, on the host."""

    def __init__(
        self,
        index: int,
        candidate: Candidate,
        dtype: str,
        rows: int,
        shuffle: bool,
        rule: EarlyStopping | None,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.index, self.candidate, self.rule, self.rows = index, candidate, rule, rows
        self._dtype, self._plan = dtype, Plan(candidate.max_epochs, candidate.batch_size, shuffle, rows)
        self.step, self._steps = candidate.step, epochs.step_count(rows, candidate.batch_size)
        self.records: list[Record] = [] if snapshot is None else [dict(record) for record in snapshot.history]
        self.diverged: int | None = None
        """The epoch in which the loss became infinite or NaN."""
        self.best: Best | None = None if snapshot is None else snapshot.best
        self._snapshot = snapshot
        self._monitor, self._losses = monitored(self.records)
        if snapshot is not None:
            self._note_divergence(snapshot.state)

    @property
    def snapshot(self) -> Snapshot:
        """The run when it was last stored; initialized on first use, so that waiting runs need no memory."""
        if self._snapshot is None:
            one = self.candidate
            rng, network = generator(one.seed), one.step.network
            drawn = network.init(rng), network.init_state(rng)
            self._snapshot = first_snapshot(one.step, self._dtype, *drawn, rng, one.class_weight)
        return self._snapshot

    @cached_property
    def _rng(self) -> np.random.Generator:
        return generator_in(self.snapshot.generator)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.records)

    @property
    def state(self) -> TrainState:
        """The state to continue from."""
        return self.snapshot.state

    @property
    def kept(self) -> tuple[Any, Any] | None:
        """Parameters and layer states of the best epoch, or before it of the start; ``None`` without a rule."""
        best = self.state if self.best is None else self.best
        return None if self.rule is None else (best.params, best.layers)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train."""
        stopped = self._snapshot is not None and self._snapshot.stopped
        return self.diverged is not None or stopped or self.epoch >= self.candidate.max_epochs

    def is_over(self, until: int | None) -> bool:
        """Whether ``until`` epochs are done, or the last."""
        return self.is_done or (until is not None and self.epoch >= until)

    def plan(self, part: HostArray | None, known: dict[Any, Rates], own_l2: bool) -> EpochPlan:
        """The next epoch over the rows ``part`` of the data (``None`` for all); ``known`` shares tables of rates."""
        plan = self._plan
        order = epochs.row_order(self._rng, plan)
        steps, optimizer = self._steps, self.step.optimizer
        at = self._moment()
        lrs = epochs.learning_rates(as_schedule(optimizer.lr), at, steps)
        key = (optimizer, at.step, tuple(lrs))
        if key not in known:
            known[key] = epochs.rates_of(optimizer, lrs, at.step)
        self._lr = lrs[-1]
        l2 = np.full(steps, self.step.l2) if own_l2 else ABSENT
        return EpochPlan(order if part is None else part[order], known[key], l2)

    def _moment(self) -> Moment:
        total = self.snapshot.updates + self._steps * (self.candidate.max_epochs - self.epoch)
        return Moment(self.snapshot.updates, total, self.epoch, self.snapshot.samples, self._losses)

    def note(self, loss: float, measured: dict[str, float], seconds: float) -> bool:
        """Record an epoch; return whether it is the best so far."""
        if not math.isfinite(loss):
            self.diverged = self.epoch + 1
            return False
        record = {"epoch": self.epoch + 1, "loss": loss, "lr": self._lr, "seconds": seconds} | measured
        self.records.append(record)
        if self._monitor in record:
            self._losses.append(record[self._monitor])
        else:
            self._monitor, self._losses = monitored(self.records)
        self._snapshot = self.snapshot._replace(
            updates=self.snapshot.updates + self._steps, samples=self.snapshot.samples + self.rows
        )
        if self.rule is None:
            return False
        score = record[self.rule.monitor]
        improved = self.best is None or self.rule.improves(score, self.best)
        if improved:
            self.best = Best(self.epoch, score, self.rule.monitor, self.rule.mode, ABSENT, ABSENT)
        assert self.best is not None
        stopped = self.epoch - self.best.epoch >= self.rule.patience
        self._snapshot = self.snapshot._replace(stopped=stopped)
        return improved

    def store(self, state: TrainState, kept: tuple[Any, Any] | None) -> None:
        """Store the state from the stack, and the best parameters and layer states, which are restored at the end."""
        if kept is not None and self.best is not None:
            self.best = self.best._replace(params=kept[0], layers=kept[1])
        self._note_divergence(state)
        if self.is_done and self.best is not None:
            state = state._replace(params=self.best.params, layers=self.best.layers)
        self._snapshot = self.snapshot._replace(
            plan=self._plan,
            state=state,
            history=self.records,
            generator=dict(self._rng.bit_generator.state),
            best=self.best,
        )

    def _note_divergence(self, state: TrainState) -> None:
        """Mark a model that has infinite or NaN parameters after its last epoch."""
        if self.diverged is None and self.is_done and not all(np.all(np.isfinite(p)) for p in leaves(state.params)):
            self.diverged = self.epoch

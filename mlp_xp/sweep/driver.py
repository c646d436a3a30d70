"""Training of the runs of a group: keep a stack filled, evaluate its models, and remove finished ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  losses and measured values are host arrays

from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.forward import over_steps
from mlp_xp.model import as_backend, sums_of
from mlp_xp.nn.optimizers import Rates
from mlp_xp.nn.step import TrainStep
from mlp_xp.sweep.binding import Path
from mlp_xp.sweep.run import Run
from mlp_xp.sweep.stack import EpochPlan, Stack, rows_on_host
from mlp_xp.training.epoch import batch_weights, mean_loss, step_count
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import HostArray

SHRINK = 0.5
"""A stack is compacted when at most this share of its models is left and none waits, since each size is compiled."""

INTERVAL = 60.0
"""Seconds from one checkpoint of a stack to the next."""


class Measured(NamedTuple):
    """A set of rows on which models are evaluated after each epoch."""

    data: Batch
    rows: dict[int | None, HostArray] | None
    """The rows held out in each fold, or ``None`` for all rows in every fold."""


class Group(NamedTuple):
    """The common properties of the runs of a group; all of them can be sent to another process."""

    device: Any
    dtype: str
    step: TrainStep
    paths: tuple[Path, ...]
    own_l2: bool
    batch_size: int
    data: Batch
    parts: dict[int | None, HostArray | None]
    """The training rows of each fold; ``None`` for all."""
    sets: dict[str, Measured]
    resident: bool | None
    size: int
    """The number of models that train together."""


def train(
    group: Group,
    runs: Sequence[Run],
    until: int | None = None,
    save: Callable[[Run], Any] | None = None,
) -> list[Run]:
    """Train all runs to their end, or to ``until`` epochs, and return them.

    Call ``save`` with each run when it has ended, and every `INTERVAL` seconds with all unfinished runs.
    """
    backend = as_backend(group.device)
    waiting = [run for run in runs if not is_over(run, until)][::-1]
    team, saved = Team(group, backend), time.monotonic()
    while waiting or team.runs:
        team.refill(waiting)
        with np.errstate(all="ignore"):  # of models that diverge
            team.epoch()
        stored = team.release(until, bool(waiting))
        if save is None:
            continue
        if time.monotonic() - saved >= INTERVAL:
            stored, saved = stored + team.store(team.under_way), time.monotonic()
        for run in stored:
            save(run)
    return list(runs)


def is_over(run: Run, until: int | None) -> bool:
    """Whether a run has done ``until`` epochs or its last."""
    return run.is_done or (until is not None and run.epoch >= until)


class Team:
    """The runs in a stack."""

    def __init__(self, group: Group, backend: Backend) -> None:
        self.group, self.backend = group, backend
        network = group.step.network

        def feed(data: Batch) -> Feed:
            return make_feed(backend, network, data, group.dtype, group.resident)

        self.stack = Stack(feed(group.data), group.step, group.paths, group.batch_size)
        self.sets = {
            name: (feed(group.data) if part.data is group.data else feed(part.data), part)
            for name, part in group.sets.items()
        }
        self.runs: list[Run] = []
        self.over: set[int] = set()  # positions of runs that are done but still in the stack
        self.plans: list[EpochPlan] = []  # of the last epoch
        self.best: Any = None  # stacked parameters and layer states of the best epochs

    def refill(self, waiting: list[Run]) -> None:
        """Add runs until the stack is full."""
        new = [waiting.pop() for _ in range(min(len(waiting), self.group.size - len(self.runs)))]
        if new:
            self._exchange(list(range(len(self.runs))), new)

    def _exchange(self, keep: list[int], new: list[Run]) -> None:
        xp = self.backend.xp
        self.stack.exchange(keep, [(run.candidate.step, run.snapshot.state) for run in new])
        self.runs = [*(self.runs[i] for i in keep), *new]
        if not self.runs or self.runs[0].rule is None:
            return
        kept = [
            (run.snapshot.state.params, run.snapshot.state.layers)
            if run.best is None
            else (run.best.params, run.best.layers)
            for run in new
        ]
        parts = []
        if keep:
            chosen = self.backend.asarray(np.array(keep, np.int32))
            parts.append(tree_map(lambda a: xp.take(a, chosen, axis=0), self.best))
        if kept:
            parts.append(tree_map(lambda *rows: self.backend.asarray(np.stack(rows)), *kept))
        self.best = tree_map(lambda *leaf: leaf[0] if len(leaf) == 1 else xp.concat(leaf, axis=0), *parts)

    def epoch(self) -> None:
        """Train all runs for one epoch."""
        began, group, known = time.perf_counter(), self.group, dict[Any, Rates]()
        plans = [
            self.plans[i] if i in self.over else run.plan(group.parts[run.candidate.fold], known, group.own_l2)
            for i, run in enumerate(self.runs)
        ]
        self.plans = plans
        losses = self.stack.epoch(plans)
        order = np.stack([plan.order for plan in plans])
        weights = batch_weights(order, group.batch_size, group.data.w)
        means = mean_loss(losses, weights, group.step.loss.reduction)
        measured = self._measure()
        seconds = (time.perf_counter() - began) / len(self.runs)
        steps = step_count(order.shape[-1], group.batch_size)
        improved = []
        for i, run in enumerate(self.runs):
            values = {name: float(column[i]) for name, column in measured.items()}
            if i not in self.over:
                improved.append(run.note(float(means[i]), values, steps, seconds))
            else:
                improved.append(False)
        self._keep_best(np.array(improved))

    def _keep_best(self, improved: HostArray) -> None:
        """Copy the parameters of the models that have improved."""
        if not improved.any():
            return
        xp = self.backend.xp
        mask = self.backend.asarray(improved[:, None, None])
        state = self.stack.state
        self.best = tree_map(lambda new, old: xp.where(mask, new, old), (state.params, state.layers), self.best)

    def _measure(self) -> dict[str, HostArray]:
        """The loss and the metrics on each set, (models,) each."""
        found: dict[str, HostArray] = {}
        loss = self.group.step.loss
        names = ("loss", *(metric.__name__ for metric in loss.metrics))
        for name, (feed, part) in self.sets.items():
            rows = np.arange(part.data.x.shape[0], dtype=np.int32)
            if part.rows is not None:
                rows = np.stack([part.rows[run.candidate.fold] for run in self.runs])
            sums = sum(over_steps(block) for block in self.stack.measure(feed, rows, sums_of(loss)))
            total = rows.shape[-1] if part.data.w is ABSENT else part.data.w[rows].sum(axis=-1, dtype=np.float64)
            values = np.broadcast_to(np.asarray(sums).reshape(len(names), -1), (len(names), len(self.runs))) / total
            found |= {f"{name}_{key}": column for key, column in zip(names, values, strict=True)}
        return found

    def release(self, until: int | None, more: bool) -> list[Run]:
        """Store the runs that are done, and remove them from the stack if that is worth the compilation."""
        done = [i for i in self.under_way if is_over(self.runs[i], until)]
        released = self.store(done)
        self.over |= set(done)
        left = self.under_way
        if not left or (self.over and (more or len(left) <= SHRINK * len(self.runs))):
            self.over = set()
            if left:
                self._exchange(left, [])
            else:
                self.runs = []
        return released

    @property
    def under_way(self) -> list[int]:
        """The positions of the runs that are not done."""
        return [i for i in range(len(self.runs)) if i not in self.over]

    def store(self, chosen: Sequence[int]) -> list[Run]:
        """Copy the states of the runs at these positions back to the runs, and return these."""
        if not chosen:
            return []
        ruled = self.runs[0].rule is not None
        best = rows_on_host(self.backend, self.best, chosen) if ruled else [None] * len(chosen)
        for i, state, kept in zip(chosen, self.stack.states(chosen), best, strict=True):
            self.runs[i].store(state, kept)
        return [self.runs[i] for i in chosen]

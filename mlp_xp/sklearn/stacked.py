"""Many fits of estimators at once: fits that differ only in numbers and rows train as one stack."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np

from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.model import as_backend
from mlp_xp.nn.step import TrainStep
from mlp_xp.sklearn.arrays import scaled
from mlp_xp.sklearn.jobs import Fit, Job, Pool, StackedFit, is_stackable
from mlp_xp.sklearn.network import Setting
from mlp_xp.sklearn.stochastic import Validation
from mlp_xp.sweep.binding import Path, differing
from mlp_xp.sweep.stack import EpochPlan, Stack, models_together
from mlp_xp.sweep.tasks import divided, processes, run_tasks
from mlp_xp.sweep.team import Team
from mlp_xp.training.epoch import mean_loss
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

DATA = {"job", "data", "held"}
"""Attributes of a fit that training does not change."""


def fit_all(jobs: Sequence[Job], n_jobs: int | None = None) -> list[Any]:
    """The estimators of all jobs, fitted; raises the first exception of a fit."""
    fits = start_all(jobs)
    train_all(fits, n_jobs)
    return [fit.result() for fit in fits]


def start_all(jobs: Sequence[Job]) -> list[Fit]:
    """A fit for each job, where possible one to train in a stack."""
    pool, found = Pool(), list[Fit]()
    for job in jobs:
        try:
            found.append(StackedFit(job, pool) if is_stackable(job) else Fit(job))
        except Exception as error:  # raised with the result
            found.append(Fit(job, error))
    return found


def train_all(fits: Sequence[Any], n_jobs: int | None, until: int | None = None) -> None:
    """Train all fits to their end, or to ``until`` epochs."""
    groups: dict[Hashable, list[int]] = {}
    for i, fit in enumerate(fits):
        if not fit.is_over(until):
            groups.setdefault(fit.group if isinstance(fit, StackedFit) else i, []).append(i)
    tasks: list[tuple[Any, ...]] = []
    for group in groups.values():
        first = fits[group[0]]
        if not isinstance(first, StackedFit):
            tasks.append((group, [first]))
            continue
        size = models_together(as_backend(first.device), first.network, first.course.batch_size, first.dtype)
        paths = differing([fits[i].step for i in group])
        parts = divided(group, size, processes(n_jobs))
        tasks += [(part, [fits[i] for i in part], first.step, paths, size, until) for part in parts]
    for part, trained in run_tasks(_run, tasks, n_jobs):
        for i, changed in zip(part, trained, strict=True):
            vars(fits[i]).update(changed)


def _run(part: list[int], fits: list[Any], *team: Any) -> tuple[list[int], list[dict[str, Any]]]:
    """Train these fits; their data are not sent back from another process."""
    if team:
        *setting, until = team
        FitTeam(fits, *setting).train(fits, until)
    else:
        fits[0].train()
    return part, [{name: value for name, value in vars(fit).items() if name not in DATA} for fit in fits]


class FitTeam(Team[StackedFit]):
    """Fits in a stack."""

    def __init__(self, fits: Sequence[StackedFit], step: TrainStep, paths: tuple[Path, ...], size: int) -> None:
        first = fits[0]
        self.setting = Setting(as_backend(first.device), first.network, first.loss, first.dtype)
        data, self.starts = _joined([fit.data for fit in fits])
        super().__init__(Stack(self._feed(data), step, paths, first.course.batch_size), size)
        self.held: Any = None
        if first.held is not None:
            held, self.held_starts = _joined([fit.held.data for fit in fits if fit.held is not None])
            self.held = self._feed(Batch(held.x, ABSENT, ABSENT))

    def _feed(self, data: Batch) -> Feed:
        return make_feed(self.setting.backend, self.setting.network, data, self.setting.dtype, None)

    def plan(self, member: StackedFit, known: dict[Any, Any]) -> EpochPlan:
        """See `Team`."""
        return member.plan(self.starts[id(member.data)], known)

    def measure(self, losses: HostArray) -> tuple[HostArray, list[tuple[float, float] | None]]:
        """See `Team`: the score and the loss on the held-out rows, if there are any."""
        means = mean_loss(losses, self.members[0].course.sizes)
        found: list[tuple[float, float] | None] = [None] * len(self.members)
        if self.held is not None:
            held: list[Any] = [fit.held for fit in self.members]
            starts = np.array([self.held_starts[id(one.data)] for one in held], np.int32)
            z = self.stack.outputs(self.held, starts[:, None] + np.arange(len(held[0].labels), dtype=np.int32))
            for i in self.under_way:
                member = self.members[i]
                try:
                    found[i] = Validation(member.e, self.setting, held[i]).of_outputs(z[i], partial(self._params, i))
                except Exception as error:  # of the user's scorer, raised with the result
                    member.error, found[i] = error, (math.nan, math.nan)
        return means, found

    def _params(self, i: int) -> Tree:
        return self.stack.states([i])[0].params


def _joined(blocks: Sequence[Batch]) -> tuple[Batch, dict[int, int]]:
    """All different blocks as one data set, and where each begins, by its ``id``."""
    different = {id(block): block for block in blocks}
    ends = np.cumsum([len(block.x) for block in different.values()]).tolist()
    starts = dict(zip(different, [0, *ends], strict=False))
    parts = [block._replace(w=scaled(block.w)) for block in different.values()]
    if len(parts) == 1:
        return parts[0], starts
    return Batch(*(ABSENT if a[0] is ABSENT else np.concatenate(a) for a in zip(*parts, strict=True))), starts

"""Many fits of estimators at once: fits that differ only in numbers and rows train as one stack."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.model import as_backend
from mlp_xp.nn.optimizers import Rates
from mlp_xp.nn.step import TrainStep
from mlp_xp.sklearn.arrays import SparseRows, home, scaled, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.network import Setting, lists
from mlp_xp.sklearn.solver import Course, is_over, make_solver, note, warn_of_the_end
from mlp_xp.sklearn.stochastic import Held, Validation, adopt, first_state
from mlp_xp.sweep.binding import differing, structure
from mlp_xp.sweep.driver import SHRINK
from mlp_xp.sweep.stack import EpochPlan, Stack, models_together
from mlp_xp.sweep.tasks import processes, run_tasks
from mlp_xp.training.epoch import batch_weights, mean_loss
from mlp_xp.training.group_ranks import ranks_of
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

TASKS = 2
"""Tasks for each process, so that all are busy to the end."""


class Job(NamedTuple):
    """A fit to do."""

    estimator: Any
    x: Any
    y: Any
    fit_params: dict[str, Any]
    sample: int | None = None
    """The seed of a bootstrap sample of the training rows, or ``None`` for all of them."""


def fit_all(jobs: Sequence[Job], n_jobs: int | None = None) -> list[Any]:
    """The estimators of all jobs, fitted, or for each the exception that its fit raised."""
    fits = start_all(jobs)
    train_all(fits, n_jobs)
    for fit in fits:
        if warned(fit):
            warn_of_the_end(fit.e)
    return [fit if isinstance(fit, Exception) else fit.result() for fit in fits]


def start_all(jobs: Sequence[Job]) -> list[Any]:
    """A `Fit`, an `Alone` or the exception of the checks for each job."""
    blocks: dict[str, Batch] = {}
    found: list[Any] = []
    for job in jobs:
        try:
            found.append(Fit(job, blocks) if is_stackable(job) else Alone(job))
        except Exception as error:  # what a fit raises is reported with its job
            found.append(error)
    return found


def is_stackable(job: Job) -> bool:
    """Whether a fit can train in a stack."""
    e = job.estimator
    return (
        isinstance(e, BaseMLP)
        and not (isinstance(e.solver, str) and e.solver == "lbfgs")
        and not e.warm_start
        and e.group is None
        and set(job.fit_params) <= {"sample_weight"}
        and not getattr(e, "_callbacks", None)
    )


class Alone:
    """A fit by itself, such as one by lbfgs."""

    def __init__(self, job: Job) -> None:
        self.job, self.done, self.seconds = job, False, 0.0
        self.error: Exception | None = None

    def fit_params(self) -> dict[str, Any]:
        """Those of the job; the numbers of times that rows are drawn are factors of their weights."""
        if self.job.sample is None:
            return self.job.fit_params
        rows = _num_samples(self.job.x)
        given = self.job.fit_params.get("sample_weight")
        counts = np.bincount(_drawn(self.job.sample, rows), minlength=rows).astype(np.float64)
        return {**self.job.fit_params, "sample_weight": counts if given is None else counts * np.asarray(given)}

    def result(self) -> Any:
        """The fitted estimator, or the exception."""
        return self.error or self.job.estimator


class Fit:
    """The fit of an estimator in a stack; between two calls of `train` its state is stored here, on the host."""

    def __init__(self, job: Job, blocks: dict[str, Batch]) -> None:
        e = self.e = job.estimator
        e._validate_params()
        given = to_host(job.x)
        weight = job.fit_params.get("sample_weight")
        setting, data = e._prepare(job.x, given, to_host(job.y), weight, False, ranks_of(e.group))
        data, held = e._split(given, data, None)
        if isinstance(data.x, SparseRows):
            raise ValueError("sparse rows that do not fit in memory as dense ones cannot train in a stack")
        self.device: Any = home(job.x) if e.device is None else e.device
        self.network, self.loss, self.dtype = setting[1:]
        if held is not None:
            held = held._replace(given=held.given if callable(e.scoring) or _is_scorer(e.scoring) else None)
        self.held: Held | None = held
        e._optimizer = make_solver(e)
        e.n_iter_ = 0
        rows = len(data.x)
        self.rows = np.arange(rows, dtype=np.int32) if job.sample is None else _drawn(job.sample, rows)
        self.course = Course(e, rows, data.w if data.w is ABSENT else data.w[self.rows])
        self.step = TrainStep(self.network, self.loss, e._optimizer.optimizer)
        self.state = first_state(e, setting, self.step)
        self.order = np.arange(self.course.rows, dtype=np.int32)
        self.block, self.held_block = _block(data, blocks), None
        self.data = blocks[self.block]
        if held is not None:
            self.held_block = _block(Batch(held.data.x, ABSENT, ABSENT), blocks)
            self.held_data = blocks[self.held_block]
        self.done, self.stopped, self.seconds = False, False, 0.0
        self.error: Exception | None = None

    @property
    def group(self) -> Hashable:
        """Equal for fits that can train together."""
        e, course, data = self.e, self.course, self.data
        held = 0 if self.held is None else len(self.held.labels)
        penalized = float(e.alpha) != 0.0 and e.solver != "adamw"
        size = (course.batch_size, course.rows, held, data.y.shape[1], str(data.y.dtype), str(data.x.dtype))
        return structure(self.step), size, penalized, data.w is ABSENT, self.dtype, str(self.device)

    def plan(self, start: int, known: dict[Any, Rates]) -> EpochPlan:
        """The next epoch over the rows from ``start`` on."""
        e, solver = self.e, self.e._optimizer
        if e.shuffle:
            self.order = self.order[e._random_state.permutation(self.course.rows)]
        key = (solver.optimizer, solver.learning_rate, solver.steps) if solver.by_epoch else object()
        if key not in known:
            known[key] = self.course.rates()
        return EpochPlan(self.rows[self.order] + np.int32(start), known[key], self.course.penalties(self.order))

    def finish(self) -> None:
        """Set the attributes of the estimator as after its fit, or as far as it is trained."""
        e = self.e
        adopt(e, self.state)
        if e.early_stopping:
            e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
        e.stopped_ = self.stopped
        try:
            e._checked()
        except ValueError as error:
            self.error = error

    def result(self) -> Any:
        """The estimator, or the exception of its fit."""
        return self.error or self.e


def _drawn(seed: int, rows: int) -> HostArray:
    """As many rows, drawn with replacement."""
    return np.random.RandomState(seed).randint(rows, size=rows).astype(np.int32)


def _is_scorer(scoring: Any) -> bool:
    return isinstance(scoring, str) and scoring != "loss"


def _block(data: Batch, blocks: dict[str, Batch]) -> str:
    """The key of these rows among the blocks; fits on equal rows share them."""
    digest = hashlib.blake2b(digest_size=16)
    for a in data:
        if a is not ABSENT:
            digest.update(repr((a.shape, str(a.dtype))).encode())
            digest.update(np.ascontiguousarray(a).data)
    blocks.setdefault(digest.hexdigest(), data)
    return digest.hexdigest()


def train_all(fits: Sequence[Any], n_jobs: int | None, until: int | None = None) -> None:
    """Train all fits to their end, or to ``until`` epochs; replaces those in ``fits`` that other processes trained."""
    at = [i for i, fit in enumerate(fits) if not isinstance(fit, Exception) and not fit.done]
    groups: dict[Hashable, list[int]] = {}
    for i in at:
        groups.setdefault(fits[i].group if isinstance(fits[i], Fit) else i, []).append(i)
    workers, tasks = processes(n_jobs), list[tuple[Any, ...]]()
    for group in groups.values():
        first = fits[group[0]]
        if isinstance(first, Alone):
            tasks.append((_fit_alone, group, [first], until))
            continue
        size = models_together(as_backend(first.device), first.network, first.course.batch_size, first.dtype)
        share = -(-len(group) // (TASKS * workers)) if workers > 1 else len(group)
        most = -(-share // size) * size
        for j in range(0, len(group), most):
            part = group[j : j + most]
            tasks.append((_train, part, [fits[i] for i in part], until))
    for part, trained in run_tasks(_run, tasks, n_jobs):
        for i, fit in zip(part, trained, strict=True):
            fits[i] = fit  # type: ignore[index]  # a list


def _run(f: Any, part: list[int], fits: list[Any], until: int | None) -> tuple[list[int], list[Any]]:
    f(fits, until)
    return part, fits


def _fit_alone(fits: list[Any], until: int | None) -> None:
    for fit in fits:
        began, job = time.perf_counter(), fit.job
        try:
            job.estimator.fit(job.x, job.y, **fit.fit_params())
        except Exception as error:  # reported with its job
            fit.error = error
        fit.done, fit.seconds = True, time.perf_counter() - began


def _train(fits: list[Any], until: int | None) -> None:
    first = fits[0]
    size = models_together(as_backend(first.device), first.network, first.course.batch_size, first.dtype)
    team, waiting = _Team(fits), [fit for fit in fits if not _is_over(fit, until)][::-1]
    while waiting or team.fits:
        new = [waiting.pop() for _ in range(min(len(waiting), size - len(team.fits)))]
        if new:
            team.exchange(list(range(len(team.fits))), new)
        with np.errstate(all="ignore"):  # of fits that diverge
            team.epoch()
        team.release(until, bool(waiting))


def _is_over(fit: Fit, until: int | None) -> bool:
    return fit.done or fit.e.n_iter_ >= (math.inf if until is None else until)


class _Team:
    """The fits in a stack."""

    def __init__(self, fits: Sequence[Fit]) -> None:
        first = fits[0]
        self.backend = as_backend(first.device)
        self.setting = Setting(self.backend, first.network, first.loss, first.dtype)
        data, self.starts = _joined({fit.block: fit.data for fit in fits})
        self.stack = Stack(self._feed(data), first.step, differing([fit.step for fit in fits]), first.course.batch_size)
        self.held: Any = None
        if first.held is not None:
            held, self.held_starts = _joined({fit.held_block: fit.held_data for fit in fits})
            self.held = self._feed(held)
        self.fits: list[Fit] = []
        self.plans: list[EpochPlan] = []
        self.over: set[int] = set()

    def _feed(self, data: Batch) -> Feed:
        return make_feed(self.backend, self.setting.network, data, self.setting.dtype, None)

    def exchange(self, keep: list[int], new: list[Fit]) -> None:
        """Keep the fits at these positions and take new ones in."""
        self.stack.exchange(keep, [(fit.step, fit.state) for fit in new])
        self.fits = [*(self.fits[i] for i in keep), *new]

    def epoch(self) -> None:
        """One epoch of all fits."""
        began, known = time.perf_counter(), dict[Any, Rates]()
        self.plans = [
            self.plans[i] if i in self.over else fit.plan(self.starts[fit.block], known)
            for i, fit in enumerate(self.fits)
        ]
        losses = self.stack.epoch(self.plans)
        means = mean_loss(losses, batch_weights(self.plans[0].order, self.stack.batch_size))
        scores = self._scores()
        seconds = (time.perf_counter() - began) / len(self.fits)
        for i, fit in enumerate(self.fits):
            if i in self.over:
                continue
            fit.seconds += seconds
            if note(fit.e, fit.course, float(means[i]), next(scores) if self.held else None):
                (state,) = self.stack.states([i])
                fit.e._best_coefs, fit.e._best_intercepts = lists(state.params)
            fit.stopped = is_over(fit.e)
            fit.done = fit.stopped or fit.e.n_iter_ >= fit.e.max_iter

    def _scores(self) -> Iterator[tuple[float, float]]:
        """Score and loss on the held-out rows, for each fit that is not over."""
        if self.held is None:
            return
        helds: list[Held] = [fit.held for fit in self.fits if fit.held is not None]
        starts = [self.held_starts[fit.held_block] for fit in self.fits]
        rows = [np.arange(start, start + len(held.labels)) for start, held in zip(starts, helds, strict=True)]
        z = self.stack.outputs(self.held, np.stack(rows).astype(np.int32))
        for i, fit in enumerate(self.fits):
            if i not in self.over:
                measure = Validation(fit.e, self.setting, helds[i])
                yield measure.of_outputs(z[i], partial(self._params, i))

    def _params(self, i: int) -> Tree:
        return self.stack.states([i])[0].params

    def release(self, until: int | None, more: bool) -> None:
        """Store the fits that are over, and take them out of the stack if that is worth the compilation."""
        over = [i for i, fit in enumerate(self.fits) if i not in self.over and _is_over(fit, until)]
        for i, state in zip(over, self.stack.states(over), strict=True):
            self.fits[i].state = state
            self.fits[i].finish()
        self.over |= set(over)
        left = [i for i in range(len(self.fits)) if i not in self.over]
        if not left:
            self.fits, self.over = [], set()
        elif self.over and (more or len(left) <= SHRINK * len(self.fits)):
            self.over = set()
            self.exchange(left, [])


def _joined(blocks: dict[Any, Batch]) -> tuple[Batch, dict[Any, int]]:
    """All blocks as one data set, and where each begins."""
    lengths = [len(block.x) for block in blocks.values()]
    starts = dict(zip(blocks, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True))
    parts = [block._replace(w=scaled(block.w)) for block in blocks.values()]
    if len(parts) == 1:
        return parts[0], starts
    return Batch(*(ABSENT if a[0] is ABSENT else np.concatenate(a) for a in zip(*parts, strict=True))), starts


def warned(fit: Any) -> bool:
    """Whether the fit ended at ``max_iter`` before it converged."""
    return isinstance(fit, Fit) and fit.done and not fit.stopped

"""Many fits of estimators at once: fits that differ only in numbers and rows train as one stack."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Hashable, Sequence
from functools import cached_property, partial
from itertools import chain
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.model import as_backend
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sklearn.arrays import SparseRows, home, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.network import lists
from mlp_xp.sklearn.solver import Course, make_solver
from mlp_xp.sklearn.stochastic import adopt, first_state, is_over, note, warn_of_the_end
from mlp_xp.sklearn.validation import Held, Setting, Validation
from mlp_xp.sklearn.weights import scaled
from mlp_xp.sweep.binding import Path, differing, structure
from mlp_xp.sweep.stack import EpochPlan, Stack, models_together
from mlp_xp.sweep.tasks import divided, processes, run_tasks
from mlp_xp.sweep.team import Team
from mlp_xp.training.epoch import batch_weights, mean_loss
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree


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
    pool, found = Pool(), list[Any]()
    for job in jobs:
        try:
            found.append(Fit(job, pool) if is_stackable(job) else Alone(job))
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

    TRAINED: ClassVar = ("e", "done", "seconds", "error")
    """The attributes that training changes."""

    def __init__(self, job: Job) -> None:
        self.job, self.e, self.done, self.seconds = job, job.estimator, False, 0.0
        self.error: Exception | None = None

    def fit_params(self) -> dict[str, Any]:
        """Those of the job; the numbers of times that rows are drawn are factors of their weights."""
        if self.job.sample is None:
            return self.job.fit_params
        rows = _num_samples(self.job.x)
        given = self.job.fit_params.get("sample_weight")
        counts = np.bincount(_drawn(self.job.sample, rows), minlength=rows).astype(np.float64)
        return {**self.job.fit_params, "sample_weight": counts if given is None else counts * np.asarray(given)}

    def is_over(self, until: int | None) -> bool:
        """Whether the estimator is fitted: at once to its end."""
        return self.done

    def train(self) -> None:
        """Fit the estimator."""
        began = time.perf_counter()
        try:
            self.e.fit(self.job.x, self.job.y, **self.fit_params())
        except Exception as error:  # reported with its job
            self.error = error
        self.done, self.seconds = True, time.perf_counter() - began

    def result(self) -> Any:
        """The fitted estimator, or the exception."""
        return self.error or self.e


class Checked(NamedTuple):
    """Data that were checked for an estimator."""

    given: Any
    """The rows on the host, as the user passed them."""
    data: Batch
    learned: dict[str, Any]
    """The attributes of the estimator that describe features and labels."""
    block: str | None
    """The key of all rows among the blocks, once a fit trains on them."""


class Pool:
    """What the fits of many estimators share: data are checked once, and equal rows are stored once."""

    def __init__(self) -> None:
        self.checked: dict[Hashable, Checked] = {}
        self.blocks: dict[str, Batch] = {}
        self.streams: dict[str, Any] = {}

    def stream(self, e: Any) -> str | None:
        """A key of the numbers that an estimator draws from now on; ``None`` if its generator is the user's.

        Estimators that draw the same numbers share a generator: these are slow to send.
        """
        if not isinstance(e.random_state, Integral):
            return None
        _, words, *rest = e._random_state.get_state()
        key = hashlib.blake2b(words.tobytes() + repr(rest).encode(), digest_size=16).hexdigest()
        e._random_state = self.streams.setdefault(key, e._random_state)
        return key

    def block(self, data: Batch) -> str:
        """The key of these rows among the blocks."""
        digest = hashlib.blake2b(digest_size=16)
        for a in data:
            if a is not ABSENT:
                digest.update(repr((a.shape, str(a.dtype))).encode())
                digest.update(np.ascontiguousarray(a).data)
        self.blocks.setdefault(digest.hexdigest(), data)
        return digest.hexdigest()

    def split(self, job: Job) -> tuple[Setting, Batch, Held | None, str]:
        """Prepare the estimator; the rows to train on, those to hold out, and the key of the former."""
        e, weight = job.estimator, job.fit_params.get("sample_weight")
        choices = (getattr(e, name, None) for name in ("loss", "class_weight"))
        key = type(e), id(job.x), id(job.y), id(weight), *map(hashable, choices)
        if key in self.checked:
            vars(e).update(self.checked[key].learned)
        else:
            before, given = dict(vars(e)), to_host(job.x)
            data = e._learn(given, to_host(job.y), weight, False, True)
            learned = {name: value for name, value in vars(e).items() if before.get(name, e) is not value}
            self.checked[key] = Checked(given, data, learned, None)
        given, data, _, block = checked = self.checked[key]
        setting = e._begin(job.x, data, Ranks(e.group), True)
        data, held = e._split(given, data, None)
        if isinstance(data.x, SparseRows):
            raise ValueError("sparse rows that do not fit in memory as dense ones cannot train in a stack")
        if held is not None:
            return setting, data, held, self.block(data)
        block = block or self.block(data)
        self.checked[key] = checked._replace(data=data, block=block)
        return setting, data, held, block


class Fit:
    """The fit of an estimator in a stack; a `Member` of a `Team`."""

    TRAINED: ClassVar = ("e", "course", "state", "kept", "order", "random", "done", "stopped", "seconds", "error")
    """The attributes that training changes."""

    def __init__(self, job: Job, pool: Pool) -> None:
        e = self.e = job.estimator
        e._validate_params()
        setting, data, held, self.block = pool.split(job)
        self.data = pool.blocks[self.block]
        self.device: Any = home(job.x) if e.device is None else e.device
        self.network, self.loss, self.dtype = setting[1:]
        self.held, self.held_block = held, ""
        if held is not None:
            self.held_block = pool.block(Batch(held.data.x, ABSENT, ABSENT))
            self.held_data = pool.blocks[self.held_block]
            scored = callable(e.scoring) or (isinstance(e.scoring, str) and e.scoring != "loss")
            rows = held.data._replace(x=self.held_data.x)
            self.held = held._replace(given=held.given if scored else None, data=rows)
        e._optimizer = make_solver(e)
        e.n_iter_ = 0
        rows, self.sample = len(data.x), job.sample
        self.rows = None if job.sample is None else _drawn(job.sample, rows)
        self.course = Course(e, rows, data.w if self.rows is None or data.w is ABSENT else data.w[self.rows])
        self.step = TrainStep(self.network, self.loss, e._optimizer.optimizer)
        self.state: Any = first_state(e, setting, self.step)
        self.kept: Any = (self.state.params, self.state.layers) if e.early_stopping else None
        self.order: Any = None
        self.random: Any = None
        self.stream = pool.stream(e)
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

    def is_over(self, until: int | None) -> bool:
        """See `Member`."""
        return self.done or self.e.n_iter_ >= (math.inf if until is None else until)

    def plan(self, start: int, known: dict[Any, Any]) -> EpochPlan:
        """The next epoch over the rows from ``start`` on."""
        solver, at = self.e._optimizer, (self.stream or id(self), self.e.n_iter_, self.course.rows)
        self._shuffle(at, known)
        if (at, self.sample, start) not in known:
            order = self.order if self.rows is None else self.rows[self.order]
            known[at, self.sample, start] = (order + start).astype(np.int32)
        key = (solver.optimizer, solver.learning_rate, solver.steps) if solver.by_epoch else object()
        if key not in known:
            known[key] = self.course.rates()
        l2 = self._penalties if self.course.w is ABSENT else self.course.penalties(self.order)
        return EpochPlan(known[at, self.sample, start], known[key], l2)

    def _shuffle(self, at: Hashable, known: dict[Any, Any]) -> None:
        """Shuffle the order of the rows again; fits whose random numbers are the same share those of one of them."""
        if at not in known:
            order = np.arange(self.course.rows, dtype=np.int32) if self.order is None else self.order
            self.random = self.random or self._own(self.e._random_state)
            known[at] = order[self.random.permutation(len(order))] if self.e.shuffle else order, self.random
        self.order, self.random = known[at]

    def _own(self, random: Any) -> Any:
        """A copy of a generator that this fit may share later on with others, or the user's."""
        return random if self.stream is None else copy.deepcopy(random)

    @cached_property
    def _penalties(self) -> Any:
        """The penalty of each batch of rows without weights."""
        return self.course.penalties(np.arange(self.course.rows))

    def note(self, loss: float, measured: Any, seconds: float) -> bool:
        """See `Member`."""
        self.seconds += seconds
        is_best = note(self.e, self.course, loss, measured)
        self.stopped = is_over(self.e)
        self.done = self.stopped or self.e.n_iter_ >= self.e.max_iter
        return is_best

    def store(self, state: TrainState, kept: Tree | None) -> None:
        """Set the attributes of the estimator as after its fit, or as far as it is trained."""
        e = self.e
        adopt(e, state)
        if kept is not None:
            e._best_coefs, e._best_intercepts = e.coefs_, e.intercepts_ = lists(kept[0])
        e.stopped_ = self.stopped
        if self.done:
            self.state = self.kept = self.order = self.random = None
        else:
            self.state, self.kept, self.random = state, kept, self._own(self.random)
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


def hashable(value: Any) -> Any:
    """A key for a parameter's value; estimators share those that have no hash."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def train_all(fits: Sequence[Any], n_jobs: int | None, until: int | None = None) -> None:
    """Train all fits to their end, or to ``until`` epochs."""
    groups: dict[Hashable, list[int]] = {}
    for i, fit in enumerate(fits):
        if not isinstance(fit, Exception) and not fit.is_over(until):
            groups.setdefault(fit.group if isinstance(fit, Fit) else i, []).append(i)
    tasks: list[tuple[Any, ...]] = []
    for group in groups.values():
        first = fits[group[0]]
        if isinstance(first, Alone):
            tasks.append((group, [first]))
            continue
        size = models_together(as_backend(first.device), first.network, first.course.batch_size, first.dtype)
        paths = differing([fits[i].step for i in group])
        for stacks in divided(group, size, processes(n_jobs)):
            part = list(chain(*stacks))
            tasks.append((part, [fits[i] for i in part], first.step, paths, len(stacks[0]), until))
    for part, trained in run_tasks(_run, tasks, n_jobs):
        for i, changed in zip(part, trained, strict=True):
            vars(fits[i]).update(changed)


def _run(part: list[int], fits: list[Any], *team: Any) -> tuple[list[int], list[dict[str, Any]]]:
    """Train these fits; what has changed of each is all that another process sends back."""
    if isinstance(fits[0], Alone):
        fits[0].train()
    else:
        *setting, until = team
        FitTeam(fits, *setting).train(fits, until)
    return part, [{name: vars(fit)[name] for name in fit.TRAINED} for fit in fits]


class FitTeam(Team[Fit]):
    """Fits in a stack."""

    def __init__(self, fits: Sequence[Fit], step: TrainStep, paths: tuple[Path, ...], size: int) -> None:
        first = fits[0]
        self.setting = Setting(as_backend(first.device), first.network, first.loss, first.dtype)
        data, self.starts = _joined({fit.block: fit.data for fit in fits})
        super().__init__(Stack(self._feed(data), step, paths, first.course.batch_size), size)
        self.held: Any = None
        if first.held is not None:
            held, self.held_starts = _joined({fit.held_block: fit.held_data for fit in fits})
            self.held = self._feed(held)

    def _feed(self, data: Batch) -> Feed:
        return make_feed(self.setting.backend, self.setting.network, data, self.setting.dtype, None)

    def plan(self, member: Fit, known: dict[Any, Any]) -> EpochPlan:
        """See `Team`."""
        return member.plan(self.starts[member.block], known)

    def measure(self, losses: HostArray) -> tuple[HostArray, list[tuple[float, float] | None]]:
        """See `Team`: the score and the loss on the held-out rows, if there are any."""
        means = mean_loss(losses, batch_weights(self.plans[0].order, self.stack.batch_size))
        found: list[tuple[float, float] | None] = [None] * len(self.members)
        if self.held is not None:
            starts = np.array([self.held_starts[fit.held_block] for fit in self.members], np.int32)
            held: list[Any] = [fit.held for fit in self.members]
            z = self.stack.outputs(self.held, starts[:, None] + np.arange(len(held[0].labels), dtype=np.int32))
            for i in self.under_way:
                measure = Validation(self.members[i].e, self.setting, held[i])
                found[i] = measure.of_outputs(z[i], partial(self._params, i))
        return means, found

    def _params(self, i: int) -> Tree:
        return self.stack.states([i])[0].params


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

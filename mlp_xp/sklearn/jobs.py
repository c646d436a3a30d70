"""Fits of estimators that can train in a stack, and those that cannot: checked, and between two calls on the host."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Hashable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from mlp_xp.data.feed import Batch
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sklearn.arrays import home, is_streamed, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.network import Setting, lists
from mlp_xp.sklearn.solver import Course, is_over, make_solver, note, warn_of_the_end
from mlp_xp.sklearn.stochastic import Held, adopt, first_state
from mlp_xp.sweep.binding import structure
from mlp_xp.sweep.stack import EpochPlan
from mlp_xp.training.group_ranks import ranks_of
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


def is_stackable(job: Job) -> bool:
    """Whether a fit can train in a stack."""
    e = job.estimator
    return (
        isinstance(e, BaseMLP)
        and e.solver != "lbfgs"
        and not e.warm_start
        and e.group is None
        and set(job.fit_params) <= {"sample_weight"}
        and not is_streamed(job.x)
        and not getattr(e, "_skl_callbacks", None)
    )


class Fit:
    """A fit by itself, such as one by lbfgs, or one whose data or parameters were refused with ``error``."""

    def __init__(self, job: Job, error: Exception | None = None) -> None:
        self.job, self.e, self.error = job, job.estimator, error
        self.done, self.converged, self.seconds = error is not None, True, 0.0

    def is_over(self, until: int | None) -> bool:
        """Whether the estimator is fitted: at once to its end."""
        return self.done

    def train(self) -> None:
        """Fit the estimator; the numbers of times that rows are drawn are factors of their weights."""
        began, (_, x, y, params, sample) = time.perf_counter(), self.job
        try:
            if sample is not None:
                counts = np.bincount(_drawn(sample, _num_samples(x)), minlength=_num_samples(x)).astype(np.float64)
                given = params.get("sample_weight")
                params = {**params, "sample_weight": counts if given is None else counts * np.asarray(given)}
            if not isinstance(self.e, BaseMLP):
                x = copy.deepcopy(x)  # a pipeline may change it, and other fits share it
            self.e.fit(x, y, **params)
        except Exception as error:  # raised with the result
            self.error = error
        self.done, self.seconds = True, time.perf_counter() - began

    def refuse(self) -> None:
        """Raise the exception of the fit, if there is one."""
        if self.error is not None:
            raise self.error

    def result(self) -> Any:
        """The estimator, with scikit-learn's warning if it has not converged; or raise the exception of its fit."""
        self.refuse()
        if not self.converged:
            warn_of_the_end(self.e)
        return self.e


class Pool:
    """What fits share: data are checked and split once, and generators, which are slow to pickle, sent once."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def split(self, job: Job) -> tuple[Setting, Batch, Held | None]:
        """Prepare the estimator; return its setting, the rows to train on, and those held out."""
        e, weight = job.estimator, job.fit_params.get("sample_weight")
        choices = hashable(getattr(e, "loss", None)), repr(getattr(e, "class_weight", None))
        key: tuple[Any, ...] = type(e), id(job.x), id(job.y), id(weight), choices
        if key not in self.known:
            before, given = dict(vars(e)), to_host(job.x)
            data = e._learn(given, to_host(job.y), weight, incremental=False, first=True)
            learned = {name: value for name, value in vars(e).items() if before.get(name, e) is not value}
            self.known[key] = given, data, learned
        given, data, learned = self.known[key]
        vars(e).update(learned)
        setting = e._begin(job.x, data, ranks_of(e.group), first=True)
        key = *key, (e.validation_fraction, numbers(e)) if e.early_stopping else "all"
        if key not in self.known:
            data, held = e._split(given, data, None)
            self.known[key] = data, held, e._random_state.get_state()
        data, held, state = self.known[key]
        if held is not None:
            e._random_state.set_state(state)
        return setting, data, held

    def stream(self, e: Any) -> Hashable:
        """The `numbers` of an estimator; estimators that draw the same ones share their generator."""
        key = numbers(e)
        if isinstance(e.random_state, Integral):
            key, e._random_state = self.known.setdefault(key, (key, e._random_state))
        return key


def numbers(e: Any) -> Hashable:
    """Equal for estimators whose integer ``random_state`` makes them draw the same numbers from now on."""
    if not isinstance(e.random_state, Integral):
        return id(e)
    _, words, *rest = e._random_state.get_state()
    return words.tobytes(), *rest


class StackedFit(Fit):
    """The fit of an estimator in a stack, a member of a `Team`."""

    def __init__(self, job: Job, pool: Pool) -> None:
        super().__init__(job._replace(x=None, y=None, fit_params={}))  # other processes need no more of it
        e = self.e
        e._validate_params()
        setting, data, held = pool.split(job)
        self.device: Any = home(job.x) if e.device is None else e.device
        self.network, self.loss, self.dtype = setting[1:]
        if held is not None and e.scoring in (None, "loss"):
            held = held._replace(given=None)  # which only scorers of scikit-learn see
        self.data, self.held = data, held
        e._optimizer = make_solver(e)
        e.n_iter_ = 0
        rows = len(data.x)
        self.rows = None if job.sample is None else _drawn(job.sample, rows)
        self.course = Course(e, rows, data.w if self.rows is None or data.w is ABSENT else data.w[self.rows])
        self.step = TrainStep(self.network, self.loss, e._optimizer.optimizer)
        self.state: Any = first_state(e, setting, self.step)
        self.kept: Any = (self.state.params, self.state.layers) if e.early_stopping else None
        self.order: Any = None
        self.random: Any = None
        self.stream = pool.stream(e)
        self.stopped = False

    @property
    def group(self) -> Hashable:
        """Equal for fits that can train together."""
        e, course, data = self.e, self.course, self.data
        held = 0 if self.held is None else len(self.held.labels)
        penalized = float(e.alpha) != 0.0 and e.solver != "adamw"
        size = (course.batch_size, course.rows, held, data.y.shape[1], str(data.y.dtype), str(data.x.dtype))
        return structure(self.step), size, penalized, data.w is ABSENT, self.dtype, str(self.device)

    def is_over(self, until: int | None) -> bool:
        """See `Team`."""
        return self.done or self.e.n_iter_ >= (math.inf if until is None else until)

    def plan(self, start: int, known: dict[Any, Any]) -> EpochPlan:
        """The next epoch over the rows from ``start`` on."""
        e, solver = self.e, self.e._optimizer
        at = self.stream, e.shuffle, e.n_iter_, self.course.rows
        self._shuffle(at, known)
        if (at, self.job.sample, start) not in known:
            order = self.order if self.rows is None else self.rows[self.order]
            known[at, self.job.sample, start] = (order + start).astype(np.int32)
        key = (solver.optimizer, solver.learning_rate, solver.steps) if solver.by_epoch else object()
        if key not in known:
            known[key] = self.course.rates()
        return EpochPlan(known[at, self.job.sample, start], known[key], self.course.penalties(self.order))

    def _shuffle(self, at: Hashable, known: dict[Any, Any]) -> None:
        """Shuffle the order of the rows again; fits whose random numbers are the same share those of one of them."""
        if at not in known:
            order = np.arange(self.course.rows, dtype=np.int32) if self.order is None else self.order
            self.random = self.random or self._own(self.e._random_state)
            known[at] = order[self.random.permutation(len(order))] if self.e.shuffle else order, self.random
        self.order, self.random = known[at]

    def _own(self, random: Any) -> Any:
        """A generator that no fit of another stack draws from: a copy, or that of the user."""
        return copy.deepcopy(random) if isinstance(self.e.random_state, Integral) else random

    def note(self, loss: float, measured: Any, seconds: float) -> bool:
        """See `Team`."""
        self.seconds += seconds
        is_best = note(self.e, self.course, loss, measured)
        self.stopped = is_over(self.e)
        self.done = self.stopped or self.e.n_iter_ >= self.e.max_iter
        self.converged = self.stopped or not self.done
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

"""Learning-rate schedules: the rate of each step, computed on the host.

An optimizer accepts a schedule in place of a number. The rates of a whole epoch are sent to the device together, so a
schedule costs nothing within a step. Only `LossRatio` depends on the losses within an epoch; its state stays on the
device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple, Protocol, cast

from mlp_xp._checks import FACTOR, NOT_NEGATIVE, POSITIVE, SHARE, Count, Number, conform, instead
from mlp_xp_backends.typing import Array, Namespace

RATE = NOT_NEGATIVE


class Losses(list[float]):
    """The monitored losses of a run, one per epoch. The list only grows.

    Schedules cache in ``kept`` the results for the first losses, so that epochs do not slow down in a long run.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        super().__init__(losses)
        self.kept: dict[Schedule, tuple[int, Any]] = {}


class Moment(NamedTuple):
    """The position of a step within the training; steps and epochs are counted from 0.

    >>> Cosine(0.8).rate(Moment(step=2, steps=4, epoch=1, samples=100))
    0.4
    """

    step: int
    steps: int
    """Number of steps of the whole training."""
    epoch: int
    samples: int
    """Number of rows processed before this epoch."""
    losses: Sequence[float] = ()
    """The monitored loss of every epoch so far; the trainer passes a ``Losses``."""


class Schedule(Protocol):
    """A learning rate for every step.

    Write a schedule of your own as a frozen dataclass that inherits from this class and defines ``rate``:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Halving(Schedule):
    ...     lr: float
    ...     def rate(self, at):
    ...         return self.lr * 0.5**at.epoch
    >>> Adam(Halving(0.1)).lr.rate(Moment(step=0, steps=100, epoch=2, samples=0))
    0.025
    """

    by_epoch: ClassVar[bool] = False
    """Whether the rate is constant within an epoch, so that one call serves all its steps."""

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        ...


@dataclass(frozen=True)
class ConstantRate(Schedule):
    """``lr`` in every step.

    >>> ConstantRate(0.1).rate(Moment(step=7, steps=100, epoch=0, samples=0))
    0.1
    """

    by_epoch: ClassVar[bool] = True

    lr: float

    def __post_init__(self) -> None:
        conform(self, lr=RATE)

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        return self.lr


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``lr factor^floor(epoch / every)``.

    >>> at = [Moment(step=0, steps=0, epoch=epoch, samples=0) for epoch in range(5)]
    >>> [StepDecay(0.8, every=2, factor=0.5).rate(moment) for moment in at]
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        conform(self, lr=RATE, every=Count(), factor=FACTOR)

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        return float(self.lr * self.factor ** (at.epoch // self.every))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """``lr decay^epoch``.

    >>> at = [Moment(step=0, steps=0, epoch=epoch, samples=0) for epoch in range(4)]
    >>> [ExponentialDecay(0.8, decay=0.5).rate(moment) for moment in at]
    [0.8, 0.4, 0.2, 0.1]
    """

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    decay: float = 0.95

    def __post_init__(self) -> None:
        conform(self, lr=RATE, decay=FACTOR)

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        return float(self.lr * self.decay**at.epoch)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """``lr / (samples + 1)^power``, updated once per epoch, as in scikit-learn's ``invscaling``.

    >>> InverseScaling(0.8).rate(Moment(step=0, steps=0, epoch=1, samples=63))
    0.1
    """

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    power: float = 0.5

    def __post_init__(self) -> None:
        conform(self, lr=RATE, power=NOT_NEGATIVE)

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        return float(self.lr * float(at.samples + 1) ** -self.power)  # a large power underflows to 0


@dataclass(frozen=True)
class Cosine(Schedule):
    """``end + (lr - end) (1 + cos(pi step / steps)) / 2`` (Loshchilov and Hutter 2017, eq. 5, without restarts).

    >>> [round(Cosine(0.8).rate(Moment(step, 4, 0, 0)), 3) for step in range(5)]
    [0.8, 0.683, 0.4, 0.117, 0.0]
    """

    lr: float
    _: KW_ONLY
    end: float = 0.0

    def __post_init__(self) -> None:
        conform(self, lr=RATE, end=RATE)

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        return _cosine(self.lr, self.end, at.step / max(at.steps, 1))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from ``lr / start`` to ``lr`` in the fraction ``warmup`` of the steps, then down to ``lr / start / end``.

    Both parts follow half a cosine (Smith and Topin 2018); defaults and rates are those of PyTorch's ``OneCycleLR``.

    >>> rates = [OneCycle(0.25).rate(Moment(step, 100, 0, 0)) for step in range(100)]
    >>> round(rates[0], 6), max(rates), rates[-1] < 1e-5
    (0.01, 0.25, True)
    """

    lr: float
    _: KW_ONLY
    warmup: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        conform(self, lr=RATE, warmup=Number(0.0, 1.0, "[]"), start=Number(1.0, ends="[)"), end=POSITIVE)
        if self.start * self.end < 1.0:
            raise ValueError(f"OneCycle: end must be at least 1 / start, so that the last rate is at most lr: {self!r}")

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        low = self.lr / self.start
        top = self.warmup * at.steps - 1.0
        if at.step <= top:
            return _cosine(low, self.lr, at.step / top if top else 1.0)
        return _cosine(self.lr, low / self.end, (at.step - top) / max(at.steps - 1 - top, 1.0))


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """``lr factor^k`` after ``k`` plateaus of the monitored loss.

    A plateau is a series of ``patience + 1`` epochs without a loss below ``best (1 - threshold)``.

    >>> stalled = Moment(step=0, steps=0, epoch=4, samples=0, losses=[1.0, 1.0, 1.0, 1.0])
    >>> ReduceOnPlateau(0.8, factor=0.5, patience=2).rate(stalled)
    0.4
    """

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        conform(self, lr=RATE, factor=FACTOR, patience=Count(0), threshold=SHARE)

    def rate(self, at: Moment) -> float:
        """Return the learning rate of the step at ``at``."""
        kept = at.losses.kept if isinstance(at.losses, Losses) else {}
        done, (lr, best, bad) = kept.get(self, (0, (self.lr, math.inf, 0)))
        for loss in at.losses[done:]:
            if loss < best * (1.0 - self.threshold):
                best, bad = loss, 0
            else:
                bad += 1
            if bad > self.patience:
                lr, bad = lr * self.factor, 0
        kept[self] = len(at.losses), (lr, best, bad)
        return float(lr)


class Ratio(NamedTuple):
    """The state of `LossRatio`: each field holds one number per model."""

    factor: Array  # the rate in units of lr
    recent: Array  # sum of losses in the running window
    before: Array  # sum of losses in the window before, 0 at first
    count: Array  # steps in the running window


@dataclass(frozen=True)
class LossRatio(Schedule):
    """``rate *= (mean loss of the last window steps) / (mean loss of the window before)``, once per window.

    >>> rule = LossRatio(0.1, window=1)
    >>> state = rule.init(xp, (), xp.float64)
    >>> for loss in (2.0, 1.0, 0.25):
    ...     state = rule.observe(xp, state, np.asarray(loss))
    >>> float(state.factor)  # 1 / 2, then a quarter of that
    0.125
    """

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    window: int = 100

    def __post_init__(self) -> None:
        conform(self, lr=RATE, window=Count())

    def rate(self, at: Moment) -> float:
        """``lr``; the training step multiplies it by the factor in the state."""
        return self.lr

    def init(self, xp: Namespace, losses: tuple[int, ...], dtype: object) -> Ratio:
        """The state before the first step, for losses of this shape and dtype."""
        return Ratio(xp.ones(losses, dtype=dtype), *(xp.zeros(losses, dtype=dtype) for _ in range(3)))

    def observe(self, xp: Namespace, state: Ratio, loss: Array) -> Ratio:
        """The state after a step with ``loss``."""
        recent = state.recent + loss
        count = state.count + 1.0
        full = count >= self.window
        known = full & (state.before > 0.0)
        ratio = recent / xp.where(known, state.before, 1.0)
        return Ratio(
            xp.where(known, state.factor * ratio, state.factor),
            xp.where(full, 0.0, recent),
            xp.where(full, recent, state.before),
            xp.where(full, 0.0, count),
        )


def _cosine(start: float, end: float, t: float) -> float:
    """The value at ``t`` of half a cosine from ``start`` at t = 0 to ``end`` at t = 1."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * t))


def as_schedule(lr: float | Schedule) -> Schedule:
    """Return ``lr`` as a schedule: a number becomes a `ConstantRate`. Raises `TypeError` or `ValueError` otherwise."""
    rate = rate_or_schedule("the learning rate", lr)
    return ConstantRate(rate) if isinstance(rate, float) else rate


def rate_or_schedule(name: str, lr: Any) -> float | Schedule:
    """The rule for an optimizer's ``lr``: return a number as a Python float, or a schedule as it is."""
    if not isinstance(lr, type) and callable(getattr(lr, "rate", None)):
        return cast(Schedule, lr)
    if not isinstance(lr, Real):
        raise TypeError(f"{name} must be {RATE.wanted}, or a schedule such as OneCycle(0.01), not {instead(lr)}")
    return RATE(name, lr)

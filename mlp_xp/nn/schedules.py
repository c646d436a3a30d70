"""Learning-rate schedules: the rate of each step, computed on the host.

An optimizer takes a schedule wherever it takes a rate. The rates of a whole epoch travel to the device together, so
a schedule costs nothing in the step. Only `LossRatio` depends on the losses inside an epoch; its state stays on the
device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple, Protocol, cast

from mlp_xp._checks import FACTOR, NOT_NEGATIVE, POSITIVE, SHARE, Count, Number, conform, shown
from mlp_xp_backends.typing import Array, Namespace

RATE = NOT_NEGATIVE


class Moment(NamedTuple):
    """Where in the training a step lies; counts start at 0."""

    step: int
    steps: int
    """Steps of the whole training."""
    epoch: int
    samples: int
    """Rows seen before this epoch."""
    losses: Sequence[float] = ()
    """The monitored loss of every epoch so far."""


class Schedule(Protocol):
    """A rate for every moment."""

    by_epoch: ClassVar[bool] = False
    """Whether all steps of an epoch have one rate, which is then asked for once."""

    def rate(self, at: Moment) -> float:
        """The rate of the step at ``at``."""
        ...


@dataclass(frozen=True)
class ConstantRate(Schedule):
    """``lr``."""

    by_epoch: ClassVar[bool] = True

    lr: float

    def __post_init__(self) -> None:
        conform(self, lr=RATE)

    def rate(self, at: Moment) -> float:
        """See `Schedule`."""
        return self.lr


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``lr factor^floor(epoch / every)``."""

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        conform(self, lr=RATE, every=Count(), factor=FACTOR)

    def rate(self, at: Moment) -> float:
        """See `Schedule`."""
        return float(self.lr * self.factor ** (at.epoch // self.every))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """``lr decay^epoch``."""

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    decay: float = 0.95

    def __post_init__(self) -> None:
        conform(self, lr=RATE, decay=FACTOR)

    def rate(self, at: Moment) -> float:
        """See `Schedule`."""
        return float(self.lr * self.decay**at.epoch)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """``lr / (samples + 1)^power``, set once an epoch, as scikit-learn's ``invscaling``."""

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    power: float = 0.5

    def __post_init__(self) -> None:
        conform(self, lr=RATE, power=NOT_NEGATIVE)

    def rate(self, at: Moment) -> float:
        """See `Schedule`."""
        return float(self.lr * float(at.samples + 1) ** -self.power)  # a large power underflows to 0


@dataclass(frozen=True)
class Cosine(Schedule):
    """``end + (lr - end) (1 + cos(pi step / steps)) / 2`` (Loshchilov and Hutter 2017, eq. 5, without restarts)."""

    lr: float
    _: KW_ONLY
    end: float = 0.0

    def __post_init__(self) -> None:
        conform(self, lr=RATE, end=RATE)

    def rate(self, at: Moment) -> float:
        """See `Schedule`."""
        return _cosine(self.lr, self.end, at.step / max(at.steps, 1))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from ``lr / start`` to ``lr`` in the first ``warmup`` of the steps, then down to ``lr / start / end``.

    Both along a cosine (Smith and Topin 2018); the numbers are those of PyTorch's ``OneCycleLR``.
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
        """See `Schedule`."""
        low = self.lr / self.start
        top = self.warmup * at.steps - 1.0
        if at.step <= top:
            return _cosine(low, self.lr, at.step / top if top else 1.0)
        return _cosine(self.lr, low / self.end, (at.step - top) / max(at.steps - 1 - top, 1.0))


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """``lr factor^k`` after ``k`` stalls: more than ``patience`` epochs without a loss below ``best (1 - threshold)``.

    The loss is the one that the training monitors.
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
        """See `Schedule`."""
        lr, best, bad = self.lr, math.inf, 0
        for loss in at.losses:
            if loss < best * (1.0 - self.threshold):
                best, bad = loss, 0
            else:
                bad += 1
            if bad > self.patience:
                lr, bad = lr * self.factor, 0
        return lr


class Ratio(NamedTuple):
    """The state of `LossRatio`, one number per model."""

    factor: Array  # the rate in units of lr
    recent: Array  # sum of losses in the running window
    before: Array  # sum of losses in the window before, 0 at first
    count: Array  # steps in the running window


@dataclass(frozen=True)
class LossRatio(Schedule):
    """``rate *= (mean loss of the last window steps) / (mean loss of the window before)``, once a window."""

    by_epoch: ClassVar[bool] = True

    lr: float
    _: KW_ONLY
    window: int = 100

    def __post_init__(self) -> None:
        conform(self, lr=RATE, window=Count())

    def rate(self, at: Moment) -> float:
        """``lr``; the factor of the state comes on top of it."""
        return self.lr

    def init(self, xp: Namespace, losses: tuple[int, ...], dtype: object) -> Ratio:
        """The state before the first step, for losses of that shape and dtype."""
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
    """From ``start`` at t = 0 to ``end`` at t = 1 along half a cosine."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * t))


def as_schedule(lr: float | Schedule) -> Schedule:
    """``lr`` as a schedule: a number becomes a `ConstantRate`; `TypeError` or `ValueError` for anything else."""
    rate = rate_or_schedule("the learning rate", lr)
    return ConstantRate(rate) if isinstance(rate, float) else rate


def rate_or_schedule(name: str, lr: Any) -> float | Schedule:
    """The rule for an optimizer's ``lr``: a number as a Python float, or a schedule."""
    if not isinstance(lr, type) and callable(getattr(lr, "rate", None)):
        return cast(Schedule, lr)
    if not isinstance(lr, Real):
        raise TypeError(f"{name} must be {RATE.wanted}, or a schedule such as OneCycle(0.01), not {shown(lr)}")
    return RATE(name, lr)

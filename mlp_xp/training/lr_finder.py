"""The learning-rate range test: short training at growing rates (Smith 2017, sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np  # noqa: TID251  rates and losses are host arrays

from mlp_xp._checks import POSITIVE, Count
from mlp_xp._optional import need
from mlp_xp.data.feed import Feed
from mlp_xp.nn.schedules import LossRatio
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training import epoch as epochs
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray

SMOOTHING = 0.9
"""The weight of earlier losses in the running mean."""
EXPLODED = 4.0
"""The search ends when the smoothed loss is this many times its minimum."""
FEWEST = 5
"""The least number of steps before the explosion from which a slope can be estimated."""
NOISY = round(2.0 / (1.0 - SMOOTHING))
"""The number of first steps, at most half of the search, whose slope is ignored: their mean has few batches."""


@dataclass(frozen=True, eq=False)
class RateSearch:
    """The result of `Trainer.find_lr`.

    >>> rates = np.geomspace(1e-4, 1.0, 5)
    >>> found = RateSearch(rates, np.asarray([2.0, 2.0, 1.0, 0.9, 3.0]), np.asarray([2.0, 1.9, 1.0, 0.9, 2.0]))
    >>> found
    RateSearch of 5 steps: suggestion 0.01
    """

    rates: HostArray
    """The learning rate of each step, (steps,)."""
    losses: HostArray
    """The loss of each step's batch, (steps,)."""
    smoothed: HostArray
    """Their exponentially weighted mean, (steps,)."""

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss falls fastest per decade, between the first steps and its minimum."""
        start = min(NOISY, len(self.rates) // 2)
        end = start + max(int(np.argmin(self.smoothed[start:])) + 1, 2)
        slope = np.gradient(self.smoothed[start:end], np.log(self.rates[start:end]))
        return float(self.rates[start + int(np.argmin(slope))])

    def __repr__(self) -> str:
        return f"RateSearch of {len(self.rates)} steps: suggestion {self.suggestion:.2g}"

    def plot(self) -> Any:
        """Draw the loss against the rate, mark the suggestion, return the `matplotlib.figure.Figure`."""
        figure = need("matplotlib.figure", "examples").Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, alpha=0.3, label="loss")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        axes.axvline(self.suggestion, linestyle="--", color="gray", label=f"suggestion {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        return figure


def rate_ramp(low: Any, high: Any, steps: Any) -> HostArray:
    """Return ``steps`` rates from ``low`` to ``high`` with a constant ratio. Raises `ValueError` for an empty range."""
    low, high, steps = POSITIVE("low", low), POSITIVE("high", high), Count(2 * FEWEST)("steps", steps)
    if low >= high:
        raise ValueError(f"low must be below high, but low={low:g} and high={high:g}")
    return np.geomspace(low, high, steps)


def search(
    feed: Feed,
    step: TrainStep,
    state: TrainState,
    batch_size: int,
    rates: HostArray,
    rng: np.random.Generator,
    updates: int,
) -> RateSearch:
    """Train at each of ``rates`` in turn; consumes ``state`` and draws from ``rng``.

    ``updates`` is the number of steps before these, on which an optimizer's bias correction depends.
    """
    if isinstance(step.optimizer.lr, LossRatio):  # it would change the rates
        step = replace(step, optimizer=replace(step.optimizer, lr=float(rates[0])))  # type: ignore[type-var]
        state = state._replace(ratio=ABSENT)
    loop = epochs.epoch_loop(feed.backend, step)
    rows, losses = int(feed.data.x.shape[0]), np.empty(0)
    while len(losses) < len(rates) and not exploded(losses):
        order = rng.permutation(rows)[: (len(rates) - len(losses)) * batch_size]
        chosen = rates[len(losses) :][: epochs.step_count(len(order), batch_size)]
        table = epochs.rates_of(step.optimizer, chosen.tolist(), updates + len(losses))
        for chunk in epochs.run_epoch(loop, feed, state, order, batch_size, table):
            state = chunk.state
            losses = np.concatenate([losses, feed.backend.to_numpy(chunk.losses).astype(np.float64)])
            if exploded(losses):
                break
    return result(rates, losses)


def result(rates: HostArray, losses: HostArray) -> RateSearch:
    """Return the steps before the loss exploded. Raises `ValueError` if there are too few."""
    smoothed = smooth(losses)
    with np.errstate(all="ignore"):
        bad = ~np.isfinite(smoothed) | (smoothed > EXPLODED * np.minimum.accumulate(smoothed))
    end = int(np.argmax(bad)) if bad.any() else len(losses)
    if end < FEWEST:
        raise ValueError(
            f"the loss explodes after {end} steps, at rate {rates[min(end, len(rates) - 1)]:.2g}: pass a smaller low, "
            "or look for very large numbers or NaN in x"
        )
    return RateSearch(rates[:end], losses[:end], smoothed[:end])


def exploded(losses: HostArray) -> bool:
    """Whether the loss is no longer finite or far above its minimum."""
    if not len(losses):
        return False
    smoothed = smooth(losses)
    with np.errstate(all="ignore"):
        return not np.isfinite(smoothed[-1]) or bool(smoothed[-1] > EXPLODED * smoothed.min())


def smooth(losses: HostArray) -> HostArray:
    """The exponentially weighted mean, corrected for its start at zero (Kingma and Ba 2015, sec. 3)."""
    mean, means = 0.0, np.empty(len(losses))
    for i, loss in enumerate(losses.tolist()):
        mean = SMOOTHING * mean + (1.0 - SMOOTHING) * loss
        means[i] = mean / (1.0 - SMOOTHING ** (i + 1))
    return means

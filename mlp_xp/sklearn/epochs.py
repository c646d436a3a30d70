"""Epochs of compiled steps on scikit-learn's objective."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlp_xp.data.feed import Batch, Feed, gather
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss, Reduction
from mlp_xp.nn.optimizers import Optimizer, Rates
from mlp_xp.nn.schedules import Schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training._interrupts import Interrupt
from mlp_xp.training.trainer import CHUNK_WORK
from mlp_xp_backends.trees import leaves, tree_map

Array = Any
Tree = Any
Namespace = Any
HostArray = np.ndarray[Any, Any]
L2Mode = Literal["batch", "constant"]


@dataclass(frozen=True)
class Scaled(Optimizer):
    """``optimizer`` on the gradient times the last of the step's numbers."""

    optimizer: Optimizer

    @property
    def lr(self) -> float | Schedule:
        """The optimizer's."""
        return self.optimizer.lr

    def rates(self, lr: float, t: int) -> Rates:
        """The optimizer's; whoever runs the step appends the scale."""
        return self.optimizer.rates(lr, t)

    def init(self, xp: Namespace, w: Array) -> Tree:
        """The optimizer's."""
        return self.optimizer.init(xp, w)

    def update(self, xp: Namespace, w: Array, slots: Tree, g: Array, rates: Rates) -> tuple[Array, Tree]:
        """See the class."""
        *fixed, scale = rates.fixed
        return self.optimizer.update(xp, w, slots, scale * g, Rates(rates.scaled, tuple(fixed)))


@dataclass(frozen=True)
class Summed(Loss):
    """``loss``, summed over the rows."""

    loss: Loss
    reduction: Reduction = "sum"

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Tree]:
        """The loss's."""
        return self.loss.rows(xp, z, y)

    def slope(self, xp: Namespace, cache: Tree) -> Array:
        """The loss's."""
        return self.loss.slope(xp, cache)

    def output(self, xp: Namespace, z: Array) -> Array:
        """The loss's."""
        return self.loss.output(xp, z)


@dataclass(frozen=True)
class Objective:
    """``(sum_i w_i l_i + alpha |W|^2 / 2) / sum_i w_i`` over the rows of a batch, and the rule that descends it.

    So the penalty weighs the more the smaller a batch is. With ``l2_mode="constant"`` it is ``alpha |W|^2 / 2`` beside
    the mean loss, whatever the batch.
    """

    network: Chain
    loss: Loss
    optimizer: Optimizer
    alpha: float
    l2_mode: L2Mode = "batch"

    def init(self, xp: Namespace, params: Tree, layers: Tree) -> TrainState:
        """The state before the first step."""
        return TrainStep(self.network, self.loss, self.optimizer).init(xp, params, layers)

    def body(
        self, xp: Namespace, state: TrainState, data: Batch, item: tuple[Array, Rates, Any]
    ) -> tuple[TrainState, Array]:
        """A step on some rows: the item holds their numbers, the rates, and ``1 / sum w`` or ``()`` without weights."""
        rows, rates, scale = item
        batch = gather(xp, data, rows)
        if self.l2_mode == "constant" or isinstance(scale, tuple):
            l2 = self.alpha if self.l2_mode == "constant" else self.alpha / rows.shape[0]
            return TrainStep(self.network, self.loss, self.optimizer, l2=l2)(xp, state, *batch, rates)
        summed = TrainStep(self.network, Summed(self.loss), Scaled(self.optimizer), l2=self.alpha)
        state, loss = summed(xp, state, *batch, Rates(rates.scaled, (*rates.fixed, scale)))
        return state, loss * scale


class Epochs:
    """One data set on its device, and the state that epochs over it change."""

    def __init__(self, feed: Feed, weights: HostArray | None, batch_size: int, loop: Any, state: TrainState) -> None:
        self.feed, self.weights, self.batch_size = feed, weights, batch_size
        self.loop, self.state = loop, state
        self.rows = feed.data.x.shape[0]
        self.steps = -(-self.rows // batch_size)
        work = 3 * batch_size * sum(math.prod(p.shape) for p in leaves(state.params))
        self.most = max(1, int(CHUNK_WORK / work))
        self.starts = np.arange(0, self.rows, batch_size)
        self.sizes = np.diff(self.starts, append=self.rows)

    def run(self, order: HostArray, rates: Rates, interrupt: Interrupt) -> float | None:
        """Train on all rows in that order; the mean loss of a row, or ``None`` if Ctrl-C came in between."""
        backend, dtype = self.feed.backend, self.feed.dtype
        numbers = tree_map(lambda column: backend.asarray(column, dtype), (rates, self._scale(order)))
        losses, done = [], 0
        for window, rows, end in self.feed.windows(order, self.batch_size, self.most):
            part = tree_map(lambda column, a=done, b=end: column[a:b], numbers)
            self.state, out = self.loop(self.state, window, (rows, *part))
            losses.append(out)
            done = end
            if interrupt.requested:
                return None
        each = np.concatenate([backend.to_numpy(out) for out in losses])
        return float(each.astype(np.float64) @ self.sizes / self.rows)

    def _scale(self, order: HostArray) -> Any:
        """``1 / sum w`` of each batch; a batch without weight changes nothing."""
        if self.weights is None:
            return ()
        sums = np.add.reduceat(self.weights[order].astype(np.float64), self.starts)
        return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0.0)

"""The training step: forward, backward, update, as one pure call that a backend can compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from mlp_xp.nn.layers.chain import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp.nn.optimizers import Optimizer, Rates
from mlp_xp.nn.schedules import LossRatio
from mlp_xp_backends.trees import ABSENT, leaves, named_leaves, tree_map, unflatten

Array = Any
Tree = Any
Namespace = Any


class TrainState(NamedTuple):
    """Everything that changes from step to step."""

    params: Tree
    layers: Tree
    """What stateful layers carry."""
    slots: Tree
    """The optimizer's numbers, one entry per parameter in the order of `leaves`."""
    ratio: Tree
    """The state of a `LossRatio` schedule, else ``()``."""


@dataclass(frozen=True)
class TrainStep:
    """One step of gradient descent on ``loss(network(x), y) + l2 |W|^2 / 2``.

    The penalty is on weight matrices alone (`Dense`'s ``W``), biases are free. ``clip_norm`` bounds the norm of the
    whole gradient (Pascanu et al. 2013, algorithm 1), ``max_norm`` that of the weights into each unit, after the step
    (Srivastava et al. 2014, sec. 5.1).
    """

    network: Chain
    loss: Loss
    optimizer: Optimizer
    l2: float = 0.0
    clip_norm: float | None = None
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.l2 < 0.0:
            raise ValueError(f"l2 must not be negative, but is {self.l2!r}")
        for name, limit in (("clip_norm", self.clip_norm), ("max_norm", self.max_norm)):
            if limit is not None and not limit > 0.0:
                raise ValueError(f"{name} must be above 0, or None for no limit, but is {limit!r}")

    def init(self, xp: Namespace, params: Tree, layers: Tree) -> TrainState:
        """The state before the first step, around parameters and layer states as `Chain` draws them."""
        slots = tuple(self.optimizer.init(xp, w) for w in leaves(params))
        lr = self.optimizer.lr
        w = leaves(params)[0]
        ratio = lr.init(xp, w.shape[:-2], w.dtype) if isinstance(lr, LossRatio) else ()
        return TrainState(params, layers, slots, ratio)

    def __call__(
        self,
        xp: Namespace,
        state: TrainState,
        x: Array,
        y: Array,
        w: Array | tuple[()],
        rates: Rates,
        l2: Array = ABSENT,
    ) -> tuple[TrainState, Array]:
        """The state after a step on the batch and the loss before it; consumes ``state``.

        ``x`` is (rows, n_in), ``y`` and the weights ``w`` as `Loss` takes them, ``rates`` from the optimizer. ``l2``,
        0-d or (models, 1, 1), replaces the penalty of the configuration. The loss is 0-d, or (models,) if the
        parameters have an axis of models in front.
        """
        z, caches, layers = self.network.forward(xp, state.params, state.layers, x, True)
        loss, cache = self.loss.forward(xp, z, y, w)
        grads = self.network.gradient(xp, state.params, caches, self.loss.backward(xp, cache))
        if l2 is not ABSENT:
            loss, grads = _penalize(xp, state.params, loss, grads, l2, xp.reshape(l2, loss.shape))
        elif self.l2:
            loss, grads = _penalize(xp, state.params, loss, grads, self.l2, self.l2)
        if self.clip_norm is not None:
            grads = clip_by_global_norm(xp, grads, self.clip_norm)
        ratio = state.ratio
        if isinstance(self.optimizer.lr, LossRatio):
            rates = Rates(
                tree_map(lambda r: r * xp.reshape(ratio.factor, (*loss.shape, 1, 1)), rates.scaled),
                rates.fixed,
            )
            ratio = self.optimizer.lr.observe(xp, ratio, loss)
        params, slots = self._update(xp, state, grads, rates)
        return TrainState(params, layers, slots, ratio), loss

    def _update(self, xp: Namespace, state: TrainState, grads: Tree, rates: Rates) -> tuple[Tree, Tree]:
        """The optimizer's rule on every parameter."""
        params, slots = [], []
        for (name, w), s, g in zip(named_leaves(state.params).items(), state.slots, leaves(grads), strict=True):
            w, s = self.optimizer.update(xp, w, s, g, rates)
            if self.max_norm is not None and is_weight(name):
                w *= shrink(xp, xp.sum(w * w, axis=-2, keepdims=True), self.max_norm)
            params.append(w)
            slots.append(s)
        return unflatten(state.params, iter(params)), tuple(slots)


def _penalize(xp: Namespace, params: Tree, loss: Array, grads: Tree, l2: Any, of_loss: Any) -> tuple[Array, Tree]:
    """Add ``l2 |W|^2 / 2`` to the loss and ``l2 W`` to the gradient; ``of_loss`` is ``l2`` in the shape of the loss."""
    penalized = []
    for (name, p), g in zip(named_leaves(params).items(), leaves(grads), strict=True):
        if is_weight(name):
            loss = loss + 0.5 * of_loss * xp.sum(p * p, axis=(-2, -1))
            g = g + l2 * p
        penalized.append(g)
    return loss, unflatten(grads, iter(penalized))


def is_weight(name: str) -> bool:
    """Whether a parameter of that name is a weight matrix, on which penalties and constraints act."""
    return name == "W" or name.endswith(".W")


def clip_by_global_norm(xp: Namespace, grads: Tree, limit: float) -> Tree:
    """All gradients times the same number, at most 1, so that their common norm does not exceed ``limit``."""
    squares = sum(xp.sum(g * g, axis=(-2, -1), keepdims=True) for g in leaves(grads))
    factor = shrink(xp, squares, limit)
    return tree_map(lambda g: g * factor, grads)


def shrink(xp: Namespace, squares: Array, limit: float) -> Array:
    """``min(1, limit / norm)`` for a squared norm."""
    return limit / xp.maximum(xp.sqrt(squares), limit)

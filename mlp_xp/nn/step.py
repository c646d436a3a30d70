"""The training step: forward, backward, update, as one pure call that a backend can compile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from mlp_xp._checks import NOT_NEGATIVE, POSITIVE, Count, Maybe, check_kind, conform, shown
from mlp_xp.nn.layers.base import Layer, StatefulLayer
from mlp_xp.nn.layers.chain import Chain
from mlp_xp.nn.losses import Loss, weight_of_rows
from mlp_xp.nn.optimizers import Optimizer, Rates
from mlp_xp.nn.parts import Part, PartNamespace, reduced
from mlp_xp.nn.schedules import LossRatio
from mlp_xp_backends.trees import ABSENT, leaves, named_leaves, tree_map, unflatten
from mlp_xp_backends.typing import Array, Namespace, Tree


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    >>> rng = np.random.default_rng(0)
    >>> step = TrainStep(mlp(2, 1), SquaredError(), SGD(0.1, momentum=0.9))
    >>> state = step.init(xp, step.network.init(rng), step.network.init_state(rng))
    >>> state.params[0].W.shape, len(state.slots)  # a velocity for W and one for b
    ((2, 1), 2)
    """

    params: Tree
    """Parameters, one entry per layer."""
    layers: Tree
    """State of the stateful layers, one entry per layer."""
    slots: Tree
    """State of the optimizer, one entry per trainable parameter in the order of ``leaves``."""
    ratio: Tree
    """State of a `LossRatio` schedule, otherwise ``ABSENT``."""

    def __repr__(self) -> str:
        return f"<TrainState of {len(leaves(self))} arrays>"


@dataclass(frozen=True)
class TrainStep:
    """One step of gradient descent on ``loss(network(x), y) + l2 |W|^2 / 2``.

    Parameters
    ----------
    network, loss, optimizer
        The network to train, the loss to minimize, and the update rule.
    l2
        Factor of the L2 penalty, which applies to weight matrices (`Dense`'s ``W``) but not to biases.
    clip_norm
        The norm to which the gradient of all parameters is clipped (Pascanu et al. 2013, algorithm 1), or ``None``.
    max_norm
        The largest norm of the weights into each unit after a step (Srivastava et al. 2014, sec. 5.1), or ``None``.
    frozen
        Positions of the layers whose parameters and state do not change. These layers compute as in prediction, and
        no gradient, penalty or optimizer state exists for them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> step = TrainStep(mlp(2, 1), SquaredError(), SGD(0.1))
    >>> state = step.init(xp, step.network.init(rng), step.network.init_state(rng))
    >>> x = rng.standard_normal((8, 2))
    >>> losses = []
    >>> for t in range(100):
    ...     state, loss = step(xp, state, x, x[:, :1] + 1.0, ABSENT, step.optimizer.rates(0.1, t + 1))
    ...     losses.append(float(loss))
    >>> losses[-1] < 0.01 * losses[0]
    True
    """

    network: Chain
    loss: Loss
    optimizer: Optimizer
    _: KW_ONLY
    l2: float = 0.0
    clip_norm: float | None = None
    max_norm: float | None = None
    frozen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_network(self.network)
        check_loss(self.loss)
        check_optimizer(self.optimizer)
        conform(self, l2=NOT_NEGATIVE, clip_norm=Maybe(POSITIVE), max_norm=Maybe(POSITIVE))
        object.__setattr__(self, "frozen", _checked_positions(self.frozen, self.network))

    def init(self, xp: Namespace, params: Tree, layers: Tree) -> TrainState:
        """Return the state before the first step, from the parameters and layer states that `Chain` draws."""
        trainable = leaves(self._trainable(params))
        slots = tuple(self.optimizer.init(xp, w) for w in trainable)
        lr, w = self.optimizer.lr, trainable[0]
        ratio = lr.init(xp, w.shape[:-2], w.dtype) if isinstance(lr, LossRatio) else ABSENT
        return TrainState(params, layers, slots, ratio)

    def __call__(
        self,
        xp: Namespace,
        state: TrainState,
        x: Array,
        y: Array,
        w: Array,
        rates: Rates,
        l2: Array = ABSENT,
        part: Part = ABSENT,
    ) -> tuple[TrainState, Array]:
        """Return the state after a step on the batch, and the loss before the step; consumes ``state``.

        ``x`` is (rows, n_in), ``y`` and the weights ``w`` are as in `Loss`, ``rates`` come from the optimizer. ``l2``,
        0-d or (models, 1, 1), replaces the factor of the penalty in this step; for scikit-learn's penalty, it is
        ``alpha`` divided by the sum of the weights of the batch. The loss is 0-d, or (models,) if the parameters have a
        leading axis of models.

        With ``part``, the rows are those of this rank, possibly none, of a batch that is divided among the ranks of a
        group, and ``xp`` has ``all_sum``. Every rank then computes the loss and the update of the whole batch, for one
        model.
        """
        if part is not ABSENT:
            xp = PartNamespace(xp, part)
        z, caches, layers = self.network.forward(xp, state.params, state.layers, x, True, self.frozen)
        loss, cache = self.loss.forward(xp, z, y, w)
        grads = self.network.gradient(xp, state.params, caches, self.loss.backward(xp, cache), self.frozen)
        if part is not ABSENT:
            weight = weight_of_rows(xp, loss, x.shape[-2], w)
            loss, grads = reduced(xp, loss, weight, grads, self.loss.reduction == "mean")
        if l2 is not ABSENT:
            loss, grads = self._penalized(xp, state.params, loss, grads, l2, xp.reshape(l2, loss.shape))
        elif self.l2:
            loss, grads = self._penalized(xp, state.params, loss, grads, self.l2, self.l2)
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

    def _penalized(
        self, xp: Namespace, params: Tree, loss: Array, grads: Tree, l2: Any, l2_of_loss: Any
    ) -> tuple[Array, Tree]:
        """Add ``l2 |W|^2 / 2`` to the loss, with ``l2_of_loss`` in the shape of the loss, and ``l2 W`` to ``grads``."""
        penalized = []
        for (name, p), g in zip(named_leaves(self._trainable(params)).items(), leaves(grads), strict=True):
            if is_weight(name):
                loss = loss + 0.5 * l2_of_loss * xp.sum(p * p, axis=(-2, -1))
                g = g + l2 * p
            penalized.append(g)
        return loss, unflatten(grads, iter(penalized))

    def _update(self, xp: Namespace, state: TrainState, grads: Tree, rates: Rates) -> tuple[Tree, Tree]:
        """Apply the optimizer's rule to every trainable parameter."""
        params, slots, before = [], [], self._trainable(state.params)
        for (name, w), s, g in zip(named_leaves(before).items(), state.slots, leaves(grads), strict=True):
            w, s = self.optimizer.update(xp, w, s, g, rates)
            if self.max_norm is not None and is_weight(name):
                w *= shrink(xp, xp.sum(w * w, axis=-2, keepdims=True), self.max_norm)
            params.append(w)
            slots.append(s)
        after = unflatten(before, iter(params))
        return tuple(old if i in self.frozen else after[i] for i, old in enumerate(state.params)), tuple(slots)

    def _trainable(self, params: Tree) -> Tree:
        """``params`` with ``ABSENT`` for frozen layers."""
        return tuple(ABSENT if i in self.frozen else p for i, p in enumerate(params))


def check_network(network: Any) -> None:
    """Raise `TypeError` unless this is a network."""
    if not isinstance(network, Chain):
        raise TypeError(f"network must be a Chain of layers, such as mlp(784, 300, 10), not {shown(network)}")


def check_loss(loss: Any) -> None:
    """Raise `TypeError` unless this is a loss."""
    check_kind("loss", loss, ("rows", "slope"), "SoftmaxCrossEntropy()")


def check_optimizer(optimizer: Any) -> None:
    """Raise `TypeError` unless this is an optimizer."""
    check_kind("optimizer", optimizer, ("init", "rates", "update"), "Adam(0.001)")


def _checked_positions(frozen: Iterable[int], network: Chain) -> tuple[int, ...]:
    """Positions of layers in ascending order. Raises an error if the layers that remain cannot be trained."""
    if not isinstance(frozen, Iterable):
        raise TypeError(f"frozen must be positions of layers, such as (0, 1), not {shown(frozen)}")
    checked = tuple(sorted({Count(0)("each position in frozen", i) for i in frozen}))
    if checked and checked[-1] >= len(network.layers):
        raise ValueError(f"frozen names layer {checked[-1]}, but the network has {len(network.layers)} layers, from 0")
    first = network.first_trainable(checked)
    if first == len(network.layers):
        raise ValueError(
            f"there are no parameters to train{f' with frozen={checked}' if checked else ''}: at least one layer "
            f"{'that is not frozen ' if checked else ''}must have some, such as Dense(784, 10)"
        )
    for i in checked:
        if i > first and _keeps_state(network.layers[i]):
            raise ValueError(
                f"frozen names layer {i}, {type(network.layers[i]).__name__}, which has a state, but the trainable "
                f"layer {first} is in front of it: freeze layer {first} as well, or leave {i} out"
            )
    return checked


def _keeps_state(layer: Layer | StatefulLayer) -> bool:
    return layer.stateful and bool(leaves(layer.state_specs()))  # type: ignore[union-attr]  # stateful: it has them


def is_weight(name: str) -> bool:
    """Whether a parameter of that name is a weight matrix, to which penalties and constraints apply."""
    return name == "W" or name.endswith(".W")


def clip_by_global_norm(xp: Namespace, grads: Tree, limit: float) -> Tree:
    """Multiply all gradients by one factor of at most 1, so that their common norm does not exceed ``limit``."""
    squares = sum(xp.sum(g * g, axis=(-2, -1), keepdims=True) for g in leaves(grads))
    factor = shrink(xp, squares, limit)
    return tree_map(lambda g: g * factor, grads)


def shrink(xp: Namespace, squares: Array, limit: float) -> Array:
    """``min(1, limit / norm)``, where ``squares`` is the squared norm."""
    return limit / xp.maximum(xp.sqrt(squares), limit)

"""A network: layers applied one after the other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeGuard, cast

from mlp_xp._checks import check_kind
from mlp_xp.nn.layers.base import Generator, Layer, StatefulLayer
from mlp_xp.nn.layers.summary import summary
from mlp_xp_backends.trees import ABSENT, leaves
from mlp_xp_backends.typing import Array, Namespace, Tree


@dataclass(frozen=True)
class Chain(StatefulLayer):
    """``y = f_n(... f_2(f_1(x)))``. A chain is itself a layer, so chains can be nested.

    Parameters, state and cache are tuples with one entry per layer. Printing a chain shows its layers as a table.

    >>> network = Chain(Dense(784, 300), ReLU(), Dense(300, 10))
    >>> print(network)
    position  layer  output       parameters
    0         Dense  (rows, 300)     235,500
    1         ReLU   (rows, 300)           0
    2         Dense  (rows, 10)        3,010
    total                            238,510
    """

    layers: tuple[Layer | StatefulLayer, ...]

    def __init__(self, *layers: Layer | StatefulLayer) -> None:
        if not layers:
            raise ValueError("Chain needs at least one layer, such as Chain(Dense(784, 10))")
        for layer in layers:
            check_kind("each layer of a Chain", layer, ("init", "forward", "backward", "width"), "Dense(784, 10)")
        object.__setattr__(self, "layers", layers)
        self.width(None)

    def __str__(self) -> str:
        return summary(self)

    @property
    def first(self) -> Layer | StatefulLayer:
        """The layer that reads the data."""
        first = self.layers[0]
        return first.first if isinstance(first, Chain) else first

    def with_head(self, *head: Layer | StatefulLayer) -> Chain:
        """The chain with ``head``, one or more layers, in place of its last layer.

        Raises `ValueError` if the head does not accept the width of the layers that remain.

        >>> Chain(Dense(784, 300), ReLU(), Dense(300, 10)).with_head(Dense(300, 2)).width(784)
        2
        """
        return Chain(*self.layers[:-1], *head)

    def width(self, n_in: int | None) -> int | None:
        """Number of output features. Raises `ValueError` if two adjacent layers do not fit each other."""
        for layer in self.layers:
            n_in = layer.width(n_in)
        return n_in

    def specs(self) -> Tree:
        """One entry per layer."""
        return tuple(layer.specs() for layer in self.layers)

    def state_specs(self) -> Tree:
        """One entry per layer, ``ABSENT`` for those without state."""
        return tuple(layer.state_specs() if _has_state(layer) else ABSENT for layer in self.layers)

    def init(self, rng: Generator) -> Tree:
        """Parameters of all layers, drawn in order."""
        return tuple(layer.init(rng) for layer in self.layers)

    def init_state(self, rng: Generator) -> Tree:
        """State of all layers, ``ABSENT`` for those without."""
        return tuple(layer.init_state(rng) if _has_state(layer) else ABSENT for layer in self.layers)

    def forward(
        self, xp: Namespace, params: Tree, state: Tree, x: Array, train: bool, frozen: Collection[int] = ()
    ) -> tuple[Array, Tree, Tree]:
        """The last layer's output; one cache and one state per layer.

        The layers at the positions ``frozen`` compute as in prediction.
        """
        caches, states = [], []
        for i, (layer, p, s) in enumerate(zip(self.layers, params, state, strict=True)):
            if _has_state(layer):
                x, cache, s = layer.forward(xp, p, s, x, train and i not in frozen)
            else:
                x, cache = cast(Layer, layer).forward(xp, p, x)
            caches.append(cache)
            states.append(s)
        return x, tuple(caches), tuple(states)

    def backward(self, xp: Namespace, params: Tree, caches: Tree, dy: Array) -> tuple[Array, Tree]:
        """The chain rule, from the last layer to the first."""
        grads: list[Tree] = []
        for layer, p, cache in zip(self.layers[::-1], params[::-1], caches[::-1], strict=True):
            dy, g = layer.backward(xp, p, cache, dy)
            grads.append(g)
        return dy, tuple(reversed(grads))

    def gradient(self, xp: Namespace, params: Tree, caches: Tree, dy: Array, frozen: Collection[int] = ()) -> Tree:
        """The gradients of `backward`, ``ABSENT`` for layers at the positions ``frozen``.

        The pass ends at the first layer that has trainable parameters.
        """
        first = self.first_trainable(frozen)
        grads: list[Tree] = [ABSENT] * len(self.layers)
        for i in range(len(self.layers) - 1, first - 1, -1):
            layer, at = self.layers[i], (xp, params[i], caches[i], dy)
            if i == first:
                grads[i] = layer.gradient(*at)
            elif i in frozen:
                dy = layer.input_gradient(*at)
            else:
                dy, grads[i] = layer.backward(*at)
        return tuple(grads)

    def first_trainable(self, frozen: Collection[int] = ()) -> int:
        """Position of the first layer that has parameters and is not ``frozen``, or the number of layers if none is."""
        trainable = (i for i, specs in enumerate(self.specs()) if leaves(specs) and i not in frozen)
        return next(trainable, len(self.layers))


def _has_state(layer: Layer | StatefulLayer) -> TypeGuard[StatefulLayer]:
    return layer.stateful

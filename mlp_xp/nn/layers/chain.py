"""Layers one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard, cast

from mlp_xp._checks import check_kind
from mlp_xp.nn.layers.base import Array, Generator, Layer, Namespace, StatefulLayer, Tree


@dataclass(frozen=True)
class Chain(StatefulLayer):
    """``y = f_n(... f_2(f_1(x)))``, itself a layer: chains nest.

    Parameters, state and cache are tuples with one entry per layer.
    """

    layers: tuple[Layer | StatefulLayer, ...]

    def __init__(self, *layers: Layer | StatefulLayer) -> None:
        if not layers:
            raise ValueError("Chain needs at least one layer, such as Chain(Dense(784, 10))")
        for layer in layers:
            check_kind("each layer of a Chain", layer, ("init", "forward", "backward", "width"), "Dense(784, 10)")
        object.__setattr__(self, "layers", layers)
        self.width(None)

    @property
    def first(self) -> Layer | StatefulLayer:
        """The layer that the data enter."""
        first = self.layers[0]
        return first.first if isinstance(first, Chain) else first

    def width(self, n_in: int | None) -> int | None:
        """Features of the output; `ValueError` where a layer and the one before it do not fit."""
        for layer in self.layers:
            n_in = layer.width(n_in)
        return n_in

    def specs(self) -> Tree:
        """One entry per layer."""
        return tuple(layer.specs() for layer in self.layers)

    def state_specs(self) -> Tree:
        """One entry per layer, ``()`` for those without state."""
        return tuple(layer.state_specs() if _has_state(layer) else () for layer in self.layers)

    def init(self, rng: Generator) -> Tree:
        """Parameters of all layers, drawn in their order."""
        return tuple(layer.init(rng) for layer in self.layers)

    def init_state(self, rng: Generator) -> Tree:
        """State of all layers, ``()`` for those without."""
        return tuple(layer.init_state(rng) if _has_state(layer) else () for layer in self.layers)

    def forward(self, xp: Namespace, params: Tree, state: Tree, x: Array, train: bool) -> tuple[Array, Tree, Tree]:
        """The last layer's output; one cache and one state per layer."""
        caches, states = [], []
        for layer, p, s in zip(self.layers, params, state, strict=True):
            if _has_state(layer):
                x, cache, s = layer.forward(xp, p, s, x, train)
            else:
                x, cache = cast(Layer, layer).forward(xp, p, x)
            caches.append(cache)
            states.append(s)
        return x, tuple(caches), tuple(states)

    def backward(self, xp: Namespace, params: Tree, caches: Tree, dy: Array) -> tuple[Array, Tree]:
        """The chain rule, from the last layer to the first."""
        return self._backward(xp, params, caches, dy, 0)

    def gradient(self, xp: Namespace, params: Tree, caches: Tree, dy: Array) -> Tree:
        """As `backward`, which ends at the first layer that learns: nothing below it needs a derivative."""
        first = next((i for i, specs in enumerate(self.specs()) if specs != ()), 0)
        dy, grads = self._backward(xp, params, caches, dy, first + 1)
        return ((),) * first + (self.layers[first].gradient(xp, params[first], caches[first], dy), *grads)

    def _backward(self, xp: Namespace, params: Tree, caches: Tree, dy: Array, first: int) -> tuple[Array, Tree]:
        """`backward` through the layers from ``first`` on."""
        grads: list[Tree] = []
        for layer, p, cache in reversed(list(zip(self.layers, params, caches, strict=True))[first:]):
            dy, g = layer.backward(xp, p, cache, dy)
            grads.append(g)
        return dy, tuple(reversed(grads))


def _has_state(layer: Layer | StatefulLayer) -> TypeGuard[StatefulLayer]:
    return layer.stateful

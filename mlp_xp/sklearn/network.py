"""The network of an estimator, and its ``coefs_`` and ``intercepts_`` as the tree of the network's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from mlp_xp.nn.initializers import Uniform
from mlp_xp.nn.layers import Affine, Chain, Dense, Dropout, Layer, Sigmoid, StatefulLayer
from mlp_xp.nn.networks import ACTIVATIONS, as_activation
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

Activation = str | Layer | Sequence[str | Layer]

NAMES: dict[Any, Layer] = {**ACTIVATIONS, "logistic": Sigmoid()}


def build_network(units: Sequence[int], activation: Activation, dropout: float) -> Chain:
    """``Dense -> activation -> dropout`` for each hidden layer and a last `Dense`; ``units`` from input to output.

    Weights and biases are drawn from ``U(-b, b)`` with ``b = sqrt(6 / (n_in + n_out))`` (Glorot and Bengio 2010,
    eq. 16), or with 2 in place of 6 before a logistic activation, as in scikit-learn.
    """
    return _build(tuple(units), tuple(hidden_activations(activation, len(units) - 2)), float(dropout))


@lru_cache(maxsize=32)
def _build(units: tuple[int, ...], hidden: tuple[Layer, ...], dropout: float) -> Chain:
    layers: list[Layer | StatefulLayer] = []
    for i, (n_in, n_out) in enumerate(pairwise(units)):
        following = hidden[min(i, len(hidden) - 1)] if hidden else None
        bound = math.sqrt((2.0 if isinstance(following, Sigmoid) else 6.0) / (n_in + n_out))
        init = Uniform(low=-bound, high=bound)
        layers.append(Dense(n_in, n_out, init_W=init, init_b=init))
        if i < len(hidden):
            layers += [hidden[i], *([Dropout(dropout)] if dropout else [])]
    return Chain(*layers)


def hidden_activations(activation: Activation, n: int) -> list[Layer]:
    """One activation for each of ``n`` hidden layers."""
    each = [activation] * n if isinstance(activation, str) or not isinstance(activation, Sequence) else activation
    if len(each) != n:
        raise ValueError(f"activation has {len(each)} entries, but there are {n} hidden layers: pass one for each")
    return [as_activation(NAMES.get(name, name)) for name in each]


def no_state(network: Chain) -> Tree:
    """The layer states of a forward pass in prediction, where dropout does nothing."""
    return (ABSENT,) * len(network.layers)


def draw_state(network: Chain, random_state: np.random.RandomState) -> Tree:
    """The state of stateful layers before the first step; random numbers are drawn only if there are any."""
    if not any(layer.stateful for layer in network.layers):
        return no_state(network)
    return network.init_state(np.random.default_rng(random_state.randint(2**31 - 1)))


def tree(network: Chain, coefs: Sequence[HostArray], intercepts: Sequence[HostArray], of: Callable[[Any], Any]) -> Tree:
    """The network's parameters, ``of`` every array."""
    pairs = iter(zip(coefs, intercepts, strict=True))

    def affine() -> Affine:
        W, b = next(pairs)
        return Affine(of(W), of(b.reshape(1, -1)))

    return tuple(affine() if isinstance(layer, Dense) else ABSENT for layer in network.layers)


def lists(params: Tree) -> tuple[list[HostArray], list[HostArray]]:
    """``coefs_`` and ``intercepts_`` of parameters on the host."""
    dense = [p for p in params if isinstance(p, Affine)]
    return [p.W for p in dense], [p.b.reshape(-1) for p in dense]

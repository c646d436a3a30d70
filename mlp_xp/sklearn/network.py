"""The network of an estimator, and its ``coefs_`` and ``intercepts_`` as the tree of the network's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mlp_xp.nn.initializers import Uniform
from mlp_xp.nn.layers import Affine, Chain, Dense, Dropout, Layer, Sigmoid, StatefulLayer
from mlp_xp.nn.networks import ACTIVATIONS
from mlp_xp_backends.trees import ABSENT, tree_map

Tree = Any
HostArray = np.ndarray[Any, Any]
Activation = str | Layer | Sequence[str | Layer]

NAMES = {**ACTIVATIONS, "logistic": Sigmoid()}


def build_network(units: Sequence[int], activation: Activation, dropout: float) -> Chain:
    """``Dense -> activation -> dropout`` for each hidden layer and a last `Dense`; ``units`` from input to output.

    Weights and biases are drawn from ``U(-b, b)`` with ``b = sqrt(6 / (n_in + n_out))`` (Glorot and Bengio 2010,
    eq. 16), with 2 in place of 6 beside a logistic activation, as in scikit-learn.
    """
    hidden = hidden_activations(activation, len(units) - 2)
    layers: list[Layer | StatefulLayer] = []
    for i, (n_in, n_out) in enumerate(pairwise(units)):
        beside = hidden[min(i, len(hidden) - 1)] if hidden else None
        bound = math.sqrt((2.0 if isinstance(beside, Sigmoid) else 6.0) / (n_in + n_out))
        layers.append(
            Dense(n_in, n_out, init_W=Uniform(low=-bound, high=bound), init_b=Uniform(low=-bound, high=bound))
        )
        if i < len(hidden):
            layers.append(hidden[i])
            if dropout:
                layers.append(Dropout(dropout))
    return Chain(*layers)


def hidden_activations(activation: Activation, n: int) -> list[Layer]:
    """One activation for each of ``n`` hidden layers."""
    each = [activation] * n if isinstance(activation, str) or not isinstance(activation, Sequence) else activation
    if len(each) != n:
        raise ValueError(f"activation names {len(each)} functions, but there are {n} hidden layers: give one for each")
    unknown = [name for name in each if isinstance(name, str) and name not in NAMES]
    if unknown:
        raise ValueError(f"activation must be one of {', '.join(sorted(NAMES))}, not {unknown[0]!r}")
    return [NAMES[name] if isinstance(name, str) else name for name in each]


def draw(network: Chain, random_state: np.random.RandomState, dtype: str) -> tuple[list[HostArray], list[HostArray]]:
    """Initial ``coefs_`` and ``intercepts_``, drawn in float64."""
    return lists(tree_map(lambda a: a.astype(dtype, copy=False), network.init(random_state)))


def draw_state(network: Chain, random_state: np.random.RandomState) -> Tree:
    """What stateful layers carry into the first step; nothing is drawn where there are none."""
    if not any(layer.stateful for layer in network.layers):
        return (ABSENT,) * len(network.layers)
    return network.init_state(np.random.default_rng(random_state.randint(2**31 - 1)))


def tree(network: Chain, coefs: Sequence[HostArray], intercepts: Sequence[HostArray], of: Callable[[Any], Any]) -> Tree:
    """The network's parameters, ``of`` every array."""
    pairs = iter(zip(coefs, intercepts, strict=True))

    def affine(W: HostArray, b: HostArray) -> Affine:
        return Affine(of(W), of(b.reshape(1, -1)))

    return tuple(affine(*next(pairs)) if isinstance(layer, Dense) else ABSENT for layer in network.layers)


def lists(params: Tree) -> tuple[list[HostArray], list[HostArray]]:
    """``coefs_`` and ``intercepts_`` of parameters on the host."""
    dense = [p for p in params if isinstance(p, Affine)]
    return [p.W for p in dense], [p.b.reshape(-1) for p in dense]

"""The network of an estimator, and its ``coefs_`` and ``intercepts_`` as the tree of the network's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.nn.initializers import Uniform
from mlp_xp.nn.layers import Affine, Chain, Dense, Dropout, Layer, Sigmoid, StatefulLayer
from mlp_xp.nn.losses import Loss
from mlp_xp.nn.networks import ACTIVATIONS, as_activation
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

Activation = str | Layer | Sequence[str | Layer]

NAMES: dict[Any, Layer] = {**ACTIVATIONS, "logistic": Sigmoid()}


class Setting(NamedTuple):
    """The network to train, its loss, and the backend."""

    backend: Backend
    network: Chain
    loss: Loss
    dtype: str


class Weights(NamedTuple):
    """The weights and the biases of all layers, under their names in an estimator."""

    coefs_: list[HostArray]
    intercepts_: list[HostArray]


def build_network(units: Sequence[int], activation: Activation, dropout: float) -> Chain:
    """``Dense -> activation -> dropout`` for each hidden layer and a last `Dense`; ``units`` from input to output.

    Weights and biases are drawn from ``U(-b, b)`` with ``b = sqrt(6 / (n_in + n_out))`` (Glorot and Bengio 2010,
    eq. 16), or with 2 in place of 6 before a logistic activation, as in scikit-learn.
    """
    n = len(units) - 2
    each = [activation] * n if isinstance(activation, str) or not isinstance(activation, Sequence) else activation
    if len(each) != n:
        raise ValueError(f"activation has {len(each)} entries, but there are {n} hidden layers: pass one for each")
    return _build(tuple(units), tuple(as_activation(NAMES.get(name, name)) for name in each), float(dropout))


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


def layer_states(network: Chain, random_state: np.random.RandomState | None = None) -> Tree:
    """The states of the layers before the first step; without a generator, those for prediction.

    Draws only where there are stateful layers, so that others get scikit-learn's numbers.
    """
    if random_state is None or not any(layer.stateful for layer in network.layers):
        return (ABSENT,) * len(network.layers)
    return network.init_state(np.random.default_rng(random_state.randint(2**31 - 1)))


def tree(network: Chain, coefs: Sequence[HostArray], intercepts: Sequence[HostArray], of: Callable[[Any], Any]) -> Tree:
    """The network's parameters, ``of`` every array."""
    pairs = (Affine(of(W), of(b.reshape(1, -1))) for W, b in zip(coefs, intercepts, strict=True))
    return tuple(next(pairs) if isinstance(layer, Dense) else ABSENT for layer in network.layers)


def lists(params: Tree) -> Weights:
    """The weights of parameters on the host."""
    dense = [p for p in params if isinstance(p, Affine)]
    return Weights([p.W for p in dense], [p.b.reshape(-1) for p in dense])

"""`mlp`: a multilayer perceptron in one line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from mlp_xp._checks import SHARE, Count, Maybe, OneOf, check_kind
from mlp_xp.nn.initializers import INITIALIZER, Glorot, He, Initializer
from mlp_xp.nn.layers import (
    GELU,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    StatefulLayer,
    Tanh,
)

ACTIVATIONS: dict[str, Layer] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "gelu": GELU(),
    "softplus": Softplus(),
    "identity": Identity(),
}
NORMS: dict[str, Callable[[int], Layer | StatefulLayer]] = {"layer": LayerNorm, "batch": BatchNorm}


def mlp(
    *widths: int,
    activation: str | Layer = "relu",
    dropout: float = 0.0,
    norm: Literal["layer", "batch"] | None = None,
    init: Initializer | None = None,
    first: Layer | StatefulLayer | None = None,
) -> Chain:
    """A multilayer perceptron: ``mlp(784, 300, 10)`` has 784 inputs, 300 hidden units and 10 outputs.

    Each hidden layer is ``Dense -> norm -> activation -> dropout``. The last layer is `Dense` alone, and the losses
    apply softmax or sigmoid to its output.

    Parameters
    ----------
    widths
        Numbers of inputs, of hidden units of each layer, and of outputs; at least two numbers.
    activation
        A name (relu, leaky_relu, sigmoid, tanh, gelu, softplus or identity) or a layer.
    dropout
        Fraction of hidden units dropped in training, in [0, 1).
    norm
        The normalization of hidden layers: ``"layer"``, ``"batch"`` or ``None``.
    init
        Initializer of the weights. By default `He` for relu, leaky_relu, gelu and softplus, and
        `Glorot` for the other activations and for the last layer.
    first
        A layer in front of all others, such as ``Rescale(scale=1 / 255)`` for pixels or an `Embedding` for ids.

    Examples
    --------
    >>> print(mlp(784, 300, 10))
    position  layer  output       parameters
    0         Dense  (rows, 300)     235,500
    1         ReLU   (rows, 300)           0
    2         Dense  (rows, 10)        3,010
    total                            238,510
    """
    if len(widths) < 2:
        given = ", ".join(map(repr, widths))
        raise ValueError(f"mlp needs the numbers of inputs and of outputs, such as mlp(784, 300, 10), not mlp({given})")
    widths = tuple(Count()("each width of mlp", width) for width in widths)
    dropout = SHARE("dropout", dropout)
    norm = Maybe(OneOf(*NORMS))("norm", norm)
    init = Maybe(INITIALIZER)("init", init)
    act = as_activation(activation)
    hidden_init = init or (He() if isinstance(act, (ReLU, LeakyReLU, GELU, Softplus)) else Glorot())
    layers: list[Layer | StatefulLayer] = [] if first is None else [first]
    for n_in, n_out in pairwise(widths[:-1]):
        layers.append(Dense(n_in, n_out, init_W=hidden_init))
        if norm is not None:
            layers.append(NORMS[norm](n_out))
        layers.append(act)
        if dropout:
            layers.append(Dropout(dropout))
    return Chain(*layers, Dense(widths[-2], widths[-1], init_W=init or Glorot()))


def as_activation(activation: str | Layer) -> Layer:
    """Return the activation layer of that name, or ``activation`` itself if it is a layer."""
    if not isinstance(activation, str):
        check_kind("activation", activation, ("forward", "backward"), "'relu' or ReLU()")
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    return ACTIVATIONS[activation]

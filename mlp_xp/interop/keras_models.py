"""Conversion between networks and models of Keras 3, which reads and writes its ``.keras`` files itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp._optional import need
from mlp_xp.interop.onnx_files import input_width
from mlp_xp.interop.parts import Part, Softmax, assemble, flat, row, unsupported
from mlp_xp.model import Model
from mlp_xp.nn.layers import (
    Affine,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Rescale,
    Sigmoid,
    Softplus,
    Tanh,
)
from mlp_xp.nn.layers.embedding import Table
from mlp_xp.nn.layers.normalization import Moments, Scale
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

ACTIVATIONS: dict[str, Layer] = {
    "linear": Identity(),
    "relu": ReLU(),
    "sigmoid": Sigmoid(),
    "softplus": Softplus(),
    "tanh": Tanh(),
}
NAMES = {layer: name for name, layer in ACTIVATIONS.items()}


def to_keras(model: Model) -> Any:
    """Convert ``model`` to a ``keras.Sequential`` with copies of the weights, which returns logits."""
    keras = _keras()
    params, state = to_host(model.backend, (model.params, model.state))
    parts = _flat(model.network, params, state)
    ids = model.network.first.takes == "ids"
    built = keras.Sequential([keras.Input((input_width(model.network),), dtype="int32" if ids else model.dtype)])
    for part in parts:
        for layer, arrays in _layers(keras.layers, part, model.dtype):
            built.add(layer)
            layer.set_weights(arrays)
    return built


def from_keras(source: Any, loss: Loss | None = None, *, device: str | Backend | None = None) -> Model:
    """Convert a ``keras.Sequential``, or the ``.keras`` file at a path, to a model."""
    keras = _keras()
    if isinstance(source, (str, Path)):
        source = keras.saving.load_model(source, compile=False)
    if not isinstance(source, keras.Sequential):
        raise TypeError(f"expected a keras.Sequential or the path of a .keras file, got {type(source).__name__}")
    parts = [part for layer in source.layers for part in _parts(keras.layers, layer)]
    return assemble(parts, loss, device)


def _keras() -> Any:
    """Import Keras. Raises `ImportError` that says whether Keras or its backend is missing."""
    try:
        return need("keras", "keras")
    except ModuleNotFoundError as error:
        missing = getattr(error.__cause__, "name", None)
        if missing in ("keras", None):
            raise
        raise ModuleNotFoundError(
            f"Keras cannot import its backend {missing}: install it, or set the environment variable KERAS_BACKEND to "
            "an installed one, such as torch or jax",
            name=missing,
        ) from error


def _flat(network: Chain, params: Tree, state: Tree) -> list[Part]:
    """The layers of a chain, with those of nested chains in place of the chains."""
    parts: list[Part] = []
    for layer, p, s in zip(network.layers, params, state, strict=True):
        parts += _flat(layer, p, s) if isinstance(layer, Chain) else [Part(layer, p, s)]
    return parts


def _layers(layers: Any, part: Part, dtype: str) -> list[tuple[Any, list[HostArray]]]:
    """The Keras layers of a layer, each with its weights."""
    layer, p, s = part
    match layer:
        case Dense():
            arrays = [p.W, flat(p.b)] if layer.bias else [p.W]
            return [(layers.Dense(layer.n_out, use_bias=layer.bias, dtype=dtype), arrays)]
        case BatchNorm():
            made = layers.BatchNormalization(momentum=1.0 - layer.momentum, epsilon=layer.eps, dtype=dtype)
            return [(made, [flat(a) for a in (p.gamma, p.beta, s.mean, s.var)])]
        case LayerNorm():
            made = layers.LayerNormalization(epsilon=layer.eps, dtype=dtype)
            return [(made, [flat(p.gamma), flat(p.beta)])]
        case Embedding(combine="concat"):
            return [(layers.Embedding(layer.n_ids, layer.dim, dtype=dtype), [p.E]), (layers.Flatten(dtype=dtype), [])]
        case LeakyReLU():
            return [(layers.LeakyReLU(negative_slope=layer.slope, dtype=dtype), [])]
        case Dropout():
            return [(layers.Dropout(layer.rate, dtype=dtype), [])]
        case Rescale():
            return [(layers.Rescaling(layer.scale, offset=-layer.shift * layer.scale, dtype=dtype), [])]
    if layer in NAMES:
        return [(layers.Activation(NAMES[layer], dtype=dtype), [])]
    raise unsupported("to Keras", layer)


def _parts(layers: Any, layer: Any) -> list[Part | Softmax]:
    """The layers of a Keras layer and of its activation."""
    arrays = [np.array(a) for a in layer.get_weights()]
    match layer:
        case layers.Dense():
            b = row(arrays[1]) if layer.use_bias else ABSENT
            dense = Dense(*arrays[0].shape, bias=layer.use_bias)
            return [Part(dense, Affine(arrays[0], b)), *_activation(layer, layer.activation)]
        case layers.BatchNormalization(center=True, scale=True) if _last_axis(layer.axis):
            gamma, beta, mean, var = map(row, arrays)
            norm = BatchNorm(gamma.shape[1], momentum=1.0 - layer.momentum, eps=layer.epsilon)
            return [Part(norm, Scale(gamma, beta), Moments(mean, var))]
        case layers.LayerNormalization(center=True, scale=True) if _last_axis(layer.axis):
            gamma, beta = map(row, arrays)
            return [Part(LayerNorm(gamma.shape[1], eps=layer.epsilon), Scale(gamma, beta))]
        case layers.Embedding(mask_zero=False):
            ids = layer.input.shape[-1]
            if ids is None:
                raise ValueError(
                    f"the number of ids in a row does not follow from {layer.name}: pass a row's shape to keras.Input"
                )
            return [Part(Embedding(*arrays[0].shape, ids_per_row=ids), Table(arrays[0]))]
        case layers.Dropout():
            dropout = Dropout(layer.rate)
            return [Part(dropout, ABSENT, dropout.init_state(np.random.default_rng(0)))]
        case layers.Rescaling() if layer.scale:
            rescale = Rescale(shift=-layer.offset / layer.scale, scale=layer.scale)
            return [Part(rescale, ABSENT, rescale.init_state(np.random.default_rng(0)))]
        case layers.LeakyReLU():
            return [Part(LeakyReLU(float(layer.negative_slope)))]
        case layers.ReLU(max_value=None) if not layer.negative_slope and not layer.threshold:
            return [Part(ReLU())]
        case layers.Activation():
            return _activation(layer, layer.activation)
        case layers.Softmax():
            return [Softmax()]
        case layers.Flatten() | layers.InputLayer():
            return []
    raise unsupported("from Keras", f"{type(layer).__name__} {layer.name!r}")


def _activation(layer: Any, activation: Any) -> list[Part | Softmax]:
    name = getattr(activation, "__name__", str(activation))
    if name == "softmax":
        return [Softmax()]
    if name not in ACTIVATIONS:
        raise unsupported("from Keras", f"the activation {name!r} of {layer.name!r}")
    return [] if name == "linear" else [Part(ACTIVATIONS[name])]


def _last_axis(axis: Any) -> bool:
    """Whether a normalization applies to the features, axis 1 of (rows, features)."""
    return axis in (-1, 1) or list(axis if isinstance(axis, (list, tuple)) else [axis]) in ([-1], [1])

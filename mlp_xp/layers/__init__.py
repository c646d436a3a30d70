"""Layers: frozen formulas with their derivatives beside them."""

from mlp_xp.layers.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from mlp_xp.layers.base import Affine, Layer, StatefulLayer
from mlp_xp.layers.chain import Chain
from mlp_xp.layers.dense import Dense
from mlp_xp.layers.dropout import Dropout
from mlp_xp.layers.embedding import Embedding
from mlp_xp.layers.normalization import BatchNorm, LayerNorm, Rescale

__all__ = [
    "GELU",
    "Affine",
    "BatchNorm",
    "Chain",
    "Dense",
    "Dropout",
    "Embedding",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "ReLU",
    "Rescale",
    "Sigmoid",
    "Softplus",
    "StatefulLayer",
    "Tanh",
]

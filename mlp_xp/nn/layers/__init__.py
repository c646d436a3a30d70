"""Layers: each is a frozen formula with its derivative beside it."""

from mlp_xp.nn.layers.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from mlp_xp.nn.layers.base import Affine, Layer, StatefulLayer
from mlp_xp.nn.layers.chain import Chain
from mlp_xp.nn.layers.dense import Dense
from mlp_xp.nn.layers.dropout import Dropout
from mlp_xp.nn.layers.embedding import Embedding
from mlp_xp.nn.layers.normalization import BatchNorm, LayerNorm, Rescale

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

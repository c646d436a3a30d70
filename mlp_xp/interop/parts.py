"""Models assembled from the layers of another library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.model import Model, as_backend
from mlp_xp.nn.layers import Chain, Layer, Sigmoid, StatefulLayer
from mlp_xp.nn.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from mlp_xp.nn.step import check_loss
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import to_device
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Tree


class Part(NamedTuple):
    """A layer with its parameters and state on the host."""

    layer: Layer | StatefulLayer
    params: Tree = ABSENT
    state: Tree = ABSENT


class Softmax:
    """A marker for a softmax, which is not a layer here: the loss applies it."""


def row(a: Array) -> HostArray:
    """A copy of a vector as one row, (1, n)."""
    return np.array(a).reshape(1, -1)


def flat(a: Array) -> HostArray:
    """A copy of a row, (1, n), as a vector."""
    return np.array(a).reshape(-1)


def unsupported(library: str, layer: Any, why: str = "it has no counterpart") -> ValueError:
    """Return the error for a layer that cannot be converted."""
    return ValueError(f"{layer} cannot be converted {library}: {why}")


def assemble(parts: Sequence[Part | Softmax], loss: Loss | None, device: str | Backend | None) -> Model:
    """Return the model of these layers, without a last softmax or sigmoid, which the loss applies.

    Without ``loss``, the model gets the loss that belongs to the last softmax or sigmoid.
    """
    if loss is not None:
        check_loss(loss)
    last = parts[-1] if parts else None
    if isinstance(last, Softmax):
        loss = SoftmaxCrossEntropy() if loss is None else loss
        if loss.target != "class":
            raise ValueError(f"the network ends with a softmax, which belongs to SoftmaxCrossEntropy, not {loss}")
        parts = parts[:-1]
    elif isinstance(last, Part) and isinstance(last.layer, Sigmoid) and (loss is None or loss.target == "binary"):
        loss, parts = loss or BinaryCrossEntropy(), parts[:-1]
    if loss is None:
        raise ValueError(
            "expected a loss, since the network does not end with softmax or sigmoid: pass one such as "
            "loss=SoftmaxCrossEntropy() for logits or loss=SquaredError() for values"
        )
    chosen = [part for part in parts if isinstance(part, Part)]
    if len(chosen) < len(parts) or not any(leaves(part.params) for part in chosen):
        raise ValueError("expected a network with parameters, and a softmax only at its end")
    network = Chain(*(part.layer for part in chosen))
    trees = tuple(part.params for part in chosen), tuple(part.state for part in chosen)
    dtype = "float64" if leaves(trees)[0].dtype == np.float64 else "float32"
    backend = as_backend(device)
    params, state = to_device(backend, tree_map(lambda a: a if a.dtype.kind in "iu" else a.astype(dtype), trees))
    return Model(network, loss, params, state, backend)

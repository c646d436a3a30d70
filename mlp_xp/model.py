"""A network with its numbers on a device: evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np  # noqa: TID251  predictions are host arrays

from mlp_xp._checks import check_count, check_kind
from mlp_xp.data.checks import check_inputs, check_targets, check_weights
from mlp_xp.data.feed import Batch, fits
from mlp_xp.forward import BATCH, blocks, forward, outputs
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend, get_backend
from mlp_xp_backends.trees import ABSENT, leaves
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree


def as_backend(device: str | Backend) -> Backend:
    """The backend that a word names, as `get_backend` says, or the backend itself."""
    if isinstance(device, str):
        return get_backend(device)
    check_kind("device", device, ("asarray", "compile"), "'cpu', 'cuda' or a backend")
    return device


@dataclass(frozen=True)
class Model:
    """What training leaves behind: ask it for predictions, measure it, save it."""

    network: Chain
    loss: Loss
    params: Tree
    state: Tree
    backend: Backend
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever belongs to the model and can be written as JSON: class names, a vocabulary."""

    @property
    def dtype(self) -> str:
        """``float32`` or ``float64``."""
        return str(leaves(self.params)[0].dtype).rpartition(".")[2]

    def outputs(self, x: Array, batch_size: int = BATCH) -> HostArray:
        """Outputs of the last layer (logits), (rows, n_out), on the host."""
        return self._map(_logits, x, batch_size)

    def predict_proba(self, x: Array, batch_size: int = BATCH) -> HostArray:
        """What the loss takes the outputs for, (rows, n_out): probabilities, or expected values in a regression."""
        return self._map(self.loss.output, x, batch_size)

    def predict(self, x: Array, batch_size: int = BATCH) -> HostArray:
        """Classes (rows,); 0 or 1 for each output (rows, n_out) with a binary loss; expected values otherwise."""
        if self.loss.target == "class":
            return self._map(_likeliest, x, batch_size).astype(np.int64)
        if self.loss.target == "binary":
            return self._map(_positive, x, batch_size).astype(np.int64)
        return self.predict_proba(x, batch_size)

    def evaluate(
        self, x: Array, y: Array, sample_weight: Array | None = None, batch_size: int = BATCH
    ) -> dict[str, float]:
        """The mean loss of a row and the mean of each metric of the loss, such as ``accuracy``."""
        evaluation = Evaluation(self.network, self.loss, self.backend, self.dtype, x, y, sample_weight, batch_size)
        return evaluation(self.params, self.state)

    def _map(self, f: Callable[[Namespace, Array], Array], x: Array, batch_size: int) -> HostArray:
        """``f(xp, z)`` of the outputs of all rows."""
        batch_size = check_count("batch_size", batch_size)
        x = check_inputs(self.backend, self.network, x)
        batches = blocks(self.backend, self.network, Batch(x, ABSENT, ABSENT), self.dtype, batch_size, pad=True)
        return outputs(self.backend, self.network, self.params, self.state, batches, x.shape[0], f)


class Evaluation:
    """A data set to be measured on again and again: checked once, and sent once if it fits on the device."""

    def __init__(
        self,
        network: Chain,
        loss: Loss,
        backend: Backend,
        dtype: str,
        x: Array,
        y: Array,
        sample_weight: Array | None = None,
        batch_size: int = BATCH,
    ) -> None:
        batch_size = check_count("batch_size", batch_size)
        x = check_inputs(backend, network, x)
        rows = x.shape[0]
        y = check_targets(backend, loss, network.width(x.shape[1]), y, rows)
        w = check_weights(backend, sample_weight, rows, dtype)
        self.total = rows if w is ABSENT else float(np.sum(w, dtype=np.float64))
        self.loss, self.backend, self.network = loss, backend, network
        data = Batch(x, y, w)
        self.batches: Callable[[], Iterator[Batch]] = partial(
            blocks, backend, network, data, dtype, min(batch_size, rows)
        )
        if fits(backend, network, data, dtype):
            sent = list(self.batches())
            self.batches = lambda: iter(sent)

    def __call__(self, params: Tree, state: Tree) -> dict[str, float]:
        """The mean loss and metrics with these parameters. Waits for the device."""
        sums = [
            out.sum(axis=0, dtype=np.float64)
            for out in forward(self.backend, self.network, _Sums(self.loss), params, state, self.batches())
        ]
        names = ("loss", *(metric.__name__ for metric in self.loss.metrics))
        return {name: float(value) / self.total for name, value in zip(names, sum(sums), strict=True)}


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of the loss and of its metrics over a batch, (1 + metrics,)."""

    loss: Loss

    def __call__(self, xp: Namespace, z: Array, batch: Batch) -> Array:
        cost, _ = self.loss.rows(xp, z, batch.y)
        values = xp.stack([cost, *(metric(xp, z, batch.y) for metric in self.loss.metrics)])
        return xp.sum(values if batch.w is ABSENT else values * batch.w, axis=-1)


def _logits(xp: Namespace, z: Array) -> Array:
    return z


def _likeliest(xp: Namespace, z: Array) -> Array:
    return xp.argmax(z, axis=-1)


def _positive(xp: Namespace, z: Array) -> Array:
    return xp.astype(z > 0.0, xp.int32)

"""A network with its numbers on a device: evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np  # noqa: TID251  predictions come back to the host

from mlp_xp._checks import check_kind
from mlp_xp.data.feed import Batch, Feed, check_inputs, check_targets, check_weights, gather, make_feed
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend, get_backend
from mlp_xp_backends.trees import leaves

Array = Any
Tree = Any
HostArray = np.ndarray[Any, Any]

CHUNK = 256  # batches of a forward pass between two transfers to the host


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

    def outputs(self, x: Array, batch_size: int = 1024) -> HostArray:
        """Outputs of the last layer (logits), (rows, n_out), on the host."""
        return self._map(_logits, x, batch_size)

    def predict_proba(self, x: Array, batch_size: int = 1024) -> HostArray:
        """What the loss takes the outputs for, (rows, n_out): probabilities, or expected values in a regression."""
        return self._map(self.loss.output, x, batch_size)

    def predict(self, x: Array, batch_size: int = 1024) -> HostArray:
        """Classes (rows,); 0 or 1 for each output (rows, n_out) with a binary loss; expected values otherwise."""
        if self.loss.target == "class":
            return self._map(_likeliest, x, batch_size).astype(np.int64)
        if self.loss.target == "binary":
            return self._map(_positive, x, batch_size).astype(np.int64)
        return self.predict_proba(x, batch_size)

    def evaluate(
        self, x: Array, y: Array, sample_weight: Array | None = None, batch_size: int = 1024
    ) -> dict[str, float]:
        """The mean loss of a row and the mean of each metric of the loss, such as ``accuracy``."""
        evaluation = Evaluation(self.network, self.loss, self.backend, self.dtype, x, y, sample_weight, batch_size)
        return evaluation(self.params, self.state)

    def _map(self, f: Callable[[Any, Array], Array], x: Array, batch_size: int) -> HostArray:
        """``f(xp, z)`` of the outputs of all rows."""
        x = check_inputs(self.backend, self.network, x)
        feed = make_feed(self.backend, self.network, Batch(x, (), ()), self.dtype, None)
        outs = _forward(feed, _OfOutput(f), self.params, self.state, x.shape[0], batch_size)
        return np.concatenate([out.reshape(-1, *out.shape[2:]) for out in outs])


class Evaluation:
    """A data set to be measured on again and again: checked and sent once."""

    def __init__(
        self,
        network: Chain,
        loss: Loss,
        backend: Backend,
        dtype: str,
        x: Array,
        y: Array,
        sample_weight: Array | None = None,
        batch_size: int = 1024,
    ) -> None:
        x = check_inputs(backend, network, x)
        self.rows = x.shape[0]
        y = check_targets(backend, loss, network.width(x.shape[1]), y, self.rows)
        w = check_weights(backend, sample_weight, self.rows)
        self.total = self.rows if isinstance(w, tuple) else float(np.sum(w, dtype=np.float64))
        self.loss, self.batch_size = loss, batch_size
        self.feed = make_feed(backend, network, Batch(x, y, w), dtype, None)

    def __call__(self, params: Tree, state: Tree) -> dict[str, float]:
        """The mean loss and metrics with these parameters. Waits for the device."""
        sums = [
            out.sum(axis=0, dtype=np.float64)
            for out in _forward(self.feed, _Sums(self.loss), params, state, self.rows, self.batch_size)
        ]
        names = ("loss", *(metric.__name__ for metric in self.loss.metrics))
        return {name: float(value) / self.total for name, value in zip(names, sum(sums), strict=True)}


def _forward(feed: Feed, of_batch: Any, params: Tree, state: Tree, rows: int, batch_size: int) -> Iterator[HostArray]:
    """``of_batch(xp, z, batch)`` for every batch, stacked, on the host, chunk by chunk."""
    loop = _compiled(feed.backend, feed.network, of_batch)
    for window, local, _ in feed.windows(np.arange(rows, dtype=np.int32), min(batch_size, rows), CHUNK):
        _, outs = loop((), (params, state, window), local)
        yield feed.backend.to_numpy(outs)


@lru_cache(maxsize=16)
def _compiled(backend: Any, network: Chain, of_batch: Any) -> Any:
    """The loop over batches of a forward pass; cached, since some backends take long to compile it."""

    def body(xp: Any, carry: Tree, consts: Tree, rows: Array) -> tuple[Tree, Array]:
        params, state, data = consts
        batch = gather(xp, data, rows)
        z, _, _ = network.forward(xp, params, state, batch.x, False)
        return carry, of_batch(xp, z, batch)

    return backend.compile(body)


@dataclass(frozen=True)
class _OfOutput:
    """A function of the outputs alone."""

    f: Callable[[Any, Array], Array]

    def __call__(self, xp: Any, z: Array, batch: Batch) -> Array:
        return self.f(xp, z)


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of the loss and of its metrics over a batch, (1 + metrics,)."""

    loss: Loss

    def __call__(self, xp: Any, z: Array, batch: Batch) -> Array:
        cost, _ = self.loss.rows(xp, z, batch.y)
        values = xp.stack([cost, *(metric(xp, z, batch.y) for metric in self.loss.metrics)])
        return xp.sum(values if isinstance(batch.w, tuple) else values * batch.w, axis=-1)


def _logits(xp: Any, z: Array) -> Array:
    return z


def _likeliest(xp: Any, z: Array) -> Array:
    return xp.argmax(z, axis=-1)


def _positive(xp: Any, z: Array) -> Array:
    return xp.astype(z > 0.0, xp.int32)

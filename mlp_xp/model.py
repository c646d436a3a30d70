"""A network with its parameters on a device: evaluation, prediction, files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID251  predictions are host arrays

from mlp_xp._checks import check_count, check_kind
from mlp_xp.data.checks import check_inputs, check_targets, check_weights
from mlp_xp.data.feed import Batch, fits
from mlp_xp.files.models import SavedModel, read_model, write_model
from mlp_xp.forward import BATCH, OfBatch, blocks, forward, over_steps, predictions
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend, get_backend
from mlp_xp_backends.transfer import to_device, to_host
from mlp_xp_backends.trees import ABSENT, leaves
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree


def as_backend(device: str | Backend | None) -> Backend:
    """The backend that a word names, as `get_backend` says, or the backend itself; ``None`` means ``auto``."""
    if device is None or isinstance(device, str):
        return get_backend("auto" if device is None else device)
    check_kind("device", device, ("asarray", "compile"), "'cpu', 'cuda' or a backend")
    return device


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained network on a device: it predicts, is evaluated and saved.

    >>> import numpy as np
    >>> from mlp_xp import Trainer, mlp
    >>> model = Trainer(mlp(4, 8, 3), device="cpu").model
    >>> model.predict_proba(np.zeros((2, 4))).shape
    (2, 3)
    """

    network: Chain
    loss: Loss
    params: Tree
    state: Tree
    backend: Backend
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever belongs to the model and can be written as JSON: class names, a vocabulary."""

    def __str__(self) -> str:
        return f"{self.network}\nloss {self.loss}, {self.dtype}, {self.backend.name} on {self.backend.device}"

    def __repr__(self) -> str:
        parameters = sum(math.prod(p.shape) for p in leaves(self.params))
        return f"<Model of {len(self.network.layers)} layers with {parameters:,} parameters>"

    def save(self, path: str | Path) -> None:
        """Write the model to ``path``, a safetensors file, atomically; `load` reads it.

        Raises `FileError` if the file cannot be written, `TypeError` if ``extra`` cannot be expressed in JSON.
        """
        params, state = to_host(self.backend, (self.params, self.state))
        write_model(path, SavedModel(self.network, self.loss, params, state, self.extra, self.dtype))

    @property
    def dtype(self) -> str:
        """``float32`` or ``float64``."""
        return str(leaves(self.params)[0].dtype).rpartition(".")[2]

    def outputs(self, x: Array, batch_size: int = BATCH) -> HostArray:
        """Outputs of the last layer (logits), (rows, n_out), on the host; NaN where ``x`` holds NaN."""
        return self._map(_logits, x, batch_size)

    def predict_proba(self, x: Array, batch_size: int = BATCH) -> HostArray:
        """Predictions of the loss from the outputs, (rows, n_out): probabilities, or expected values in a regression.

        A row of ``x`` with NaN gets NaN.
        """
        return self._map(self.loss.output, x, batch_size)

    def predict(self, x: Array, batch_size: int = BATCH) -> HostArray:
        """Classes (rows,); 0 or 1 for each output (rows, n_out) with a binary loss; expected values otherwise.

        Raises `ValueError` where a row has no class because its outputs are NaN.
        """
        if self.loss.target not in ("class", "binary"):
            return self.predict_proba(x, batch_size)
        found = self._map(_likeliest if self.loss.target == "class" else _positive, x, batch_size)
        if np.any(found < 0):
            row = int(np.argmax(found < 0) if found.ndim == 1 else np.argmax(np.any(found < 0, axis=1)))
            raise ValueError(
                f"the outputs of row {row} are NaN, so it has no class: x holds NaN or infinity there, or the model "
                "has diverged"
            )
        return found.astype(np.int64)

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
        return predictions(self.backend, self.network, self.params, self.state, x, self.dtype, f, batch_size)


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
            over_steps(out)
            for out in forward(self.backend, self.network, sums_of(self.loss), params, state, self.batches())
        ]
        names = ("loss", *(metric.__name__ for metric in self.loss.metrics))
        totals: HostArray = np.sum(sums, axis=0)
        return {name: float(value) / self.total for name, value in zip(names, totals, strict=True)}


def sums_of(loss: Loss) -> OfBatch:
    """The weighted sums of the loss and of its metrics over a batch, (1 + metrics, [models])."""
    return _Sums(loss)


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
    """The class of the largest output, -1 where an output is NaN."""
    best = xp.argmax(z, axis=-1)
    return xp.where(xp.all(z == z, axis=-1), best, -1)


def _positive(xp: Namespace, z: Array) -> Array:
    """1 for positive outputs, 0 for others, -1 for NaN."""
    return xp.where(z == z, xp.astype(z > 0.0, xp.int32), -1)


def load(path: str | Path, device: str | Backend | None = None, known: Iterable[type] = ()) -> Model:
    """The model in ``path``, a model or a checkpoint, on ``device``.

    ``known`` are the classes of your own layers and losses, and for a checkpoint also of optimizers and schedules.
    Raises `FileError` if the file is damaged, of another program or version, or its arrays do not fit its network.
    """
    saved, backend = read_model(path, known), as_backend(device)
    params, state = to_device(backend, (saved.params, saved.state))
    return Model(saved.network, saved.loss, params, state, backend, saved.extra)

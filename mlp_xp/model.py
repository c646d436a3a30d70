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
from mlp_xp.data.checks import check_inputs, check_targets, check_weights, is_source
from mlp_xp.data.feed import Batch, fits
from mlp_xp.data.sources import as_source
from mlp_xp.data.stream import Stream
from mlp_xp.files.checkpoints import read_model
from mlp_xp.files.models import SavedModel, write_model
from mlp_xp.forward import BATCH, OfBatch, blocks, forward, over_steps, predictions
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend, get_backend
from mlp_xp_backends.memory import to_device, to_host
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
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

    def to_onnx(self, path: str | Path, *, input_dtype: str | None = None) -> None:
        """Write the model to ``path`` as an ONNX file of opset 20, which runs without Python; needs the extra ``onnx``.

        The input ``X`` is (rows, n_in). A classifier has the outputs ``label`` and ``probabilities``, equal to
        `predict` and `predict_proba`; a regression has ``values``. Rows without a class, because of NaN, get any.
        ``input_dtype`` is the dtype of ``X``: by default that of the network, int64 for ids; ``uint8`` for pixels.
        Raises `ValueError` naming a layer that ONNX cannot express, and `FileError` if writing fails.
        """
        from mlp_xp.interop.onnx_files import write_onnx

        write_onnx(path, [self], input_dtype=input_dtype)

    def to_torch(self) -> Any:
        """A ``torch.nn.Sequential`` with copies of the weights, in evaluation mode; its outputs are `outputs`.

        Its ``state_dict()`` has PyTorch's names and layouts. A `Rescale` in front of a `Dense` layer is multiplied into
        its weights. Raises `ValueError` naming a layer that PyTorch does not have.
        """
        from mlp_xp.interop.torch_modules import to_torch

        return to_torch(self)

    @classmethod
    def from_torch(
        cls,
        source: Any,
        loss: Loss | None = None,
        *,
        network: Chain | None = None,
        ids_per_row: int | None = None,
        device: str | Backend | None = None,
    ) -> Model:
        """The model of a ``torch.nn.Sequential``, or of ``network`` with the weights of a state dict.

        Parameters
        ----------
        source
            An ``nn.Sequential``, or a state dict, whose arrays must have the order and the shapes of ``network``.
        loss
            By default the one that belongs to a softmax or sigmoid at the end, which is then left out.
        ids_per_row
            For an embedding, if the layer after it does not imply the number.

        Raises `ValueError` naming a module that has no counterpart.
        """
        from mlp_xp.interop.torch_modules import from_torch

        return from_torch(source, loss, network=network, ids_per_row=ids_per_row, device=device)

    def to_keras(self) -> Any:
        """A ``keras.Sequential`` with copies of the weights; its outputs are `outputs`. Needs the extra ``keras``.

        ``model.to_keras().save("model.keras")`` writes a file. Raises `ValueError` naming a layer that Keras does not
        have: `GELU`, an `Embedding` that sums, and layers of your own.
        """
        from mlp_xp.interop.keras_models import to_keras

        return to_keras(self)

    @classmethod
    def from_keras(cls, source: Any, loss: Loss | None = None, *, device: str | Backend | None = None) -> Model:
        """The model of a ``keras.Sequential`` or of a ``.keras`` file; ``loss`` as in `from_torch`.

        Raises `ValueError` naming a layer or an activation that has no counterpart.
        """
        from mlp_xp.interop.keras_models import from_keras

        return from_keras(source, loss, device=device)

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
        self, x: Array, y: Array | None = None, sample_weight: Array | None = None, batch_size: int = BATCH
    ) -> dict[str, float]:
        """The mean loss of a row and the mean of each metric of the loss, such as ``accuracy``.

        Without ``y``, ``x`` is a source of batches, as `Trainer.fit` takes it.
        """
        evaluation = Evaluation(self.network, self.loss, self.backend, self.dtype, x, y, sample_weight, batch_size)
        return evaluation(self.params, self.state)

    def _map(self, f: Callable[[Namespace, Array], Array], x: Array, batch_size: int) -> HostArray:
        """``f(xp, z)`` of the outputs of all rows."""
        batch_size = check_count("batch_size", batch_size)
        x = check_inputs(self.backend, self.network, x)
        return predictions(self.backend, self.network, self.params, self.state, x, self.dtype, f, batch_size)


class Evaluation:
    """A data set to be measured on again and again: checked once, and sent once if it fits on the device.

    Several processes can share the work: ``own`` returns the part of so many rows that this one measures, and ``total``
    sums float64 arrays over all of them.
    """

    def __init__(
        self,
        network: Chain,
        loss: Loss,
        backend: Backend,
        dtype: str,
        x: Array,
        y: Array | None = None,
        sample_weight: Array | None = None,
        batch_size: int = BATCH,
        own: Callable[[int], slice] = slice,
        total: Callable[[HostArray], HostArray] = np.asarray,
    ) -> None:
        batch_size = check_count("batch_size", batch_size)
        self.loss, self.backend, self.network = loss, backend, network
        self.batches: Callable[[], Iterator[Batch]]
        self.weight: Callable[[], float]
        self.total: Callable[[HostArray], HostArray]
        if is_source(x):
            stream = Stream(backend, network, loss, as_source(x, y, sample_weight), dtype)
            self.batches, self.total = stream.blocks, np.asarray  # every process measures all of it
            self.weight = lambda: float(stream.weights.sum())
            return
        x = check_inputs(backend, network, x)
        rows = x.shape[0]
        y = check_targets(backend, loss, network.width(x.shape[1]), y, rows)
        w = check_weights(backend, sample_weight, rows, dtype)
        data: Batch = tree_map(lambda a: a[own(rows)], Batch(x, y, w))
        rows = data.x.shape[0]
        weight = float(rows) if w is ABSENT else np.sum(data.w, dtype=np.float64)
        whole = float(total(np.asarray(weight)))
        self.weight, self.total = lambda: whole, total
        self.batches = partial(blocks, backend, network, data, dtype, min(batch_size, max(rows, 1)))
        if rows == 0:
            self.batches = lambda: iter(())
        elif fits(backend, network, data, dtype):
            sent = list(self.batches())
            self.batches = lambda: iter(sent)

    def __call__(self, params: Tree, state: Tree) -> dict[str, float]:
        """The mean loss and metrics with these parameters. Waits for the device."""
        sums = [
            over_steps(out)
            for out in forward(self.backend, self.network, sums_of(self.loss), params, state, self.batches())
        ]
        names = ("loss", *(metric.__name__ for metric in self.loss.metrics))
        values = self.total(sum(sums, start=np.zeros(len(names))))
        return {name: float(value) / self.weight() for name, value in zip(names, values, strict=True)}


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

    >>> Trainer(mlp(2, 3), device="cpu").model.save("model.safetensors")
    >>> load("model.safetensors", device="cpu").predict(np.zeros((1, 2))).shape
    (1,)
    """
    saved, backend = read_model(path, known), as_backend(device)
    params, state = to_device(backend, (saved.params, saved.state))
    return Model(saved.network, saved.loss, params, state, backend, saved.extra)

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
from mlp_xp.nn.step import check_loss, check_network
from mlp_xp_backends import Backend, get_backend
from mlp_xp_backends.memory import to_device, to_host
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree


def as_backend(device: str | Backend | None) -> Backend:
    """Return the backend with a name that `get_backend` accepts, or the backend itself; ``None`` means ``auto``."""
    if device is None or isinstance(device, str):
        return get_backend("auto" if device is None else device)
    check_kind("device", device, ("asarray", "compile"), "'cpu', 'cuda' or a backend")
    return device


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained network on a device, which predicts and can be evaluated, saved and exported.

    ``dtype`` is that of the parameters; rows of ``x`` may have any real dtype and are converted.

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
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """Anything that belongs to the model and can be written as JSON, such as class names or a vocabulary."""

    def __post_init__(self) -> None:
        check_network(self.network)
        check_loss(self.loss)
        check_kind("backend", self.backend, ("asarray", "compile"), "get_backend('cpu')")

    def __str__(self) -> str:
        return f"{self.network}\nloss {self.loss}, {self.dtype}, {self.backend.name} on {self.backend.device}"

    def __repr__(self) -> str:
        parameters = sum(math.prod(p.shape) for p in leaves(self.params))
        return f"<Model of {len(self.network.layers)} layers with {parameters:,} parameters>"

    def save(self, path: str | Path) -> None:
        """Write the model atomically to ``path``, a safetensors file that `load` reads.

        Raises `FileError` if the file cannot be written, `TypeError` if ``extra`` cannot be expressed in JSON.
        """
        params, state = to_host(self.backend, (self.params, self.state))
        write_model(path, SavedModel(self.network, self.loss, params, state, self.extra, self.dtype))

    def to_onnx(self, path: str | Path, *, input_dtype: str | None = None) -> None:
        """Write the model to ``path`` as an ONNX file of opset 20, which runs without Python; needs the extra ``onnx``.

        The input ``X`` is (rows, n_in). A classifier has the outputs ``label`` and ``probabilities``, equal to
        `predict` and `predict_proba`; a regression model has ``values``. Rows with NaN get an arbitrary class.
        ``input_dtype`` is the dtype of ``X``: by default that of the network, or int64 for ids; ``uint8`` for pixels.
        Raises `ValueError` that names a layer that ONNX cannot express, and `FileError` if the file cannot be written.
        """
        from mlp_xp.interop.onnx_files import write_onnx

        write_onnx(path, [self], input_dtype=input_dtype)

    def to_torch(self) -> Any:
        """Convert to a ``torch.nn.Sequential`` with copies of the weights, in evaluation mode, which returns `outputs`.

        Its ``state_dict()`` has PyTorch's names and layouts. A `Rescale` in front of a `Dense` layer is folded into
        its weights. Raises `ValueError` that names a layer without a counterpart in PyTorch.
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
        """Convert a ``torch.nn.Sequential``, or a state dict with the layers of ``network``, to a model.

        Parameters
        ----------
        source
            An ``nn.Sequential``, or a state dict whose arrays have the order and the shapes of ``network``.
        loss
            By default the loss that belongs to a softmax or sigmoid at the end, which is then omitted.
        network
            The layers, if ``source`` is a state dict.
        ids_per_row
            The number of ids in a row of an embedding, if the layer after it does not imply this number.

        Raises `ValueError` that names a module without a counterpart.
        """
        from mlp_xp.interop.torch_modules import from_torch

        return from_torch(source, loss, network=network, ids_per_row=ids_per_row, device=device)

    def to_keras(self) -> Any:
        """Convert to a ``keras.Sequential`` with copies of the weights, which returns `outputs`; extra ``keras``.

        ``model.to_keras().save("model.keras")`` writes a file. Raises `ValueError` that names a layer without a
        counterpart in Keras: `GELU`, an `Embedding` that sums, and layers of your own.
        """
        from mlp_xp.interop.keras_models import to_keras

        return to_keras(self)

    @classmethod
    def from_keras(cls, source: Any, loss: Loss | None = None, *, device: str | Backend | None = None) -> Model:
        """Convert a ``keras.Sequential`` or a ``.keras`` file to a model; ``loss`` is as in `from_torch`.

        Raises `ValueError` that names a layer or an activation without a counterpart.
        """
        from mlp_xp.interop.keras_models import from_keras

        return from_keras(source, loss, device=device)

    @property
    def dtype(self) -> str:
        """``float32`` or ``float64``."""
        return str(leaves(self.params)[0].dtype).rpartition(".")[2]

    def outputs(self, x: Array, *, batch_size: int = BATCH) -> HostArray:
        """Return the outputs of the last layer (logits), (rows, n_out), on the host. Rows with NaN yield NaN."""
        return self._map(_logits, x, batch_size)

    def predict_proba(self, x: Array, *, batch_size: int = BATCH) -> HostArray:
        """Return the prediction of the loss, (rows, n_out): probabilities, or expected values for a regression.

        Rows of ``x`` with NaN yield NaN.
        """
        return self._map(self.loss.output, x, batch_size)

    def predict(self, x: Array, *, batch_size: int = BATCH) -> HostArray:
        """Return classes (rows,), or 0 and 1 (rows, n_out) for a binary loss, or expected values (rows, n_out).

        Raises `ValueError` if a row has no class because its outputs are NaN.
        """
        if self.loss.target not in ("class", "binary"):
            return self.predict_proba(x, batch_size=batch_size)
        found = self._map(_likeliest if self.loss.target == "class" else _positive, x, batch_size)
        if np.any(found < 0):
            row = int(np.argmax(found < 0) if found.ndim == 1 else np.argmax(np.any(found < 0, axis=1)))
            raise ValueError(
                f"the outputs of row {row} are NaN, so it has no class: x holds NaN or infinity there, or the model "
                "has diverged"
            )
        return found.astype(np.int64)

    def evaluate(
        self, x: Array, y: Array | None = None, sample_weight: Array | None = None, *, batch_size: int = BATCH
    ) -> dict[str, float]:
        """Return the mean loss per row and the mean of each metric of the loss, such as ``accuracy``.

        Without ``y``, ``x`` is a source of batches, as in `Trainer.fit`.
        """
        evaluation = Evaluation(self.network, self.loss, self.backend, self.dtype, x, y, sample_weight, batch_size)
        return evaluation(self.params, self.state)

    def _map(self, f: Callable[[Namespace, Array], Array], x: Array, batch_size: int) -> HostArray:
        """``f(xp, z)`` of the outputs of all rows."""
        batch_size = check_count("batch_size", batch_size)
        x = check_inputs(self.backend, self.network, x)
        return predictions(self.backend, self.network, self.params, self.state, x, self.dtype, f, batch_size)


class Evaluation:
    """A data set for repeated evaluation: it is checked once, and sent once if it fits on the device.

    Several ranks can share the work: ``own`` returns the slice of the rows that this rank evaluates, and ``total`` sums
    float64 arrays over all ranks.
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
            self.batches, self.total = stream.blocks, np.asarray  # every rank evaluates all rows
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
        """Return the mean loss and metrics for these parameters. Waits for the device."""
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


def load(path: str | Path, *, device: str | Backend | None = None, known: Iterable[type] = ()) -> Model:
    """Load the model in ``path``, the file of a model or a checkpoint, to ``device``.

    ``known`` lists the classes of your own layers and losses and, for a checkpoint, of optimizers and schedules.
    Raises `FileError` if the file is damaged or comes from another program or version, or if its arrays do not fit its
    network.

    >>> Trainer(mlp(2, 3), device="cpu").model.save("model.safetensors")
    >>> load("model.safetensors", device="cpu").predict(np.zeros((1, 2))).shape
    (1,)
    """
    saved, backend = read_model(path, known), as_backend(device)
    params, state = to_device(backend, (saved.params, saved.state))
    return Model(saved.network, saved.loss, params, state, backend, extra=saved.extra)

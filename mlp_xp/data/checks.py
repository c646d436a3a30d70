"""Recognition and checks of inputs, targets and weights, once, on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np  # noqa: TID251  data enter on the host

from mlp_xp._checks import shown
from mlp_xp.data.frames import frame_to_numpy
from mlp_xp.nn.layers import Chain, Embedding
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, HostArray


def is_source(x: Any) -> bool:
    """Whether ``x`` yields batches, that is, is not an array, a frame, a list of rows, or a mapping."""
    if isinstance(x, (Sequence, Mapping, str)) or hasattr(x, "shape") or hasattr(x, "__array__"):
        return False
    return isinstance(x, Iterable) or (callable(x) and not isinstance(x, type))


def is_frame(x: Any) -> bool:
    """Whether ``x`` is a data frame or an Arrow table, by its attributes: none of their libraries is imported."""
    return hasattr(x, "shape") and not hasattr(x, "dtype") and (hasattr(x, "columns") or hasattr(x, "column_names"))


def on_host(backend: Backend, a: Any, name: str = "x") -> HostArray:
    """Return ``a``, an array of any library and device, a list or a data frame, as an array on the host."""
    if isinstance(a, np.ma.MaskedArray):
        raise ValueError("masked arrays are not supported: fill them in with a.filled(value), or drop the masked rows")
    if is_frame(a):
        return frame_to_numpy(a, name)
    if hasattr(a, "__dlpack__") and not isinstance(a, np.ndarray):
        return backend.to_numpy(backend.asarray(a))
    try:
        return np.asarray(a)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"the rows of {name} must have equal shapes, but those of {shown(a)} differ") from None


def check_inputs(backend: Backend, network: Chain, x: Any, name: str = "x") -> Array:
    """Return ``x`` with two axes. Raises `ValueError` if the network cannot process it."""
    if isinstance(x, Iterator) or callable(x):
        raise TypeError(f"{name} must be an array of shape (rows, features), not {shown(x)}: stack its rows first")
    if isinstance(x, np.ma.MaskedArray) or not hasattr(x, "shape") or not hasattr(x, "dtype"):
        x = on_host(backend, x, name)
    if hasattr(x, "toarray"):
        raise ValueError(f"{name} is a sparse matrix, but the trainer needs dense rows: pass {name}.toarray()")
    if len(x.shape) == 0:
        raise TypeError(f"{name} must be an array of shape (rows, features), not {shown(x.item())}")
    if len(x.shape) != 2:
        how = f"for one row use {name}[None, :]" if len(x.shape) == 1 else f"use {name}.reshape(len({name}), -1)"
        raise ValueError(f"{name} must have two axes, rows and features, but its shape is {tuple(x.shape)}: {how}")
    if x.shape[0] == 0:
        raise ValueError(f"{name} has no rows")
    try:
        network.width(x.shape[1])
    except ValueError as error:
        reason = str(error).partition(": ")[0]
        raise ValueError(f"{name} has {x.shape[1]} columns, which do not fit the network: {reason}") from None
    kind = _kind(x)
    if kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, but its dtype is {x.dtype}: convert it to float32")
    if isinstance(network.first, Embedding):
        if kind not in "ui":
            raise ValueError(f"{name} must hold integer ids for the embedding, but its dtype is {x.dtype}")
        _check_range(name, on_host(backend, x), network.first.n_ids, "ids")
    return x


def check_targets(
    backend: Backend, loss: Loss, n_out: int | None, targets: Any, rows: int, name: str = "y"
) -> HostArray:
    """Return ``targets`` on the host, in the form that ``loss`` takes. Raises `ValueError` if they do not fit."""
    if targets is None:
        raise TypeError(f"{name}, the targets of the rows of x, is missing: only a source of batches yields both")
    y = on_host(backend, targets, name)
    if y.shape[:1] != (rows,):
        raise ValueError(f"{name} has shape {y.shape} but x has {rows} rows: give one target per row")
    if y.dtype.kind not in "buif":
        classes = f"number the classes, for instance with np.unique({name}, return_inverse=True)"
        how = f"convert it with {name}.astype(float)" if loss.target == "real" else classes
        raise ValueError(f"{name} must hold numbers, but its dtype is {y.dtype}: {how}")
    if loss.target == "class" and y.ndim == 1:
        if y.dtype.kind == "f" or y.dtype.kind == "b":
            whole = y.dtype.kind == "b" or bool(np.all(y == np.floor(y)))
            how = f"use {name}.astype(int)" if whole else f"number the classes: np.unique({name}, return_inverse=True)"
            raise ValueError(f"{name} must hold integer class labels, but its dtype is {y.dtype}: {how}")
        numbered = f"number the classes from 0: np.unique({name}, return_inverse=True)"
        single = "build the network with one output for each class, or use BinaryCrossEntropy"
        _check_range(name, y, n_out, "outputs", single if n_out == 1 else numbered)
        return y.astype(np.int32, copy=False)
    if y.ndim == 1 and n_out in (1, None):
        y = y.reshape(-1, 1)
    if y.ndim != 2 or (n_out is not None and y.shape[1] != n_out):
        labels = f"; integer labels have shape ({rows},): {name}.ravel()" if loss.target == "class" else ""
        raise ValueError(f"{name} must have shape ({rows}, {n_out}) for {type(loss).__name__}, not {y.shape}{labels}")
    _check_values(loss, y, name)
    return y.astype(np.float32) if loss.target == "class" and y.dtype.kind != "f" else y


def check_weights(backend: Backend, w: Any, rows: int, dtype: str) -> Any:
    """Return one weight per row on the host, or `ABSENT` for ``None``. Raises `ValueError` for invalid weights.

    They are checked as floats of ``dtype``, in which the device adds them.
    """
    if w is None:
        return ABSENT
    w = on_host(backend, w)
    if w.shape != (rows,) or w.dtype.kind not in "buif":
        raise ValueError(f"sample_weight must hold {rows} numbers, one per row, not {w.dtype} of shape {w.shape}")
    if not (np.all(np.isfinite(w)) and np.all(w >= 0) and np.any(w > 0)):
        raise ValueError("sample_weight must be finite and non-negative, with at least one positive entry")
    info = np.finfo(dtype)
    high, total = float(w.max()), float(np.sum(w, dtype=np.float64))
    if high < float(info.tiny) or total > float(info.max):
        raise ValueError(
            f"sample_weight has the largest value {high:g} and the sum {total:g}, out of the range of {dtype}: "
            "divide the weights by their mean"
        )
    return w


def _kind(x: Array) -> str:
    """NumPy's one-letter kind of an array's dtype, for arrays of any library."""
    name = str(x.dtype).rpartition(".")[2]
    if "float" in name:  # bfloat16 too, which NumPy knows only after JAX is imported, and then as another kind
        return "f"
    try:
        return np.dtype(name).kind
    except TypeError:
        return "O"


def first_not_finite(backend: Backend, x: Array, block: int = 10_000) -> int | None:
    """The number of the first row of ``x`` with NaN or infinity, or ``None``."""
    for start in range(0, x.shape[0] if _kind(x) == "f" else 0, block):
        rows = np.isfinite(on_host(backend, x[start : start + block])).all(axis=1)
        if not rows.all():
            return start + int(np.argmin(rows))
    return None


def _check_range(name: str, ids: HostArray, n: int | None, what: str, how: str = "") -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (n is not None and high >= n):
        allowed = "of at least 0" if n is None else f"from 0 to {n - 1} for {n} {what}"
        raise ValueError(f"{name} must be integers {allowed}, but contains {low} to {high}{': ' + how if how else ''}")


def _check_values(loss: Loss, y: HostArray, name: str) -> None:
    """Check the values that each kind of target allows."""
    if not np.all(np.isfinite(y)):
        raise ValueError(f"{name} holds NaN or infinity: drop these rows or fill them in")
    if loss.target == "class" and not (np.all(y >= 0) and np.allclose(y.sum(axis=1), 1.0, atol=1e-3)):
        raise ValueError(
            f"{name} of shape {y.shape} must contain one distribution per row: non-negative numbers whose sum is 1"
        )
    if loss.target == "binary" and not (np.all(y >= 0) and np.all(y <= 1)):
        raise ValueError(f"{name} must be in [0, 1] for {type(loss).__name__}, not {y.min()} to {y.max()}")
    if loss.target == "count" and not np.all(y >= 0):
        raise ValueError(f"{name} must not be negative for {type(loss).__name__}, but holds {y.min()}")

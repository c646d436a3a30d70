"""What users pass, on the host: arrays of any library, and weights of rows and of classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_numpy_array
from scipy import sparse
from sklearn.utils import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight

from mlp_xp._checks import shown
from mlp_xp_backends.memory import as_host
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, HostArray

DENSE_BYTES = 64 * 2**20
"""Sparse matrices whose dense form has at most this size, in bytes, are converted to dense arrays."""


def is_foreign(x: Any) -> bool:
    """Whether ``x`` is an array of a library other than NumPy, pandas and SciPy."""
    return not isinstance(x, np.ndarray) and is_array_api_obj(x) and not is_numpy_array(x)


def to_host(x: Any) -> Any:
    """``x`` as a NumPy array if it is an array of another library, otherwise ``x``."""
    return as_host(x.detach() if hasattr(x, "detach") else x) if is_foreign(x) else x


def like(x: Any, values: HostArray) -> Array:
    """``values`` as an array of the library and on the device of ``x``; strings and objects stay on the host."""
    if not is_foreign(x) or values.dtype.kind not in "biuf":
        return values
    return array_namespace(x).asarray(np.require(values, requirements="W"), device=device(x))


def home(x: Any) -> str:
    """The device of ``x``, a name for `get_backend`: ``cpu`` for everything that the host can read."""
    if not is_foreign(x) or not hasattr(x, "__dlpack_device__"):
        return "cpu"
    kind, index = x.__dlpack_device__()
    library = type(x).__module__.partition(".")[0].removesuffix("lib")
    return f"{library}:cuda:{int(index)}" if int(kind) in (2, 13) else "cpu"


class SparseRows:
    """A sparse matrix whose rows are read as dense arrays, with the interface of a host array that a feed needs."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix  # (rows, n_in) csr
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize  # of all rows, written out

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> HostArray:
        return self.matrix[rows].toarray()  # type: ignore[no-any-return]


def as_rows(x: Any) -> Any:
    """Return ``x`` with contiguous rows: dense, or as `SparseRows` if dense rows would need too much memory."""
    if not sparse.issparse(x):
        return np.ascontiguousarray(x)
    return SparseRows(x.tocsr()) if is_streamed(x) else x.toarray()


def is_streamed(x: Any) -> bool:
    """Whether ``x`` is a sparse matrix whose rows, in floats, would need too much memory if all were dense at once."""
    if not sparse.issparse(x):
        return False
    return bool(math.prod(x.shape) * (4 if x.dtype == np.float32 else 8) > DENSE_BYTES)


def row_weights(sample_weight: Any, x: Any, factors: HostArray | float = 1.0) -> Any:
    """The weight of each row of ``x`` times its factor, (rows,) float64, or `ABSENT` without either."""
    if sample_weight is None and isinstance(factors, float):
        return ABSENT
    w = _check_sample_weight(to_host(sample_weight), x, dtype=np.float64, ensure_non_negative=True) * factors
    if not (np.all(np.isfinite(w)) and np.any(w > 0.0)):
        raise ValueError(
            "sample_weight, times class_weight if given, must be finite and not all zero, but ranges from "
            f"{w.min():g} to {w.max():g}"
        )
    return w


def scaled(w: Any) -> Any:
    """``w`` over a power of two, so that the largest is in [0.5, 1) and sums stay in the range of the dtype.

    Only ratios of weights enter the gradient of a mean.
    """
    return ABSENT if w is ABSENT else np.ldexp(w, -np.frexp(w.max())[1])


def class_factors(class_weight: Any, classes: HostArray, y: HostArray) -> HostArray:
    """The weight of each row's class, (rows,); of several outputs the product."""
    if y.ndim == 1 and not isinstance(class_weight, str):
        return _table(class_weight, classes)[np.searchsorted(classes, y)]
    if isinstance(class_weight, list):
        class_weight = [dict(enumerate(_table(weights, np.arange(2)))) for weights in class_weight]
    return compute_sample_weight(class_weight, y)  # type: ignore[no-any-return]


def _table(weights: Any, classes: HostArray) -> HostArray:
    """The weight of each class; `ValueError` unless ``weights`` are non-negative numbers for some of them."""
    if not isinstance(weights, dict):
        raise ValueError(
            "class_weight must be 'balanced', a dictionary {label: weight}, or for several outputs a list of "
            f"dictionaries, not {shown(weights)}"
        )
    unknown = [label for label in weights if label not in classes.tolist()]
    if unknown:
        raise ValueError(f"class_weight names the label {unknown[0]!r}, but the classes are {classes.tolist()}")
    for label, weight in weights.items():
        if not (np.isreal(weight) and 0.0 <= weight < np.inf):
            raise ValueError(f"class_weight must hold non-negative numbers, but that of {label!r} is {weight!r}")
    return np.array([float(weights.get(label, 1.0)) for label in classes.tolist()])

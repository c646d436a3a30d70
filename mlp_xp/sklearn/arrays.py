"""Arrays of any library as input, and predictions in the library and on the device of the input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_numpy_array
from scipy import sparse

from mlp_xp_backends.memory import as_host
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
    rows = SparseRows(x.tocsr())
    return x.toarray() if rows.nbytes <= DENSE_BYTES else rows

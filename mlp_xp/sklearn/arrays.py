"""Arrays that come in, of any library, and predictions that go back to where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_numpy_array
from scipy import sparse

from mlp_xp_backends.host import as_host

Array = Any
HostArray = np.ndarray[Any, Any]

DENSE_BYTES = 64 * 2**20
"""Sparse matrices up to this size, written out, are kept dense."""


class Origin(NamedTuple):
    """The library and the device that an array is of."""

    xp: Any
    device: Any

    def bring(self, values: HostArray) -> Array:
        """``values`` as an array there; strings and objects, which no device holds, stay as they are."""
        if values.dtype.kind not in "biuf":
            return values
        return self.xp.asarray(np.require(values, requirements="W"), device=self.device)


def origin(x: Any) -> Origin | None:
    """Where ``x`` comes from; ``None`` for NumPy, pandas, SciPy and lists."""
    if not is_array_api_obj(x) or is_numpy_array(x):
        return None
    return Origin(array_namespace(x), device(x))


def to_host(x: Any) -> Any:
    """``x`` as a NumPy array if it is an array of another library, else ``x``."""
    return x if origin(x) is None else as_host(x.detach() if hasattr(x, "detach") else x)


def home(x: Any) -> str:
    """The device where ``x`` lies, as `get_backend` takes it: ``cpu`` for all that the host can read."""
    if origin(x) is None or not hasattr(x, "__dlpack_device__"):
        return "cpu"
    kind, index = x.__dlpack_device__()
    library = type(x).__module__.partition(".")[0].removesuffix("lib")
    return f"{library}:cuda:{int(index)}" if int(kind) in (2, 13) else "cpu"


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix that gives out its rows as dense arrays: what a feed of batches asks of a host array."""

    matrix: Any  # (rows, n_in) csr

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, n_in)."""
        return self.matrix.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the entries."""
        return self.matrix.dtype  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, written out."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> HostArray:
        return self.matrix[rows].toarray()  # type: ignore[no-any-return]


def as_rows(x: Any) -> Any:
    """``x`` with each row in one piece, dense, or as `SparseRows` where that would take much memory."""
    if not sparse.issparse(x):
        return np.ascontiguousarray(x)
    rows = SparseRows(x.tocsr())
    return x.toarray() if rows.nbytes <= DENSE_BYTES else rows

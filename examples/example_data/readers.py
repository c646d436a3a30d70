"""NumPy files from untrusted sources, read without unpickling anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError

__all__ = ["read_npy", "read_npz"]


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Return the array in a ``.npy`` file. Raises `DataError` if it contains objects or is not such a file."""
    return next(iter(_read(path).values()))


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in a ``.npz`` file, by their keys in lower case. Raises `DataError` like `read_npy`."""
    return _read(path)


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {key.lower(): loaded[key] for key in loaded.files}
    except Exception as error:  # a damaged file raises errors of many types, from BadZipFile to MemoryError
        raise DataError(f"{path} cannot be read: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if "allow_pickle" not in str(error):
        return str(error) or type(error).__name__
    return (
        "it is not a NumPy file, or it contains pickled objects, which can run code when they are read. If you "
        f"trust it, save it again as plain arrays: a = np.load({path.name!r}, allow_pickle=True), then "
        "np.savez_compressed with images=np.stack(list(a['images'])).astype(np.uint8), "
        "labels=a['labels'].astype(np.uint8), or for words np.save of a.astype(str)"
    )

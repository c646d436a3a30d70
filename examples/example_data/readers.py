"""NumPy files from elsewhere, read without trust: nothing in them is ever unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError

__all__ = ["read_npy", "read_npz"]


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file; `DataError` where it holds objects or is no such file."""
    return next(iter(_read(path).values()))


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays in a ``.npz`` file by their keys in lower case; `DataError` as for `read_npy`."""
    return _read(path)


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {key.lower(): loaded[key] for key in loaded.files}
    except Exception as error:  # a damaged file raises one of a dozen kinds, from zipfile to MemoryError
        raise DataError(f"{path} cannot be read: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if "allow_pickle" not in str(error):
        return str(error) or type(error).__name__
    return (
        "it is no NumPy file, or it holds pickled objects, which can run code when they are read. If you "
        f"trust it, save it again as plain arrays: a = np.load({path.name!r}, allow_pickle=True), then "
        "np.savez_compressed with images=np.stack(list(a['images'])).astype(np.uint8), "
        "labels=a['labels'].astype(np.uint8), or for words np.save of a.astype(str)"
    )

"""MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels (LeCun, Cortes and Burges; CC BY-SA 3.0)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .dataset import DataError, Dataset, Split
from .digits import load_digits
from .idx import read_idx
from .locate import MissingDataError, download, find

__all__ = ["MNIST_FILES", "load_handwritten", "load_mnist"]

MNIST_FILES = {  # name: SHA-256
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
WANTED = "the four IDX files (train-images-idx3-ubyte.gz ..., plain or .gz)"


def load_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load MNIST, or another data set of ten classes in four files with the same names.

    Parameters
    ----------
    data_dir
        The folder of the IDX files (plain or ``.gz``), or the folder that contains it as ``mnist``. By default
        ``$MLP_XP_DATA``, then the cache, then a download of 11 MB.

    Returns
    -------
    ``train`` and ``test`` with ``x`` (n, 784) ``uint8`` 0-255 and ``y`` (n,) ``int32`` 0-9; no ``valid``.

    Raises
    ------
    DataError
        Files are missing in ``data_dir``, damaged, or do not belong together.
    MissingDataError
        The files are not on this machine and cannot be downloaded.
    """
    files = _files(data_dir)
    with ThreadPoolExecutor(2) as pool:  # zlib releases the interpreter's lock
        train_x, train_y, test_x, test_y = pool.map(read_idx, files)
    train, test = _digits(train_x, train_y, files[0]), _digits(test_x, test_y, files[2])
    if train_x.shape[1:] != test_x.shape[1:]:
        raise DataError(f"images of {train_x.shape[1:]} in {files[0]} but {test_x.shape[1:]} in {files[2]}")
    source = f"MNIST from {files[0].parent} ({len(train.x):,} + {len(test.x):,} images)"
    return Dataset("mnist", source, train, None, test, tuple("0123456789"), train_x.shape[1:])


def load_handwritten(
    dataset: Literal["mnist", "digits", "auto"],
    rng: np.random.Generator,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load handwritten digits: `load_mnist`, `load_digits` or, with ``auto``, the first of these that is available.

    With ``auto``, the small data set is used only if MNIST is neither on this machine nor can be downloaded, and its
    ``source`` says so; damaged files, or a ``data_dir`` without the files, are errors. ``rng`` draws the test part of
    the small data set.
    """
    if dataset == "digits":
        return load_digits(rng)
    if dataset not in ("mnist", "auto"):
        raise DataError(f"dataset must be 'mnist', 'digits' or 'auto', not {dataset!r}")
    try:
        return load_mnist(data_dir)
    except MissingDataError as error:
        if dataset == "mnist":
            raise
        small = load_digits(rng)
        return small._replace(source=f"{small.source}, because MNIST was not found: {error}")


def _pick(folder: Path) -> tuple[Path, ...] | None:
    """The four files in ``folder``, also under the names with a dot that some archives use."""
    picked = []
    for name in MNIST_FILES:
        plain = name.removesuffix(".gz")
        names = (name, plain, plain.replace("-idx", ".idx"))
        picked.append(next((folder / name for name in names if (folder / name).is_file()), None))
    return tuple(path for path in picked if path) if all(picked) else None


def _files(data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    try:
        return find("mnist", WANTED, _pick, data_dir)
    except MissingDataError as missing:
        try:
            folder = download("mnist", MNIST_FILES, MIRRORS)
        except MissingDataError as error:
            raise MissingDataError(f"{missing}; {error}") from None
    return tuple(folder / name for name in MNIST_FILES)


def _digits(images: npt.NDArray[Any], labels: npt.NDArray[Any], path: Path) -> Split:
    """Read the images (n, height, width) and labels (n,) of one part, check them, and flatten the images."""
    if images.dtype != np.uint8 or images.ndim != 3:
        raise DataError(f"{path} holds {images.dtype} of shape {images.shape}, expected uint8 (n, height, width)")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path} contains {len(images):,} images, but its labels have the shape {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"labels beside {path} run from {labels.min()} to {labels.max()}, expected integers 0 to 9")
    return Split(images.reshape(len(images), -1), labels.astype(np.int32))

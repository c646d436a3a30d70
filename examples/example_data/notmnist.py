"""notMNIST: letters A to J of 28 x 28 pixels in a great many fonts (Bulatov 2011)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError, Dataset, Split, split
from .images import read_archive, read_folder
from .letters import LETTERS, SIDE, draw_letters
from .locate import MissingDataError, find
from .readers import read_npz

__all__ = ["load_notmnist"]

PARTS = (10_000, 6_000, 2_724)  # train, valid, test as published: all of notMNIST_small
NAMES = ("notMNIST.npz", "notMNIST_small.npz", "notMNIST_small.tar.gz", "notMNIST_small")
WANTED = "notMNIST.npz, notMNIST_small.npz, notMNIST_small.tar.gz or its folders A to J"
EMBEDDED = 8_000


def load_notmnist(rng: np.random.Generator, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load letters A to J from a ``.npz`` file or the original images, or draw them from fonts; ``rng`` splits them.

    Parameters
    ----------
    rng
        Shuffles the letters, and draws them if there are no files.
    data_dir
        A file (``.npz``, ``.tar.gz``), the folder of ``notMNIST.npz``, ``notMNIST_small.npz``,
        ``notMNIST_small.tar.gz`` or the folders ``A`` to ``J``, or the folder that contains it as ``notmnist``.
        By default ``$MLP_XP_DATA``, then the cache, then `draw_letters`.

    Returns
    -------
    Parts with ``x`` (n, 784) ``uint8`` and ``y`` (n,) ``int32`` 0 (A) to 9 (J), in the published
    proportions 10,000 to 6,000 to 2,724, which are the sizes for the 18,724 letters of the original.
    ``source`` says how many images could not be read and how many are copies of others (all are kept, as in the
    published split).

    Raises
    ------
    DataError
        Files are missing in ``data_dir``, damaged, or contain something else.
    """
    try:
        file = find("notmnist", WANTED, _pick, data_dir)
    except MissingDataError as error:
        data = draw_letters(EMBEDDED, rng)
        source = f"{len(data.x):,} letters drawn from matplotlib's fonts, because notMNIST was not found: {error}"
    else:
        data, unreadable = _read(file)
        source = f"notMNIST from {file} ({_census(data.x, unreadable)})"
    train, valid, test = split(data, PARTS, rng)
    return Dataset("notmnist", source, train, valid, test, LETTERS, (SIDE, SIDE))


def _pick(place: Path) -> Path | None:
    """``place`` itself if it is a file or has the folders A to J, otherwise the first of `NAMES` in it."""
    if place.is_file() or all((place / letter).is_dir() for letter in LETTERS):
        return place
    return next((place / name for name in NAMES if (place / name).exists()), None)


def _read(file: Path) -> tuple[Split, int]:
    """The images in ``file`` and the number of files in it that are not images."""
    if file.suffix == ".npz":
        arrays = read_npz(file)
        if not {"images", "labels"} <= arrays.keys():
            raise DataError(f"{file} holds {sorted(arrays)}, expected the keys images and labels")
        labels = _labels(arrays["labels"], file)
        return Split(_images(arrays["images"], len(labels), file), labels), 0
    read = read_folder if file.is_dir() else read_archive
    return read(file, LETTERS, (SIDE, SIDE))


def _labels(labels: npt.NDArray[Any], file: Path) -> npt.NDArray[np.int32]:
    """Convert numbers, letters, or one-hot rows (n, 10) to classes (n,) from 0 to 9."""
    if labels.ndim == 2 and labels.shape[1] == len(LETTERS) and labels.dtype.kind in "biuf":
        if not np.all(np.sort(labels, axis=1) == (np.arange(10) == 9)):
            raise DataError(f"{file}: expected rows of labels with one 1 and nine 0")
        labels = np.argmax(labels, axis=1)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "latin-1")
    if labels.dtype.kind == "U":
        number = {letter: i for i, letter in enumerate(LETTERS)}
        labels = np.array([number.get(letter, -1) for letter in labels.reshape(-1).tolist()])
    if labels.size == max(labels.shape, default=0):
        labels = labels.reshape(-1)  # (n, 1) and (1, n) too
    numbers = labels.ndim == 1 and labels.size > 0 and labels.dtype.kind in "iuf"
    if not numbers or not np.isin(labels, range(len(LETTERS))).all():
        raise DataError(
            f"{file}: labels are {labels.dtype} of shape {labels.shape}, expected (n,) numbers 0 to 9 or letters A to J"
        )
    return labels.astype(np.int32)


def _images(images: npt.NDArray[Any], n: int, file: Path) -> npt.NDArray[np.uint8]:
    """Convert images with any order of axes and one of the usual ranges to (n, 784) in 0-255."""
    if images.ndim and images.shape[0] != n and images.shape[-1] == n:
        images = np.moveaxis(images, -1, 0)  # (28, 28, n)
    if images.dtype.kind not in "iuf" or images.shape[:1] != (n,) or images.size != n * SIDE * SIDE:
        raise DataError(
            f"{file}: {n} labels, but images are {images.dtype} of shape {images.shape}, expected numbers of "
            f"shape ({n}, {SIDE}, {SIDE})"
        )
    return _grey(np.ascontiguousarray(images).reshape(n, -1), file)


def _grey(images: npt.NDArray[Any], file: Path) -> npt.NDArray[np.uint8]:
    """Scale pixels from 0 to 1, or from -0.5 to 0.5, to 0-255; return pixels in 0-255 as they are."""
    if images.dtype == np.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        images = images * 255
    elif images.dtype.kind == "f" and low >= -0.5 and high <= 0.5:
        images = (images + 0.5) * 255
    elif not (low >= 0 and high <= 255):
        raise DataError(f"{file}: pixels run from {low:g} to {high:g}, expected 0 to 255, 0 to 1 or -0.5 to 0.5")
    pixels: npt.NDArray[np.uint8] = np.rint(images).astype(np.uint8)
    return pixels


def _census(x: npt.NDArray[np.uint8], unreadable: int) -> str:
    repeats = len(x) - len({row.tobytes() for row in x})
    return f"{len(x):,} letters, {repeats:,} copies of others, {unreadable:,} unreadable files"

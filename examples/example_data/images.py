"""Images sorted into one folder per class, as PNG files in a directory or a tar archive."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError, Split

__all__ = ["read_archive", "read_folder"]

MOST_BYTES = 1 << 16  # bytes; a PNG file of 28 x 28 pixels is smaller
Item = tuple[int, str, bytes]  # class, name, the bytes of the file


def read_folder(folder: Path, classes: Sequence[str], shape: tuple[int, int]) -> tuple[Split, int]:
    """Read the images ``folder/<class>/*.png``, and count the files that are not images.

    Returns
    -------
    ``x`` (n, height * width) ``uint8`` in the order of class and name, ``y`` (n,) ``int32``, and the number of
    files that are not PNG images of ``shape`` (height, width).

    Raises
    ------
    DataError
        Pillow is not installed, or no image was found.
    """
    files = ((i, file) for i, name in enumerate(classes) for file in (folder / name).glob("*.png") if file.is_file())
    return _read(((i, file.name, file.read_bytes()) for i, file in files), shape, folder)


def read_archive(archive: Path, classes: Sequence[str], shape: tuple[int, int]) -> tuple[Split, int]:
    """Read the images ``.../<class>/*.png`` of a tar archive without extracting it, as `read_folder` does."""
    try:
        with tarfile.open(archive) as tar:
            return _read(_members(tar, {name: i for i, name in enumerate(classes)}), shape, archive)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{archive} is not a complete tar archive ({error}): download it again") from error


def _members(tar: tarfile.TarFile, classes: dict[str, int]) -> Iterator[Item]:
    for member in tar:
        path = PurePosixPath(member.name)
        content = tar.extractfile(member) if member.isfile() else None
        if content and path.suffix == ".png" and path.parent.name in classes:
            yield classes[path.parent.name], path.name, content.read(MOST_BYTES + 1)


def _read(items: Iterable[Item], shape: tuple[int, int], place: Path) -> tuple[Split, int]:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("images need Pillow: pip install 'mlp-xp[examples]'") from error
    decoded = [(label, name, _decode(Image, content, shape)) for label, name, content in items]
    whole = sorted((item for item in decoded if item[2] is not None), key=lambda item: item[:2])
    if not whole:
        raise DataError(f"{place} contains no PNG image of {shape[0]} x {shape[1]} pixels in folders named by class")
    x = np.stack([pixels for _, _, pixels in whole if pixels is not None])
    return Split(x, np.array([label for label, _, _ in whole], np.int32)), len(decoded) - len(whole)


def _decode(Image: Any, content: bytes, shape: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    """The gray pixels (height * width,), or None if ``content`` is not a PNG image of ``shape``."""
    if len(content) > MOST_BYTES:
        return None
    try:
        image = Image.open(BytesIO(content), formats=["PNG"])
        if image.size != shape[::-1]:
            return None
        return np.frombuffer(image.convert("L").tobytes(), np.uint8)
    except Exception:  # on a damaged file, Pillow raises errors of many kinds
        return None

"""IDX, the format of the MNIST files.

Two zero bytes, a byte for the type, a byte for the number of dimensions, each dimension as a big-endian
32-bit integer, then the values, big-endian, last dimension fastest (LeCun, Cortes and Burges, "The MNIST
database").
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError

__all__ = ["read_idx"]

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"
EXPANSION = 1032  # deflate's largest ratio: 258 bytes from two bits
PIECE = 1 << 18  # compressed bytes, so few that the decompressed ones stay in the cache until they are copied


def read_idx(path: str | Path) -> npt.NDArray[Any]:
    """Return the array in an IDX file, plain or gzip, with the file's shape and in native byte order.

    Raises `DataError` for anything but one complete IDX file: another magic number, type or size, missing or trailing
    bytes, damaged gzip. Sizes are compared with that of the file before memory is allocated.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parse(_unzip(raw), EXPANSION * len(raw)) if raw[:2] == GZIP else _parse(iter((raw,)), len(raw))
    except DataError as error:
        raise DataError(f"{path} is not a valid IDX file: {error}; delete it and download it again") from None


def _unzip(raw: bytes) -> Iterator[bytes]:
    """The content of a gzip file with one member, piece by piece; zlib checks its length and CRC."""
    stream = zlib.decompressobj(wbits=31)
    view = memoryview(raw)
    try:
        for start in range(0, len(raw), PIECE):
            yield stream.decompress(view[start : start + PIECE])
            if stream.eof:
                break
    except zlib.error as error:
        raise DataError(f"damaged gzip ({error})") from None
    if not stream.eof:
        raise DataError("the gzip data are truncated")
    if stream.unused_data or start + PIECE < len(raw):
        raise DataError("bytes follow the end of the gzip data")


def _parse(pieces: Iterator[bytes], most: int) -> npt.NDArray[Any]:
    """The array in ``pieces``, which contain at most ``most`` bytes in all."""
    head, rest = _header(pieces)
    dtype, shape = np.dtype(TYPES[head[2]]), tuple(np.frombuffer(head[4:], ">u4").tolist())
    size = math.prod(shape) * dtype.itemsize
    if not 0 < size <= most:
        raise DataError(f"its header announces {size:,} bytes, which a file of this length cannot contain")
    values = _fill(np.empty(size, np.uint8), chain((rest,), pieces))
    return values.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _header(pieces: Iterator[bytes]) -> tuple[bytes, bytes]:
    """The header, and the bytes that follow it in the pieces read so far."""
    read = _at_least(4, b"", pieces)
    if read[:2] != b"\0\0" or read[2] not in TYPES or not 1 <= read[3] <= 8:
        raise DataError(f"it starts with 0x{read[:4].hex()}, not 0x0000, a type (0x08 is bytes) and 1 to 8 dimensions")
    end = 4 + 4 * read[3]
    read = _at_least(end, read, pieces)
    return read[:end], read[end:]


def _at_least(count: int, read: bytes, pieces: Iterator[bytes]) -> bytes:
    while len(read) < count:
        piece = next(pieces, None)
        if piece is None:
            raise DataError(f"{len(read)} bytes are too few for its header")
        read += piece
    return read


def _fill(values: npt.NDArray[np.uint8], pieces: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """Fill ``values`` from ``pieces``, to the last byte and with none left over."""
    start = 0
    for piece in pieces:
        end = start + len(piece)
        if end > len(values):
            raise DataError(f"bytes follow the {len(values):,} that its header announces")
        values[start:end] = np.frombuffer(piece, np.uint8)
        start = end
    if start < len(values):
        raise DataError(f"it contains {start:,} bytes of values, but its header announces {len(values):,}")
    return values

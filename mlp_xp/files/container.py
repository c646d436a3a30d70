"""The container: named arrays and a JSON header in one safetensors file (https://github.com/huggingface/safetensors).

The header of mlp_xp is a JSON text in the metadata of the file. The safetensors package checks the layout of the
arrays; this module limits the size of the index, refuses duplicate keys, and compares the arrays with the expected
ones before one of them is loaded.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  files hold host arrays
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mlp_xp.files import disk
from mlp_xp.files.disk import FileError, as_path, check_regular, failed
from mlp_xp_backends.typing import HostArray

Json = Any
"""Anything that JSON can express."""

FORMAT = 1
MAX_INDEX = 4 * 2**20  # bytes; the index of a network of five layers has a few thousand
MAX_MESSAGE = 400  # characters of a message, which may quote the file
DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
}


class Entry(NamedTuple):
    """An array in a file, or one that is expected there."""

    dtype: str
    shape: tuple[int, ...]


def check_entries(found: dict[str, Entry], expected: dict[str, Entry]) -> None:
    """Raise `ValueError` unless both are the same."""
    if missing := expected.keys() - found.keys():
        raise ValueError(f"the array {min(missing)} is missing")
    if unknown := found.keys() - expected.keys():
        raise ValueError(f"it holds an unknown array {min(unknown)!r}")
    for name, entry in expected.items():
        if found[name] != entry:
            raise ValueError(
                f"{name} must be {entry.dtype} of shape {entry.shape}, "
                f"not {found[name].dtype} of shape {found[name].shape}"
            )


def entries(arrays: dict[str, HostArray]) -> dict[str, Entry]:
    """The dtype and shape of each array."""
    return {name: Entry(a.dtype.name, a.shape) for name, a in arrays.items()}


def metadata(kind: str, arrays: dict[str, HostArray], header: Json) -> dict[str, str]:
    """The metadata of a file of these arrays; `TypeError` or `ValueError` if a file cannot hold them."""
    for name, a in arrays.items():
        if a.dtype.name not in DTYPES.values():
            raise TypeError(f"{name} is an array of {a.dtype}: a file stores booleans and numbers of up to 64 bits")
    texts = {"mlp_xp": str(FORMAT), "kind": kind, "header": json.dumps(header, separators=(",", ":"))}
    size = len(json.dumps([texts, entries(arrays)])) + 100 * len(arrays)  # an entry has keys and offsets too
    if size > MAX_INDEX:
        raise ValueError(f"a file has an index of at most {MAX_INDEX} bytes, but this {kind} needs about {size}")
    return texts


def write(path: str | Path, kind: str, arrays: dict[str, HostArray], header: Json) -> None:
    """Write ``arrays`` and ``header`` (anything that JSON can hold) to ``path``, atomically."""
    texts = metadata(kind, arrays, header)
    contiguous = {name: np.asarray(a, order="C") for name, a in arrays.items()}  # ascontiguousarray has no 0-d arrays

    def fill(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary, texts)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error

    disk.write(path, fill)


class Content:
    """A file that is open for reading: its header, the entries of its arrays, and its arrays on request."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.metadata: dict[str, str] = file.metadata() or {}
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
        self.entries = {
            name: Entry(DTYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
            for name, part in parts.items()
        }

    def header(self, kinds: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
        """The kind of the file and its header; `ValueError` for another program, format or kind."""
        version, kind = self.metadata.get("mlp_xp"), self.metadata.get("kind", "file of unknown kind")
        if version is None:
            raise ValueError("it is a safetensors file of another program")
        if version != str(FORMAT):
            raise ValueError(f"it has format {version!r}, and this mlp_xp reads format {FORMAT}: update mlp_xp")
        if kind not in kinds:
            raise ValueError(f"it is a {kind}, not a {' or '.join(kinds)}")
        header = parse(self.metadata.get("header", ""))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        return kind, header

    def size_of(self, name: str) -> int:
        """The number of elements of an array; `ValueError` if it is missing."""
        if name not in self.entries:
            raise ValueError(f"the array {name} is missing")
        return math.prod(self.entries[name].shape)

    def arrays(self, expected: dict[str, Entry]) -> dict[str, HostArray]:
        """All arrays; `ValueError` unless they are the expected ones."""
        check_entries(self.entries, expected)
        arrays = {name: self._file.get_tensor(name) for name in expected}
        return {name: a.view(np.uint8) != 0 if a.dtype == bool else a for name, a in arrays.items()}  # bytes are 0 or 1


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Content]:
    """Open the file at ``path``. Any error while it is open becomes a `FileError` that names the path."""
    path = as_path(path)
    size = check_regular("read", path).st_size
    try:
        _check_index(path, size)
        with safe_open(path, framework="numpy") as file:
            yield Content(file)
    except FileError:
        raise
    except OSError as error:
        raise failed("read", path, error) from error
    except SafetensorError as error:
        raise FileError(f"cannot read {path}: it is damaged: {str(error)[:MAX_MESSAGE]}") from error
    except Exception as error:  # constructors of custom classes may raise anything
        text = str(error) if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: {error}"
        raise FileError(f"cannot read {path}: {text[:MAX_MESSAGE]}") from error


def _check_index(path: Path, size: int) -> None:
    """Raise `ValueError` for an index that is too large, is not JSON, or has a key twice."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"it is truncated, or not a safetensors file ({size} bytes)")
        if length > MAX_INDEX:
            raise ValueError(f"its index has {length} bytes, more than {MAX_INDEX}")
        parse(file.read(length).decode())


def parse(text: str) -> Json:
    """JSON; `ValueError` if it is malformed, nested too deeply, or has an object with the same key twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is damaged: its JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is damaged: its JSON is malformed ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("it is damaged: a key occurs twice in its JSON")
    return content

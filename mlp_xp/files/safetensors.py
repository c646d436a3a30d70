"""The container: named arrays and a JSON header in one safetensors file.

The format (https://github.com/huggingface/safetensors) is eight bytes with the length of a JSON index, the index, and
the arrays. The header of mlp_xp is a JSON text in the metadata of the index. Nothing in a file is trusted: every
length, offset and name is checked before memory is allocated. The reference implementation is not used, since it
accepts duplicate keys, needs all arrays in memory a second time for writing, and opens a file by its path, which a
training run may replace between two calls.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np  # noqa: TID251  files hold host arrays

from mlp_xp.files import atomic
from mlp_xp.files.paths import FileError, as_path, check_regular, failed
from mlp_xp_backends.typing import HostArray

Json = Any

FORMAT = 1
MAX_INDEX = 4 * 2**20  # bytes; the index of a network of five layers has a few thousand
MAX_MESSAGE = 400  # characters of a message, which may quote the file
DTYPES = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in {
        **{"F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool"},
        **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
        **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
    }.items()
}
CODES = {dtype.name: code for code, dtype in DTYPES.items()}


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
    """The dtype and shape of each array; `TypeError` if a file cannot hold it."""
    for name, a in arrays.items():
        if a.dtype.name not in CODES:
            raise TypeError(f"{name} is an array of {a.dtype}: a file stores booleans and numbers of up to 64 bits")
    return {name: Entry(a.dtype.name, a.shape) for name, a in arrays.items()}


def index(kind: str, found: dict[str, Entry], header: Json) -> bytes:
    """The length and the index of a file with these arrays; `ValueError` if readers would refuse its size."""
    content: dict[str, Any] = {
        "__metadata__": {"mlp_xp": str(FORMAT), "kind": kind, "header": json.dumps(header, separators=(",", ":"))}
    }
    end = 0
    for name in _order(found):
        dtype, shape = found[name]
        begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        content[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    if len(text) > MAX_INDEX:
        raise ValueError(f"a file has an index of at most {MAX_INDEX} bytes, but this {kind} needs {len(text)}")
    return len(text).to_bytes(8, "little") + text


def _order(found: dict[str, Entry]) -> list[str]:
    """Names in the order of storage: by falling size of an element, so that all are aligned."""
    return sorted(found, key=lambda name: (-np.dtype(found[name].dtype).itemsize, name))


def write(path: str | Path, kind: str, arrays: dict[str, HostArray], header: Json) -> None:
    """Write ``arrays`` and ``header`` (anything that JSON can hold) to ``path``, atomically."""
    found = entries(arrays)
    start = index(kind, found, header)

    def fill(file: BinaryIO) -> None:
        file.write(start)
        for name in _order(found):
            a = arrays[name]
            flat = a.astype(a.dtype.newbyteorder("<"), order="C", copy=False).reshape(-1)
            file.write(flat.view(np.uint8).data)

    atomic.write(path, fill)


class Content:
    """A file that is open for reading: its header, the entries of its arrays, and its arrays on request."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError(f"it is cut short or not a file of mlp_xp: {size} bytes, an index of {length}")
        if length > MAX_INDEX:
            raise ValueError(f"its index has {length} bytes, more than {MAX_INDEX}")
        content = parse(file.read(length).decode())
        _check(isinstance(content, dict), "its index is not a JSON object")
        self.metadata = content.pop("__metadata__", {})
        _check(isinstance(self.metadata, dict), "its metadata are not a JSON object")
        self.file, self.begin = file, 8 + length
        self.offsets: dict[str, int] = {}
        self.entries = {name: self._entry(name, entry) for name, entry in content.items()}
        self._check_layout(size - self.begin)

    def _entry(self, name: str, entry: Json) -> Entry:
        """The entry of an array, whose offset is stored too."""
        _check(isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}, f"{name!r} is malformed")
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        _check(isinstance(code, str) and code in DTYPES, f"{name!r} has an unknown dtype")
        _check(_are_counts(shape) and len(shape) <= 16 and _are_counts(offsets, 2), f"{name!r} is malformed")
        length = math.prod(shape) * DTYPES[code].itemsize
        _check(offsets[1] - offsets[0] == length, f"{name!r} has {offsets[1] - offsets[0]} bytes instead of {length}")
        self.offsets[name] = offsets[0]
        return Entry(DTYPES[code].name, tuple(shape))

    def _check_layout(self, size: int) -> None:
        """`ValueError` unless the arrays follow one another without gap or overlap up to the end of the file."""
        end = 0
        for name in sorted(self.entries, key=lambda name: (self.offsets[name], math.prod(self.entries[name].shape))):
            _check(self.offsets[name] == end, f"{name!r} overlaps another array or leaves a gap")
            end += math.prod(self.entries[name].shape) * np.dtype(self.entries[name].dtype).itemsize
        _check(end == size, f"its arrays have {end} bytes, but {size} follow the index")

    def header(self, kinds: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
        """The kind of the file and its header; `ValueError` for another program, format or kind."""
        version, kind = self.metadata.get("mlp_xp"), self.metadata.get("kind")
        _check(version is not None, "it is a safetensors file of another program")
        if version != str(FORMAT):
            raise ValueError(f"it has format {version!r}, and this mlp_xp reads format {FORMAT}: update mlp_xp")
        if kind not in kinds:
            raise ValueError(f"it is a {kind}, not a {' or '.join(kinds)}")
        header = parse(self.metadata.get("header"))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        return kind, header

    def size_of(self, name: str) -> int:
        """The number of elements of an array; `ValueError` if it is missing."""
        _check(name in self.entries, f"the array {name} is missing")
        return math.prod(self.entries[name].shape)

    def arrays(self, expected: dict[str, Entry]) -> dict[str, HostArray]:
        """All arrays; `ValueError` unless they are the expected ones."""
        check_entries(self.entries, expected)
        return {name: self._array(name) for name in sorted(expected, key=self.offsets.__getitem__)}

    def _array(self, name: str) -> HostArray:
        dtype, shape = self.entries[name]
        a = np.empty(shape, np.dtype(dtype).newbyteorder("<"))
        self.file.seek(self.begin + self.offsets[name])
        raw = a.reshape(-1).view(np.uint8)
        _check(self.file.readinto(raw) == raw.size, f"{name} is cut short")  # type: ignore[attr-defined]
        return (raw != 0).reshape(shape) if dtype == "bool" else a.astype(dtype, copy=False)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Content]:
    """The content of the file at ``path``. Any error while it is open becomes a `FileError` that names the path."""
    path = as_path(path)
    check_regular("read", path)
    try:
        with path.open("rb") as file:
            yield Content(file, os.fstat(file.fileno()).st_size)
    except FileError:
        raise
    except OSError as error:
        raise failed("read", path, error) from error
    except Exception as error:  # constructors of custom classes may raise anything
        text = str(error) if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: {error}"
        raise FileError(f"cannot read {path}: {text[:MAX_MESSAGE]}") from error


def parse(text: Any) -> Json:
    """JSON; `ValueError` if it is malformed, nested too deeply, or has an object with the same key twice."""
    _check(isinstance(text, str), "its header is missing")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is damaged: its JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is damaged: its JSON is malformed ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    _check(len(content) == len(pairs), "it is damaged: a key occurs twice in its JSON")
    return content


def _are_counts(values: Any, length: int | None = None) -> bool:
    return (
        isinstance(values, list)
        and (length is None or len(values) == length)
        and all(type(v) is int and 0 <= v < 2**63 for v in values)
    )


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

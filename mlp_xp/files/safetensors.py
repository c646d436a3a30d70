"""Arrays and a JSON header in one safetensors file: written atomically, read with suspicion."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID251  files hold arrays of the host

HostArray = np.ndarray[Any, Any]
Json = Any

FORMAT = 1
MAX_HEADER = 16 * 2**20  # bytes; a header of this library has some hundred


class FileError(ValueError):
    """A file that is not what it should be; the message says what was expected and what was found."""


def write(path: str | Path, kind: str, arrays: dict[str, HostArray], header: Json) -> None:
    """Write ``arrays`` and ``header`` (anything that JSON can hold) to ``path``.

    The file appears complete or not at all: a temporary file beside it is filled, flushed to the disk and renamed.
    """
    from safetensors.numpy import save

    path = Path(path)
    text = json.dumps(header)
    content = save(
        {name: np.ascontiguousarray(a) for name, a in arrays.items()},
        metadata={"mlp_xp": str(FORMAT), "kind": kind, "header": text},
    )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        file = temporary.open("xb")  # with the permissions that any new file gets
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raise `FileError` unless a file could be written to ``path``."""
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"cannot write {path}: its folder is read-only")


def _flush_folder(folder: Path) -> None:
    """Bring the rename to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: str | Path, *kinds: str) -> tuple[dict[str, HostArray], Json]:
    """The arrays and the header of a file of one of these kinds that `write` wrote; `FileError` for everything else."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    _check_size(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_metadata(path, kinds, metadata)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        header = json.loads(metadata["header"])
    except FileError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise FileError(f"{path} is damaged or no file of mlp_xp: {error}") from error
    return arrays, header


def _check_size(path: Path) -> None:
    """The first eight bytes hold the length of the header, which must fit into the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, MAX_HEADER):
        raise FileError(f"{path} is cut short or no file of mlp_xp: {size} bytes with a header said to be {length}")


def _check_metadata(path: Path, kinds: tuple[str, ...], metadata: dict[str, str]) -> None:
    version = metadata.get("mlp_xp")
    if version is None:
        raise FileError(f"{path} is a safetensors file of another program")
    if version != str(FORMAT):
        raise FileError(f"{path} has format {version}, this mlp_xp reads format {FORMAT}: update mlp_xp")
    if metadata.get("kind") not in kinds:
        raise FileError(f"{path} is a {metadata.get('kind')}, not a {' or '.join(kinds)}")

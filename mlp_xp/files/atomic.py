"""Atomic writing: a file appears complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mlp_xp.files.paths import as_path, check_folder, failed

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # O_BINARY exists on Windows
_written: set[Path] = set()  # temporary files that this process is writing


def write(path: str | Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Call ``fill`` with a temporary file in the folder of ``path``, flush it to the disk and rename it to ``path``.

    If ``path`` is a symbolic link, its target is replaced. An existing file keeps its mode. Temporary files that killed
    processes left behind are removed. Raises `FileError` if the operating system reports an error; an existing file at
    ``path`` is then unchanged.
    """
    path = as_path(path)
    check_folder(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{_prefix(target)}{os.getpid()}.{secrets.token_hex(8)}.tmp")
    _written.add(temporary)
    try:
        _remove_stale(target)
        mode = target.stat().st_mode & 0o7777 if target.exists() else None
        descriptor = os.open(temporary, _CREATE, 0o666 if mode is None else 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123  a descriptor
            if mode is not None:
                temporary.chmod(mode)
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise failed("write", path, error, "; an existing file is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # gone already if it was renamed
        _written.discard(temporary)
    _flush_folder(target.parent)


def _prefix(target: Path) -> str:
    """The first part of the names of temporary files for ``target``: short, whatever the length of its own name."""
    return f".mlp_xp-{hashlib.sha256(target.name.encode(errors='surrogateescape')).hexdigest()[:16]}."


def _remove_stale(target: Path) -> None:
    """Remove temporary files for ``target`` of processes that have ended."""
    if os.name == "nt":
        return  # on Windows, os.kill(pid, 0) ends the process
    name = re.compile(re.escape(_prefix(target)) + r"([0-9]{1,9})\.[0-9a-f]{16}\.tmp")
    for path in target.parent.iterdir():
        match = name.fullmatch(path.name)
        if match and path not in _written and not _is_running(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(pid: int) -> bool:
    """Whether another process with this id is running; a file with our own id that we are not writing is stale."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # a process of another user
    return True


def _flush_folder(folder: Path) -> None:
    """Flush the renaming to the disk, where the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

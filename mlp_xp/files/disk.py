"""Files on the disk: paths are checked first, and writing is atomic: a file appears complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlp_xp._checks import shown


class FileError(OSError):
    """A file that cannot be read or written, or that does not contain what it should.

    The message names the path. ``errno`` is that of the operating system's error, if there was one.

    >>> import mlp_xp
    >>> mlp_xp.load("missing.safetensors")
    Traceback (most recent call last):
    mlp_xp.files.disk.FileError: cannot read missing.safetensors: No such file or directory
    """


def failed(action: str, path: Path, error: OSError, remark: str = "") -> FileError:
    """The `FileError` for an operating system error during ``action``, which is ``read`` or ``write``."""
    result = FileError(f"cannot {action} {path}: {error.strerror or error}{remark}")
    result.errno = error.errno
    return result


def as_path(path: object) -> Path:
    """``path`` as a `Path`; `TypeError` unless it is a string or a path, `FileError` if no file can have this name."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"expected the path of a file, such as 'net.safetensors', got {shown(path)}")
    if "\0" in os.fspath(path) or not os.fspath(path):
        raise FileError(f"expected the path of a file, got {shown(path)}")
    return Path(path)


def check_regular(action: str, path: Path) -> os.stat_result:
    """The status of an existing file; `FileError` for a folder, a pipe or a device, none of which is opened."""
    try:
        status = path.stat()
    except OSError as error:
        raise failed(action, path, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise FileError(f"cannot {action} {path}: it is a folder, give the path of a file")
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"cannot {action} {path}: it is a pipe or a device, not a regular file")
    return status


def check_folder(path: str | Path) -> None:
    """Raise `FileError` unless a file can be written to ``path``."""
    path = as_path(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {target.parent}")
    if os.path.lexists(target):
        check_regular("write", target)
    if not os.access(target.parent, os.W_OK):
        raise FileError(f"cannot write {path}: the folder {target.parent} is read-only")


_written: set[Path] = set()  # temporary folders that this process is using


def write(path: str | Path, fill: Callable[[Path], Any]) -> None:
    """Call ``fill`` with the path of a temporary file, flush that file to the disk and rename it to ``path``.

    The file is written in a private temporary folder beside ``path``. If the process is killed, the folder stays until
    the next call for this path, by any process. If ``path`` is a symbolic link, its target is replaced. An existing
    file keeps its mode. Raises `FileError` if the operating system reports an error; an existing file at ``path`` is
    then unchanged.
    """
    path = as_path(path)
    check_folder(path)
    target = Path(os.path.realpath(path))
    folder = target.with_name(f"{_prefix(target)}{os.getpid()}.{secrets.token_hex(8)}.tmp")
    _written.add(folder)
    try:
        remove_stale(target)
        folder.mkdir(mode=0o700)
        file = folder / "new"
        file.touch()  # has the mode of any new file
        mode = (target if target.exists() else file).stat().st_mode & 0o7777
        fill(file)
        file.chmod(mode)
        _flush(file)
        file.replace(target)
    except OSError as error:
        raise failed("write", path, error, "; an existing file is unchanged") from error
    finally:
        _written.discard(folder)  # first: if removing it is interrupted, the next call does
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # some systems cannot flush a folder
        _flush(target.parent)


def _prefix(target: Path) -> str:
    """The first part of the names of temporary folders for ``target``: short even if its own name is long."""
    return f".mlp_xp-{hashlib.sha256(target.name.encode(errors='surrogateescape')).hexdigest()[:16]}."


def remove_stale(path: str | Path) -> None:
    """Remove temporary folders for ``path`` of processes that have ended."""
    if os.name == "nt":
        return  # on Windows, os.kill(pid, 0) ends the process
    target = Path(os.path.realpath(path))
    name = re.compile(re.escape(_prefix(target)) + r"([0-9]{1,9})\.[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError):  # a folder that cannot be listed can be written to
        for folder in target.parent.iterdir():
            match = name.fullmatch(folder.name)
            if match and folder not in _written and not _is_running(int(match[1])):
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    """Whether another process with this id is running; a folder with our own id that we do not use is stale."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # a process of another user
    return True


def _flush(path: Path) -> None:
    """Flush a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

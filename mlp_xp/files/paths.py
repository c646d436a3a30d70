"""Paths of files: checked before anything is read or written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mlp_xp._checks import shown


class FileError(OSError):
    """A file that cannot be read or written, or that does not contain what it should.

    The message names the path. ``errno`` is that of the operating system's error, if there was one.

    >>> import mlp_xp
    >>> mlp_xp.load("missing.safetensors")
    Traceback (most recent call last):
    mlp_xp.files.paths.FileError: cannot read missing.safetensors: No such file or directory
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

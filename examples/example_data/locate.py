"""The sources of the files of a data set: a folder, ``$MLP_XP_DATA``, the user's cache, or a download."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from .dataset import DataError

__all__ = ["MissingDataError", "cache_dir", "download", "find"]

T = TypeVar("T")

CONNECT_SECONDS = 4.0  # until a mirror must have answered
READ_SECONDS = 20.0  # between two pieces of a download


class MissingDataError(DataError):
    """Files are not on this machine and could not be downloaded."""


def find(name: str, wanted: str, pick: Callable[[Path], T | None], data_dir: str | os.PathLike[str] | None) -> T:
    """Return the files of the data set ``name`` on this machine.

    ``pick`` takes a folder and returns its files, or None if some are missing. If ``data_dir`` is given, only that
    folder is searched, otherwise ``$MLP_XP_DATA`` and then the cache. Each may be the folder of the files or contain
    it as ``name``. ``wanted`` describes the files in error messages.

    Raises
    ------
    DataError
        ``data_dir`` is given, and files are missing there.
    MissingDataError
        ``data_dir`` is not given, and the files are in none of the folders.
    """
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        files = _pick_in(root, name, pick)
        if files is None:
            raise DataError(f"no {name} data in {root}: expected {wanted} there or in {root / name}, {_found(root)}")
        return files
    for place in _places():
        files = _pick_in(place, name, pick)
        if files is not None:
            return files
    environment = _environment("MLP_XP_DATA")
    raise MissingDataError(f"MLP_XP_DATA={environment} lacks {wanted}" if environment else "MLP_XP_DATA is not set")


def cache_dir() -> Path | None:
    """The folder of downloads: ``$MLP_XP_CACHE``, or the system's folder for caches (None without pooch)."""
    try:
        return _environment("MLP_XP_CACHE") or _system_cache()
    except ImportError:
        return None


def download(name: str, checksums: Mapping[str, str], mirrors: Sequence[str]) -> Path:
    """Download files to the cache and return their folder.

    Parameters
    ----------
    name
        The folder inside the cache.
    checksums
        The SHA-256 checksum of each file, by name. A file that already has the right checksum is not downloaded
        again; if a download has another checksum, the next mirror is tried.
    mirrors
        URLs, each ending in ``/``, to which the name of a file is appended.

    Raises
    ------
    MissingDataError
        pooch is not installed, there is no network (which is detected within seconds), or no mirror has the file.
    """
    cache = cache_dir()
    if cache is None:
        raise MissingDataError("downloads need pooch: pip install 'mlp-xp[examples]'")
    order = _by_answer(mirrors, next(iter(checksums)))
    for file, checksum in checksums.items():
        _fetch(file, checksum, order, cache / name)
    return cache / name


def _fetch(file: str, checksum: str, mirrors: Sequence[str], folder: Path) -> None:
    """Download a file from the first mirror with the right checksum; pooch renames it only after the check."""
    import pooch

    reasons = []
    for mirror in mirrors:
        downloader = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))
        try:
            pooch.retrieve(mirror + file, f"sha256:{checksum}", file, folder, downloader=downloader)
            return
        except (OSError, ValueError) as error:
            reasons.append(f"{mirror}: {_short(error)}")
    raise MissingDataError(f"{file} could not be downloaded ({'; '.join(reasons)})")


def _by_answer(mirrors: Sequence[str], file: str) -> list[str]:
    """The mirrors, with the first one that answers in front. They are contacted at once, in threads that are abandoned
    after `CONNECT_SECONDS`: without a network, looking up a name can hang for minutes.
    """
    import requests

    answers: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def ask(mirror: str) -> None:
        try:
            requests.head(mirror + file, timeout=CONNECT_SECONDS, allow_redirects=True).raise_for_status()
            answers.put((mirror, ""))
        except Exception as error:  # an abandoned thread has no caller to which an error could be raised
            answers.put((mirror, _short(error)))

    for mirror in mirrors:
        Thread(target=ask, args=(mirror,), daemon=True).start()
    reasons = dict.fromkeys(mirrors, "no answer")
    deadline = time.monotonic() + CONNECT_SECONDS
    for _ in mirrors:
        try:
            mirror, reason = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        if not reason:
            return [mirror, *(other for other in mirrors if other != mirror)]
        reasons[mirror] = reason
    raise MissingDataError("no download (" + ", ".join(f"{m}: {r}" for m, r in reasons.items()) + ")")


def _short(error: Exception) -> str:
    """The type of an error and the start of its message, because connection errors can have many lines."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if len(text) <= 120 else type(error).__name__


def _places() -> Iterator[Path]:
    """The folders to search, one by one, because finding the cache needs an import."""
    if environment := _environment("MLP_XP_DATA"):
        yield environment
    if cache := cache_dir():
        yield cache


def _environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def _system_cache() -> Path:
    import pooch

    return Path(pooch.os_cache("mlp_xp"))


def _pick_in(root: Path, name: str, pick: Callable[[Path], T | None]) -> T | None:
    files = pick(root / name)
    return pick(root) if files is None else files


def _found(root: Path) -> str:
    """A description of the content of ``root``, for an error message."""
    if not root.is_dir():
        return "found a file" if root.exists() else "but there is no such folder"
    names = sorted(path.name for path in root.iterdir())
    return "found " + (", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing")

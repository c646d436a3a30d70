"""Where the files of a data set come from: a folder, ``$MLP_XP_DATA``, the user's cache, a download."""

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

CONNECT_SECONDS = 4.0  # for a mirror to answer at all
READ_SECONDS = 20.0  # between two pieces of a download


class MissingDataError(DataError):
    """Files are not on this machine, nor were they fetched."""


def find(name: str, wanted: str, pick: Callable[[Path], T | None], data_dir: str | os.PathLike[str] | None) -> T:
    """The files of the data set ``name`` on this machine.

    ``pick`` takes a folder and returns its files, or None where it lacks some. Folders are tried in this
    order: ``data_dir`` alone if it is given, else ``$MLP_XP_DATA`` and the cache; each may be the folder of
    the files or hold it as ``name``. ``wanted`` tells the user what the files are.

    Raises
    ------
    DataError
        ``data_dir`` is given and lacks them.
    MissingDataError
        It is not given, and they are nowhere.
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
    """The folder of downloads: ``$MLP_XP_CACHE``, else the system's for caches (None without pooch)."""
    try:
        return _environment("MLP_XP_CACHE") or _system_cache()
    except ImportError:
        return None


def download(name: str, checksums: Mapping[str, str], mirrors: Sequence[str]) -> Path:
    """Fetch files into the cache and return their folder.

    Parameters
    ----------
    name
        The folder inside the cache.
    checksums
        SHA-256 of each file by its name. A file that is there with the right sum is not fetched again, one
        that arrives with another sum is thrown away and taken from the next mirror.
    mirrors
        Addresses, each ending in ``/``, that a file's name is appended to.

    Raises
    ------
    MissingDataError
        No pooch, no network (known within seconds), or no mirror that has the right file.
    """
    cache = cache_dir()
    if cache is None:
        raise MissingDataError("downloads need pooch: pip install 'mlp-xp[examples]'")
    order = _by_answer(mirrors, next(iter(checksums)))
    for file, checksum in checksums.items():
        _fetch(file, checksum, order, cache / name)
    return cache / name


def _fetch(file: str, checksum: str, mirrors: Sequence[str], folder: Path) -> None:
    """One file from the first mirror that has it right; pooch checks the sum before it takes its name."""
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
    """The mirrors, the first that answers in front. All are asked at once in threads that nobody waits for
    longer than `CONNECT_SECONDS`: looking up a name can hang for minutes where there is no network.
    """
    import requests

    answers: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def ask(mirror: str) -> None:
        try:
            requests.head(mirror + file, timeout=CONNECT_SECONDS, allow_redirects=True).raise_for_status()
            answers.put((mirror, ""))
        except Exception as error:  # in a thread that nobody waits for, there is nobody to raise to
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
    """The kind of an error and the start of its text; connection errors repeat themselves over many lines."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if len(text) <= 120 else type(error).__name__


def _places() -> Iterator[Path]:
    """Where to look, one by one: finding the cache takes an import."""
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
    """What is in ``root``, for an error message."""
    if not root.is_dir():
        return "found a file" if root.exists() else "but there is no such folder"
    names = sorted(path.name for path in root.iterdir())
    return "found " + (", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing")

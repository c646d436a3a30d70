"""Arguments of the wrong kind, refused where they are given and not where they are first used."""

from __future__ import annotations

import operator
from typing import Any

MOST = 80  # characters of an argument that a message shows


def shown(x: object) -> str:
    """``x`` in a message: a class by its name, anything else as Python writes it, cut short."""
    if isinstance(x, type):
        return f"the class {x.__name__}: call it, {x.__name__}(...)"
    text = repr(x)
    return text if len(text) <= MOST else f"{text[:MOST]}... ({type(x).__name__})"


def check_kind(name: str, x: object, methods: tuple[str, ...], such_as: str) -> None:
    """Raise `TypeError` unless ``x`` is an instance with these methods; ``such_as`` is an example of one."""
    if isinstance(x, type) or not all(callable(getattr(x, method, None)) for method in methods):
        raise TypeError(f"{name} must be something such as {such_as}, not {shown(x)}")


def check_set(arrays: Any, wanted: str) -> None:
    """Raise `TypeError` with ``wanted`` unless these are two or three arrays: rows, targets and perhaps weights."""
    if not isinstance(arrays, (tuple, list)) or len(arrays) not in (2, 3):
        raise TypeError(f"{wanted}, not {shown(arrays)}")


def check_count(name: str, x: Any) -> int:
    """``x`` as an integer from 1; `TypeError` or `ValueError` if it is none."""
    try:
        count = operator.index(x)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {shown(x)}") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return count

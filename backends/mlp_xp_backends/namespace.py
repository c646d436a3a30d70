"""Namespaces: those of the libraries, with a few functions replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

CREATION = ("arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros")
"""The functions of the standard that create arrays, on a device of their choice."""


def names(base: ModuleType) -> Iterable[str]:
    """The public names of ``base``."""
    return (name for name in dir(base) if not name.startswith("_"))


def derived(base: ModuleType, **replacements: Any) -> SimpleNamespace:
    """The public members of ``base``, looked up once, with ``replacements``."""
    return SimpleNamespace(**{name: getattr(base, name) for name in names(base)} | replacements)


def mapped(base: ModuleType, f: Callable[[Callable[..., Any]], Any], only: Iterable[str]) -> dict[str, Any]:
    """``f`` applied to the functions of ``base`` named in ``only``."""
    return {name: f(getattr(base, name)) for name in only}

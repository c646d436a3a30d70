"""Configurations as JSON and back: frozen dataclasses by the name of their class and the values of their fields.

Only classes that are handed in as known are ever constructed, with values of the types that their fields declare.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlp_xp.nn import initializers, layers, losses, optimizers, schedules

Json = Any

KNOWN: tuple[type, ...] = tuple(
    value
    for module in (layers, initializers, losses, optimizers, schedules)
    for value in vars(module).values()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
)
"""Every configuration of this library."""


def encode(value: Any) -> Json:
    """A dataclass as ``{"type": name, field: value, ...}``; tuples as lists; numbers and strings as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [encode(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be saved: a configuration holds dataclasses, tuples, numbers and strings")


class Decoder:
    """The inverse of `encode` for a set of known classes; raises `ValueError` for anything else."""

    def __init__(self, known: Iterable[type]) -> None:
        self.known = {cls.__name__: cls for cls in known}

    def __call__(self, value: Json) -> Any:
        """The configuration that ``value`` describes."""
        if isinstance(value, list):
            return tuple(self(entry) for entry in value)
        if not isinstance(value, dict):
            return value
        fields = dict(value)
        name = fields.pop("type", None)
        cls = self.known.get(name) if isinstance(name, str) else None
        if cls is None:
            raise ValueError(f"unknown type {name!r}; if it is a class of your own, pass it as known")
        decoded = {key: self(entry) for key, entry in fields.items()}
        if cls is layers.Chain:
            return layers.Chain(*self._checked(cls, decoded)["layers"])
        return cls(**self._checked(cls, decoded))

    @staticmethod
    def _checked(cls: type, fields: dict[str, Any]) -> dict[str, Any]:
        """``fields`` if they are those of ``cls`` and of the right types."""
        hints = get_type_hints(cls)
        expected = {f.name for f in dataclasses.fields(cls)}
        if set(fields) != expected:
            raise ValueError(f"{cls.__name__} has the fields {sorted(expected)}, not {sorted(fields)}")
        for name, value in fields.items():
            if not _fits(value, hints[name]):
                raise ValueError(f"{cls.__name__}.{name} cannot be {value!r}")
        return fields


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type that ``hint`` declares. Protocols admit every decoded dataclass."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in args
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        kinds = args[:1] * len(value) if isinstance(value, tuple) and args[-1] is Ellipsis else args
        return (
            isinstance(value, tuple)
            and len(value) == len(kinds)
            and all(_fits(v, kind) for v, kind in zip(value, kinds, strict=True))
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    return dataclasses.is_dataclass(value) and (getattr(hint, "_is_protocol", False) or isinstance(value, hint))

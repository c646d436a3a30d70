"""Configurations as JSON: frozen dataclasses, stored as the name of the class and the values of the fields.

A field that is missing in a file takes the default of its class; an unknown field is an error. Only classes of this
library and those passed as ``known`` are constructed, with values of the types that their fields declare.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np  # noqa: TID251  NumPy scalars among the options

from mlp_xp._checks import shown
from mlp_xp.files.container import Json
from mlp_xp.nn import initializers, layers, losses, optimizers, schedules
from mlp_xp.nn.layers.base import Spec
from mlp_xp.nn.step import TrainStep

KNOWN: dict[str, type] = {
    name: value
    for module in (layers, initializers, losses, optimizers, schedules)
    for name, value in vars(module).items()
    if isinstance(value, type) and dataclasses.is_dataclass(value) and value is not Spec
} | {"TrainStep": TrainStep}
"""Every configuration of this library."""
CUSTOM = "custom:"  # before the names of all other classes
MAX_VALUES = 50_000  # the limit for values in a configuration; a dense layer has about ten
MAX_DEPTH = 64  # the limit for nested objects and lists


def encode(value: Any) -> Json:
    """Encode a dataclass as ``{"type": name, field: value, ...}``, tuples as lists, numbers and strings unchanged.

    NumPy scalars become Python numbers. Raises `TypeError` for anything else, `ValueError` if it is too large.
    """
    result = _encode(value, 0)
    check_size(result)
    return result


def encode_checked(value: Any) -> Json:
    """`encode`; `ValueError` unless the result describes ``value`` completely, as without custom classes it does."""
    result, custom = encode(value), custom_types(value)
    if custom and Decoder(custom)(result) != value:
        raise ValueError(f"cannot save {shown(value)}: its fields do not describe it completely")
    return result


def _encode(value: Any, depth: int) -> Json:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth == MAX_DEPTH:
        raise ValueError(f"a configuration that can be saved has at most {MAX_DEPTH} levels")
    cls: type = type(value)
    if dataclasses.is_dataclass(cls):
        name = cls.__name__ if KNOWN.get(cls.__name__) is cls else CUSTOM + cls.__name__
        return {"type": name} | {f.name: _encode(getattr(value, f.name), depth + 1) for f in _fields(cls)}
    if isinstance(value, tuple):
        return [_encode(entry, depth + 1) for entry in value]
    raise TypeError(
        f"cannot save {shown(value)}: custom layers, losses, optimizers and schedules must be frozen dataclasses "
        "whose fields hold numbers, strings, None, tuples and dataclasses"
    )


def check_size(value: Json) -> None:
    """Raise `ValueError` if the JSON is too large, or nested too deeply, for a configuration."""
    count, level = 1, [value]
    for _ in range(MAX_DEPTH + 1):
        level = [entry for entry in level if isinstance(entry, (dict, list))]
        if not level:
            return
        count += sum(map(len, level))
        if count > MAX_VALUES:
            raise ValueError(f"a configuration has at most {MAX_VALUES} values: use fewer layers")
        level = [child for entry in level for child in (entry.values() if isinstance(entry, dict) else entry)]
    raise ValueError(f"a configuration has at most {MAX_DEPTH} levels")


def custom_types(value: Any) -> set[type]:
    """The classes in a configuration that are not of this library."""
    if isinstance(value, tuple):
        return set().union(*map(custom_types, value))
    cls: type = type(value)
    if not dataclasses.is_dataclass(cls):
        return set()
    own = set() if KNOWN.get(cls.__name__) is cls else {cls}
    return own.union(*(custom_types(getattr(value, f.name)) for f in _fields(cls)))


class Decoder:
    """The inverse of `encode` for the classes of this library and those in ``known``."""

    def __init__(self, known: Iterable[type] = ()) -> None:
        self.known: dict[str, type] = dict(KNOWN)
        for cls in check_known(known):
            if self.known.setdefault(CUSTOM + cls.__name__, cls) is not cls:
                raise ValueError(f"two classes in known have the name {cls.__name__}: rename one of them")

    def __call__(self, value: Json) -> Any:
        """Return the configuration that ``value`` describes. Raises `ValueError` if it does not describe one."""
        check_size(value)
        return self._decode(value)

    def _decode(self, value: Json) -> Any:
        if isinstance(value, list):
            return tuple([self._decode(entry) for entry in value])
        if not isinstance(value, dict):
            return value
        cls = self._class(value.get("type"))
        fields = {name: self._decode(entry) for name, entry in value.items() if name != "type"}
        _check_fields(cls, fields)
        return layers.Chain(*fields["layers"]) if cls is layers.Chain else cls(**fields)

    def _class(self, name: Json) -> type:
        """The class of that name."""
        cls = self.known.get(name) if isinstance(name, str) else None
        if cls is not None:
            return cls
        if isinstance(name, str) and name.startswith(CUSTOM):
            name = name.removeprefix(CUSTOM)
            raise ValueError(f"{name} is not a class of mlp_xp: pass your class as known=({name},)")
        raise ValueError(f"it contains an unknown type {shown(name)}: update mlp_xp if a newer one wrote it")


def check_known(known: Iterable[type]) -> tuple[type, ...]:
    """Return ``known`` as a tuple. Raises `TypeError` unless it contains dataclasses."""
    classes: tuple[Any, ...] = tuple(known) if isinstance(known, (tuple, list, set, frozenset)) else (None,)
    for cls in classes:
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise TypeError(f"known must be a tuple of dataclasses, such as (MyLayer,), not {shown(known)}")
    return classes


@cache
def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    """The saved content of an instance: the arguments of its constructor."""
    return tuple(f for f in dataclasses.fields(cls) if f.init)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The declared types of the fields; empty for a custom class with type names that are local to a function."""
    try:
        return get_type_hints(cls)
    except NameError:
        return {}


def _check_fields(cls: type, fields: dict[str, Any]) -> None:
    """Raise `ValueError` unless all ``fields`` exist in ``cls``, have the right types, and the others have defaults."""
    expected = {f.name: f for f in _fields(cls)}
    if unknown := fields.keys() - expected.keys():
        raise ValueError(f"{cls.__name__} has no field {min(unknown)!r}: update mlp_xp if a newer one wrote it")
    for name, field in expected.items():
        if name in fields:
            if not _fits(fields[name], _hints(cls).get(name, Any)):
                raise ValueError(f"{cls.__name__}.{name} cannot be {shown(fields[name])}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"the field {name} of {cls.__name__} is missing")


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type that ``hint`` declares."""
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if hint is tuple or origin is tuple:
        return isinstance(value, tuple) and _all_fit(value, args)
    if not dataclasses.is_dataclass(value):
        return False
    if getattr(hint, "_is_protocol", False):
        return all(callable(getattr(value, method, None)) for method in _methods(hint))
    return isinstance(hint, type) and isinstance(value, hint)


def _all_fit(values: tuple[Any, ...], hints: tuple[Any, ...]) -> bool:
    """`_fits` for the entries of a tuple, ``hints`` being those of ``tuple[...]``."""
    if not hints:
        return True
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(values)
    return len(values) == len(hints) and all(map(_fits, values, hints))


@cache
def _methods(protocol: type) -> tuple[str, ...]:
    """The methods that a protocol demands."""
    public = ((n, f) for n, f in vars(protocol).items() if n == "__call__" or not n.startswith("_"))
    return tuple(name for name, f in public if isinstance(f, types.FunctionType))

"""Numbers of a configuration, such as a momentum, as arrays with one value for each model of a stack.

Models train together if their steps are equal except for such numbers. The math needs no change: in a copy of the step,
arrays of shape (models, 1, 1) replace the numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np  # noqa: TID251  values enter on the host

from mlp_xp.nn.layers import Dense, Dropout, Embedding
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, RMSprop
from mlp_xp.nn.schedules import LossRatio
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends import Backend
from mlp_xp_backends.typing import Array

Path = tuple[str | int, ...]
"""The path to a number: attributes and positions, as in ``("network", "layers", 2, "rate")``."""

NUMBERS: dict[type, tuple[str, ...]] = {
    SGD: ("momentum",),
    Adam: ("b1", "b2", "c1", "c2"),
    RMSprop: ("decay", "c", "eps"),
    Dropout: ("scale", "threshold"),
    TrainStep: ("clip_norm", "max_norm"),
}
"""Fields that the formulas read and that may differ between the models of a stack. Derived numbers are rounded once, as
in a model that is trained alone."""
FREE: dict[type, tuple[str, ...]] = {
    SGD: ("lr", "momentum"),
    Adam: ("lr", "b1", "b2", "eps"),
    AdamW: ("lr", "b1", "b2", "eps", "weight_decay"),
    RMSprop: ("lr", "decay", "eps"),
    Dropout: ("rate",),
    Dense: ("init_W", "init_b"),
    Embedding: ("init_E",),
    TrainStep: ("l2", "clip_norm", "max_norm"),
}
"""All fields that may differ: those above, and those that only the host reads."""
ON_AND_OFF = {SGD: ("momentum",), Dropout: ("rate",), TrainStep: ("l2", "clip_norm", "max_norm")}
"""Fields for which 0 or ``None`` selects another formula."""
DERIVED: dict[type, tuple[str, ...]] = {AdamW: ("adam",)}
"""Parts of a configuration that are not fields."""


def structure(config: Any) -> Hashable:
    """A key that is equal for configurations that can train together."""
    if isinstance(config, tuple):
        return tuple(map(structure, config))
    if not is_dataclass(config) or isinstance(config, type):
        return config  # a choice, which is hashable
    kind = type(config)
    free = (*FREE.get(kind, ()), *(("lr",) if hasattr(config, "rates") else ()))
    rest = [(f.name, structure(getattr(config, f.name))) for f in fields(config) if f.name not in free]
    switches = [bool(getattr(config, name)) for name in ON_AND_OFF.get(kind, ())]
    lr = getattr(config, "lr", None)
    in_step = (type(lr), lr.window) if isinstance(lr, LossRatio) else None
    return kind, tuple(rest), tuple(switches), in_step


def differing(steps: Sequence[TrainStep]) -> tuple[Path, ...]:
    """The paths to the numbers in which these steps, of one `structure`, differ."""
    return tuple(path for path in _numbers(steps[0]) if len({value(step, path) for step in steps}) > 1)


def value(config: Any, path: Path) -> Any:
    """The number at ``path``."""
    for name in path:
        config = config[name] if isinstance(name, int) else getattr(config, name)
    return config


def columns(backend: Backend, steps: Sequence[TrainStep], paths: Sequence[Path], dtype: str) -> tuple[Array, ...]:
    """The numbers of the models at these paths, on the device, (models, 1, 1) each."""
    tables = [np.array([value(step, path) for step in steps])[:, None, None] for path in paths]
    return tuple(backend.asarray(table, dtype if table.dtype.kind == "f" else "int32") for table in tables)


def bound(config: Any, paths: Sequence[Path], arrays: Sequence[Array]) -> Any:
    """A copy of ``config`` with these arrays at these paths."""
    parts: dict[str | int, tuple[list[Path], list[Array]]] = {}
    for path, array in zip(paths, arrays, strict=True):
        if not path:
            return array
        here = parts.setdefault(path[0], ([], []))
        here[0].append(path[1:])
        here[1].append(array)
    if isinstance(config, tuple):
        return tuple(bound(part, *parts[i]) if i in parts else part for i, part in enumerate(config))
    copied = copy.copy(config)
    for name, found in parts.items():
        vars(copied)[str(name)] = bound(getattr(config, str(name)), *found)  # frozen, but only used here
    return copied


def _numbers(config: Any) -> Iterator[Path]:
    """The paths to all numbers that may differ."""
    if isinstance(config, tuple):
        for i, part in enumerate(config):
            yield from ((i, *path) for path in _numbers(part))
    elif is_dataclass(config):
        kind: type = type(config)
        yield from ((name,) for name in NUMBERS.get(kind, ()))
        for name in (*(f.name for f in fields(config)), *DERIVED.get(kind, ())):
            yield from ((name, *path) for path in _numbers(getattr(config, name)))

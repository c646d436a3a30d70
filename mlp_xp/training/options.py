"""The arguments of the trainer and of `Trainer.fit`, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np  # noqa: TID251  generators of the host

from mlp_xp._checks import check_count, check_kind, check_set, instead, shown
from mlp_xp.data.checks import is_source
from mlp_xp.files.generators import KINDS
from mlp_xp.model import Model
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp_backends.typing import Array


class FitOptions(NamedTuple):
    """The options of `Trainer.fit` that do not depend on the data."""

    max_epochs: int
    batch_size: int | None
    validation_sets: Mapping[str, tuple[Array, ...]]
    shuffle: bool
    early_stopping: EarlyStopping | None
    resident: bool | None
    sharded: bool

    @classmethod
    def checked(
        cls,
        max_epochs: Any,
        batch_size: Any,
        validation_data: Any,
        shuffle: Any,
        early_stopping: Any,
        resident: Any,
        sharded: Any,
        loss: Loss,
    ) -> Self:
        """The options as Python's own numbers; `TypeError` or `ValueError` for others."""
        max_epochs = check_count("max_epochs", max_epochs)
        batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        sets = _named_sets(validation_data)
        if early_stopping is not None:
            if not isinstance(early_stopping, EarlyStopping):
                such_as = "something such as EarlyStopping(patience=10)"
                raise TypeError(f"early_stopping must be {such_as}, not {instead(early_stopping)}")
            measured = ("loss", *(metric.__name__ for metric in loss.metrics))
            early_stopping.check(("epoch", "loss", "lr", "seconds", *(f"{s}_{m}" for s in sets for m in measured)))
        resident = None if resident is None else _flag("resident", resident)
        shuffle, sharded = _flag("shuffle", shuffle), _flag("sharded", sharded)
        return cls(max_epochs, batch_size, sets, shuffle, early_stopping, resident, sharded)


def check_network(network: Any, loss: Any, optimizer: Any) -> None:
    """Raise `TypeError` for what a trainer cannot train."""
    if not isinstance(network, Chain):
        raise TypeError(f"network must be a Chain of layers, such as mlp(784, 300, 10), not {shown(network)}")
    check_kind("loss", loss, ("rows", "slope"), "SoftmaxCrossEntropy()")
    check_kind("optimizer", optimizer, ("init", "rates", "update"), "Adam(0.001)")


def check_fine_tuning(model: Any, freeze: Any) -> tuple[int, ...]:
    """``freeze`` as a tuple, whose positions `TrainStep` checks; `TypeError` unless ``model`` is a model."""
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, such as trainer.model or load('net.safetensors'), not {shown(model)}")
    try:
        return tuple(freeze)
    except TypeError:
        raise TypeError(f"freeze must be positions of layers, such as [0, 1], not {shown(freeze)}") from None


def check_dtype(dtype: Any) -> str:
    """``dtype`` if it is the name of one that networks can have; `ValueError` otherwise."""
    if not isinstance(dtype, str) or dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be the string 'float32' or 'float64', not {shown(dtype)}")
    return dtype


def generator(seed: Any) -> np.random.Generator:
    """The generator of that seed, or ``seed`` itself if it is one."""
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be an integer from 0 or a NumPy generator, not {shown(seed)}") from None
    if type(rng.bit_generator).__name__ not in KINDS:
        raise ValueError(f"seed must be a NumPy generator over {', '.join(KINDS)}, not {shown(seed)}")
    return rng


def generator_in(state: dict[str, Any]) -> np.random.Generator:
    """A new generator in that state of one of NumPy's bit generators."""
    bits = KINDS[state["bit_generator"]]()
    bits.state = state
    return np.random.Generator(bits)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def _named_sets(validation_data: Any) -> Mapping[str, tuple[Array, ...]]:
    """Validation sets by name; `TypeError` for anything else."""
    if validation_data is None:
        return {}
    given: Mapping[str, Any] = validation_data if isinstance(validation_data, Mapping) else {"valid": validation_data}
    sets = {name: (arrays,) if is_source(arrays) else arrays for name, arrays in given.items()}
    for name, arrays in sets.items():
        if not isinstance(name, str):
            raise TypeError(f"validation_data must name its sets by strings, not {shown(name)}")
        if not is_source(given[name]):
            check_set(arrays, "validation_data must be (x, y) or (x, y, sample_weight), or several of these by name")
    return sets

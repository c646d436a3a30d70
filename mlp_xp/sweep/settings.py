"""Settings of a sweep, from a grid, a list or distributions, and the model that each of them trains."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any

import numpy as np  # noqa: TID251  distributions are sampled on the host

from mlp_xp._checks import check_count, shown
from mlp_xp.data.class_weights import check_class_weight
from mlp_xp.nn.layers import Chain, Dropout
from mlp_xp.nn.losses import Loss
from mlp_xp.nn.optimizers import Optimizer
from mlp_xp.nn.step import TrainStep, check_loss, check_network, check_optimizer
from mlp_xp.sweep.run import Candidate
from mlp_xp.training.run import generator

Setting = dict[str, Any]

STEP = ("l2", "clip_norm", "max_norm")
WHOLE = ("network", "loss", "optimizer", "class_weight", "sample_weight", "seed", "batch_size", "max_epochs")
ALL = sys.maxsize
"""The size of a batch of all rows, before it is clipped to their number."""


def from_grid(grid: Any) -> list[Setting]:
    """All combinations of the values of the parameters; for a list of grids, those of each grid in turn."""
    grids = [grid] if isinstance(grid, Mapping) else grid
    if not isinstance(grids, Sequence) or isinstance(grids, str) or not grids:
        raise TypeError(f"grid must be a dict such as {{'lr': [0.1, 0.01]}} or a list of such, not {shown(grid)}")
    found: list[Setting] = []
    for one in grids:
        for name, values in one.items():
            if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                raise TypeError(f"grid: {name!r} must be a list of values, not {shown(values)}")
            if len(values) == 0:
                raise ValueError(f"grid: {name!r} has no values, so there is nothing to train")
        found += [dict(zip(one, map(_plain, values), strict=True)) for values in product(*one.values())]
    return found


def from_distributions(distributions: Any, n: Any, seed: int) -> list[Setting]:
    """``n`` settings, each parameter drawn from its distribution (with ``rvs``, as in scipy.stats) or from a list."""
    if not isinstance(distributions, Mapping) or not distributions:
        raise TypeError(f"distributions must be a dict of lists and distributions, not {shown(distributions)}")
    rng = np.random.default_rng(seed)
    for name, d in distributions.items():
        if not hasattr(d, "rvs") and (isinstance(d, (str, bytes)) or not hasattr(d, "__len__") or len(d) == 0):
            raise TypeError(f"distributions: {name!r} must have a method rvs or be a list of values, not {shown(d)}")

    def draw(d: Any) -> Any:
        return _plain(d.rvs(random_state=rng) if hasattr(d, "rvs") else d[int(rng.integers(len(d)))])

    return [{name: draw(d) for name, d in distributions.items()} for _ in range(check_count("n", n))]


def _plain(value: Any) -> Any:
    """A scalar of NumPy as a number of Python."""
    return value.item() if isinstance(value, np.generic) else value


def from_list(settings: Any) -> list[Setting]:
    """``settings`` as a list of dicts."""
    found = list(settings) if isinstance(settings, Iterable) else []
    if not found or not all(isinstance(one, Mapping) for one in found):
        raise TypeError("settings must be a list of at least one dict, such as [{'lr': 0.1}, {'lr': 0.01}]")
    return [dict(one) for one in found]


@dataclass(frozen=True)
class Base:
    """The configuration that settings change."""

    network: Chain | Callable[..., Chain]
    loss: Loss
    optimizer: Optimizer
    step: Mapping[str, Any]
    class_weight: Any
    seed: int

    def candidate(self, setting: Setting, batch_size: int | None, max_epochs: int, fold: int | None) -> Candidate:
        """Return the model of ``setting``. Raises `ValueError` or `TypeError` that names an impossible setting."""
        try:
            return self._candidate(dict(setting), batch_size, max_epochs, fold)
        except (TypeError, ValueError) as error:
            raise type(error)(f"setting {shown(setting)}: {error}") from None

    def _candidate(self, left: Setting, batch_size: int | None, max_epochs: int, fold: int | None) -> Candidate:
        network, loss = left.pop("network", self.network), left.pop("loss", self.loss)
        optimizer = left.pop("optimizer", self.optimizer)
        step = {name: left.pop(name, self.step[name]) for name in STEP}
        weight = check_class_weight(left.pop("class_weight", self.class_weight))
        sample_weight = left.pop("sample_weight", None)
        seed = left.pop("seed", self.seed)
        generator(seed)
        batch_size = left.pop("batch_size", batch_size)
        batch_size = ALL if batch_size is None else check_count("batch_size", batch_size)
        max_epochs = check_count("max_epochs", left.pop("max_epochs", max_epochs))
        network = _network(network, left)
        check_network(network)
        check_loss(loss)
        check_optimizer(optimizer)
        optimizer = _optimizer(optimizer, left)
        if left:
            raise ValueError(f"unknown parameter {next(iter(left))!r}; known are {', '.join(self.names(optimizer))}")
        own = TrainStep(network, loss, optimizer, **step)
        return Candidate(own, seed, batch_size, max_epochs, weight, fold, sample_weight)

    def names(self, optimizer: Optimizer) -> list[str]:
        """The names of all parameters of a setting."""
        own: list[str] = [f.name for f in fields(optimizer)] if is_dataclass(optimizer) else []
        building = [] if isinstance(self.network, Chain) else list(inspect.signature(self.network).parameters)
        return [*own, *STEP, *WHOLE, *(building or ["dropout"])]


def _network(network: Any, left: Setting) -> Any:
    """The network, built from its own parameters if it is a function; these are removed from ``left``."""
    if isinstance(network, Chain):
        return _with_dropout(network, left.pop("dropout")) if "dropout" in left else network
    if not callable(network):
        return network
    names = inspect.signature(network).parameters
    return network(**{name: left.pop(name) for name in list(left) if name in names})


def _with_dropout(network: Chain, rate: Any) -> Chain:
    layers = [Dropout(rate) if isinstance(layer, Dropout) else layer for layer in network.layers]
    if not any(isinstance(layer, Dropout) for layer in layers):
        raise ValueError("'dropout' changes the rate of the network's Dropout layers, and it has none")
    return Chain(*layers)


def _optimizer(optimizer: Any, left: Setting) -> Any:
    """The optimizer with those of its fields that ``left`` names, which are removed there."""
    known = {f.name for f in fields(optimizer)} if is_dataclass(optimizer) else set()
    mine = {name: left.pop(name) for name in list(left) if name in known}
    return replace(optimizer, **mine) if mine else optimizer

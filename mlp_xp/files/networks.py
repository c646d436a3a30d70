"""The arrays of a network in a file: their names, and the shapes and dtypes that its layers declare."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID251  files hold host arrays

from mlp_xp.files.container import Entry
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.layers.base import Spec
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends.trees import leaves, named_leaves, tree_map, unflatten
from mlp_xp_backends.typing import HostArray, Tree

METHODS_OF_LOSS = ("rows", "slope", "output")


def check_network(network: Any, loss: Any) -> None:
    """Raise `ValueError` unless these are a network with parameters and a loss."""
    if not isinstance(network, Chain):
        raise ValueError("its network is not a Chain")
    if not all(callable(getattr(loss, method, None)) for method in METHODS_OF_LOSS):
        raise ValueError(f"its loss is {loss!r}")
    specs = leaves(network.specs())
    if not specs:
        raise ValueError("its network has no parameters")
    for spec in (*specs, *leaves(network.state_specs())):
        if not isinstance(spec, Spec):
            raise ValueError(f"specs and state_specs of a layer must be trees of Spec, not of {type(spec).__name__}")


def stack_of(params: Tree) -> tuple[int, ...]:
    """The axes of models in front of all parameters."""
    flat = leaves(params)
    if not flat:
        raise ValueError("cannot save a network without parameters")
    return tuple(map(int, flat[0].shape[:-2]))


def named(**trees: Tree) -> dict[str, Any]:
    """The leaves of several trees by name, such as ``params.0.W``."""
    return {name: leaf for key, tree in trees.items() for name, leaf in named_leaves(tree, key).items()}


def of_network(network: Chain, models: tuple[int, ...], dtype: str, prefix: str = "") -> dict[str, Entry]:
    """The entries of the parameters and the layers' state."""
    specs = named(**{f"{prefix}params": network.specs(), f"{prefix}layers": network.state_specs()})
    return {name: _entry(spec, models, dtype) for name, spec in specs.items()}


def fill_network(network: Chain, arrays: dict[str, HostArray], prefix: str = "") -> tuple[Tree, Tree]:
    """The parameters and the layers' state from the arrays that `of_network` names."""
    params = fill(network.specs(), f"{prefix}params", arrays)
    return params, fill(network.state_specs(), f"{prefix}layers", arrays)


def fill(like: Tree, name: str, arrays: dict[str, HostArray]) -> Tree:
    """A tree of the structure of ``like`` from the arrays with names that begin with ``name``."""
    return unflatten(like, (arrays[key] for key in named_leaves(like, name)))


def initial_state(step: TrainStep, models: tuple[int, ...], dtype: str) -> TrainState:
    """A state with the shapes and dtypes of all states of ``step``; its arrays occupy almost no memory."""

    def zeros(spec: Spec) -> HostArray:
        entry = _entry(spec, models, dtype)
        return np.broadcast_to(np.zeros((), entry.dtype), entry.shape)

    return step.init(_Sizes(), *tree_map(zeros, (step.network.specs(), step.network.state_specs())))


def _entry(spec: Spec, models: tuple[int, ...], dtype: str) -> Entry:
    return Entry(dtype if spec.dtype == "float" else spec.dtype, (*models, spec.rows, spec.columns))


class _Sizes:
    """NumPy, except that ``zeros_like`` allocates a single number."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def zeros_like(x: HostArray) -> HostArray:
        return np.broadcast_to(np.zeros((), x.dtype), x.shape)

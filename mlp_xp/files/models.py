"""Models as files: the network, its loss, its parameters by name and shape, and additional data.

A file contains no code, and a model that was trained on a GPU can be loaded on any device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  files hold host arrays

from mlp_xp._checks import DTYPE, shown
from mlp_xp.files import container, fields
from mlp_xp.files.config import Decoder, encode_checked
from mlp_xp.files.container import Content, Entry, check_entries, entries
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.layers.base import Spec
from mlp_xp.nn.losses import Loss
from mlp_xp_backends.trees import leaves, named_leaves, unflatten
from mlp_xp_backends.typing import HostArray, Tree

METHODS_OF_LOSS = ("rows", "slope", "output")
MAX_DEPTH = 100  # the limit for nested objects and lists in extra


class SavedModel(NamedTuple):
    """The content of a model file; all arrays are on the host."""

    network: Chain
    loss: Loss
    params: Tree
    state: Tree
    extra: dict[str, Any]
    """Additional data that JSON can express, by name."""
    dtype: str


def write_model(path: str | Path, model: SavedModel) -> None:
    """Write ``model`` to ``path``, a safetensors file, atomically.

    `TypeError` or `ValueError` if it cannot be saved, before anything is written; `FileError` if writing fails.
    """
    stack = stack_of(model.params)
    check_network(model.network, model.loss)
    header = {
        "network": encode_checked(model.network),
        "loss": encode_checked(model.loss),
        "models": list(stack),
        "dtype": model.dtype,
    }
    arrays = named(params=model.params, layers=model.state)
    check_entries(entries(arrays), of_network(model.network, stack, model.dtype))
    if not isinstance(model.extra, dict):
        raise TypeError(f"extra must be a dict, such as {{'classes': ['cat', 'dog']}}, not {shown(model.extra)}")
    if model.extra:
        text = json.dumps(plain("extra", model.extra), separators=(",", ":"))
        arrays["extra"] = np.frombuffer(text.encode(), np.uint8)
    container.write(path, "model", arrays, header)


def unpack(content: Content, header: Any, decode: Decoder) -> SavedModel:
    """Read the model in an open file. Raises `ValueError` if there is none."""
    network, loss, models, dtype = fields.take(
        header,
        "its header",
        network=(fields.anything, fields.REQUIRED),
        loss=(fields.anything, fields.REQUIRED),
        models=(fields.axes, ()),
        dtype=(DTYPE, "float32"),
    )
    network, loss = decode(network), decode(loss)
    check_network(network, loss)
    expected = of_network(network, models, dtype)
    if "extra" in content.entries:
        expected["extra"] = Entry("uint8", (content.size_of("extra"),))
    arrays = content.arrays(expected)
    return SavedModel(network, loss, *fill_network(network, arrays), _extra(arrays), dtype)


def _extra(arrays: dict[str, HostArray]) -> dict[str, Any]:
    if "extra" not in arrays:
        return {}
    extra = container.parse(arrays["extra"].tobytes().decode())
    if not isinstance(extra, dict):
        raise ValueError("its extra is not a JSON object")
    return extra


def plain(name: str, value: Any, depth: int = 0) -> Any:
    """Convert ``value`` to JSON: NumPy scalars to numbers, tuples to lists. A `TypeError` locates anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth == MAX_DEPTH:
        raise ValueError(f"{name} is nested too deeply to be saved: at most {MAX_DEPTH} levels")
    if isinstance(value, (list, tuple)):
        return [plain(f"{name}[{i}]", entry, depth + 1) for i, entry in enumerate(value)]
    if not isinstance(value, dict):
        advice = "call its tolist()" if hasattr(value, "tolist") else "convert it"
        raise TypeError(f"cannot save {name}, {shown(value)}: JSON stores numbers, strings, lists and dicts; {advice}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"cannot save {name}: a key of JSON is a string, not {shown(key)}")
    return {key: plain(f"{name}[{key!r}]", entry, depth + 1) for key, entry in value.items()}


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
    return {name: entry_of(spec, models, dtype) for name, spec in specs.items()}


def fill_network(network: Chain, arrays: dict[str, HostArray], prefix: str = "") -> tuple[Tree, Tree]:
    """The parameters and the layers' state from the arrays that `of_network` names."""
    params = fill(network.specs(), f"{prefix}params", arrays)
    return params, fill(network.state_specs(), f"{prefix}layers", arrays)


def fill(like: Tree, name: str, arrays: dict[str, HostArray]) -> Tree:
    """A tree of the structure of ``like`` from the arrays with names that begin with ``name``."""
    return unflatten(like, (arrays[key] for key in named_leaves(like, name)))


def entry_of(spec: Spec, models: tuple[int, ...], dtype: str) -> Entry:
    """The entry of an array, which has the axes of the models in front."""
    return Entry(dtype if spec.dtype == "float" else spec.dtype, (*models, spec.rows, spec.columns))

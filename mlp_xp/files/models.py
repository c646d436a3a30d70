"""Models as files: the network, its loss, its parameters and additional data.

A file contains no code, and a model that was trained on a GPU can be loaded on any device.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  files hold host arrays

from mlp_xp._checks import DTYPE, shown
from mlp_xp.files import checkpoints, container, fields
from mlp_xp.files.config import Decoder, check_known, encode_checked
from mlp_xp.files.container import Content, Entry, check_entries, entries
from mlp_xp.files.networks import check_network, fill_network, named, of_network, stack_of
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp_backends.typing import HostArray, Tree

MAX_DEPTH = 100  # objects and lists in extra, one inside the other


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


def read_model(path: str | Path, known: Iterable[type] = ()) -> SavedModel:
    """The model in ``path``, which is a model or a checkpoint.

    ``known`` are the classes of custom layers and losses and, for a checkpoint, of custom optimizers and schedules.
    `FileError` if the file is damaged, of another program or version, or its arrays do not fit its network.
    """
    known = check_known(known)
    with container.opened(path) as content:
        kind, header = content.header(("model", "checkpoint"))
        if kind == "model":
            return _model(content, header, Decoder(known))
        run = checkpoints.unpack(content, header, Decoder(known))
        return SavedModel(run.step.network, run.step.loss, run.state.params, run.state.layers, {}, run.dtype)


def _model(content: Content, header: Any, decode: Decoder) -> SavedModel:
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
    """``value`` as JSON, NumPy scalars as numbers and tuples as lists; `TypeError` with the place of anything else."""
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

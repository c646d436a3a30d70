"""Models and checkpoints as files. Nothing in them is code, and what was trained on a GPU loads anywhere.

A model is the network, its loss and its numbers; a checkpoint holds also the optimizer, the generator, the position
in the run and its history: a run that is killed and resumed from it ends with the same bits as one that never was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID251  files hold arrays of the host

from mlp_xp._checks import shown
from mlp_xp.files import safetensors as container
from mlp_xp.files.config import KNOWN, Decoder, encode
from mlp_xp.files.safetensors import FileError
from mlp_xp.model import Model, as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.layers.base import Spec
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training.early_stopping import Best
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import leaves, named_leaves, tree_map, unflatten

if TYPE_CHECKING:
    from mlp_xp.training.trainer import Trainer

Tree = Any
HostArray = np.ndarray[Any, Any]


def save(path: str | Path, model: Model) -> None:
    """Write ``model`` to ``path``, a safetensors file, atomically."""
    if not isinstance(model, Model):
        raise TypeError(f"save writes a model to a path: save('net.safetensors', trainer.model), not {shown(model)}")
    header = {
        "network": encode(model.network),
        "loss": encode(model.loss),
        "models": list(leaves(model.params)[0].shape[:-2]),
        "extra": model.extra,
    }
    container.write(path, "model", _named(model.backend, {"params": model.params, "layers": model.state}), header)


def load(path: str | Path, device: str | Backend = "auto", known: tuple[type, ...] = ()) -> Model:
    """The model in ``path``, a model or a checkpoint, on ``device``.

    ``known`` are the classes of your own layers and losses, if the model has any. Raises `FileError` if the file is
    damaged, of another program or version, or its numbers do not fit its network.
    """
    arrays, header = container.read(path, "model", "checkpoint")
    backend = as_backend(device)
    with _explained(path):
        decode = Decoder((*KNOWN, *known))
        network, loss = decode(header["network"]), decode(header["loss"])
        _expect(isinstance(network, Chain), "its network is not a Chain")
        _expect(hasattr(loss, "rows"), f"its loss is {loss!r}")
        params, layers = _network_trees(network, arrays, tuple(header.get("models", ())))
        params, layers = tree_map(backend.asarray, (params, layers))
        return Model(network, loss, params, layers, backend, dict(header.get("extra", {})))


def save_checkpoint(path: str | Path, trainer: Trainer) -> None:
    """Write everything that the rest of ``trainer``'s run depends on. Waits for the device."""
    step = trainer.step
    header: dict[str, Any] = {
        "network": encode(step.network),
        "loss": encode(step.loss),
        "optimizer": encode(step.optimizer),
        "regularization": [step.l2, step.clip_norm, step.max_norm],
        "dtype": trainer.dtype,
        "generator": trainer.epoch_generator if trainer.position else trainer.rng.bit_generator.state,
        "updates": trainer.updates,
        "samples": trainer.samples,
        "position": trainer.position,
        "history": trainer.history,
        "run": trainer.run,
        "best": None if trainer.best is None else [trainer.best.epoch, trainer.best.score],
    }
    trees: dict[str, Tree] = dict(trainer.state._asdict())
    if trainer.best is not None:
        trees |= {"best.params": trainer.best.params, "best.layers": trainer.best.layers}
    arrays = _named(trainer.backend, trees)
    if trainer.losses:
        arrays["losses"] = np.concatenate([trainer.backend.to_numpy(part) for part in trainer.losses])
    container.write(path, "checkpoint", arrays, header)


def load_checkpoint(cls: type[Any], path: str | Path, device: str | Backend, known: tuple[type, ...] = ()) -> Any:
    """A trainer of class ``cls`` in the state of the checkpoint; see `load` for ``known`` and the errors."""
    from mlp_xp.training.trainer import Run

    arrays, header = container.read(path, "checkpoint")
    with _explained(path):
        decode = Decoder((*KNOWN, *known))
        network, loss, optimizer = (decode(header[key]) for key in ("network", "loss", "optimizer"))
        _expect(isinstance(network, Chain), "its network is not a Chain")
        _expect(hasattr(loss, "rows") and hasattr(optimizer, "update"), f"it has {loss!r} and {optimizer!r}")
        l2, clip_norm, max_norm = header["regularization"]
        step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm)
        params, layers = _network_trees(network, arrays, ())
        state = step.init(np, params, layers)
        slots, ratio = _fill(state.slots, "slots", arrays), _fill(state.ratio, "ratio", arrays)
        trainer = cls(
            network,
            loss,
            optimizer,
            device=device,
            dtype=header["dtype"],
            l2=l2,
            clip_norm=clip_norm,
            max_norm=max_norm,
        )
        trainer.rng = _generator(header["generator"])
        trainer.state = tree_map(trainer.backend.asarray, TrainState(params, layers, slots, ratio))
        trainer.updates, trainer.samples, trainer.position = (
            _count(header[key]) for key in ("updates", "samples", "position")
        )
        trainer.history = [dict(record) for record in header["history"]]
        trainer.run = None if header["run"] is None else Run(*header["run"])
        if header["best"] is not None:
            best = _network_trees(network, arrays, (), "best.")
            trainer.best = Best(*header["best"], *tree_map(trainer.backend.asarray, best))
        if "losses" in arrays:
            trainer.losses = [trainer.backend.asarray(arrays["losses"])]
        _expect(len(arrays.get("losses", ())) == trainer.position, "its losses do not fit its position")
        return trainer


def _named(backend: Backend, trees: dict[str, Tree]) -> dict[str, HostArray]:
    """All leaves on the host, by the names of trees and leaves."""
    return {
        name: backend.to_numpy(leaf) for key, tree in trees.items() for name, leaf in named_leaves(tree, key).items()
    }


def _network_trees(
    network: Chain, arrays: dict[str, HostArray], models: tuple[int, ...], prefix: str = ""
) -> tuple[Tree, Tree]:
    """Parameters and layer states from the file, each as ``network`` asks for it."""
    params = _fill(network.specs(), f"{prefix}params", arrays, models)
    return params, _fill(network.state_specs(), f"{prefix}layers", arrays, models)


def _fill(like: Tree, name: str, arrays: dict[str, HostArray], models: tuple[int, ...] = ()) -> Tree:
    """The tree of that name from the file, each leaf of the shape and dtype that ``like`` has there."""

    def leaf(name: str, like: Any) -> HostArray:
        if isinstance(like, Spec):
            shape = (*models, like.rows, like.columns)
            dtypes = ["float32", "float64"] if like.dtype == "float" else [like.dtype]
        else:
            shape, dtypes = like.shape, [str(like.dtype)]
        found = arrays.get(name)
        if found is None:
            raise ValueError(f"{name} is missing")
        if found.shape != shape or str(found.dtype) not in dtypes:
            raise ValueError(
                f"{name} must be {' or '.join(dtypes)} of shape {shape}, not {found.dtype} of shape {found.shape}"
            )
        return found

    return unflatten(like, iter([leaf(key, value) for key, value in named_leaves(like, name).items()]))


def _generator(state: Any) -> np.random.Generator:
    """A generator in that state."""
    kinds = {"PCG64": np.random.PCG64, "PCG64DXSM": np.random.PCG64DXSM, "SFC64": np.random.SFC64}
    kind = kinds.get(state["bit_generator"])
    if kind is None:
        raise ValueError(f"its generator is {state['bit_generator']!r}; known are {', '.join(kinds)}")
    bits = kind()
    bits.state = state
    return np.random.Generator(bits)


def _count(value: Any) -> int:
    _expect(isinstance(value, int) and value >= 0, f"{value!r} is no count")
    return int(value)


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Whatever does not fit inside a file that can be read is a `FileError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise FileError(f"{path} does not hold what it should: {error}") from error

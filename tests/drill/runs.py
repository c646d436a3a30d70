"""Eight kinds of small runs, each of which writes a checkpoint after every chunk of steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp import (
    SGD,
    Adam,
    BatchNorm,
    Chain,
    Checkpoint,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    Layer,
    ReLU,
    SquaredError,
    Trainer,
    mlp,
)
from mlp_xp.files.checkpoints import check_savable
from mlp_xp.nn.schedules import OneCycle, ReduceOnPlateau
from mlp_xp.training import epoch
from mlp_xp_backends.trees import leaves

ROWS = 600


@dataclass(frozen=True)
class Scaled(Layer):
    """A layer of one's own with a parameter: ``y = x s``."""

    n: int

    def specs(self):
        return Dense(self.n, self.n).specs().b

    def init(self, rng):
        return np.ones((1, self.n))

    def forward(self, xp, params, x):
        return x * params, x

    def backward(self, xp, params, x, dy):
        return dy * params, xp.sum(dy * x, axis=-2, keepdims=True)


@dataclass(frozen=True)
class Distance(SquaredError):  # noqa: N818  a loss, not an exception
    """A loss of one's own."""


@dataclass(frozen=True)
class Slower(OneCycle):
    """A schedule of one's own."""


KNOWN = (Scaled, Distance, Slower)

rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 4)).astype(np.float32)
Y = rng.integers(0, 3, ROWS)
IDS = rng.integers(0, 9, (ROWS, 2))
VALID = {"validation_data": (X[:90], (Y[:90] + 1) % 3)}
NORMED = Chain(Dense(4, 8), BatchNorm(8), ReLU(), Dropout(0.2), Dense(8, 3))


def trainer(network: Chain, **options: Any) -> Callable[[], Trainer]:
    return lambda: Trainer(network, **{"device": "cpu", "seed": 5, **options})


def mapped(folder: Path) -> np.ndarray:
    """The rows in a memory-mapped file, which the drill writes."""
    return np.load(folder / "x.npy", mmap_mode="r")


KINDS: dict[str, tuple[Callable[[], Trainer], Callable[[Path], Any], Any, dict[str, Any]]] = {
    "momentum": (
        trainer(mlp(4, 8, 3), optimizer=SGD(ReduceOnPlateau(0.05, patience=0), momentum=0.9)),
        lambda folder: X,
        Y,
        {},
    ),
    "Adam": (trainer(mlp(4, 8, 3), optimizer=Adam(OneCycle(0.01)), clip_norm=1.0), lambda folder: X, Y, {}),
    "batch norm": (trainer(NORMED, dtype="float64"), lambda folder: X, Y, {}),
    "early stopping": (
        trainer(NORMED, optimizer=Adam(0.02)),
        lambda folder: X,
        Y,
        {**VALID, "early_stopping": EarlyStopping(patience=2), "max_epochs": 8},
    ),
    "streamed": (trainer(mlp(4, 8, 3)), mapped, Y, {"resident": False, "shuffle": False}),
    "weights": (
        trainer(mlp(4, 8, 3), class_weight="balanced", max_norm=1.0),
        lambda folder: X,
        Y,
        {"sample_weight": np.arange(ROWS) % 5 + 0.5},
    ),
    "embedding": (
        trainer(mlp(8, 8, 3, first=Embedding(9, 4, ids_per_row=2)), optimizer=SGD(0.1, momentum=0.5), l2=1e-4),
        lambda folder: IDS,
        Y,
        {},
    ),
    "custom layer": (
        trainer(Chain(Dense(4, 8), Scaled(8), ReLU(), Dense(8, 2)), loss=Distance(), optimizer=Adam(Slower(0.01))),
        lambda folder: X,
        X[:, :2] * X[:, 1:3],
        {},
    ),
}


def train(kind: str, path: Path, streamed: bool, steps: int) -> None:
    """Run or resume ``kind`` with chunks of that many steps; what it ends with is stored beside ``path``."""
    make, inputs, targets, options = KINDS[kind]
    epoch.chunk_steps = lambda *args: steps  # type: ignore[assignment]
    run = Trainer.resume(path, device="cpu", known=KNOWN) if path.exists() else make()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nothing is left to train")  # killed after its last epoch
        run.fit(
            inputs(path.parent),
            targets,
            **{"max_epochs": 4, "batch_size": 20, **options, "resident": not streamed},
            callbacks=[Checkpoint(path, seconds=0.0)],
        )
    if not run.interrupted:
        check_savable(run.snapshot())
        run.save_checkpoint(path.with_suffix(".end"))


def everything(snapshot: Any) -> tuple[Any, ...]:
    """All that a run ends with, except the seconds."""
    s = snapshot
    history = [{name: repr(value) for name, value in record.items() if name != "seconds"} for record in s.history]
    arrays = [(leaf.shape, leaf.dtype, leaf.tobytes()) for leaf in leaves(s.state)]
    best = None if s.best is None else (s.best[:4], [leaf.tobytes() for leaf in leaves(s.best[4:])])
    return arrays, history, s.position, s.updates, s.samples, best, s.stopped, repr(s.generator)

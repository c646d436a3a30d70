"""The rows of the table: networks with their data, initial weights and batch order, the same for every peer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mlp_xp import SGD, Adam, Embedding, mlp
from mlp_xp.nn.layers import Chain
from mlp_xp_backends.trees import leaves

Array = np.ndarray[Any, Any]

SEED = 0
OPTIMIZERS: dict[str, SGD | Adam] = {
    "sgd": SGD(0.1),
    "momentum": SGD(0.01, momentum=0.9),
    "adam": Adam(0.001, eps=1e-11),  # so small that the place where a library adds it makes no difference
}

RUN_SECONDS = 0.05
"""The approximate duration of a run of steps, in seconds."""
MACHINES = {"cpu": (1e-4, 2.5e11), "cuda": (3e-4, 1e13)}
"""The least duration of a step in seconds, and operations per second, to estimate the duration of a step."""


class Words(NamedTuple):
    """An embedding as first layer: number of ids, size of a vector, ids per row."""

    ids: int
    dim: int
    per_row: int


@dataclass(frozen=True)
class Net:
    """A network and its batch size."""

    widths: tuple[int, ...]
    batch: int
    words: Words | None = None

    @property
    def name(self) -> str:
        if self.words is None:
            return f"{'-'.join(map(str, self.widths))}@{self.batch}"
        ids, dim, per_row = self.words
        return f"{ids}-{dim}x{per_row}-{'-'.join(map(str, self.widths[1:]))}@{self.batch}"

    @property
    def activation(self) -> str:
        return "relu" if self.words is None else "sigmoid"

    @property
    def chain(self) -> Chain:
        first = None
        if self.words is not None:
            ids, dim, per_row = self.words
            first = Embedding(ids, dim, ids_per_row=per_row)
        return mlp(*self.widths, activation=self.activation, first=first)

    @property
    def parameters(self) -> int:
        table = self.words.ids * self.words.dim if self.words else 0
        return table + sum((n + 1) * m for n, m, _ in self.layers)

    @property
    def layers(self) -> list[tuple[int, int, bool]]:
        """Numbers of inputs and outputs of each dense layer, and whether its input needs a gradient."""
        return [(n, m, i > 0 or self.words is not None) for i, (n, m) in enumerate(pairwise(self.widths))]

    def steps(self, device: str) -> int:
        """The number of steps in a run and in an epoch."""
        least, rate = MACHINES[device]
        operations = sum(2 * self.batch * n * m * (3 if needed else 2) for n, m, needed in self.layers)
        return int(np.clip(round(RUN_SECONDS / (least + operations / rate)), 3, 300))


NETS = {
    net.name: net
    for net in (
        Net((2, 100, 100, 2), 64),
        Net((784, 300, 10), 50),
        Net((784, 300, 10), 128),
        Net((784, 1000, 10), 1000),
        Net((784, 1000, 1000, 10), 128),
        Net((784, 2048, 2048, 10), 512),
        Net((48, 128, 250), 100, Words(250, 16, 3)),
        Net((48, 128, 250), 512, Words(250, 16, 3)),
    )
}


@dataclass(frozen=True)
class Task:
    """A network, an optimizer by name and the number of steps in a run and in an epoch."""

    net: Net
    optimizer: str
    steps: int

    @property
    def rows(self) -> int:
        return self.steps * self.net.batch

    @property
    def rule(self) -> Any:
        return OPTIMIZERS[self.optimizer]

    @cached_property
    def data(self) -> tuple[Array, Array]:
        """Random float32 features (rows, n_in) or int32 ids, and int32 classes that depend on them, with noise."""
        rng = np.random.default_rng(SEED)
        n, classes = self.net.widths[0], self.net.widths[-1]
        if self.net.words:
            ids, _, per_row = self.net.words
            rows = rng.integers(0, ids, (self.rows, per_row), dtype=np.int32)
            return rows, ((rows.sum(axis=1) + rng.integers(0, 5, self.rows)) % classes).astype(np.int32)
        x = rng.standard_normal((self.rows, n), dtype=np.float32) * np.float32(min(1.0, 7.0 / n**0.5))
        scores = x @ rng.standard_normal((n, classes), dtype=np.float32)
        return x, (scores + rng.standard_normal(scores.shape, dtype=np.float32)).argmax(axis=1).astype(np.int32)

    def start(self) -> tuple[list[Array], np.random.Generator]:
        """Initial parameters as float32, and the generator that draws the order of all epochs, as in `Trainer`."""
        rng = np.random.default_rng(SEED)
        return [w.astype(np.float32) for w in leaves(self.net.chain.init(rng))], rng

    @cached_property
    def order(self) -> Array:
        """The batches of a run of steps: row numbers, (steps, batch)."""
        return as_batches(np.random.default_rng(SEED + 1), self)


def as_batches(rng: np.random.Generator, task: Task) -> Array:
    """A new order of the rows, (steps, batch)."""
    return rng.permutation(task.rows).astype(np.int32).reshape(task.steps, task.net.batch)

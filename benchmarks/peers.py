"""The interface of a peer, and our engines as peers.

Each peer trains a task in the way of its own library, from the same weights and on the same batches: it gathers each
batch from data in memory by row numbers, takes the step, and keeps the losses on its device until the end of the run.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, Protocol

import numpy as np

from benchmarks.networks import SEED, Array, Task, as_batches
from mlp_xp import Trainer
from mlp_xp.data.feed import Batch
from mlp_xp.nn.schedules import Moment, as_schedule
from mlp_xp.training.epoch import Item, epoch_loop, rate_table
from mlp_xp_backends.compiler.targets.cpu.blas import Blas
from mlp_xp_backends.compiler.targets.cpu.libraries import mkl
from mlp_xp_backends.numpy_backend import NumpyBackend
from mlp_xp_backends.trees import ABSENT, tree_map


class NotComparableError(Exception):
    """The library cannot train this task; the message says why."""


class Peer(Protocol):
    """A library that trains a task; each run continues the previous one."""

    trains: ClassVar[bool] = True
    task: Task
    rng: np.random.Generator

    def place(self, order: Array) -> Any:
        """Send row numbers (steps, batch) to the device, in the form that `steps` takes."""
        ...

    def steps(self, placed: Any) -> Array:
        """Take the steps; return the losses (or only their mean) on the host when all work is done."""
        ...

    def epoch(self) -> tuple[float, float]:
        """Seconds and mean loss of an epoch, from drawing the order on the host to the loss on the host."""
        began = time.perf_counter()
        losses = self.steps(self.place(as_batches(self.rng, self.task)))
        loss = float(losses.mean(dtype=np.float64))
        return time.perf_counter() - began, loss


class Ours(Peer):
    """The compiled epoch for runs of steps, `Trainer.fit` for epochs."""

    def __init__(self, device: str | NumpyBackend, task: Task) -> None:
        self.task = task
        self.trainer = Trainer(task.net.chain, optimizer=task.rule, device=device, seed=SEED)
        self.rng, self.backend = np.random.default_rng(SEED), self.trainer.backend
        x, y = map(self.backend.asarray, task.data)
        self.data = Batch(x, y, ABSENT)
        self.loop = epoch_loop(self.backend, self.trainer.step)

    def place(self, order: Array) -> Any:
        rule = self.task.rule
        table = rate_table(rule, as_schedule(rule.lr), Moment(self.trainer._run.updates, 0, 0, 0), len(order))
        rates = tree_map(lambda column: self.backend.asarray(column, "float32"), table)
        return Item(self.backend.asarray(order), rates, ABSENT)

    def steps(self, placed: Any) -> Array:
        self.trainer._run.state, losses = self.loop(self.trainer.state, self.data, placed)
        self.trainer._run.updates += len(losses)  # for Adam's correction, steps outside fit count too
        self.backend.synchronize()
        return self.backend.to_numpy(losses)

    def epoch(self) -> tuple[float, float]:
        trainer = self.trainer
        record = trainer.fit(*self.data[:2], max_epochs=trainer.epoch + 1, batch_size=self.task.net.batch)[-1]
        return record["seconds"], record["loss"]


def the_mkl() -> Blas:
    """MKL, which is measured beside NumPy's own OpenBLAS if it is installed."""
    found = mkl()
    if found is None:
        raise NotComparableError("MKL is not installed")
    return found

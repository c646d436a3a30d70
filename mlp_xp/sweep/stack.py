"""Models that train together on one data set: their states are stacked along a leading axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  orders, rates and losses are host arrays

from mlp_xp.data.feed import Batch, Feed, Whole, gather
from mlp_xp.forward import BATCH, OfBatch, OfOutput, logits, padded_rows
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.optimizers import Rates
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sweep.binding import Path, bound, columns
from mlp_xp.training.epoch import Item, losses_on_host, run_epoch, stacked_rates
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree

GPU_SHARE = 0.1
"""The share of the free memory of a GPU for the states of a stack."""
MOST = 1024
"""The number of models in a stack on a GPU."""
SIZES = {
    "numpy": ((2.5e5, 16), (8e5, 8), (4e6, 4), (1.6e7, 2), (math.inf, 1)),
    "torch": ((2.5e5, 16), (8e5, 8), (2e6, 4), (math.inf, 1)),
    "jax": ((2.5e5, 16), (8e5, 8), (math.inf, 1)),
}
"""The number of models in a stack on a CPU, by the multiply-adds of a forward pass; more do not fit the cache."""


class EpochPlan(NamedTuple):
    """The inputs of a model for an epoch, on the host."""

    order: HostArray
    """Row numbers, (rows,)."""
    rates: Rates
    """Leaves of shape (steps,)."""
    l2: Any = ABSENT
    """(steps,), or `ABSENT` for that of the step."""


@lru_cache(maxsize=32)
def stack_loop(backend: Backend, step: TrainStep, paths: tuple[Path, ...]) -> Loop:
    """The compiled loop over `Item`; constants are the data and the numbers at ``paths`` in the step."""

    def body(xp: Namespace, state: TrainState, consts: Tree, item: Item) -> tuple[TrainState, Array]:
        data, numbers = consts
        own: TrainStep = bound(step, paths, numbers)
        return own(xp, state, *gather(xp, data, item.rows), item.rates, item.l2, item.part)

    return backend.compile(body)


@lru_cache(maxsize=32)
def measuring_loop(backend: Backend, network: Chain, of_batch: OfBatch) -> Loop:
    """The compiled forward pass: items are row numbers, constants are data, parameters and layer states."""

    def body(xp: Namespace, carry: Tree, consts: Tree, rows: Array) -> tuple[Tree, Array]:
        data, params, state = consts
        batch = gather(xp, data, rows)
        z, _, _ = network.forward(xp, params, state, batch.x, False)
        return carry, of_batch(xp, z, batch)

    return backend.compile(body)


class Stack:
    """The models that train together now.

    ``step`` is the common configuration, of which each model has its own numbers at ``paths``.
    """

    def __init__(self, feed: Feed, step: TrainStep, paths: tuple[Path, ...], batch_size: int) -> None:
        self.feed, self.step, self.paths, self.batch_size = feed, step, paths, batch_size
        self.backend: Backend = feed.backend
        self.loop = stack_loop(self.backend, step, paths)
        self.steps: list[TrainStep] = []
        self.numbers: tuple[Array, ...] = ()
        self.state: Any = ABSENT

    def exchange(self, keep: Sequence[int], new: Sequence[tuple[TrainStep, TrainState]]) -> None:
        """Keep the models at these positions, in this order, and append new ones, whose states are on the host."""
        self.state = exchanged(self.backend, self.state, keep, [state for _, state in new])
        self.steps = [*(self.steps[i] for i in keep), *(step for step, _ in new)]
        self.numbers = columns(self.backend, self.steps, self.paths, self.feed.dtype)

    def epoch(self, plans: Sequence[EpochPlan]) -> HostArray:
        """Train for an epoch; return the losses of the steps, (steps, models). Waits for the device."""
        order = np.stack([plan.order for plan in plans])
        rates = stacked_rates([plan.rates for plan in plans])
        l2: Any = ABSENT
        if plans[0].l2 is not ABSENT:
            l2 = np.stack([plan.l2 for plan in plans], axis=1)[..., None, None]

        def loop(state: TrainState, data: Batch, items: Item) -> tuple[TrainState, Array]:
            return self.loop(state, (data, self.numbers), items)

        losses = []
        for chunk in run_epoch(loop, self.feed, self.state, order, self.batch_size, rates, l2=l2):
            self.state = chunk.state
            losses.append(chunk.losses)
        return losses_on_host(self.backend, losses)

    def states(self, chosen: Sequence[int]) -> list[TrainState]:
        """The states of these models on the host."""
        return rows_on_host(self.backend, self.state, chosen)

    def outputs(self, feed: Feed, rows: HostArray) -> HostArray:
        """The outputs (logits) for these rows of ``feed``, (models, rows), as `mlp_xp.forward.outputs` has them."""
        n = rows.shape[-1]
        last = n % BATCH
        fill = padded_rows(last) - last if last else 0
        order = np.concatenate([rows, np.repeat(rows[:, :1], fill, axis=1)], axis=1)
        found = [np.moveaxis(z, 1, 0) for z in self.measure(feed, order, OfOutput(logits))]  # (models, steps, rows, n)
        return np.concatenate([z.reshape(len(rows), -1, z.shape[-1]) for z in found], axis=1)[:, :n]

    def measure(self, feed: Feed, rows: HostArray, of_batch: OfBatch) -> list[HostArray]:
        """``of_batch`` of all batches of these rows of ``feed``, (rows,) or (models, rows): see `forward`."""
        loop = measuring_loop(self.backend, self.step.network, of_batch)
        found = []
        batch_size = min(BATCH, rows.shape[-1])
        models = rows.size // rows.shape[-1]
        for data, items, _ in feed.windows(Whole(rows, batch_size), max(1, 2**18 // (batch_size * models))):
            _, outs = loop((), (data, self.state.params, self.state.layers), items)
            found.append(self.backend.to_numpy(outs))
        return found


def exchanged(backend: Backend, stacked: Tree, keep: Sequence[int], new: Sequence[Tree]) -> Tree:
    """The models at these positions of a stacked tree, in this order, followed by new ones, which are on the host."""
    parts = []
    if keep:
        chosen = backend.asarray(np.array(keep, np.int32))
        parts.append(tree_map(lambda a: backend.xp.take(a, chosen, axis=0), stacked))
    if new:
        parts.append(tree_map(lambda *rows: backend.asarray(np.stack(rows)), *new))
    return tree_map(lambda *leaf: leaf[0] if len(leaf) == 1 else backend.xp.concat(leaf, axis=0), *parts)


def rows_on_host(backend: Backend, tree: Tree, chosen: Sequence[int]) -> list[Any]:
    """These models of a stacked tree on the host, each as a tree of its own."""
    taken = tree_map(lambda a: backend.xp.take(a, backend.asarray(np.array(chosen, np.int32)), axis=0), tree)
    host = to_host(backend, taken)
    return [tree_map(lambda a, i=i: np.array(a[i]), host) for i in range(len(chosen))]


def models_together(backend: Backend, network: Chain, batch_size: int, dtype: str) -> int:
    """The number of models of this kind in a stack that gives the best speed."""
    numbers = sum(spec.rows * spec.columns for spec in leaves(network.specs()))
    if backend.device == "cpu":
        sizes = SIZES.get(backend.name, SIZES["jax"])
        return next(size for most, size in sizes if numbers * batch_size < most)
    units = sum(getattr(layer, "n_out", 0) for layer in network.layers)
    of_model = (6 * numbers + 6 * units * batch_size) * np.dtype(dtype).itemsize
    return int(max(1, min(MOST, GPU_SHARE * backend.memory().free / of_model)))

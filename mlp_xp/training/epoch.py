"""Epochs of compiled steps: one runner for the trainer, the estimators and runs of many models.

All functions are pure: state and data in, state and losses out. The caller decides on the order of the rows, the rates,
and when to stop. An axis of models may precede the rows of a batch: then each model has its own order of rows,
``(models, rows)``, and its own rates, ``(steps, models, 1, 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  orders, rates and losses are host arrays

from mlp_xp.data.feed import Batch, Cut, Feed, Place, Whole, gather
from mlp_xp.data.stream import Stream
from mlp_xp.files.snapshot import Plan
from mlp_xp.nn.optimizers import Optimizer, Rates
from mlp_xp.nn.parts import Part
from mlp_xp.nn.schedules import Moment, Schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends import Backend
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree

CHUNK_WORK = 1e10
"""Multiply-adds in a chunk, after which Ctrl-C and callbacks are handled: a quarter of a second on two cores."""
STEP_WORK = 1e6
"""The overhead of a step, expressed as multiply-adds."""
GPU_WORK, GPU_STEPS = 1e12, 2000
"""The same on a GPU, where the time of small steps is that of their launches."""
BLOCK = 2**20
"""The number of rows whose weights are summed at a time."""


class Item(NamedTuple):
    """The inputs of one step."""

    rows: Array
    """Row numbers of the batch, ([models,] rows)."""
    rates: Rates
    l2: Array
    """The factor of the penalty in this step, or `ABSENT` for that of the `TrainStep`."""
    part: Part = ABSENT
    """The position of the rows in the batch, or `ABSENT` if they are the whole batch."""


class Chunk(NamedTuple):
    """Some finished steps of an epoch (on a GPU: queued steps)."""

    state: TrainState
    """The state after them."""
    losses: Array
    """Their losses on the device, (steps, [models])."""
    start: int
    end: int
    """The steps ``start`` to ``end - 1`` of the epoch."""


@lru_cache(maxsize=8)
def epoch_loop(backend: Backend, step: TrainStep) -> Loop:
    """The compiled loop over `Item`: gather a batch from the data and take a step on it.

    Cached, so that equal steps share a compiled loop. A loop keeps no arrays of its runs alive.
    """

    def body(xp: Namespace, state: TrainState, data: Batch, item: Item) -> tuple[TrainState, Array]:
        return step(xp, state, *gather(xp, data, item.rows), item.rates, item.l2, item.part)

    return backend.compile(body)


def run_epoch(
    loop: Loop,
    feed: Feed | Stream,
    state: TrainState,
    order: HostArray,
    batch_size: int,
    rates: Rates,
    *,
    l2: Any = ABSENT,
    start: int = 0,
    cut: Cut = Whole,
) -> Iterator[Chunk]:
    """Train on the rows in ``order``, from step ``start`` on; yield after each chunk of steps.

    The division into chunks does not change any bit of the result: an epoch may stop after any chunk and continue from
    its ``end`` with other chunks. ``state`` is consumed: continue with the state of the chunk.

    Parameters
    ----------
    loop
        From `epoch_loop`.
    order
        Row numbers on the host, ``(rows,)`` or ``(models, rows)``.
    rates, l2
        For all steps of the epoch, from `rate_table`: leaves of shape ``(steps,)`` or ``(steps, models, 1, 1)``, on
        the host in float64.
    cut
        How each batch is divided among the ranks; the loop must then be compiled for a backend with a group.
    """
    backend, batches = feed.backend, cut(order, batch_size)
    table = tree_map(lambda column: backend.asarray(column, feed.dtype), (rates, l2))
    most = chunk_steps(backend, state.params, batch_size)
    for window, rows, end in feed.windows(batches, most, start):
        now, penalty = tree_map(lambda column, a=start, b=end: column[a:b], table)
        part = _part(backend, batches.place(start, end), feed.dtype)
        state, losses = loop(state, window, Item(rows, now, penalty, part))
        yield Chunk(state, losses, start, end)
        start = end


def _part(backend: Backend, place: Place, dtype: str) -> Any:
    """``place`` on the device."""
    return ABSENT if place is ABSENT else Part(backend.asarray(place.first), backend.asarray(place.rows, dtype))


def chunk_steps(backend: Backend, params: Tree, batch_size: int) -> int:
    """The number of steps in a chunk, at least 1, by the multiply-adds of a step."""
    work = max(1, 3 * batch_size * sum(math.prod(p.shape) for p in leaves(params)))
    if backend.device == "cpu":
        return max(1, int(CHUNK_WORK / (work + STEP_WORK)))
    return max(1, min(GPU_STEPS, int(GPU_WORK / work)))


def step_count(rows: int, batch_size: int) -> int:
    """The number of steps in an epoch; the last batch may be smaller."""
    return -(-rows // batch_size)


def rate_table(optimizer: Optimizer, schedule: Schedule, at: Moment, steps: int) -> Rates:
    """The optimizer's coefficients for ``steps`` steps from ``at`` on: leaves of shape (steps,), float64."""
    return rates_of(optimizer, learning_rates(schedule, at, steps), at.step)


def learning_rates(schedule: Schedule, at: Moment, steps: int) -> list[float]:
    """The learning rates of ``steps`` steps from ``at`` on."""
    if getattr(schedule, "by_epoch", False):  # custom schedules need not declare it
        return [float(schedule.rate(at))] * steps
    return [float(schedule.rate(at._replace(step=t))) for t in range(at.step, at.step + steps)]


def rates_of(optimizer: Optimizer, lrs: list[float], first: int) -> Rates:
    """The optimizer's coefficients for steps with these learning rates, after ``first`` earlier steps."""
    table = [optimizer.rates(lr, first + i + 1) for i, lr in enumerate(lrs)]
    columns: Rates = tree_map(lambda *column: np.array(column, np.float64), *table)
    return columns


def stacked_rates(tables: list[Rates]) -> Rates:
    """Stack the tables of several models: leaves of shape (steps, models, 1, 1)."""
    stacked: Rates = tree_map(lambda *columns: np.stack(columns, axis=1)[..., None, None], *tables)
    return stacked


def row_order(rng: np.random.Generator, plan: Plan) -> HostArray:
    """The order of the rows in an epoch, with 32-bit row numbers if they suffice."""
    order = np.arange(plan.rows, dtype=np.int32 if plan.rows <= 2**31 else np.int64)
    if plan.shuffle:
        rng.shuffle(order)
    return order


def batch_weights(order: HostArray, batch_size: int, w: Any = ABSENT) -> HostArray:
    """The sum of the sample weights in each batch, (steps,) or (steps, models), float64; without ``w`` its rows."""
    rows = order.shape[-1]
    starts = np.arange(0, rows, batch_size)
    if w is ABSENT:
        return np.diff(starts, append=rows).astype(np.float64)
    blocks = max(1, BLOCK // batch_size) * batch_size  # whole batches
    sums = [
        np.add.reduceat(w[part].astype(np.float64), np.arange(0, part.shape[-1], batch_size), axis=-1)
        for part in (order[..., i : i + blocks] for i in range(0, rows, blocks))
    ]
    return np.moveaxis(np.concatenate(sums, axis=-1), -1, 0)


def mean_loss(losses: HostArray, weights: HostArray, reduction: str = "mean") -> Any:
    """The epoch's loss per row, or (models,) of them, from the losses of its batches and their `batch_weights`.

    A loss is the mean over the rows of its batch, or with ``reduction="sum"`` their sum.
    """
    losses, weights = (np.ascontiguousarray(np.moveaxis(a, 0, -1), np.float64) for a in (losses, weights))
    total = np.sum(losses * weights if reduction == "mean" else losses, axis=-1) / np.sum(weights, axis=-1)
    return float(total) if total.ndim == 0 else total  # the sum of a model does not depend on the number of models


def losses_on_host(backend: Backend, parts: list[Array]) -> HostArray:
    """The losses of the chunks on the host, (steps, [models]). Waits for the device."""
    return np.concatenate([backend.to_numpy(part) for part in parts]) if parts else np.empty(0)

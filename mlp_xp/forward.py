"""The forward pass over a data set, batch by batch, as a compiled loop, for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np  # noqa: TID251  outputs are host arrays

from mlp_xp.data.feed import WINDOW_BYTES, Batch, bounds_of_chunks, place, row_bytes, send
from mlp_xp.nn.layers import Chain
from mlp_xp_backends import Backend
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree

BATCH = 1024
"""The number of rows of a batch."""
STEPS = 256
"""The number of batches between two transfers to the host."""

OfBatch = Callable[[Namespace, Array, Batch], Array]
"""``f(xp, z, batch)``, a function of the network's outputs (..., rows, n_out) for a batch."""


def blocks(
    backend: Backend, network: Chain, data: Batch, dtype: str, batch_size: int = BATCH, *, pad: bool = False
) -> Iterator[Batch]:
    """Yield all rows of ``data`` in their order, on the device, as stacks of batches (steps, batch_size, ...).

    If the last batch is smaller, it is yielded alone; ``pad`` adds rows of zeros to it, less than a quarter, so that
    loops are compiled for few shapes.
    """
    rows = data.x.shape[0]
    most = min(STEPS, max(1, WINDOW_BYTES // (row_bytes(data) * batch_size)))
    bounds = bounds_of_chunks(rows, batch_size, most, 0)
    for start, end in pairwise(bounds):
        chosen = slice(start * batch_size, min(end * batch_size, rows))
        part = tree_map(lambda leaf, chosen=chosen: leaf[chosen], data)
        size = min(batch_size, part.x.shape[0])
        if pad and size < batch_size and isinstance(part.x, np.ndarray):
            part, size = tree_map(_padded, part), padded_rows(size)
        sent = send(backend, network, part, dtype)
        yield tree_map(lambda leaf, n=size: backend.xp.reshape(leaf, (-1, n, *leaf.shape[1:])), sent)


def forward(
    backend: Backend, network: Chain, of_batch: OfBatch, params: Tree, state: Tree, batches: Iterable[Batch]
) -> Iterator[HostArray]:
    """Yield the results of ``of_batch``, stacked, on the host: one array for each of the `blocks`."""
    loop = forward_loop(backend, network, of_batch)
    for block in batches:
        _, outs = loop((), (params, state), block)
        yield backend.to_numpy(outs)


def predictions(
    backend: Backend,
    network: Chain,
    params: Tree,
    state: Tree,
    x: Array,
    dtype: str,
    f: Callable[[Namespace, Array], Array] | None = None,
    batch_size: int = BATCH,
) -> HostArray:
    """Return ``f(xp, z)`` of the outputs for the rows ``x``, on the host.

    NumPy computes up to `BATCH` rows directly, because binding a compiled loop would take longer than its products.
    """
    if backend.name == "numpy" and isinstance(x, np.ndarray) and len(x) <= min(BATCH, batch_size):
        with np.errstate(all="ignore"):
            z, _, _ = network.forward(backend.xp, params, state, place(backend, network, x, dtype), False)
            return np.asarray(z if f is None else f(backend.xp, z))
    batches = blocks(backend, network, Batch(x, ABSENT, ABSENT), dtype, batch_size, pad=True)
    return outputs(backend, network, params, state, batches, x.shape[0], f)


def outputs(
    backend: Backend,
    network: Chain,
    params: Tree,
    state: Tree,
    batches: Iterable[Batch],
    rows: int,
    f: Callable[[Namespace, Array], Array] | None = None,
) -> HostArray:
    """Return ``f(xp, z)`` of the outputs (logits) of all rows, on the host; by default the outputs themselves."""
    outs = forward(backend, network, OfOutput(f or logits), params, state, batches)
    return np.concatenate([out.reshape(-1, *out.shape[2:]) for out in outs])[:rows]


def over_steps(a: HostArray) -> HostArray:
    """The sum over the first axis in float64; the order of additions does not depend on the other axes."""
    total: HostArray = np.ascontiguousarray(np.moveaxis(a, 0, -1), dtype=np.float64).sum(axis=-1)
    return total


@lru_cache(maxsize=32)
def forward_loop(backend: Backend, network: Chain, of_batch: OfBatch) -> Loop:
    """Return the compiled forward pass, which is cached: items are batches, constants parameters and layer states."""

    def body(xp: Namespace, carry: Tree, consts: Tree, batch: Batch) -> tuple[Tree, Array]:
        params, state = consts
        z, _, _ = network.forward(xp, params, state, batch.x, False)
        return carry, of_batch(xp, z, batch)

    return backend.compile(body)


@dataclass(frozen=True)
class OfOutput:
    """A function of the outputs alone, which serves as a key of the cache of `forward_loop`."""

    f: Callable[[Namespace, Array], Array]

    def __call__(self, xp: Namespace, z: Array, batch: Batch) -> Array:
        """``f(xp, z)``."""
        return self.f(xp, z)


def logits(xp: Namespace, z: Array) -> Array:
    """The outputs themselves."""
    return z


def padded_rows(rows: int) -> int:
    """Round ``rows`` up to a number with three significant binary digits."""
    unit = 1 << max((rows - 1).bit_length() - 3, 0)
    return -(-rows // unit) * unit


def _padded(a: HostArray) -> HostArray:
    return np.concatenate([a, np.zeros((padded_rows(len(a)) - len(a), *a.shape[1:]), a.dtype)])

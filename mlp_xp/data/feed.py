"""The transfer of rows to the device: which rows a step uses, and when they are sent.

`Batches` are the row numbers of an epoch's steps. A `Feed` holds the rows, all on the device or sent window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np  # noqa: TID251  data enter on the host

from mlp_xp.nn.layers import Chain
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace

RESIDENT_SHARE = 0.5
"""The share of the device's free memory for data; the rest is for parameters and temporaries."""
WINDOW_BYTES = 64 * 2**20
"""The size of a window of streamed data on the host, in bytes."""


class Batch(NamedTuple):
    """Rows of a data set; ``y`` and ``w`` may be `ABSENT`."""

    x: Array  # (rows, n_in)
    y: Array  # (rows,) or (rows, n_out)
    w: Array  # (rows,)


def gather(xp: Namespace, data: Batch, rows: Array) -> Batch:
    """Gather the batch of these rows, ``(rows,)``, or of the rows of each model, ``(models, rows)``."""
    batch: Batch = tree_map(lambda leaf: _take(xp, leaf, rows), data)
    return batch


def _take(xp: Namespace, a: Array, rows: Array) -> Array:
    if len(rows.shape) == 1:
        return xp.take(a, rows, axis=0)
    taken = xp.take(a, xp.reshape(rows, (-1,)), axis=0)
    return xp.reshape(taken, (*rows.shape, *a.shape[1:]))


class Place(NamedTuple):
    """The position of a rank's rows in each batch: see `mlp_xp.nn.parts.Part`."""

    first: HostArray  # (steps,) int32
    rows: HostArray  # (steps,) float64


class Batches(Protocol):
    """The rows of each step of an epoch. All ranks have the same steps and bounds, and places that fit together."""

    order: HostArray
    """Row numbers, ([models,] rows)."""
    batch_size: int

    def bounds(self, most: int, start: int) -> list[int]:
        """The bounds of chunks of at most ``most`` steps, from step ``start`` on, with equal shapes in each chunk."""
        ...

    def rows(self, start: int, end: int) -> HostArray:
        """The rows of the steps ``start`` to ``end - 1`` of a chunk, (steps, [models,] rows)."""
        ...

    def place(self, start: int, end: int) -> Any:
        """The `Place` of these rows, or `ABSENT` if they are whole batches."""
        ...


Cut = Callable[[HostArray, int], Batches]
"""A function from the order of the rows in an epoch and the batch size to the batches."""


@dataclass(frozen=True, eq=False)
class Whole(Batches):
    """All rows of every batch."""

    order: HostArray
    batch_size: int

    def bounds(self, most: int, start: int) -> list[int]:
        """See `Batches`."""
        return bounds_of_chunks(self.order.shape[-1], self.batch_size, most, start)

    def rows(self, start: int, end: int) -> HostArray:
        """See `Batches`."""
        rows = self.order[..., start * self.batch_size : end * self.batch_size]
        rows = rows.reshape(*self.order.shape[:-1], end - start, -1)
        return np.ascontiguousarray(np.moveaxis(rows, -2, 0))

    def place(self, start: int, end: int) -> Any:
        """See `Batches`."""
        return ABSENT


def bounds_of_chunks(rows: int, batch_size: int, most: int, start: int) -> list[int]:
    """The bounds of chunks, in steps: multiples of one length as far as possible, and a bound before a smaller batch.

    Few lengths are used because some backends compile for every length.
    """
    full, steps = rows // batch_size, -(-rows // batch_size)
    most = min(most, max(full, 1))
    length = next((n for n in range(most, most // 2, -1) if full % n == 0), most)
    return sorted({start, *(step for step in (*range(0, full, length), full, steps) if step > start)})


@dataclass(frozen=True)
class Feed:
    """A data set from which compiled loops gather rows by number.

    ``data`` are device arrays if ``resident``, otherwise host arrays; while the device processes a window of their
    rows, the next window is gathered.
    """

    backend: Backend
    network: Chain
    data: Batch
    dtype: str
    resident: bool
    bytes_per_row: int
    """Bytes of a row of streamed data, 0 for resident data. Chunks depend on it, so it is the same on all ranks."""

    def windows(self, batches: Batches, most: int, start: int = 0) -> Iterator[tuple[Batch, Array, int]]:
        """Yield the epoch over ``batches`` from step ``start`` on, in chunks of at most ``most`` steps.

        A chunk consists of arrays, row numbers within them of shape (steps, [models,] rows), and the number of steps
        of the epoch that are done after the chunk.
        """
        if self.bytes_per_row:
            models = batches.order.size // batches.order.shape[-1]
            most = min(most, max(1, WINDOW_BYTES // (self.bytes_per_row * batches.batch_size * models)))
        bounds = batches.bounds(most, start)
        parts = (batches.rows(a, b) for a, b in pairwise(bounds))
        if self.resident:
            for rows, end in zip(parts, bounds[1:], strict=True):
                yield self.data, self.backend.asarray(rows), end
            return
        for (part, local), end in zip(_ahead(self._part, parts), bounds[1:], strict=True):
            yield send(self.backend, self.network, part, self.dtype), self.backend.asarray(local), end

    def _part(self, rows: HostArray) -> tuple[Batch, HostArray]:
        """These rows on the host, and the position of each row among them."""
        flat = rows.reshape(-1)
        part: Batch = tree_map(lambda leaf: leaf[flat], self.data)
        return part, np.arange(len(flat), dtype=np.int32).reshape(rows.shape)


def make_feed(backend: Backend, network: Chain, data: Batch, dtype: str, resident: bool | None) -> Feed:
    """Send the data to the device if they fit there (or as ``resident`` requests), otherwise stream them.

    Data that are on a device already stay there.
    """
    if any(_on_device(leaf) for leaf in leaves(data)):
        resident = True
    if resident is None:
        resident = fits(backend, network, data, dtype)
    data = send(backend, network, data, dtype) if resident else tree_map(_host_rows, data)
    return Feed(backend, network, data, dtype, resident, 0 if resident else row_bytes(data))


def fits(backend: Backend, network: Chain, data: Batch, dtype: str) -> bool:
    """Whether all data fit in the memory of the device, or are already stored there."""
    there = shares_memory(backend, network, data, dtype)
    return there or _device_bytes(network, data, dtype) < RESIDENT_SHARE * backend.memory().free


def shares_memory(backend: Backend, network: Chain, data: Batch, dtype: str) -> bool:
    """Whether ``x`` on the device shares the memory of the host array."""
    return backend.name == "numpy" and _dtype_there(network, dtype) in (None, str(data.x.dtype))


def is_mapped(a: Array) -> bool:
    """Whether ``a`` is memory-mapped from a file."""
    while a is not None and not isinstance(a, np.memmap):
        a = getattr(a, "base", None)
    return a is not None


def send(backend: Backend, network: Chain, data: Batch, dtype: str) -> Batch:
    """Send the data: ``x`` by `place`, targets and weights as floats of the network's dtype or unchanged."""
    x, y, w = data
    return Batch(
        place(backend, network, x, dtype),
        tree_map(lambda y: _sent(backend, y, dtype if y.dtype.kind == "f" else None), y),
        tree_map(lambda w: _sent(backend, w, dtype), w),
    )


def place(backend: Backend, network: Chain, x: Array, dtype: str) -> Array:
    """Send ``x`` in the dtype that the first layer takes: floats of the network, int32 ids, or any dtype."""
    return _sent(backend, x, _dtype_there(network, dtype))


def _dtype_there(network: Chain, dtype: str) -> str | None:
    return {"floats": dtype, "ids": "int32", "numbers": None}[network.first.takes]


def _sent(backend: Backend, a: Array, dtype: str | None) -> Array:
    """Send ``a`` in that dtype. Bytes are cast on the device, which saves three quarters of the transfer."""
    if dtype is not None and str(a.dtype) in ("uint8", "int8"):
        a = backend.asarray(a)
    return backend.asarray(a, dtype)


def _on_device(a: Array) -> bool:
    """Whether ``a`` is stored outside the memory of the host."""
    return hasattr(a, "__dlpack_device__") and int(a.__dlpack_device__()[0]) != 1


def _host_rows(a: Array) -> Array:
    """``a`` as an array that NumPy can index; sparse rows and NumPy arrays, even memory-mapped ones, are unchanged."""
    return np.asarray(a) if hasattr(a, "__dlpack_device__") and not isinstance(a, np.ndarray) else a


def _device_bytes(network: Chain, data: Batch, dtype: str) -> int:
    """Bytes of the data on the device, after the cast."""
    there = _dtype_there(network, dtype)
    width = data.x.dtype.itemsize if there is None else np.dtype(there).itemsize
    rest = sum(leaf.nbytes for leaf in leaves((data.y, data.w)))
    return int(data.x.shape[0] * data.x.shape[1] * width + rest)


def row_bytes(data: Batch) -> int:
    """Bytes of a row on the host."""
    return sum(leaf.nbytes // len(leaf) for leaf in leaves(data))


def _ahead(f: Any, items: Iterator[Any]) -> Iterator[Any]:
    """Yield ``f`` of every item; another thread computes the next result while the current one is in use."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for item in items:
            following = pool.submit(f, item)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()

"""The transfer of a source's batches to the device, with a check of each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np  # noqa: TID251  batches are host arrays

from mlp_xp._checks import shown
from mlp_xp.data.checks import check_inputs, check_targets, check_weights, first_not_finite, on_host
from mlp_xp.data.feed import WINDOW_BYTES, Batch, Batches, send
from mlp_xp.data.sources import BatchSource
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray

STACK = 64
"""The largest number of batches that are sent together; they have the same shape."""


@dataclass(eq=False)
class Stream:
    """A feed whose rows are the batches of a source: an epoch has ``length`` steps of one batch each.

    It replaces the array ``x`` where only the number of its rows and their dtype are read.
    """

    backend: Backend
    network: Chain
    loss: Loss
    source: BatchSource
    dtype: str
    weigh: Callable[[HostArray, Any], Any] = lambda y, w: w
    """A function from the targets and weights of a batch to its weights times those of the classes."""
    weights: HostArray = field(init=False)
    """The sum of the weights of each batch in the last pass, (length,) float64; without weights, its number of rows."""
    rows: int = field(init=False, default=0)
    """Rows of the last pass."""

    def __post_init__(self) -> None:
        length = self.source.length
        if length is None:
            length = sum(1 for _ in enumerate(self._checked(self.source)))
            if length == 0:
                raise ValueError("the source has no batches")
        self.weights = np.zeros(length)

    @property
    def data(self) -> Batch:
        """The data set as the trainer uses it: one row per batch, with the weights of the batches."""
        return Batch(Steps(len(self.weights)), ABSENT, self.weights)

    def _checked(self, batches: Any) -> Iterator[Batch]:
        """Yield the batches on the host, each checked and in the form that the network and the loss take."""
        for i, batch in enumerate(batches):
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                raise TypeError(f"batch {i} of the source must be (x, y) or (x, y, sample_weight), not {shown(batch)}")
            try:
                yield self._check(*batch)
            except (TypeError, ValueError) as error:
                kind = ValueError if isinstance(error, ValueError) else TypeError
                raise kind(f"batch {i} of the source: {error}") from error

    def _check(self, x: Any, y: Any, w: Any = None) -> Batch:
        x = on_host(self.backend, check_inputs(self.backend, self.network, x))
        y = check_targets(self.backend, self.loss, self.network.width(x.shape[1]), y, len(x))
        w = self.weigh(y, check_weights(self.backend, w, len(x), self.dtype))
        return Batch(x, y, w)

    def batches(self) -> Iterator[Batch]:
        """Yield all batches of a pass, on the host. Raises `ValueError` if there are fewer than ``length``."""
        length, self.rows, i = len(self.weights), 0, -1
        for i, batch in enumerate(self._checked(self.source)):
            if i == length:
                break
            rows = len(batch.x)
            self.weights[i] = rows if batch.w is ABSENT else np.sum(batch.w, dtype=np.float64)
            self.rows += rows
            yield batch
        if i + 1 < length:
            raise ValueError(f"the source ended after {i + 1} batches, but an epoch has {length}: pass another length")

    def place_of_nan(self) -> str:
        """A clause that names the first batch with NaN or infinity, or an empty string. Reads the source again."""
        for i, batch in enumerate(self._checked(self.source)):
            row = first_not_finite(self.backend, batch.x)
            if row is not None:
                return f"x of batch {i} of the source holds NaN or infinity, the first in row {row}"
        return ""

    def head(self, batches: int) -> tuple[Batch, int]:
        """All rows of the first batches, on the host, and the number of rows in the first batch."""
        parts = list(islice(self._checked(self.source), batches))
        return tree_map(lambda *leaves: np.concatenate(leaves), *parts), len(parts[0].x)

    def blocks(self) -> Iterator[Batch]:
        """All batches on the device, each with a leading axis of 1."""
        for batch in self.batches():
            yield tree_map(lambda a: a[None], send(self.backend, self.network, batch, self.dtype))

    def windows(self, batches: Batches, most: int, start: int = 0) -> Iterator[tuple[Batch, Array, int]]:
        """Like `Feed.windows`, with the source in the place of ``batches``; skips the first ``start`` batches."""
        stack: list[Batch] = []
        step = 0
        for batch in self.batches():
            step += 1
            if step <= start:
                continue
            if stack and (_form(batch) != _form(stack[0]) or len(stack) >= self._most(stack[0], most)):
                yield self._window(stack, step - 1)
                stack = []
            stack.append(batch)
        if stack:
            yield self._window(stack, step)

    def _most(self, batch: Batch, most: int) -> int:
        """The number of batches like this one in a stack; ``most`` is that of batches with a single row."""
        size = sum(int(leaf.nbytes) for leaf in leaves(batch))
        return max(1, min(STACK, most // len(batch.x), WINDOW_BYTES // max(size, 1)))

    def _window(self, stack: list[Batch], end: int) -> tuple[Batch, Array, int]:
        """The rows of some batches on the device, the position of each batch in them, and the steps done after it."""
        data: Batch = tree_map(lambda *leaves: np.concatenate(leaves), *stack)
        rows = np.arange(len(data.x), dtype=np.int32).reshape(len(stack), -1)
        return send(self.backend, self.network, data, self.dtype), self.backend.asarray(rows), end


@dataclass(frozen=True)
class Steps:
    """The rows of a data set of batches, of which only their number is known."""

    length: int
    dtype: str = "object"

    @property
    def shape(self) -> tuple[int]:
        """(length,)."""
        return (self.length,)


def _form(batch: Batch) -> list[tuple[Any, Any]]:
    """The shapes and dtypes that the batches of a stack have in common."""
    return [(leaf.shape, leaf.dtype) for leaf in leaves(batch)]

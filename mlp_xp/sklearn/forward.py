"""Outputs of the network for rows on the host, a few batches at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from mlp_xp.data.feed import WINDOW_BYTES
from mlp_xp.nn.layers import Chain
from mlp_xp_backends import Backend

Array = Any
Tree = Any
HostArray = np.ndarray[Any, Any]

BATCH = 1024


def blocks(backend: Backend, x: Any, dtype: str) -> Iterator[tuple[Array, int]]:
    """``x`` on the device as batches (steps, rows, n_in), with the number of rows that are not padding.

    A last batch that is not full is padded to a power of two, so that there are few shapes to compile for.
    """
    n, n_in = x.shape
    most = BATCH * max(1, WINDOW_BYTES // (BATCH * n_in * x.dtype.itemsize))
    whole = n - n % BATCH
    for start in range(0, whole, most):
        part = x[start : min(start + most, whole)]
        yield backend.asarray(part.reshape(-1, BATCH, n_in), dtype), len(part)
    if whole < n:
        padded = np.zeros((1, 1 << (n - whole - 1).bit_length(), n_in), dtype)
        padded[0, : n - whole] = x[whole:]
        yield backend.asarray(padded), n - whole


def outputs(backend: Backend, network: Chain, params: Tree, state: Tree, x: Iterable[tuple[Array, int]]) -> HostArray:
    """Outputs of the last layer (logits) for all `blocks` of ``x``, (rows, n_out), on the host."""
    loop = _compiled(backend, network)
    parts = []
    for block, rows in x:
        _, z = loop((), (params, state), block)
        host = backend.to_numpy(z)
        parts.append(host.reshape(-1, host.shape[-1])[:rows])
    return np.concatenate(parts)


@lru_cache(maxsize=32)
def _compiled(backend: Backend, network: Chain) -> Any:
    def body(xp: Any, carry: Tree, consts: Tree, x: Array) -> tuple[Tree, Array]:
        params, state = consts
        return carry, network.forward(xp, params, state, x, False)[0]

    return backend.compile(body)

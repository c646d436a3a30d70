"""Trees between host and device, in few transfers."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from mlp_xp_backends.protocol import Backend
from mlp_xp_backends.trees import leaves, tree_map, unflatten
from mlp_xp_backends.typing import Array, HostArray, Tree


def to_host(backend: Backend, tree: Tree) -> Tree:
    """A copy of ``tree`` in NumPy arrays. Waits for the device.

    On a GPU all leaves of one dtype are joined there and sent in one transfer.
    """
    if backend.device == "cpu":
        return tree_map(lambda a: np.array(backend.to_numpy(a)), tree)
    flat: list[Array] = leaves(tree)
    found: dict[int, HostArray] = {}
    for dtype in dict.fromkeys(str(a.dtype) for a in flat):
        chosen = [i for i, a in enumerate(flat) if str(a.dtype) == dtype]
        joined = backend.xp.concat([backend.xp.reshape(flat[i], (-1,)) for i in chosen])
        ends = list(accumulate(_size(flat[i]) for i in chosen))[:-1]
        for i, part in zip(chosen, np.split(backend.to_numpy(joined), ends), strict=True):
            found[i] = part.reshape(flat[i].shape).copy()
    return unflatten(tree, (found[i] for i in range(len(flat))))


def to_device(backend: Backend, tree: Tree) -> Tree:
    """A copy of ``tree``, NumPy arrays, on the device."""
    return tree_map(lambda a: backend.asarray(np.array(a)), tree)


def _size(a: Any) -> int:
    return int(np.prod(a.shape, dtype=np.int64))

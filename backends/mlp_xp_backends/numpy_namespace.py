"""NumPy's namespace, which follows the standard by itself from NumPy 2.3 on, with the two functions added to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlp_xp_backends.namespace import Members, over_models
from mlp_xp_backends.typing import HostArray


def one_hot(ids: HostArray, n: int, *, dtype: Any) -> HostArray:
    """``y[..., i] = (ids == i)`` as numbers of ``dtype``, of shape (*ids.shape, n)."""
    hot = np.zeros((ids.size, n), dtype)
    hot[np.arange(ids.size), ids.reshape(-1)] = 1
    return hot.reshape(*ids.shape, n)


def _segment_sum(values: HostArray, ids: HostArray, n: int) -> HostArray:
    """Sum the rows (rows, d) by id in the order of the rows; ``np.add.at`` is fast along one axis only."""
    d = values.shape[1]
    total = np.zeros(n * d, values.dtype)
    places = ids[:, None].astype(np.intp, copy=False) * d + np.arange(d)
    np.add.at(total, places.reshape(-1), values.reshape(-1))
    return total.reshape(n, d)


segment_sum = over_models(np, _segment_sum)


class _Namespace(Members):
    """NumPy's functions; the submodules that NumPy imports on demand stay unimported until they are used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


xp = _Namespace(
    **{name: member for name, member in vars(np).items() if not name.startswith("_")},
    one_hot=one_hot,
    segment_sum=segment_sum,
)
"""NumPy with `one_hot` and `segment_sum`."""

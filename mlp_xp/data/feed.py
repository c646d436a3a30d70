"""Data on their way to the device: checked once on the host, then resident there or fed window by window."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  data enter on the host

from mlp_xp.nn.layers import Chain, Embedding
from mlp_xp.nn.losses import Loss
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT

Array = Any
Tree = Any
HostArray = np.ndarray[Any, Any]

RESIDENT_SHARE = 0.5  # of the device's free memory: the rest is for parameters and temporaries
WINDOW_BYTES = 64 * 2**20


class Batch(NamedTuple):
    """Rows of a data set; ``y`` and ``w`` are ``()`` where there are none."""

    x: Array  # (rows, n_in)
    y: Array  # (rows,) or (rows, n_out)
    w: Array  # (rows,)


def on_host(backend: Backend, a: Any) -> HostArray:
    """``a``, an array of any library and device, a list or a data frame, on the host."""
    if hasattr(a, "__dlpack__") and not isinstance(a, np.ndarray):
        return backend.to_numpy(backend.asarray(a))
    return np.asarray(a)


def check_inputs(backend: Backend, network: Chain, x: Any, name: str = "x") -> Array:
    """``x`` if the network can take it, with two axes; `ValueError` if not."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        x = np.asarray(x)
    if hasattr(x, "toarray"):
        raise ValueError(f"{name} is a sparse matrix, and dense rows are needed: {name}.toarray() makes them")
    if len(x.shape) != 2:
        how = f"for one row use {name}[None, :]" if len(x.shape) == 1 else f"use {name}.reshape(len({name}), -1)"
        raise ValueError(f"{name} must have two axes, rows and features, but its shape is {tuple(x.shape)}: {how}")
    if x.shape[0] == 0:
        raise ValueError(f"{name} has no rows")
    try:
        network.width(x.shape[1])
    except ValueError as error:
        reason = str(error).partition(": ")[0]
        raise ValueError(f"{name} has {x.shape[1]} columns, and the network is built for others: {reason}") from None
    kind = _kind(x)
    if kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, but its dtype is {x.dtype}: convert it to float32")
    if isinstance(network.first, Embedding):
        if kind not in "ui":
            raise ValueError(f"{name} must hold integer ids for the embedding, but its dtype is {x.dtype}")
        _check_range(name, on_host(backend, x), network.first.n_ids, "ids")
    return x


def check_targets(
    backend: Backend, loss: Loss, n_out: int | None, targets: Any, rows: int, name: str = "y"
) -> HostArray:
    """``targets`` on the host as ``loss`` takes them; `ValueError` if they are something else."""
    y = on_host(backend, targets)
    if y.shape[:1] != (rows,):
        raise ValueError(f"{name} has shape {y.shape} but x has {rows} rows: give one target per row")
    if y.dtype.kind not in "buif":
        raise ValueError(
            f"{name} must hold numbers, but its dtype is {y.dtype}: "
            f"number the classes, for instance with np.unique({name}, return_inverse=True)"
        )
    if loss.target == "class" and y.ndim == 1:
        if y.dtype.kind == "f" or y.dtype.kind == "b":
            whole = y.dtype.kind == "b" or bool(np.all(y == np.floor(y)))
            how = f"use {name}.astype(int)" if whole else f"number the classes: np.unique({name}, return_inverse=True)"
            raise ValueError(f"{name} must hold integer class labels, but its dtype is {y.dtype}: {how}")
        _check_range(name, y, n_out, "outputs", f"number the classes from 0: np.unique({name}, return_inverse=True)")
        return y.astype(np.int32, copy=False)
    if y.ndim == 1 and n_out in (1, None):
        y = y.reshape(-1, 1)
    if y.ndim != 2 or (n_out is not None and y.shape[1] != n_out):
        labels = f"; integer labels have shape ({rows},): {name}.ravel()" if loss.target == "class" else ""
        raise ValueError(f"{name} must have shape ({rows}, {n_out}) for {type(loss).__name__}, not {y.shape}{labels}")
    _check_values(loss, y, name)
    return y


def check_weights(backend: Backend, w: Any, rows: int) -> Any:
    """One weight per row on the host, or ``()`` for ``None``; `ValueError` if they are negative or all zero."""
    if w is None:
        return ABSENT
    w = on_host(backend, w)
    if w.shape != (rows,) or w.dtype.kind not in "buif":
        raise ValueError(f"sample_weight must hold {rows} numbers, one per row, not {w.dtype} of shape {w.shape}")
    if not (np.all(np.isfinite(w)) and np.all(w >= 0) and np.any(w > 0)):
        raise ValueError("sample_weight must be finite, not negative, and above 0 somewhere")
    return w


def _kind(x: Array) -> str:
    """NumPy's one-letter kind of an array's dtype, whatever library it is of."""
    name = str(x.dtype).rpartition(".")[2]
    try:
        return np.dtype(name).kind
    except TypeError:
        return "f" if "float" in name else "O"


def first_not_finite(backend: Backend, x: Array, block: int = 10_000) -> int | None:
    """The first row of ``x`` that holds NaN or infinity, if there is one."""
    if _kind(x) != "f":
        return None
    for start in range(0, x.shape[0], block):
        rows = np.isfinite(on_host(backend, x[start : start + block])).all(axis=1)
        if not rows.all():
            return start + int(np.argmin(rows))
    return None


def _check_range(name: str, ids: HostArray, n: int | None, what: str, how: str = "") -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (n is not None and high >= n):
        allowed = "0 ..." if n is None else f"0 ... {n - 1} for {n} {what}"
        raise ValueError(f"{name} must lie in {allowed}, but holds {low} ... {high}{': ' + how if how else ''}")


def _check_values(loss: Loss, y: HostArray, name: str) -> None:
    """What each kind of target allows."""
    if not np.all(np.isfinite(y)):
        raise ValueError(f"{name} holds NaN or infinity: drop these rows or fill them in")
    if loss.target == "class" and not (np.all(y >= 0) and np.allclose(y.sum(axis=1), 1.0, atol=1e-3)):
        raise ValueError(f"{name} of shape {y.shape} must hold one distribution per row: not negative, sum 1")
    if loss.target == "binary" and not (np.all(y >= 0) and np.all(y <= 1)):
        raise ValueError(f"{name} must lie in [0, 1] for {type(loss).__name__}, but holds {y.min()} ... {y.max()}")
    if loss.target == "count" and not np.all(y >= 0):
        raise ValueError(f"{name} must not be negative for {type(loss).__name__}, but holds {y.min()}")


def place(backend: Backend, network: Chain, x: Array, dtype: str) -> Array:
    """``x`` on the device: as floats of the network, as int32 ids, or as it is, as its first layer takes it."""
    return backend.asarray(x, {"floats": dtype, "ids": "int32", "numbers": None}[network.first.takes])


@dataclass(frozen=True)
class Feed:
    """A data set as windows of device arrays and, for each, the steps of rows in it."""

    backend: Backend
    network: Chain
    data: Batch
    dtype: str
    resident: bool

    def windows(
        self, order: HostArray, batch_size: int, most: int, start: int = 0
    ) -> Iterator[tuple[Batch, Array, int]]:
        """The epoch over ``order`` from step ``start`` on, in chunks of at most ``most`` steps.

        Yields the arrays of each chunk, row numbers in them of shape (steps, rows), and the step after it. The next
        window is gathered and sent while the device works on this one.
        """
        parts = self._chunks(order, batch_size, most)
        ends = list(accumulate(len(part) for part in parts))
        todo = [(part, end) for part, end in zip(parts, ends, strict=True) if end > start]
        if self.resident:
            for rows, end in todo:
                yield self.data, self.backend.asarray(rows), end
            return
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self._window, rows) for rows, _ in todo[:1]]
            for (_, end), following in zip(todo, [*todo[1:], None], strict=True):
                window, local = ahead.pop().result()
                if following is not None:
                    ahead.append(pool.submit(self._window, following[0]))
                yield window, local, end

    def _window(self, rows: HostArray) -> tuple[Batch, Array]:
        """These rows on the device, and where in the window each of them is."""
        flat = rows.reshape(-1)
        part = Batch(*(leaf if isinstance(leaf, tuple) else leaf[flat] for leaf in self.data))
        local = np.arange(len(flat), dtype=np.int32).reshape(rows.shape)
        return _send(self.backend, self.network, part, self.dtype), self.backend.asarray(local)

    def _chunks(self, order: HostArray, batch_size: int, most: int) -> list[HostArray]:
        """Row numbers of shape (steps, rows): chunks of one length if there is one, the last, smaller batch apart.

        Some backends compile for every length.
        """
        if not self.resident:
            row = sum(leaf.nbytes // len(leaf) for leaf in self.data if not isinstance(leaf, tuple))
            most = min(most, max(1, WINDOW_BYTES // (row * batch_size)))
        full = len(order) // batch_size
        head = order[: full * batch_size].reshape(full, batch_size)
        most = min(most, max(full, 1))
        length = next((n for n in range(most, most // 2, -1) if full % n == 0), most)
        parts = [head[i : i + length] for i in range(0, full, length)]
        rest = order[full * batch_size :]
        return [*parts, rest.reshape(1, -1)] if len(rest) else parts


def make_feed(backend: Backend, network: Chain, data: Batch, dtype: str, resident: bool | None) -> Feed:
    """Send the data to the device if they fit there (or as ``resident`` says), else feed them from the host."""
    if resident is None:
        size = sum(leaf.nbytes for leaf in data if not isinstance(leaf, tuple))
        as_it_is = backend.name == "numpy" and (network.first.takes != "floats" or str(data.x.dtype) == dtype)
        resident = as_it_is or size < RESIDENT_SHARE * backend.memory().free
    if resident:
        data = _send(backend, network, data, dtype)
    return Feed(backend, network, data, dtype, resident)


def _send(backend: Backend, network: Chain, data: Batch, dtype: str) -> Batch:
    x, y, w = data
    floats = not isinstance(y, tuple) and y.dtype.kind == "f"
    return Batch(
        place(backend, network, x, dtype),
        y if isinstance(y, tuple) else backend.asarray(y, dtype if floats else None),
        w if isinstance(w, tuple) else backend.asarray(w, dtype),
    )


def gather(xp: Any, data: Batch, rows: Array) -> Batch:
    """The batch of these rows."""
    return Batch(*(leaf if isinstance(leaf, tuple) else xp.take(leaf, rows, axis=0) for leaf in data))

"""Sources of batches: data that are read in pieces, again in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mlp_xp._checks import check_count, shown
from mlp_xp._optional import need
from mlp_xp.data.frames import frame_to_numpy
from mlp_xp_backends.typing import HostArray


class BatchSource:
    """Batches ``(x, y)`` or ``(x, y, sample_weight)`` for `Trainer.fit`, the same number in every epoch.

    Parameters
    ----------
    batches
        A function without arguments that returns a new iterator, or an object that can be iterated over repeatedly,
        such as a ``torch.utils.data.DataLoader`` or a list.
    length
        The number of batches in an epoch; further batches are ignored. The default is ``len(batches)``; if it is not
        defined, the batches are read, checked and counted once before the training.

    >>> rng = np.random.default_rng(0)
    >>> def batches():
    ...     for _ in range(10):
    ...         x = rng.standard_normal((32, 4))
    ...         yield x, (x[:, 0] > 0.0).astype(int)
    >>> trainer = Trainer(mlp(4, 2), device="cpu")
    >>> len(trainer.fit(BatchSource(batches, length=10), max_epochs=3))
    3
    """

    def __init__(self, batches: Callable[[], Iterable[Any]] | Iterable[Any], *, length: int | None = None) -> None:
        if isinstance(batches, Iterator):
            raise TypeError(
                f"expected a function that returns a new iterator for every epoch, got {shown(batches)}, which can be "
                "read once: pass the generator function itself, without calling it"
            )
        if not callable(batches) and not isinstance(batches, Iterable):
            raise TypeError(f"expected a function or an iterable of batches, got {shown(batches)}")
        self.batches = batches
        self.length = check_count("length", length) if length is not None else _length(batches)

    def __repr__(self) -> str:
        number = "an unknown number of" if self.length is None else self.length
        return f"BatchSource of {number} batch{'es' * (self.length != 1)}"

    def __iter__(self) -> Iterator[Any]:
        found = self.batches() if callable(self.batches) else self.batches
        if not isinstance(found, Iterable):
            raise TypeError(f"the source must return an iterator of batches, not {shown(found)}")
        return islice(iter(found), self.length)


def _length(batches: Any) -> int | None:
    """The number of batches, or None if it is unknown."""
    try:
        return check_count("len() of the source", len(batches))
    except TypeError:  # a DataLoader of an iterable data set has len(), which raises
        return None


def as_source(x: Any, y: Any = None, sample_weight: Any = None) -> BatchSource:
    """Return ``x`` as a `BatchSource`. Raises `TypeError` if targets or weights are passed beside it."""
    if y is not None or sample_weight is not None:
        raise TypeError(
            f"x must be an array of shape (rows, features), not {shown(x)}: stack its rows first; or leave y "
            "and sample_weight out, for a source of batches (x, y) or (x, y, sample_weight)"
        )
    return x if isinstance(x, BatchSource) else BatchSource(x)


def arrow_batches(
    data: Any,
    target: str | Sequence[str],
    *,
    batch_size: int = 1024,
    features: Sequence[str] | None = None,
    sample_weight: str | None = None,
) -> BatchSource:
    """Read Parquet or Arrow data in batches, in the order of the files; needs pyarrow.

    Parameters
    ----------
    data
        The path of a file or a folder of Parquet files, a list of such paths, a ``pyarrow.dataset.Dataset``, or a
        ``pyarrow.Table``.
    target
        The column of targets, or several of them.
    features
        The columns of ``x``, in this order; by default all other columns.
    sample_weight
        The column of weights.

    Raises `ValueError` that names columns that are missing or not numeric.

    >>> source = arrow_batches("customers.parquet", "bought", batch_size=512)  # doctest: +SKIP
    """
    arrow = need("pyarrow.dataset", "arrow")
    size = check_count("batch_size", batch_size)
    if isinstance(data, Path):
        data = str(data)
    found = data if isinstance(data, arrow.Dataset) else arrow.dataset(data)
    targets = _names(target)
    weights = [] if sample_weight is None else [sample_weight]
    names = [n for n in found.schema.names if n not in (*targets, *weights)] if features is None else _names(features)
    if missing := [n for n in (*names, *targets, *weights) if n not in found.schema.names]:
        raise ValueError(f"the data have no column {missing[0]!r}; their columns are {', '.join(found.schema.names)}")
    frame_to_numpy(found.schema.empty_table().select([*names, *targets, *weights]), "the data")
    rows = found.count_rows()
    if not rows:
        raise ValueError("the data have no rows")

    def batches() -> Iterator[tuple[HostArray, ...]]:
        for table in _tables(found, list(dict.fromkeys((*names, *targets, *weights))), size):
            y = frame_to_numpy(table.select(targets))
            yield (
                frame_to_numpy(table.select(names)),
                y[:, 0] if isinstance(target, str) else y,
                *(frame_to_numpy(table.select([name]))[:, 0] for name in weights),
            )

    return BatchSource(batches, length=-(-rows // size))


def _names(columns: str | Sequence[str]) -> list[str]:
    """The names of one or several columns."""
    if not isinstance(columns, Iterable):
        raise TypeError(f"expected the name of a column, or several names, got {shown(columns)}")
    return [columns] if isinstance(columns, str) else list(columns)


def _tables(dataset: Any, columns: list[str], size: int) -> Iterator[Any]:
    """Yield the rows of a data set in tables of ``size`` rows; the last table may be smaller."""
    arrow, held, rows = need("pyarrow", "arrow"), [], 0
    for part in dataset.to_batches(columns=columns, batch_size=size):
        held.append(part)
        rows += part.num_rows
        if rows >= size:
            table = arrow.Table.from_batches(held)
            whole = rows - rows % size
            for start in range(0, whole, size):
                yield table.slice(start, size)
            held, rows = table.slice(whole).to_batches(), rows - whole
    if rows:
        yield arrow.Table.from_batches(held)

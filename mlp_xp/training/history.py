"""The history of a run: a record of numbers for each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

from mlp_xp._checks import shown
from mlp_xp._optional import need
from mlp_xp.files.history import Record as Record
from mlp_xp.nn.schedules import Losses


class History(Sequence[Record]):
    """The records of the epochs so far. An index selects a record, a name selects a column.

    A history does not change when training continues; `Trainer.fit` returns a longer one.

    >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> history[-1]
    {'epoch': 2, 'loss': 0.25}
    >>> history["loss"]
    [0.5, 0.25]
    >>> history.columns
    ('epoch', 'loss')
    """

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self._records = records  # a shared list that only grows; this history shows the first records
        self._length = len(records)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Record]:
        return (dict(self._records[i]) for i in range(self._length))

    @overload
    def __getitem__(self, key: int) -> Record: ...
    @overload
    def __getitem__(self, key: slice) -> History: ...
    @overload
    def __getitem__(self, key: str) -> list[float]: ...
    def __getitem__(self, key: int | slice | str) -> Record | History | list[float]:
        if isinstance(key, str):
            return self._column(key)
        try:
            chosen = range(self._length)[key]
        except IndexError:
            raise IndexError(f"no record at position {key}: the history has {self._length}") from None
        except TypeError:
            raise TypeError(f"expected a position, a slice or the name of a column, got {shown(key)}") from None
        return History([self._records[i] for i in chosen]) if isinstance(chosen, range) else dict(self._records[chosen])

    def _column(self, name: str) -> list[float]:
        """The values of all epochs, with NaN for epochs without a value."""
        column = [self._records[i].get(name, math.nan) for i in range(self._length)]
        if name not in self.columns:
            raise KeyError(f"no epoch recorded {name!r}; the columns are {', '.join(self.columns) or 'none'}")
        return column

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for i in range(self._length) for name in self._records[i]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have no hash either

    def __repr__(self) -> str:
        if not self._length:
            return "History of 0 epochs"
        last = ", ".join(f"{name} {value:.4g}" for name, value in self[-1].items())
        return f"History of {self._length} epoch{'s' * (self._length > 1)}; the last: {last}"

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row per epoch; needs pandas."""
        import pandas as pd

        return pd.DataFrame(list(self), columns=list(self.columns))

    def plot(self, *names: str) -> Any:
        """Draw columns against the epochs and return the `matplotlib.figure.Figure`; needs matplotlib.

        ``names`` are those of the columns. By default losses and, below them, all measured metrics are drawn.
        """
        if names:
            groups = [list(names)]
        else:
            measured = [name for name in self.columns if name not in ("epoch", "lr", "seconds")]
            losses = [name for name in measured if name.endswith("loss")]
            groups = [group for group in (losses, [name for name in measured if name not in losses]) if group]
        size = 6.4, 3.0 * max(len(groups), 1)
        figure = need("matplotlib.figure", "examples").Figure(figsize=size, layout="constrained")
        for i, group in enumerate(groups):
            axes = figure.add_subplot(len(groups), 1, i + 1)
            for name in group:
                axes.plot(self["epoch"], self._column(name), label=name)
            axes.set_xlabel("epoch")
            axes.legend()
        return figure


def monitored(records: list[Record]) -> tuple[str, Losses]:
    """Name and values of the loss that schedules monitor: the validation loss if every epoch has one."""
    name = "valid_loss" if records and all("valid_loss" in record for record in records) else "loss"
    return name, Losses(record[name] for record in records)

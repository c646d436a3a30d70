"""The history of a run as one array: a row per epoch, a column per quantity."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID251  files hold host arrays

from mlp_xp._checks import shown
from mlp_xp_backends.typing import HostArray

Record = dict[str, float]
"""The numbers of an epoch, by name."""
REQUIRED = ("epoch", "loss")
_MAX_INT = 2**53  # the integers up to here are exact in float64


def encode(history: list[Record]) -> tuple[dict[str, str], dict[str, HostArray]]:
    """The kind of each column, ``int`` or ``float``, and the arrays.

    ``history`` is (epochs, columns) float64. Where a record lacks a column, ``history.present``, bool of the same
    shape, is False. `TypeError` unless all values are numbers, `ValueError` for a record without epoch or loss.
    """
    columns = {name: "float" for record in history for name in record}
    table = np.empty((len(history), len(columns)))
    for i, name in enumerate(columns):
        values = [record.get(name, 0) for record in history]
        if not set(map(type, values)) <= {int, float}:
            values = [_number(name, value) for value in values]
        if set(map(type, values)) == {int} and max(map(abs, values)) <= _MAX_INT:
            columns[name] = "int"
        try:
            table[:, i] = values
        except OverflowError:
            raise ValueError(f"the history holds an integer in {name!r} that is too large for a file") from None
    present = np.array([[name in record for name in columns] for record in history]) if _is_ragged(history) else None
    _check_required(columns, present, len(history))
    arrays = {} if not history else {"history": table}
    return columns, arrays if present is None else {**arrays, "history.present": present}


def decode(columns: dict[str, str], table: HostArray, present: HostArray | None) -> list[Record]:
    """The records; `ValueError` unless the arrays are those of a run."""
    _check_required(columns, present, len(table))
    lists: list[list[Any]] = []
    for column, kind in zip(table.T, columns.values(), strict=True):
        if kind == "int" and not np.all((np.abs(column) <= _MAX_INT) & (column == np.floor(column))):
            raise ValueError("a column of integers in the history holds other numbers")
        lists.append((column.astype(np.int64) if kind == "int" else column).tolist())
    names = list(columns)
    records = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    if present is not None:
        for epoch, i in np.argwhere(~present).tolist():
            del records[epoch][names[i]]
    return records


def _is_ragged(history: list[Record]) -> bool:
    """Whether some record lacks a column."""
    return any(record.keys() != history[0].keys() for record in history)


def _check_required(columns: dict[str, str], present: HostArray | None, epochs: int) -> None:
    """Raise `ValueError` if a record has no epoch or no loss."""
    names = list(columns)
    for name in REQUIRED if epochs else ():
        if name not in columns or (present is not None and not present[:, names.index(name)].all()):
            raise ValueError(f"a record of the history lacks {name!r}")


def _number(name: str, value: Any) -> float:
    """``value`` as a number of Python; `TypeError` if it is not a number."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"the history holds {name}={shown(value)}: a file stores numbers only")
    return value

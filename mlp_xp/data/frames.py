"""Conversion of data frames and series of pandas, polars and Arrow to NumPy arrays, without a copy where possible."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID251  frames become host arrays

from mlp_xp_backends.typing import HostArray

ARROW = {
    *("bool", "halffloat", "float", "double"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
"""The names of Arrow's numeric types."""
SHOWN = 5  # columns that a message names


def frame_to_numpy(frame: Any, name: str = "x") -> HostArray:
    """Return the values of a frame, (rows, columns), with NaN for missing ones. An error names non-numeric columns."""
    other = [f"{column!r} ({dtype})" for column, dtype in _types(frame) if not _is_numeric(dtype)]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        raise ValueError(
            f"{name} has columns that are not numeric: {', '.join(other[:SHOWN])}{more}; encode them, for instance "
            "with sklearn.preprocessing.OneHotEncoder, or omit them"
        )
    if hasattr(frame, "column_names"):  # Arrow
        return np.column_stack([np.asarray(column.to_numpy(zero_copy_only=False)) for column in frame.columns])
    if any(hasattr(dtype, "na_value") for _, dtype in _types(frame)):  # nullable types of pandas
        return frame.to_numpy("float64", na_value=np.nan)  # type: ignore[no-any-return]
    return frame.to_numpy()  # type: ignore[no-any-return]


def _types(frame: Any) -> list[tuple[Any, Any]]:
    """The columns and their types."""
    if hasattr(frame, "schema") and hasattr(frame, "column_names"):
        return list(zip(frame.column_names, frame.schema.types, strict=True))
    return list(zip(frame.columns, frame.dtypes, strict=True))


def _is_numeric(dtype: Any) -> bool:
    """Whether a type of any of these libraries is one of integers, floats or booleans."""
    if hasattr(dtype, "kind"):  # NumPy and pandas
        return dtype.kind in "buif"
    if hasattr(dtype, "is_numeric"):  # polars
        return (bool(dtype.is_numeric()) and "Decimal" not in str(dtype)) or str(dtype) == "Boolean"
    return str(dtype) in ARROW

"""Median and range of results over several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MEASURES = ("_accuracy", "_loss")
Spread = dict[str, Any]  # {"median": ..., "lowest": ..., "highest": ..., "values": [...]}


def spread(results: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Median, lowest and highest value of each loss and accuracy over several runs.

    >>> spread([{"test_accuracy": 0.5}, {"test_accuracy": 0.75}, {"test_accuracy": 1.0}])["test_accuracy"]["median"]
    0.75
    """
    names = [name for name, value in results[0].items() if isinstance(value, float) and name.endswith(MEASURES)]
    return {name: spread_of([result[name] for result in results]) for name in names}


def spread_of(values: Sequence[float]) -> Spread:
    """Median, lowest and highest value of one quantity."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "values": list(values),
    }


def print_spread(spreads: Mapping[str, Spread], seeds: int) -> None:
    """Print a line per quantity: accuracies in percent, losses in nats."""
    print(f"\n{seeds} seeds:")
    for name, values in spreads.items():
        percent = name.endswith("_accuracy")
        scale, unit, digits = (100.0, " %", 2) if percent else (1.0, "", 4)
        middle, low, high = (f"{scale * values[key]:.{digits}f}{unit}" for key in ("median", "lowest", "highest"))
        print(f"{name.replace('_', ' '):20} median {middle}, range {low} to {high}")

"""Plots of a sweep, which import matplotlib when they are called."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID251  numbers to draw

if TYPE_CHECKING:
    from mlp_xp.sweep.result import SweepResult


def curves(result: SweepResult, column: str) -> Any:
    """Draw the learning curves of all models."""
    figure, axes = _figure()
    best = result.best
    for record in result.records:
        i = record["model"]
        history = result.history(i)
        if column in history.columns and i != best["model"]:
            axes.plot(history["epoch"], history[column], color="0.75", linewidth=0.8, zorder=1)
    history = result.history(best["model"])
    label = ", ".join(f"{name} {_text(value)}" for name, value in result.setting(best["model"]).items()) or "best"
    axes.plot(history["epoch"], history[column], color="C3", linewidth=2.0, zorder=2, label=label)
    if column.endswith("loss") and min(history[column]) > 0.0:
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(_name(column))
    extreme = "lowest" if result.mode == "min" else "highest"
    axes.set_title(f"{len(result)} models, that with the {extreme} {_name(result.monitor)} in red")
    axes.legend()
    return figure


def heatmap(result: SweepResult, across: str, down: str, column: str) -> Any:
    """Draw the mean over all models that share the values of two parameters."""
    values = result.values(column, across, down)
    columns, rows = (_sorted({key[i] for key in values}) for i in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    for (a, b), found in values.items():
        table[rows.index(b), columns.index(a)] = np.mean(found)
    figure, axes = _figure()
    image = axes.imshow(table, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(columns)), map(_text, columns))
    axes.set_yticks(range(len(rows)), map(_text, rows))
    middle = (np.nanmin(table) + np.nanmax(table)) / 2 if np.isfinite(table).any() else 0.0
    for (i, j), value in np.ndenumerate(table):
        if (columns[j], rows[i]) in values:  # combinations without a model stay empty
            text = "diverged" if math.isnan(value) else f"{value:.3g}"
            axes.text(j, i, text, ha="center", va="center", color="white" if value < middle else "black")
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    figure.colorbar(image, label=f"mean {_name(column)}")
    return figure


def spread(result: SweepResult, parameter: str, column: str) -> Any:
    """Draw every model as a point, with mean and standard deviation."""
    found = {key[0]: values for key, values in result.values(column, parameter).items()}
    keys = _sorted(set(found))
    numeric = all(isinstance(key, Real) for key in keys)
    at = [float(key) for key in keys] if numeric else list(range(len(keys)))
    figure, axes = _figure()
    for x, key in zip(at, keys, strict=True):
        label = "a model" if key == keys[0] else None
        axes.plot([x] * len(found[key]), found[key], ".", color="0.3", label=label, zorder=2)
    mean, std = (np.array([f(found[key]) for key in keys]) for f in (np.mean, np.std))
    axes.errorbar(at, mean, std, marker="_", markersize=12, capsize=3, label="mean ± standard deviation", zorder=1)
    if numeric and min(at) > 0.0 and max(at) >= 10.0 * min(at):
        axes.set_xscale("log")
    elif not numeric:
        axes.set_xticks(at, map(_text, keys))
    axes.set_xlabel(parameter)
    axes.set_ylabel(_name(column))
    axes.legend()
    return figure


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    return figure, figure.add_subplot()


def _sorted(keys: set[Any]) -> list[Any]:
    try:
        return sorted(keys)
    except TypeError:
        return sorted(keys, key=str)


def _name(column: str) -> str:
    """The name of a column in a figure."""
    return column.replace("valid_", "validation ").replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

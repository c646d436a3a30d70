"""Curves: losses and accuracies over epochs, and other quantities over a variable.

Each function returns a matplotlib figure, which `Run.draw` saves; matplotlib is imported with the first figure. Lines
differ in style and marker as well as in color, so that every figure can be read in grayscale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[Any]
Record = Mapping[str, float]

DPI = 120
STYLES: tuple[dict[str, Any], ...] = (  # dark to light, each with its own line and marker
    {"color": "#1b1b1b", "linestyle": "-", "marker": "o"},
    {"color": "#0072b2", "linestyle": "--", "marker": "s"},
    {"color": "#d55e00", "linestyle": "-.", "marker": "^"},
    {"color": "#009e73", "linestyle": ":", "marker": "D"},
    {"color": "#8c6bb1", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#7f7f7f", "linestyle": (0, (1, 3)), "marker": "x"},
)
SETS = {"": "training, running mean", "train_": "training", "valid_": "validation", "test_": "test"}
WIDE: dict[str, Any] = {"color": "#9ecae1", "linestyle": "-", "linewidth": 7.0, "marker": "", "zorder": 1}
CROSS_ENTROPY = "mean cross-entropy (nats)"


def curves(history: Sequence[Record], title: str = "", loss: str = CROSS_ENTROPY) -> Figure:
    """Draw the loss and, if it was measured, the accuracy after each epoch, from the history of `Trainer.fit`.

    The keys are those of the history: ``loss``, ``valid_loss``, ``train_accuracy`` ... ``loss`` names the axis.
    """
    panels = {"loss": (loss, 1.0), "accuracy": ("accuracy (%)", 100.0)}
    shown = {end: [key for key in history[0] if key in {name + end for name in SETS}] for end in panels}
    shown = {end: keys for end, keys in shown.items() if keys}
    figure, axes = new_figure(1, len(shown), 4.6 * len(shown), 3.6, title)
    epochs = np.array([record["epoch"] for record in history])
    for ax, (end, keys) in zip(axes, shown.items(), strict=True):
        label, unit = panels[end]
        for key in keys:
            style = STYLES[list(SETS).index(key.removesuffix(end))]
            values = unit * np.array([record[key] for record in history])
            ax.plot(epochs, values, **style, **_markers(len(epochs)), label=SETS[key.removesuffix(end)])
        finish(ax, "epoch", label)
        whole_ticks(ax)
    return figure


class Line(NamedTuple):
    """A curve and, optionally, the range of each point, drawn as a bar; ``wide`` curves are drawn behind others."""

    x: Numbers | Sequence[float]
    y: Numbers | Sequence[float]
    low: Numbers | Sequence[float] | None = None
    high: Numbers | Sequence[float] | None = None
    wide: bool = False


def lines(
    series: Mapping[str, Line], xlabel: str, ylabel: str, title: str = "", *, xlog: bool = False, ylog: bool = False
) -> Figure:
    """Draw named curves in one panel."""
    figure, (ax,) = new_figure(1, 1, 6.4, 4.0, title)
    for (name, line), style in zip(series.items(), cycle(STYLES), strict=False):
        settings = style | _markers(len(line.x)) | (WIDE if line.wide else {}) | {"label": name}
        if line.low is None or line.high is None:
            ax.plot(line.x, line.y, **settings)
        else:
            y = np.asarray(line.y)
            ax.errorbar(line.x, y, [y - np.asarray(line.low), np.asarray(line.high) - y], capsize=3, **settings)
    ax.set_xscale("log" if xlog else "linear")
    ax.set_yscale("log" if ylog else "linear")
    finish(ax, xlabel, ylabel)
    if not xlog and all(float(x).is_integer() for line in series.values() for x in line.x):
        whole_ticks(ax)
    return figure


EQUAL = 1e-17  # the position of a difference of 0 on a logarithmic axis


def two_curves(ours: Sequence[float], theirs: Sequence[float], names: tuple[str, str], title: str) -> Figure:
    """Draw two loss curves that nearly coincide: both on the left, the size of their difference on the right."""
    epochs = np.arange(1, len(ours) + 1)
    difference = np.abs(np.asarray(ours) - np.asarray(theirs))
    figure, (left, right) = new_figure(1, 2, 9.2, 3.6, title)
    left.plot(epochs, theirs, **WIDE, solid_capstyle="round", label=names[1])
    left.plot(epochs, ours, color="#1b1b1b", linewidth=1.2, label=names[0])
    finish(left, "epoch", CROSS_ENTROPY)
    right.plot(epochs, np.maximum(difference, EQUAL), color="#1b1b1b", marker="o", markersize=3, linewidth=0)
    right.axhline(2.0**-52, color="#d55e00", linewidth=1.2, linestyle="--", label="rounding of float64 (2.2e-16)")
    right.set_yscale("log")
    right.set_ylim(EQUAL / 2, max(1e-14, 10 * difference.max()))
    finish(right, "epoch", "difference of the losses (nats)")
    right.set_yticks([EQUAL, 1e-16, 1e-15, 1e-14], ["0", *(f"$10^{{{n}}}$" for n in (-16, -15, -14))])
    right.legend(fontsize=8, framealpha=0.9)
    for ax in (left, right):
        whole_ticks(ax)
    return figure


def new_figure(rows: int, columns: int, width: float, height: float, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` by ``height`` inches and its axes in reading order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def finish(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes, remove the upper and right spines, add a light grid and, if there are several lines, a legend."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3, linewidth=0.6)
    if len(ax.get_legend_handles_labels()[0]) > 1:
        ax.legend(fontsize=8, framealpha=0.9)


def whole_ticks(ax: Axes) -> None:
    """Put ticks only at integers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _markers(points: int) -> dict[str, Any]:
    """Small markers, at most about a dozen per line."""
    return {"markersize": 4, "linewidth": 1.4, "markevery": max(1, points // 12)}

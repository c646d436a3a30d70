"""All figures of the examples. Each function returns a matplotlib figure, which `Run.draw` saves.

matplotlib is imported when the first figure is drawn. Lines differ in style and marker as well as in colour, and
colour maps go from dark to light, so that every figure can be read in grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[Any]
Record = Mapping[str, float]

DPI = 120
DARK, LIGHT, WARM = "#1b1b1b", "#f7f7f7", "#d55e00"
STYLES: tuple[dict[str, Any], ...] = (  # dark to light, each with a line and a marker of its own
    {"color": "#1b1b1b", "linestyle": "-", "marker": "o"},
    {"color": "#0072b2", "linestyle": "--", "marker": "s"},
    {"color": "#d55e00", "linestyle": "-.", "marker": "^"},
    {"color": "#009e73", "linestyle": ":", "marker": "D"},
    {"color": "#8c6bb1", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#7f7f7f", "linestyle": (0, (1, 3)), "marker": "x"},
)
SETS = {"": "training, while it learns", "train_": "training", "valid_": "validation", "test_": "test"}
CROSS_ENTROPY = "mean cross-entropy (nats)"


def curves(history: Sequence[Record], title: str = "", loss: str = CROSS_ENTROPY) -> Figure:
    """Loss and, where it was measured, accuracy after each epoch, from the history of `Trainer.fit`.

    Keys are those of the history: ``loss``, ``valid_loss``, ``train_accuracy`` ... ``loss`` names the axis.
    """
    panels = {"loss": (loss, 1.0), "accuracy": ("accuracy (%)", 100.0)}
    shown = {end: [key for key in history[0] if key in {name + end for name in SETS}] for end in panels}
    shown = {end: keys for end, keys in shown.items() if keys}
    figure, axes = _grid(1, len(shown), 4.6 * len(shown), 3.6, title)
    epochs = np.array([record["epoch"] for record in history])
    for ax, (end, keys) in zip(axes, shown.items(), strict=True):
        label, unit = panels[end]
        for key in keys:
            style = STYLES[list(SETS).index(key.removesuffix(end))]
            values = unit * np.array([record[key] for record in history])
            ax.plot(epochs, values, **style, **_sparse(len(epochs)), label=SETS[key.removesuffix(end)])
        _name(ax, "epoch", label)
        _whole_ticks(ax)
    return figure


class Line(NamedTuple):
    """A curve with, if known, the spread of each point."""

    x: Numbers | Sequence[float]
    y: Numbers | Sequence[float]
    spread: Numbers | Sequence[float] | None = None  # one standard deviation, drawn as bars


def lines(
    series: Mapping[str, Line], xlabel: str, ylabel: str, title: str = "", *, xlog: bool = False, ylog: bool = False
) -> Figure:
    """Curves by name in one panel."""
    figure, (ax,) = _grid(1, 1, 6.4, 4.0, title)
    for (name, line), style in zip(series.items(), cycle(STYLES), strict=False):
        settings = style | _sparse(len(line.x)) | {"label": name}
        if line.spread is None:
            ax.plot(line.x, line.y, **settings)
        else:
            ax.errorbar(line.x, line.y, line.spread, capsize=3, **settings)
    ax.set_xscale("log" if xlog else "linear")
    ax.set_yscale("log" if ylog else "linear")
    _name(ax, xlabel, ylabel)
    if not xlog and all(float(x).is_integer() for line in series.values() for x in line.x):
        _whole_ticks(ax)
    return figure


def confusion_matrix(true: Numbers, predicted: Numbers, classes: Sequence[str], title: str = "") -> Figure:
    """How many of each class were taken for each; (rows,) class numbers. Colours show the share of the true class."""
    n = len(classes)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (true, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (ax,) = _grid(1, 1, 1.8 + 0.52 * n, 1.2 + 0.48 * n, title)
    image = ax.imshow(shares**0.5, cmap="Greys", vmin=0.0, vmax=1.0)  # the root makes rare mistakes visible
    for i, j in np.ndindex(n, n):
        if counts[i, j]:
            color = LIGHT if shares[i, j] > 0.25 else DARK
            ax.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(n), classes)
    ax.set_yticks(range(n), classes)
    ax.set(xlabel="predicted class", ylabel="true class")
    ticks = np.array([0.0, 0.01, 0.1, 0.3, 0.6, 1.0])
    bar = figure.colorbar(image, ticks=ticks**0.5, shrink=0.85)
    bar.ax.set_yticklabels([f"{100 * t:g}" for t in ticks])
    bar.set_label("share of the true class (%)")
    return figure


def mistakes(
    images: Numbers,
    true: Numbers,
    shape: tuple[int, ...],
    p: Numbers,
    classes: Sequence[str],
    title: str = "",
    most: int = 40,
) -> Figure:
    """The pictures that were taken for something else, those that the network was surest of in front.

    ``images`` (rows, height * width), ``true`` (rows,) class numbers, ``p`` (rows, classes) probabilities.
    """
    predicted = p.argmax(axis=1)
    surest = np.argsort(-p.max(axis=1), kind="stable")
    wrong = surest[predicted[surest] != true[surest]][:most]
    columns = 8
    rows = max(1, -(-len(wrong) // columns))
    figure, axes = _grid(rows, columns, 1.05 * columns, 1.22 * rows + 0.6, title)
    figure.set_layout_engine("constrained", hspace=0.02, wspace=0.02)
    for ax in axes:
        ax.axis("off")
    for ax, row in zip(axes, wrong, strict=False):
        ax.imshow(images[row].reshape(shape), cmap="gray_r")
        sure = 100.0 * p[row].max()
        ax.set_title(f"{classes[true[row]]} → {classes[predicted[row]]}  {sure:.0f} %", fontsize=8, pad=3)
    figure.supxlabel("true class → predicted class, and the network's probability for it", fontsize=9)
    return figure


class Plane(NamedTuple):
    """A rectangular grid of points in two dimensions, for functions to be drawn on."""

    points: Numbers  # (n * n, 2)
    extent: tuple[float, float, float, float]  # left, right, bottom, top

    @classmethod
    def around(cls, x: Numbers, n: int = 200, margin: float = 0.05) -> Plane:
        """``n`` by ``n`` points over the range of ``x`` (rows, 2) and a margin."""
        low, high = x.min(axis=0), x.max(axis=0)
        low, high = low - margin * (high - low), high + margin * (high - low)
        a, b = np.meshgrid(np.linspace(low[0], high[0], n), np.linspace(low[1], high[1], n))
        return cls(np.column_stack([a.ravel(), b.ravel()]), (low[0], high[0], low[1], high[1]))


def decision(
    plane: Plane,
    p: Numbers,
    x: Numbers,
    y: Numbers,
    classes: Sequence[str],
    title: str = "",
    truth: Numbers | None = None,
) -> Figure:
    """Where a network decides between two classes: its probabilities, the line where they are equal, and points.

    ``p`` (n * n,) is the probability of class 1 at the points of ``plane``; ``x`` (rows, 2) and ``y`` (rows,) are the
    points to show; ``truth`` (n * n,), if given, is drawn as the curve where it is 0.
    """
    figure, (ax,) = _grid(1, 1, *_size(plane, 4.2), title)
    filled = _paint(ax, plane, p, x, y, classes)
    if truth is not None:
        n = round(len(p) ** 0.5)
        ax.contour(truth.reshape(n, n), levels=[0.0], extent=plane.extent, colors=[WARM], linestyles="--")
        ax.plot([], [], color=WARM, linestyle="--", label="true boundary")
    bar = figure.colorbar(filled, ticks=np.linspace(0.0, 1.0, 6), shrink=0.9)
    bar.set_label(f"probability of {classes[1]}")
    _legend_below(figure, ax)
    return figure


def decision_gif(
    path: Path,
    frames: Iterable[tuple[str, Numbers]],
    plane: Plane,
    x: Numbers,
    y: Numbers,
    classes: Sequence[str],
    per_second: int = 8,
) -> None:
    """Write `decision` as it changes to an animated GIF: a title and the probabilities for each frame."""
    from matplotlib.animation import PillowWriter

    figure, (ax,) = _grid(1, 1, *_size(plane, 3.0), "")
    writer = PillowWriter(fps=per_second)
    with writer.saving(figure, str(path), dpi=80):
        for title, p in frames:
            ax.clear()
            _paint(ax, plane, p, x, y, classes)
            ax.set_title(title, fontsize=10)
            if not figure.legends:
                _legend_below(figure, ax)
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # so that nothing moves from frame to frame
            writer.grab_frame()


def _size(plane: Plane, height: float) -> tuple[float, float]:
    """Width and height in inches of a figure of ``plane`` in true proportions, with room for legend and colour bar."""
    left, right, bottom, top = plane.extent
    return height * (right - left) / (top - bottom) + 1.6, height + 1.1


def _legend_below(figure: Figure, ax: Axes) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, facecolor="#dddddd")


def _paint(ax: Axes, plane: Plane, p: Numbers, x: Numbers, y: Numbers, classes: Sequence[str]) -> Any:
    """Probabilities as shades, the boundary as a line, points as two kinds of markers."""
    from matplotlib.patheffects import Normal, Stroke

    n = round(len(p) ** 0.5)
    z = p.reshape(n, n)
    filled = ax.contourf(z, levels=np.linspace(0.0, 1.0, 11), extent=plane.extent, cmap="cividis")
    for color, width in ((DARK, 3.5), (LIGHT, 1.5)):  # light on dark is seen on every shade
        ax.contour(z, levels=[0.5], extent=plane.extent, colors=color, linewidths=width)
    ax.plot(
        [],
        [],
        color=LIGHT,
        linewidth=1.5,
        path_effects=[Stroke(linewidth=3.5, foreground=DARK), Normal()],
        label="decision",
    )
    for k, (marker, face, edge) in enumerate((("o", LIGHT, DARK), ("^", DARK, LIGHT))):
        where = y == k
        ax.scatter(
            x[where, 0], x[where, 1], s=14, marker=marker, c=face, edgecolors=edge, linewidths=0.5, label=classes[k]
        )
    ax.set_xlim(plane.extent[:2])
    ax.set_ylim(plane.extent[2:])
    ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return filled


def _grid(rows: int, columns: int, width: float, height: float, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` by ``height`` inches with its axes in reading order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _name(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Name the axes, open the frame, add a light grid and, where there are several lines, a legend."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3, linewidth=0.6)
    if len(ax.get_legend_handles_labels()[0]) > 1:
        ax.legend(fontsize=8, framealpha=0.9)


def _sparse(points: int) -> dict[str, Any]:
    """Small markers, at most about a dozen of them on a line."""
    return {"markersize": 4, "linewidth": 1.4, "markevery": max(1, points // 12)}


def _whole_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))

"""Figures of a classifier of points in the plane: its decision, and how the decision changes during training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from example_tools.plots import Numbers, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, LIGHT, WARM = "#1b1b1b", "#f7f7f7", "#ff7f0e"
WRITERS = {".gif": "pillow", ".mp4": "ffmpeg"}


class Plane(NamedTuple):
    """A rectangular grid of points in two dimensions, on which functions are drawn."""

    points: Numbers  # (n * n, 2)
    extent: tuple[float, float, float, float]  # left, right, bottom, top

    @classmethod
    def around(cls, x: Numbers, n: int = 120) -> Plane:
        """Return a grid over all points ``x`` (rows, 2), with a margin."""
        low, high = x.min(axis=0), x.max(axis=0)
        margin = 0.08 * (high - low)
        low, high = low - margin, high + margin
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
    """Draw the decision between two classes: the probability as shades, the line where it is 0.5, and points.

    ``p`` (n * n,) is the probability of class 1 at the points of ``plane``; ``x`` (rows, 2) and ``y`` (rows,) are the
    points to show; ``truth`` (n * n,), if given, is zero on the true boundary.
    """
    figure, (ax,) = new_figure(1, 1, *_size(plane, 4.2), title)
    filled = _paint(ax, plane, p, x, y, classes)
    if truth is not None:
        _boundary(ax, plane, truth, 0.0, "true boundary", WARM, (0, (3, 2)))
    bar = figure.colorbar(filled, ticks=np.linspace(0.0, 1.0, 6), shrink=0.9)
    bar.set_label(f"probability of {classes[1]}")
    _legend_below(figure, ax)
    return figure


def check_animation(path: Path) -> None:
    """Raise `ValueError` unless an animation can be written to ``path``: a GIF, or an MP4 if ffmpeg is installed."""
    from matplotlib.animation import writers

    name = WRITERS.get(path.suffix.lower())
    if name is None:
        raise ValueError(f"expected an animation named *.gif or *.mp4, got {path.name}")
    if not writers.is_available(name):
        raise ValueError(f"{path.name} needs {name}, which is not installed: install it, or write a .gif")


def animate(
    path: Path,
    frames: Iterable[tuple[str, Numbers]],
    plane: Plane,
    x: Numbers,
    y: Numbers,
    classes: Sequence[str],
    per_second: int = 8,
) -> None:
    """Write an animation of the decision: ``frames`` gives a title and the probabilities of each."""
    from matplotlib.animation import writers

    figure, (ax,) = new_figure(1, 1, *_size(plane, 2.9), "")
    writer = writers[WRITERS[path.suffix.lower()]](fps=per_second)
    with writer.saving(figure, str(path), dpi=80):
        for title, p in frames:
            ax.clear()
            _paint(ax, plane, p, x, y, classes)
            ax.set_title(title, fontsize=10)
            if not figure.legends:
                _legend_below(figure, ax)
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # the same layout in all frames
            writer.grab_frame()


def _size(plane: Plane, height: float) -> tuple[float, float]:
    """Width and height in inches of a figure of ``plane`` to scale, with room for legend and color bar."""
    left, right, bottom, top = plane.extent
    return height * (right - left) / (top - bottom) + 1.6, height + 1.1


def _legend_below(figure: Figure, ax: Axes) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, facecolor="#dddddd")


def _boundary(ax: Axes, plane: Plane, z: Numbers, level: float, label: str, color: str, style: Any) -> None:
    """Draw the line where ``z`` (n * n,) has the value ``level``: colored on a dark edge, visible on every shade."""
    from matplotlib.patheffects import Normal, Stroke

    n = round(len(z) ** 0.5)
    for shade, width, dashes in ((DARK, 4.0, "-"), (color, 1.8, style)):
        ax.contour(z.reshape(n, n), [level], extent=plane.extent, colors=shade, linewidths=width, linestyles=[dashes])
    edge = [Stroke(linewidth=4.0, foreground=DARK), Normal()]
    ax.plot([], [], color=color, linewidth=1.8, linestyle=style, path_effects=edge, label=label)


def _paint(ax: Axes, plane: Plane, p: Numbers, x: Numbers, y: Numbers, classes: Sequence[str]) -> Any:
    """Draw probabilities as shades, the decision boundary as a line, and points as two kinds of markers."""
    n = round(len(p) ** 0.5)
    filled = ax.contourf(p.reshape(n, n), levels=np.linspace(0.0, 1.0, 11), extent=plane.extent, cmap="cividis")
    for k, (marker, face, edge) in enumerate((("o", LIGHT, DARK), ("^", DARK, LIGHT))):
        rows = y == k
        ax.scatter(
            x[rows, 0], x[rows, 1], s=14, marker=marker, c=face, edgecolors=edge, linewidths=0.5, label=classes[k]
        )
    _boundary(ax, plane, p, 0.5, "decision", LIGHT, "-")
    ax.set_xlim(plane.extent[:2])
    ax.set_ylim(plane.extent[2:])
    ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return filled

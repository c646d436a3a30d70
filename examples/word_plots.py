"""Figures of word vectors: the map of all words, and some of its neighbourhoods from near.

Labels do not overlap where there is room: each is put at the first free place around its point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from plots import DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[Any]
Box = tuple[float, float, float, float]  # left, bottom, right, top in points of 1 / 72 inch

BLUE, DARK, GREY = "#0072b2", "#1b1b1b", "#757575"
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point, best first
GAPS = (4.0, 8.0, 13.0)  # between a point and its label, in points
FAR = 1e4


def word_map(points: Numbers, words: Sequence[str], title: str) -> Figure:
    """Words at their places (rows, 2), such as t-SNE gives: near means alike, the coordinates mean nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 12), dpi=DPI)
    ax = figure.add_axes((0.03, 0.03, 0.94, 0.93))
    ax.set_title(title, fontsize=12)
    _draw_words(ax, points, words, np.ones(len(words), bool), size=8.0)
    return figure


def neighbourhoods(points: Numbers, words: Sequence[str], groups: Sequence[Numbers], title: str) -> Figure:
    """The map around each of ``groups``, arrays of word numbers with the middle in front; other words are grey."""
    from matplotlib.figure import Figure

    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    width, height = 4.2 * columns, 3.9 * rows + 0.4
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(0.4 / width, 0.4 / height, 1 - 0.1 / width, 1 - 0.8 / height, wspace=0.12, hspace=0.22)
    for ax in panels[len(groups) :]:
        ax.remove()
    for ax, group in zip(panels, groups, strict=False):
        ax.set_title(f"around “{words[group[0]]}”", fontsize=10)
        shown = np.concatenate([group, np.setdiff1d(_around(points, group), group)])
        _draw_words(ax, points[shown], [words[k] for k in shown], np.arange(len(shown)) < len(group), size=9.0)
    return figure


def _around(points: Numbers, group: Numbers) -> Numbers:
    """The numbers of all points in the smallest square around those of ``group``, and a little beyond it."""
    low, high = points[group].min(axis=0), points[group].max(axis=0)
    return np.flatnonzero(np.all(np.abs(points - (low + high) / 2) <= 0.625 * np.max(high - low), axis=1))


def _draw_words(ax: Axes, points: Numbers, words: Sequence[str], dark: Numbers, size: float) -> None:
    """A dot and a label for each word; ``dark`` (rows,) says which stand out."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.06 * (high - low) + 1e-9
    ax.set(xlabel="first coordinate (no unit)", ylabel="second coordinate (no unit)", xticks=[], yticks=[])
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.scatter(points[:, 0], points[:, 1], s=9, c=[BLUE if d else GREY for d in dark], linewidths=0)
    places = ax.transData.transform(points) * 72.0 / DPI
    taken = [(x - 2, y - 2, x + 2, y + 2) for x, y in places] + _outside(ax)
    for place, point, word, d in zip(places, points, words, dark, strict=True):
        gap, box = _free_box(place, word, size, taken)
        taken.append(box)
        _label(ax, word, point, (box[0] + box[2]) / 2 - place[0], (box[1] + box[3]) / 2 - place[1], gap, d, size)


def _label(ax: Axes, word: str, point: Numbers, dx: float, dy: float, gap: float, dark: bool, size: float) -> None:
    """``word`` around (dx, dy) from its point, with a line to it unless it is close by."""
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 1}
    ax.annotate(
        word,
        point,
        (dx, dy),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=DARK if dark else GREY,
        arrowprops=line if gap > GAPS[0] else None,
        parse_math=False,
    )


def _outside(ax: Axes) -> list[Box]:
    """Four boxes around the frame."""
    left, bottom, right, top = ax.transAxes.transform([(0, 0), (1, 1)]).ravel() * 72.0 / DPI
    sides = [(left - FAR, -FAR, left, FAR), (right, -FAR, right + FAR, FAR)]
    return [*sides, (-FAR, bottom - FAR, FAR, bottom), (-FAR, top, FAR, top + FAR)]


def _free_box(place: Numbers, word: str, size: float, taken: Sequence[Box]) -> tuple[float, Box]:
    """The first box around ``place`` for ``word`` that overlaps none of ``taken``, or least; its distance in front."""
    from matplotlib.textpath import TextPath

    half = TextPath((0, 0), word, size=size).get_extents().width / 2 + 1.0, 0.6 * size
    boxes = []
    for gap in GAPS:
        for side in SIDES:
            x, y = (place[k] + side[k] * (gap + half[k]) for k in (0, 1))
            boxes.append((gap, (x - half[0], y - half[1], x + half[0], y + half[1])))
    return min(boxes, key=lambda entry: _overlap(entry[1], taken))


def _overlap(box: Box, taken: Sequence[Box]) -> float:
    """The area that a box shares with others, all counted."""
    left, bottom, right, top = np.array(taken).T
    width = np.minimum(box[2], right) - np.maximum(box[0], left)
    height = np.minimum(box[3], top) - np.maximum(box[1], bottom)
    return float(np.sum(np.maximum(width, 0.0) * np.maximum(height, 0.0)))

"""Figures of word vectors: the map of all words, and some of its neighborhoods enlarged.

Each label is drawn at the first position around its point where it overlaps nothing, or where it overlaps least.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from example_tools.plots import DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[Any]
Boxes = npt.NDArray[np.float64]  # (n, 4): left, bottom, right, top in points of 1 / 72 inch

BLUE, DARK, GREY = "#0072b2", "#1b1b1b", "#757575"
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point, best first
AXES = ("first coordinate (no unit)", "second coordinate (no unit)")
GAPS = (2.5, 6.0, 11.0)  # between a point and its label, in points
MARGIN = 2.0  # between a label and the frame, in points
FAR = 1e4


def word_map(points: Numbers, words: Sequence[str], title: str) -> Figure:
    """Draw words at ``points`` (rows, 2), such as those of t-SNE, where only small distances have a meaning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 8.0), dpi=DPI)
    ax = figure.add_axes((0.035, 0.035, 0.955, 0.93))
    ax.set_title(title, fontsize=11)
    ax.set_xlabel(AXES[0], fontsize=8)
    ax.set_ylabel(AXES[1], fontsize=8)
    _draw_words(ax, points, words, np.ones(len(words), bool), size=6.5)
    return figure


def neighbourhoods(points: Numbers, words: Sequence[str], groups: Sequence[Numbers], title: str) -> Figure:
    """Draw the map around each of ``groups``: arrays of word numbers, the central word first; other words are gray."""
    from matplotlib.figure import Figure

    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    width, height = 2.45 * columns + 0.3, 2.35 * rows + 0.65
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.suptitle(title, fontsize=11, y=1 - 0.1 / height, va="top")
    figure.supxlabel(AXES[0], fontsize=8, y=0.06 / height)
    figure.supylabel(AXES[1], fontsize=8, x=0.06 / width)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(0.3 / width, 0.3 / height, 1 - 0.1 / width, 1 - 0.6 / height, wspace=0.05, hspace=0.14)
    for ax in panels[len(groups) :]:
        ax.remove()
    for ax, group in zip(panels, groups, strict=False):
        ax.set_title(f"around “{words[group[0]]}”", fontsize=9)
        shown = np.concatenate([group, np.setdiff1d(_around(points, group), group)])
        _draw_words(ax, points[shown], [words[k] for k in shown], np.arange(len(shown)) < len(group), size=7.5)
    return figure


def _around(points: Numbers, group: Numbers) -> Numbers:
    """The numbers of all points in the smallest square around the points of ``group``, enlarged by a quarter."""
    low, high = points[group].min(axis=0), points[group].max(axis=0)
    return np.flatnonzero(np.all(np.abs(points - (low + high) / 2) <= 0.625 * np.max(high - low), axis=1))


def _draw_words(ax: Axes, points: Numbers, words: Sequence[str], dark: Numbers, size: float) -> None:
    """Draw a dot and a label for each word; ``dark`` (rows,) marks the words to emphasize."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.05 * (high - low) + 1e-9
    ax.set(xticks=[], yticks=[])
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.scatter(points[:, 0], points[:, 1], s=9, c=[BLUE if d else GREY for d in dark], linewidths=0)
    places = ax.transData.transform(points) * 72.0 / DPI
    boxes = np.concatenate([np.hstack([places - 2, places + 2]), _outside(ax), np.zeros((len(words), 4))])
    known = len(boxes) - len(words)
    gaps, middles = np.zeros(len(words)), np.zeros((len(words), 2))
    for n, i in enumerate(_crowded_first(places), known):
        gaps[i], boxes[n] = _free_box(places[i], words[i], size, boxes[:n])
        middles[i] = (boxes[n, :2] + boxes[n, 2:]) / 2 - places[i]
    for label in zip(words, points, middles, gaps, dark, strict=True):
        _label(ax, *label, size)


def _crowded_first(places: Numbers) -> Numbers:
    """The order of ``places`` by the distance to the fifth nearest: dense regions are labeled before they fill up."""
    distances = np.sort(np.linalg.norm(places[:, None] - places, axis=-1), axis=1)
    return np.argsort(distances[:, min(5, len(places) - 1)], kind="stable")


def _label(ax: Axes, word: str, point: Numbers, middle: Numbers, gap: float, dark: bool, size: float) -> None:
    """Draw ``word``, centered at ``middle`` relative to its point, with a line to the point unless it is adjacent."""
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 1}
    ax.annotate(
        word,
        point,
        middle,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=DARK if dark else GREY,
        arrowprops=line if gap > GAPS[0] else None,
        parse_math=False,
    )


def _outside(ax: Axes) -> Boxes:
    """Four boxes outside the frame, which overlap a margin inside it."""
    corners = ax.transAxes.transform([(0, 0), (1, 1)]) * 72.0 / DPI
    left, bottom, right, top = np.ravel(corners + np.array([[MARGIN], [-MARGIN]]))
    return np.array(
        [
            (left - FAR, -FAR, left, FAR),
            (right, -FAR, right + FAR, FAR),
            (-FAR, bottom - FAR, FAR, bottom),
            (-FAR, top, FAR, top + FAR),
        ]
    )


def _free_box(place: Numbers, word: str, size: float, taken: Boxes) -> tuple[float, Boxes]:
    """The offset and the box (4,) for ``word`` around ``place`` that overlap ``taken`` least."""
    half = np.array([_width(word, size) / 2 + 2.0, 0.6 * size])
    centres = np.array([place + np.array(side) * (gap + half) for gap in GAPS for side in SIDES])
    boxes = np.hstack([centres - half, centres + half])
    best = int(np.argmin(_overlaps(boxes, taken)))
    return GAPS[best // len(SIDES)], boxes[best]


@lru_cache(maxsize=4096)
def _width(word: str, size: float) -> float:
    """The width of ``word`` in points."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), word, size=size).get_extents().width)


def _overlaps(boxes: Boxes, taken: Boxes) -> Numbers:
    """The total area of overlap of each of ``boxes`` with ``taken``."""
    low = np.maximum(boxes[:, None, :2], taken[:, :2])
    high = np.minimum(boxes[:, None, 2:], taken[:, 2:])
    areas: Numbers = np.maximum(high - low, 0.0).prod(axis=-1).sum(axis=-1)
    return areas

"""Figures of an image classifier: its confusion matrix and a sheet of its mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from example_tools.plots import DPI, Numbers, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK, LIGHT = "#1b1b1b", "#f7f7f7"
COLUMNS = 8  # of the sheet of mistakes
CELL = 1.05, 1.30  # its width and height in inches, with the caption
CAPTION = 0.19  # inches


def confusion_matrix(true: Numbers, predicted: Numbers, classes: Sequence[str], title: str = "") -> Figure:
    """The counts of each pair of true and predicted class; shades show the share of the true class.

    ``true`` and ``predicted`` are class numbers (rows,).
    """
    n = len(classes)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (true, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (ax,) = new_figure(1, 1, 1.8 + 0.52 * n, 1.2 + 0.48 * n, title)
    image = ax.imshow(shares**0.5, cmap="Greys", vmin=0.0, vmax=1.0)  # the square root makes rare mistakes visible
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
    """The misclassified images, those with the highest predicted probability first.

    ``images`` (rows, height * width), ``true`` (rows,) class numbers, ``p`` (rows, classes) probabilities.
    """
    from matplotlib.figure import Figure

    predicted = p.argmax(axis=1)
    order = np.argsort(-p.max(axis=1), kind="stable")
    wrong = order[predicted[order] != true[order]][:most]
    rows = max(1, -(-len(wrong) // COLUMNS))
    width, body = CELL[0] * COLUMNS, CELL[1] * rows
    figure = Figure(figsize=(width + 0.2, body + 0.9), dpi=DPI)
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / (body + 0.9), va="top")
    figure.supxlabel("true class → predicted class, predicted probability", fontsize=9, y=0.08 / (body + 0.9))
    ax = figure.add_axes((0.1 / (width + 0.2), 0.4 / (body + 0.9), width / (width + 0.2), body / (body + 0.9)))
    ax.set(xlim=(0, width), ylim=(body, 0), aspect="equal")
    ax.axis("off")
    for i, row in enumerate(wrong):
        left, top = CELL[0] * (i % COLUMNS), CELL[1] * (i // COLUMNS)
        side = CELL[0] - 0.08
        extent = (left + 0.04, left + 0.04 + side, top + CAPTION + side, top + CAPTION)
        ax.imshow(images[row].reshape(shape), cmap="gray_r", extent=extent)
        ax.text(
            left + CELL[0] / 2,
            top + CAPTION - 0.03,
            f"{classes[true[row]]} → {classes[predicted[row]]}  {100.0 * p[row].max():.0f} %",
            fontsize=8,
            ha="center",
            va="bottom",
        )
    ax.set(xlim=(0, width), ylim=(body, 0))
    return figure

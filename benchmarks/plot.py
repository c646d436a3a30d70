"""The picture: microseconds a step against the size of the network, readable in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.networks import OPTIMIZERS
from benchmarks.report import fastest
from benchmarks.roster import FLOOR, JAX_SCAN, JAX_STEP, MKL, OURS, SKLEARN, TORCH

Record = dict[str, Any]

matplotlib.use("Agg")

STYLES: dict[str, dict[str, Any]] = {
    "ours": {"marker": "o", "color": "black", "markersize": 7},
    "ours with MKL": {"marker": "D", "color": "black", "markersize": 5},
    "best of ours": {"marker": "o", "color": "black", "fillstyle": "none", "markersize": 11},
    "PyTorch": {"marker": "s", "color": "0.45"},
    "JAX scan": {"marker": "^", "color": "0.45", "fillstyle": "none"},
    "JAX step": {"marker": "v", "color": "0.45", "fillstyle": "none"},
    "scikit-learn": {"marker": "x", "color": "0.3"},
    "products alone": {"marker": "_", "color": "black", "markersize": 16},
}


def lines(device: str) -> dict[str, tuple[str, ...]]:
    """Whose fastest is drawn under which name."""
    first, *_ = ours = OURS[device]
    members = ((first,), (MKL,), ours, TORCH, (JAX_SCAN,), (JAX_STEP,), (SKLEARN,), (FLOOR,))
    return dict(zip(STYLES, members, strict=True))


def draw(results: Record, path: Path) -> None:
    """A column for each optimizer: times above, and below them the same over our time."""
    device = results["machine"]["device"]
    names = [name for name in OPTIMIZERS if any(row["optimizer"] == name for row in results["rows"])]
    figure = Figure(figsize=(5 * len(names), 8), layout="constrained")
    axes = figure.subplots(2, len(names), sharex="col", sharey="row", squeeze=False, height_ratios=(3, 2))
    for column, name in enumerate(names):
        rows = [row for row in results["rows"] if row["optimizer"] == name]
        panel(axes[0, column], rows, device, relative=False)
        panel(axes[1, column], rows, device, relative=True)
        axes[0, column].set_title(name, loc="left", x=0.03, y=1.0, pad=-16)
        axes[1, column].set_xlabel("parameters")
    axes[0, 0].set_ylabel("microseconds a step")
    axes[1, 0].set_ylabel(f"time over that of {OURS[device][0]}")
    unique = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=len(unique), frameon=False)
    machine = results["machine"]
    figure.suptitle(f"{machine['model']}, threads: {machine['threads']}, float32")
    figure.savefig(path, dpi=120)


def panel(axes: Axes, rows: list[Record], device: str, relative: bool) -> None:
    """The points of one optimizer."""
    members = lines(device)
    for label, style in STYLES.items():
        points = [(n, fastest(row, "step_us", members[label]), row) for n, row in zip(places(rows), rows, strict=True)]
        found = [
            (n, t / (fastest(row, "step_us", members["ours"]) or t) if relative else t) for n, t, row in points if t
        ]
        if found:
            name = f"ours ({OURS[device][0]})" if label == "ours" else label
            axes.plot(*zip(*found, strict=True), linestyle="none", label=name, **style)
    axes.margins(x=0.12)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    if relative:
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_yticks((0.5, 1, 2, 4), ("0.5", "1", "2", "4"))
        axes.minorticks_off()
        return
    batches: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        network, batch = row["network"].split("@")
        batches.setdefault((network, row["parameters"]), []).append(batch)
    for (network, n), sizes in batches.items():
        text = f"{network}@{', '.join(sizes)}"
        above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(text, (n, 1.0), (0, 2), fontsize=7, rotation=35, **above)


def places(rows: list[Record]) -> list[float]:
    """Parameters of each network; further to the right for the second batch size of the same one."""
    sizes = [row["parameters"] for row in rows]
    return [n * 1.15 ** sizes[:i].count(n) for i, n in enumerate(sizes)]

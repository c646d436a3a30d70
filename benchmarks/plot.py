"""The figure of speed: for each network, the time of a training step by our engines and by the fastest peer.

``python -m benchmarks.plot RESULTS.json FIGURE.png`` draws it from committed results.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.networks import NETS
from benchmarks.report import fastest
from benchmarks.roster import JAX_SCAN, JAX_STEP, MKL, OURS, SKLEARN, TORCH

Record = dict[str, Any]

PEERS = {"PyTorch": TORCH, "JAX": (JAX_STEP, JAX_SCAN), "scikit-learn": (SKLEARN,)}
BARS = {"peer": "#bdbdbd", "ours": "#0b3c5d", "mkl": "#6fa8dc"}
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # behind a label
HEIGHT = 0.27  # of a bar; networks are 1 apart


def draw(results: Record, path: Path) -> None:
    """Write the figure of ``results`` to ``path``."""
    figure(results).savefig(path, dpi=120)


def figure(results: Record) -> Figure:
    """Bars for each network: geometric means over the optimizers, divided by the time of the fastest peer."""
    machine = results["machine"]
    first = OURS[machine["device"]][0]
    names = {"ours": f"mlp_xp ({'NumPy, as installed' if first == 'numpy' else first})", "mkl": "mlp_xp with MKL"}
    rows = [(name, times(results["rows"], name, first)) for name in NETS]
    rows = [(name, found) for name, found in rows if "peer" in found and "ours" in found]
    drawing = Figure(figsize=(7.0, 1.5 + 0.62 * len(rows)), layout="constrained")
    ax = drawing.subplots()
    for k, (kind, color) in enumerate(BARS.items()):
        bars = [(i, found) for i, (_, found) in enumerate(rows) if kind in found]
        if not bars:
            continue
        places = [i + (k - 1) * HEIGHT for i, _ in bars]
        widths = [found[kind][1] / found["peer"][1] for _, found in bars]
        label = "the fastest of PyTorch, JAX and scikit-learn" if kind == "peer" else names[kind]
        ax.barh(places, widths, HEIGHT, color=color, label=label)
        for place, width, (_, found) in zip(places, widths, bars, strict=True):
            who, seconds = found[kind]
            text = f"{who}, {shown(seconds)}" if kind == "peer" else shown(seconds)
            ax.text(width + 0.012, place, text, va="center", fontsize=7.5, bbox=PAPER)
    ax.set_yticks(range(len(rows)), [name.replace("@", "\nbatch ") for name, _ in rows], fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.16, y=0.02)
    ax.axvline(1.0, color="0.4", linewidth=0.8, linestyle=":", zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("time of a training step / time of the fastest peer (shorter is faster)")
    drawing.suptitle(
        f"Time of a training step on {machine['model']}, {machine['threads']} threads, float32", fontsize=10
    )
    drawing.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return drawing


def times(rows: list[Record], network: str, first: str) -> dict[str, tuple[str, float]]:
    """Names and microseconds per step of our first engine, ours with MKL, and the fastest peer that ran everywhere."""
    rows = [row for row in rows if row["network"] == network and row["valid"]]
    members = {**PEERS, "ours": (first,), "mkl": (MKL,)}
    means = {name: geometric_mean([fastest(row, "step_us", group) for row in rows]) for name, group in members.items()}
    found = {name: (name, mean) for name, mean in means.items() if mean is not None}
    peers = [found.pop(name) for name in PEERS if name in found]
    return found | ({"peer": min(peers, key=lambda peer: peer[1])} if peers else {})


def geometric_mean(values: list[float | None]) -> float | None:
    """The geometric mean, or None if there are no values or one is missing."""
    known = [math.log(value) for value in values if value is not None]
    return math.exp(sum(known) / len(known)) if values and len(known) == len(values) else None


def shown(microseconds: float) -> str:
    """``1234.0 -> '1.23 ms'``."""
    return f"{microseconds:.3g} µs" if microseconds < 1000 else f"{microseconds / 1000:.3g} ms"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    draw(json.loads(source.read_text()), target)

"""The results as JSON and as Markdown: medians, ratios and their geometric means, spread, agreement of the losses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.networks import NETS, OPTIMIZERS
from benchmarks.roster import FLOOR, JAX_SCAN, JAX_STEP, MKL, MKL_FLOOR, OURS, PLAIN, SKLEARN, TORCH, roster

Record = dict[str, Any]


class Ratio(NamedTuple):
    """The time of the fastest of some peers over that of the fastest of others."""

    label: str
    over: Sequence[str]
    under: Sequence[str]

    def of(self, row: Record, what: str) -> float | None:
        """The ratio of medians in a row, or ``None`` if one side is missing."""
        over, under = (fastest(row, what, names) for names in (self.over, self.under))
        return over / under if over and under else None


def ratios(device: str) -> list[Ratio]:
    """The ratios reported for each row; above 1, ours is faster, except in those relative to products."""
    first, *_ = ours = OURS[device]
    return [
        Ratio(f"PyTorch / {first}", TORCH, (first,)),
        Ratio(f"PyTorch / {MKL}", TORCH, (MKL,)),
        Ratio("JAX scan / best of ours", (JAX_SCAN,), ours),
        Ratio("JAX step / best of ours", (JAX_STEP,), ours),
        Ratio(f"scikit-learn / {first}", (SKLEARN,), (first,)),
        Ratio(f"numpy plain / {first}", (PLAIN,), (first,)),
        Ratio(f"{first} / products", (first,), (FLOOR,)),
        Ratio(f"{MKL} / {MKL_FLOOR}", (MKL,), (MKL_FLOOR,)),
    ]


def fastest(row: Record, what: str, names: Sequence[str]) -> float | None:
    return min((row["peers"][name][what]["median"] for name in names if name in row["peers"]), default=None)


def key(row: Record) -> tuple[str, str]:
    return row["network"], row["optimizer"]


def merged(path: Path, machine: Record, row: Record) -> Record:
    """The results in ``path``, with this row in place of an older one, or this row alone if the machine differs."""
    rows: list[Record] = []
    if path.exists():
        old = json.loads(path.read_text())
        rows = [r for r in old["rows"] if key(r) != key(row)] if old["machine"] == machine else []
    rows = sorted([*rows, row], key=lambda r: (list(OPTIMIZERS).index(r["optimizer"]), list(NETS).index(r["network"])))
    return {"machine": machine, "summary": summary(machine["device"], rows), "rows": rows}


def summary(device: str, rows: list[Record]) -> Record:
    """For steps and epochs and every ratio, the geometric mean, minimum and maximum over the valid rows."""
    return {
        what: {
            ratio.label: spread(values)
            for ratio in ratios(device)
            if (values := [v for row in rows if row["valid"] and (v := ratio.of(row, what)) is not None])
        }
        for what in ("step_us", "epoch_ms")
    }


def spread(values: list[float]) -> Record:
    return {
        "geometric_mean": math.exp(sum(map(math.log, values)) / len(values)),
        "least": min(values),
        "largest": max(values),
        "rows": len(values),
    }


def markdown(results: Record) -> str:
    """The report."""
    machine, rows = results["machine"], results["rows"]
    device = machine["device"]
    pools = ", ".join(sorted({pool for row in rows for pool in row["pools"]}))
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    names = [name for name in roster(device, True) if any(name in row["peers"] for row in rows)]
    parts = [
        f"# Speed on {machine['model']}, threads: {machine['threads']}",
        f"{versions}. Thread pools: {pools}. float32. "
        "How it is measured and what is equal: [benchmarks/README.md](../README.md).",
        "## Ratios of a step",
        "Medians; above 1 ours is faster, in those over products the floor. The spread is the largest distance between "
        "the quartiles of a peer in the row, over its median.",
        ratio_table(results, "step_us"),
        "## Ratios of an epoch",
        "From the drawing of its order on the host to its mean loss on the host; ours by `Trainer.fit`.",
        ratio_table(results, "epoch_ms"),
        "## Microseconds a step, median",
        times(rows, names, "step_us", "median"),
        "## Microseconds a step, least",
        times(rows, names, "step_us", "min"),
        "## Milliseconds an epoch, median",
        times(rows, names, "epoch_ms", "median"),
        "## Losses",
        "The largest distance of a peer's mean loss from the median of all, as a share of ln(classes): over the first "
        "run from equal weights, and over the last epoch, when rounding has driven the trajectories apart.",
        losses(rows),
        *missing(rows),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def ratio_table(results: Record, what: str) -> str:
    rows, total = results["rows"], results["summary"][what]
    kinds = [ratio for ratio in ratios(results["machine"]["device"]) if ratio.label in total]
    body = [
        [*key(row), *(number(ratio.of(row, what)) for ratio in kinds), f"{widest(row, what):.0%}", valid(row)]
        for row in rows
    ]
    for label, figure in (("geometric mean", "geometric_mean"), ("least", "least"), ("largest", "largest")):
        body.append([f"**{label}**", "", *(f"**{total[ratio.label][figure]:.2f}**" for ratio in kinds), "", ""])
    return table(["network@batch", "optimizer", *(ratio.label for ratio in kinds), "spread", "losses"], body)


def times(rows: list[Record], names: list[str], what: str, figure: str) -> str:
    def cell(row: Record, name: str) -> str:
        return number(row["peers"][name][what][figure]) if name in row["peers"] else ""

    body = [[*key(row), f"{row['parameters']:,}", *(cell(row, name) for name in names)] for row in rows]
    return table(["network@batch", "optimizer", "parameters", *names], body)


def losses(rows: list[Record]) -> str:
    def worst(row: Record, when: str) -> str:
        name, value = max(row[when].items(), key=lambda pair: pair[1], default=("", 0.0))
        return f"{value:.1e} ({name})"

    head = ["network@batch", "optimizer", "steps", "rounds", "first run", "last epoch", "losses"]
    return table(
        head,
        [
            [
                *key(r),
                f"{r['steps']}",
                f"{r['rounds']}",
                worst(r, "first_deviation"),
                worst(r, "last_deviation"),
                valid(r),
            ]
            for r in rows
        ],
    )


def missing(rows: list[Record]) -> list[str]:
    """The peers that could not be measured, and the reasons."""
    gaps: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row["missing"].items():
            gaps.setdefault((name, why), []).append(row["network"])
    lines = [f"- {name}: {why} ({', '.join(dict.fromkeys(nets))})" for (name, why), nets in gaps.items()]
    return ["## Not measured", "\n".join(lines)] if lines else []


def widest(row: Record, what: str) -> float:
    figures = [peer[what] for peer in row["peers"].values()]
    return max(((f["high"] - f["low"]) / f["median"] for f in figures), default=0.0)


def valid(row: Record) -> str:
    return "agree" if row["valid"] else "**INVALID**"


def number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"

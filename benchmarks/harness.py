"""The measurement: all peers of a row in turn, round after round, and a check that all of them computed the same."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.networks import Task
from benchmarks.peers import Peer
from benchmarks.roster import Entry

PAUSE = 0.25
"""Seconds of rest after each run, because the threads of a library's pool keep spinning for a while: MKL's for 0.2."""
FIRST_TOLERANCE, LAST_TOLERANCE = 1e-4, 1e-2
"""Largest deviation of the mean loss in the first run and in the last epoch, relative to an untrained network's loss.

The first bound allows for rounding in float32 over a run from equal weights; later, the trajectories drift apart.
"""

Record = dict[str, Any]


def measure(task: Task, entries: Mapping[str, Entry], rounds: int) -> Record:
    """Measure one row of the table: ``rounds`` rounds of every peer, after one round that compiles and warms up."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    records: dict[str, Record] = {}
    for name, build in entries.items():
        try:
            peers[name] = build(task)
            records[name] = {"step": [], "epoch": [], "first": turn(peers[name])[2], "last": None}
        except Exception as error:  # the failure of one library leaves a gap in the table, with the reason
            peers.pop(name, None)
            missing[name] = reason(error)
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for name in rotated(list(peers), i):
                step, epoch, _, last = turn(peers[name])
                records[name]["step"].append(step)
                records[name]["epoch"].append(epoch)
                records[name]["last"] = last
    finally:
        gc.enable()
    early, late = (deviations(task, records, key) for key in ("first", "last"))
    return {
        "network": task.net.name,
        "optimizer": task.optimizer,
        "parameters": task.net.parameters,
        "steps": task.steps,
        "rounds": rounds,
        "first_deviation": early,
        "last_deviation": late,
        "valid": within(early, FIRST_TOLERANCE) and within(late, LAST_TOLERANCE),
        "missing": missing,
        "pools": machine.pools(),
        "peers": {name: summary(record) for name, record in records.items()},
    }


def turn(peer: Peer) -> tuple[float, float, float | None, float | None]:
    """Time a run of steps and an epoch: microseconds per step, milliseconds per epoch, and the mean losses, if any."""
    placed = peer.place(peer.task.order)
    began = time.perf_counter()
    losses = peer.steps(placed)
    step = 1e6 * (time.perf_counter() - began) / peer.task.steps
    time.sleep(PAUSE)
    seconds, loss = peer.epoch()
    time.sleep(PAUSE)
    return step, 1e3 * seconds, *((float(losses.mean(dtype=np.float64)), loss) if peer.trains else (None, None))


def rotated(names: list[str], i: int) -> list[str]:
    """The peers in an order that begins with another one in each round."""
    k = i % len(names) if names else 0
    return names[k:] + names[:k]


def reason(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def deviations(task: Task, records: Mapping[str, Record], key: str) -> dict[str, float]:
    """The deviation of each peer's loss from the median of all, relative to an untrained network's loss."""
    losses = {name: record[key] for name, record in records.items() if record[key] is not None}
    middle = float(np.median(list(losses.values()))) if losses else 0.0
    return {name: abs(loss - middle) / math.log(task.net.widths[-1]) for name, loss in losses.items()}


def within(deviation: Mapping[str, float], tolerance: float) -> bool:
    return all(d <= tolerance for d in deviation.values())


def summary(record: Record) -> Record:
    """Median, minimum, quartiles and all values of both times, and the losses."""
    return {
        "step_us": statistics(record["step"]),
        "epoch_ms": statistics(record["epoch"]),
        "first": record["first"],
        "last": record["last"],
    }


def statistics(values: list[float]) -> Record:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": median, "min": min(values), "low": low, "high": high, "all": values}

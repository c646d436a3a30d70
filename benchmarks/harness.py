"""The measurement: all peers of a row by turns, round after round, and whether they all computed the same."""

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

PAUSE = 0.15
"""Seconds of rest after each run: the threads of one library's pool go on spinning for a while."""
FIRST_TOLERANCE, LAST_TOLERANCE = 1e-4, 1e-2
"""How far the mean loss of the first run and of the last epoch may be off, as shares of an untrained network's loss.

The first bound is rounding in float32 over a run from equal weights; later, trajectories drift apart.
"""

Record = dict[str, Any]


def measure(task: Task, entries: Mapping[str, Entry], rounds: int) -> Record:
    """One row of the table: times of ``rounds`` rounds for every peer, after one that compiles and warms up."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    records: dict[str, Record] = {}
    for name, build in entries.items():
        try:
            peers[name] = build(task)
            records[name] = {"step": [], "epoch": [], "first": turn(peers[name])[2], "last": None}
        except Exception as error:  # one library's failure is a gap in the table, and is told there
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
    """A run of steps and an epoch: microseconds a step, milliseconds an epoch, and the mean losses, if it trains."""
    placed = peer.place(peer.task.order)
    began = time.perf_counter()
    losses = peer.steps(placed)
    step = 1e6 * (time.perf_counter() - began) / peer.task.steps
    time.sleep(PAUSE)
    seconds, loss = peer.epoch()
    time.sleep(PAUSE)
    return step, 1e3 * seconds, *((float(losses.mean(dtype=np.float64)), loss) if peer.trains else (None, None))


def rotated(names: list[str], i: int) -> list[str]:
    """Another peer goes first each round, so that nobody always follows the same one."""
    k = i % len(names) if names else 0
    return names[k:] + names[:k]


def reason(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def deviations(task: Task, records: Mapping[str, Record], key: str) -> dict[str, float]:
    """How far each peer's loss is from the median of all, as a share of an untrained network's loss."""
    losses = {name: record[key] for name, record in records.items() if record[key] is not None}
    middle = float(np.median(list(losses.values()))) if losses else 0.0
    return {name: abs(loss - middle) / math.log(task.net.widths[-1]) for name, loss in losses.items()}


def within(deviation: Mapping[str, float], tolerance: float) -> bool:
    return all(d <= tolerance for d in deviation.values())


def summary(record: Record) -> Record:
    """Median, least, quartiles and all values of both times; the losses."""
    return {
        "step_us": statistics(record["step"]),
        "epoch_ms": statistics(record["epoch"]),
        "first": record["first"],
        "last": record["last"],
    }


def statistics(values: list[float]) -> Record:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": median, "min": min(values), "low": low, "high": high, "all": values}

"""Steps beside busy processes on the same cores: our engine and PyTorch, alone, beside Python loops, beside NumPy.

``python -m benchmarks speed --neighbours N`` runs this. Every round measures all peers in all settings; the table shows
the medians over the rounds, and their ratios to the time of a step alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks.harness import PAUSE
from benchmarks.networks import Task, as_batches
from benchmarks.peers import Peer
from benchmarks.roster import roster

PROGRAMS = {
    "alone": "",
    "Python loop": "print(flush=True)\nwhile True: pass",
    "NumPy": "import numpy as np\na = np.ones((1000, 1000), 'f')\nprint(flush=True)\nwhile True: a @ a",
}
"""The programs of the busy processes, which print a line when they begin. NumPy uses as many threads as our engine."""
PEERS = ("numpy", "PyTorch foreach", "PyTorch fused")


@contextmanager
def beside(program: str, n: int) -> Iterator[None]:
    """Keep ``n`` processes running ``program`` (none if it is empty)."""
    with ExitStack() as stack:
        for _ in range(n if program else 0):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def measure(task: Task, n: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds per step of each peer in each setting: medians over the rounds, after one to warm up."""
    builders = roster("cpu", compiled=False)
    peers = {name: builders[name](task) for name in PEERS}
    found: dict[str, dict[str, list[float]]] = {name: {setting: [] for setting in PROGRAMS} for name in peers}
    for peer in peers.values():
        step(peer)
    for _ in range(rounds):
        for setting, program in PROGRAMS.items():
            with beside(program, n):
                for name, peer in peers.items():
                    found[name][setting].append(step(peer))
    return {name: {setting: median(times) for setting, times in row.items()} for name, row in found.items()}


def step(peer: Peer) -> float:
    """Microseconds per step over a run of steps."""
    placed = peer.place(as_batches(peer.rng, peer.task))
    time.sleep(PAUSE)  # the threads of the previous peer still spin
    began = time.perf_counter()
    peer.steps(placed)
    return 1e6 * (time.perf_counter() - began) / peer.task.steps


def table(tasks: Sequence[Task], n: int, rounds: int) -> None:
    """Print the rows one by one, in Markdown."""
    print(f"| us/step beside {n} | peer | " + " | ".join(PROGRAMS) + " |")
    print("| --- " * (2 + len(PROGRAMS)) + "|")
    for task in tasks:
        for name, row in measure(task, n, rounds).items():
            print(f"| {task.net.name} {task.optimizer} | {name} | {' | '.join(cells(row))} |", flush=True)


def cells(row: Mapping[str, float]) -> Iterator[str]:
    """Microseconds, with the ratio to those alone."""
    alone = row["alone"]
    for setting, time_ in row.items():
        yield f"{time_:.0f}" + (f" ({time_ / alone:.1f}x)" if setting != "alone" else "")

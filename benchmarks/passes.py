"""The savings of each pass of the compiler on this CPU: steps without it beside steps with all passes.

    python -m benchmarks passes [--rows NAME ...] [--optimizers NAME ...] [--rounds N] [--threads N]

Prints by how many percent a step takes longer without each pass, and without all passes but the indispensable one. The
figure is the median over rounds of the ratio of CPU times, which other processes disturb less than elapsed times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="networks, such as 784-300-10@50; by default all")
    parser.add_argument("--optimizers", nargs="+", default=["momentum", "adam"], choices=("sgd", "momentum", "adam"))
    parser.add_argument("--rounds", type=int, default=9, help="runs of each, after one to warm up")
    parser.add_argument("--threads", type=int, help="by default as many as there are cores")
    options = parser.parse_args()
    machine.pin(options.threads)

    from benchmarks.networks import NETS, Task

    rows = options.rows or list(NETS)
    if unknown := set(rows) - set(NETS):
        parser.error(f"--rows: no {', '.join(sorted(unknown))}; known are {', '.join(NETS)}")
    variants = without()
    print(f"{'':34}{'us/step':>10}" + "".join(f"{name:>22}" for name in list(variants)[1:]))
    for optimizer in options.optimizers:
        for name in rows:
            net = NETS[name]
            seconds = measured(Task(net, optimizer, net.steps("cpu")), list(variants.values()), options.rounds)
            first = seconds[0]
            longer = [median(b / a for a, b in zip(first, other, strict=True)) - 1 for other in seconds[1:]]
            cost = f"{1e6 * min(first) / net.steps('cpu'):10.0f}"
            print(f"{name + ' ' + optimizer:34}{cost}" + "".join(f"{100 * x:21.1f}%" for x in longer), flush=True)


def without() -> dict[str, Sequence[Any]]:
    """The lists of passes to compare: all of them, and all but one."""
    from mlp_xp_backends.compiler.passes import PASSES
    from mlp_xp_backends.compiler.passes.separate import separate

    one_by_one = {p.__name__: [q for q in PASSES if q is not p] for p in PASSES if p is not separate}
    return {"": PASSES, **one_by_one, "all of them": [separate]}


def measured(task: Any, variants: Sequence[Any], rounds: int) -> list[list[float]]:
    """CPU seconds of a run of steps with each list of passes, round by round."""
    import numpy as np

    from benchmarks.networks import as_batches
    from benchmarks.peers import Ours
    from mlp_xp_backends.compiler.loop import CompiledLoop
    from mlp_xp_backends.compiler.targets.cpu.libraries import blas
    from mlp_xp_backends.compiler.targets.cpu.run import Runner
    from mlp_xp_backends.loop import plain_loop
    from mlp_xp_backends.numpy_backend import NumpyBackend

    class WithPasses(NumpyBackend):
        def __init__(self, passes: Sequence[Any]) -> None:
            super().__init__()
            self.passes = passes

        def compile(self, body: Any) -> Callable[..., Any]:
            plain = plain_loop(self.xp, body, np.stack)
            return CompiledLoop(body, plain, lambda program: Runner(program, blas(), self.passes))

    peers = [Ours(WithPasses(passes), task) for passes in variants]
    seconds: list[list[float]] = [[] for _ in peers]
    for number in range(rounds + 1):
        for peer, found in zip(peers, seconds, strict=True):
            placed = peer.place(as_batches(peer.rng, task))
            began = time.process_time()
            peer.steps(placed)
            found.extend([time.process_time() - began] if number else [])
    return seconds


if __name__ == "__main__":
    main()

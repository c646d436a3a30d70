"""One training step and one epoch: our engines beside PyTorch, JAX, scikit-learn and the bare matrix products.

    python -m benchmarks speed [--rows NAME ...] [--optimizers NAME ...] [--threads N] [--rounds N]
                               [--device cpu|cuda] [--compile] [--out DIR] [--neighbours N]

Writes ``<device>-<model>-<threads>-threads.json``, ``.md`` and ``.png`` after every row; rows measured before on the
same machine with the same versions are kept, so that a table can be measured in parts. With ``--neighbours N``, it
prints instead how long steps take beside N busy processes, each a Python loop or products of NumPy.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine

if TYPE_CHECKING:
    from benchmarks.networks import Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="networks, such as 784-300-10@50; by default all")
    parser.add_argument("--optimizers", nargs="+", choices=("sgd", "momentum", "adam"), help="by default all")
    parser.add_argument("--threads", type=int, help="threads of every library; by default as many as there are cores")
    parser.add_argument("--rounds", type=int, default=9, help="runs and epochs of each peer, after one to warm up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which compiles for minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--neighbours", type=int, default=0, metavar="N", help="busy processes on the same cores")
    options = parser.parse_args()
    threads = machine.pin(options.threads)

    from benchmarks.networks import NETS, OPTIMIZERS, Task
    from mlp_xp import BackendError, get_backend

    rows = options.rows or list(NETS)
    if unknown := set(rows) - set(NETS):
        parser.error(f"--rows: no {', '.join(sorted(unknown))}; known are {', '.join(NETS)}")
    try:
        get_backend(options.device)
    except BackendError as error:
        parser.error(f"--device {options.device}: {error}")
    if options.neighbours:
        from benchmarks import neighbours

        tasks = [
            Task(NETS[name], rule, NETS[name].steps("cpu"))
            for rule in options.optimizers or OPTIMIZERS
            for name in rows
        ]
        neighbours.table(tasks, options.neighbours, options.rounds)
        return
    began = time.perf_counter()
    for optimizer in options.optimizers or OPTIMIZERS:
        for name in rows:
            net = NETS[name]
            one_row(Task(net, optimizer, net.steps(options.device)), options, threads)
            print(f"{time.perf_counter() - began:6.0f} s  {name} {optimizer}", flush=True)


def one_row(task: Task, options: argparse.Namespace, threads: int) -> None:
    """Measure a row and write the results with it."""
    from benchmarks import harness, plot, report
    from benchmarks.roster import roster

    row = harness.measure(task, roster(options.device, options.compile), options.rounds)
    here = machine.describe(options.device, threads)
    base = options.out / machine.slug(here)
    results = report.merged(base.with_suffix(".json"), here, row)
    options.out.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    base.with_suffix(".md").write_text(report.markdown(results))
    plot.draw(results, base.with_suffix(".png"))


if __name__ == "__main__":
    main()

"""Training on several processes beside PyTorch's DistributedDataParallel (DDP) over gloo, and a model of more ranks.

    python -m benchmarks ranks [--ranks 1 2] [--rows 784-300-10@256 ...] [--rounds N] [--seconds S] [--out FOLDER]

Every job is one call of ``mpiexec`` whose ranks have the same number of threads. In each round, our trainer and DDP
train the same network on the same batches, one after the other; the report gives medians. The share of time spent
communicating includes waiting for the slowest rank; for DDP, it is the time that a step saves without synchronization
of the gradients (``no_sync``). The report is written after every job: after an interruption, it contains the finished
jobs and says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine

ROWS = ("784-300-10@64", "784-300-10@256", "784-1024-1024-10@512")
STEPS = 20
SIZES = (4, 4_000, 40_000, 400_000, 4_000_000, 32_000_000)
"""The sizes of the measured all-reduces, in bytes."""
MODELED = (8, 64, 512)
Job = dict[str, Any]
"""The measurements of a job on a row of the table, with its number of ranks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of processes")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="NAME", help="widths@rows of a batch")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each at most, after one to warm up")
    parser.add_argument("--seconds", type=float, default=180.0, help="after which no further round begins, in all")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    machine.need_torch()
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Run all jobs; write the report after each, and print the last one."""
    header = heading(options)
    jobs = [(row, ranks) for row in options.rows for ranks in options.ranks]
    found: list[Job] = []
    name = re.sub(r"[^a-z0-9]+", "-", machine.cpu_model().lower()).strip("-")
    file = options.out / f"ranks-cpu-{name}.md"
    try:
        for row, ranks in jobs:
            found.append(job(row, ranks, options, options.seconds / len(jobs)))
            text = report(header, found, len(jobs))
            file.write_text(text + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        print(f"interrupted after {len(found)} of {len(jobs)} jobs", file=sys.stderr)
    if found:
        print(text)
        print(f"written to {file}", file=sys.stderr)


def job(row: str, ranks: int, options: argparse.Namespace, seconds: float) -> Job:
    """Run a job of ``ranks`` processes for about so many seconds, and return its measurements."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpiexec = shutil.which("mpiexec", path=places)
    if mpiexec is None:
        raise SystemExit('this benchmark needs mpiexec: pip install "mlp-xp[mpi]"')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        limits = ["--rounds", str(options.rounds), "--seconds", str(seconds)]
        command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "benchmarks.ranks", *limits]
        surroundings = os.environ | dict.fromkeys(machine.POOLS, str(threads_of(options)))
        surroundings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_000 + os.getpid() % 1_000)}
        surroundings["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        subprocess.run([*command, "--rows", row, "--worker", str(file)], env=surroundings, check=True)
        return {"row": row, "ranks": ranks} | json.loads(file.read_text())


def threads_of(options: argparse.Namespace) -> int:
    """The number of threads of a rank, for which the cores suffice in the largest job."""
    return max(1, len(os.sched_getaffinity(0)) // max(options.ranks))


def work(options: argparse.Namespace) -> None:
    """The program of every rank; rank 0 writes the medians."""
    import torch

    from mlp_xp_backends.groups import get_group

    group = get_group("mpi")
    torch.distributed.init_process_group("gloo", rank=group.rank, world_size=group.size)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    found = race(options.rows[0], group, options.rounds, options.seconds)
    found |= {"network": network(group), "pools": machine.pools()}
    torch.distributed.destroy_process_group()
    if group.rank == 0:
        options.worker.write_text(json.dumps(found))


def race(row: str, group: Any, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds per step of our trainer and of DDP, and their shares of communication, as medians over rounds."""
    import numpy as np

    widths, batch = [int(n) for n in row.partition("@")[0].split("-")], int(row.partition("@")[2])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * batch, widths[0])).astype(np.float32)
    y = rng.integers(0, widths[-1], len(x))
    ours, ddp = Ours(widths, group), Ddp(widths, group)
    columns: dict[str, list[float]] = {"ours": [], "ours communicating": [], "ddp": [], "ddp alone": []}
    until = time.monotonic() + seconds
    for number in range(rounds + 1):
        figures = (*ours.epoch(x, y, batch), ddp.epoch(x, y, batch, True), ddp.epoch(x, y, batch, False))
        for column, spent in zip(columns.values(), figures, strict=True):
            column.extend([spent / STEPS] if number else [])
        if number and group.broadcast(np.asarray([time.monotonic() > until]).astype(np.int32))[0]:
            break
    medians = {name: median(column) for name, column in columns.items()}
    ratio = median(b / a for a, b in zip(columns["ours"], columns["ddp"], strict=True))
    parameters = sum(a * b + b for a, b in pairwise(widths))
    return medians | {"ddp / ours": ratio, "parameters": parameters, "batch": batch, "rounds": len(columns["ddp"])}


class Timed:
    """A group that adds up the seconds of its sums."""

    def __init__(self, group: Any) -> None:
        self.rank, self.size, self.local_rank, self.native = group.rank, group.size, group.local_rank, group.native
        self.broadcast, self.barrier, self.abort = group.broadcast, group.barrier, group.abort
        self.group, self.seconds = group, 0.0

    def sum(self, x: Any, out: Any = None) -> Any:
        began = time.perf_counter()
        total = self.group.sum(x, out)
        self.seconds += time.perf_counter() - began
        return total


class Ours:
    def __init__(self, widths: list[int], group: Any) -> None:
        from mlp_xp import Trainer, mlp

        self.group = Timed(group)
        self.trainer = Trainer(mlp(*widths), device="cpu", group=self.group)

    def epoch(self, x: Any, y: Any, batch: int) -> tuple[float, float]:
        """Seconds of an epoch, and the seconds spent in sums over the ranks."""
        from mlp_xp.training.callbacks import Callback

        timed = self.group

        class Begin(Callback):
            def start(self, trainer: Any) -> None:
                timed.seconds = 0.0

            def epoch(self, trainer: Any, record: Any) -> None:
                self.spent = timed.seconds

        timed.barrier()
        begin = Begin()
        history = self.trainer.fit(x, y, max_epochs=self.trainer.epoch + 1, batch_size=batch, callbacks=[begin])
        return history[-1]["seconds"], getattr(begin, "spent", 0.0)  # only rank 0 calls it, and reports


class Ddp:
    def __init__(self, widths: list[int], group: Any) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n, m in pairwise(widths):
            layers += [nn.Linear(n, m), nn.ReLU()]
        self.net = nn.parallel.DistributedDataParallel(nn.Sequential(*layers[:-1]))
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True)
        self.loss, self.group = nn.CrossEntropyLoss(), group

    def epoch(self, x: Any, y: Any, batch: int, synchronized: bool) -> float:
        """Seconds of an epoch over this rank's slices of the batches, in another order each time."""
        import numpy as np
        import torch

        from mlp_xp.data.shares import share

        x, y = torch.from_numpy(x), torch.from_numpy(y)
        own = slice(*share(batch, self.group.rank, self.group.size))
        self.group.barrier()
        began = time.perf_counter()
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
        total = torch.zeros(())
        for rows in order.reshape(-1, batch)[:, own]:
            self.optimizer.zero_grad()
            with self.net.no_sync() if not synchronized else nullcontext():
                loss = self.loss(self.net(x.index_select(0, rows)), y.index_select(0, rows))
                loss.backward()
            self.optimizer.step()
            total += loss.detach()
        total.item()
        return time.perf_counter() - began


def network(group: Any) -> dict[int, float]:
    """Median seconds of an all-reduce, for each number of bytes."""
    import numpy as np

    found = {}
    for size in SIZES:
        x, seconds = np.ones(size // 4, np.float32), []
        out = np.empty_like(x)
        for _ in range(30):
            group.barrier()
            began = time.perf_counter()
            group.sum(x, out)
            seconds.append(time.perf_counter() - began)
        found[size] = median(seconds)
    return found


def heading(options: argparse.Namespace) -> list[str]:
    """The lines before the tables: the machine before the first job, the command, and how to read the figures."""
    place, cores = machine.describe("cpu", len(os.sched_getaffinity(0))), len(os.sched_getaffinity(0))
    given = re.sub(r" --out[ =]\S+", "", " ".join(["python -m benchmarks ranks", *sys.argv[1:]]))
    load = os.getloadavg()[0]
    return [
        "# Several processes on one machine",
        "",
        f"`{given}` on {place['model']}, {cores} cores, {place['system']}; "
        + ", ".join(f"{name} {version}" for name, version in place["versions"].items())
        + ".",
        "",
        f"Each rank has {threads_of(options)} thread(s). Medians of at most {options.rounds} rounds of {STEPS} steps, "
        "float32, Adam. Above 1 in the column `DDP / ours`, ours is faster: the median of the ratios of a round. A "
        "rank that waits for a slower one counts as communicating.",
        "",
        f"The load average of the minute before was {load:.1f}: "
        + (
            f"other programs ran too, so that {max(options.ranks)} ranks did not have {cores} cores to themselves."
            if load > 0.5
            else "the machine was idle."
        ),
        "",
    ]


def report(header: list[str], found: list[Job], jobs: int) -> str:
    """The header and the tables, in Markdown."""
    lines = [*header]
    if len(found) < jobs:
        lines += [f"Not finished: {len(found)} of {jobs} jobs.", ""]
    lines += [
        "| network@batch | ranks | ours, ms/step | communicating | DDP, ms/step | communicating | DDP / ours | rounds "
        "|",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        shares = row["ours communicating"] / row["ours"], max(0.0, 1 - row["ddp alone"] / row["ddp"])
        ours, ddp = (f"{share:.0%}" if row["ranks"] > 1 else "-" for share in shares)
        lines.append(
            f"| {row['row']} | {row['ranks']} | {1e3 * row['ours']:.2f} | {ours} | {1e3 * row['ddp']:.2f} | {ddp} | "
            f"{row['ddp / ours']:.2f} | {row['rounds']} |"
        )
    lines += ["", f"Thread pools of a rank: {', '.join(found[0]['pools'])}."]
    alone = [row for row in found if row["ranks"] == 1]
    several = next((row for row in found if row["ranks"] > 1), None)
    if several and alone:
        lines += ["", *modeled(alone, several)]
    return "\n".join(lines)


def modeled(alone: list[Job], several: Job) -> list[str]:
    """The cost model: its assumptions, and the batch size at which half of the time of a step is arithmetic."""
    ranks = several["ranks"]
    latency, per_byte = fitted({int(size): seconds for size, seconds in several["network"].items()}, ranks)
    lines = [
        "## More ranks: a model, not a measurement",
        "",
        "A step of B rows on p ranks takes `c B / p + t(p, n)`: c is the measured time of a row on one rank, and "
        "`n = 4 (parameters + 2)` bytes travel in each step (gradients, loss, weight). An all-reduce takes "
        "`t = min(log2(p) (a + n b), (p - 1) a + 2 (p - 1) / p n b)`, the better of recursive doubling and a "
        f"ring, with the latency a = {1e6 * latency:.0f} us and b = {1e9 * per_byte:.2f} ns per byte "
        f"({1 / per_byte / 1e9:.1f} GB/s) that {ranks} ranks of this machine measured. Between machines both are "
        "worse. The cores are assumed to be as many as the ranks.",
        "",
        "Rows of a batch from which on p ranks are p / 2 times as fast as one, so that half of the time is arithmetic:",
        "",
        "| network | bytes per step | us per row | " + " | ".join(f"{p} ranks" for p in MODELED) + " |",
        "| --- | --- | --- | " + " | ".join("---" for _ in MODELED) + " |",
    ]
    for row in alone:
        size, each = 4 * (row["parameters"] + 2), row["ours"] / row["batch"]
        needed = [p * reduction(p, size, latency, per_byte) / each for p in MODELED]
        shown = " | ".join(f"{math.ceil(rows):,}" for rows in needed)
        lines.append(f"| {row['row']} | {size:,} | {1e6 * each:.1f} | {shown} |")
    return lines


def fitted(network: dict[int, float], ranks: int) -> tuple[float, float]:
    """Latency and seconds per byte of one exchange between two ranks, from all-reduces among ``ranks``."""
    latency = network[min(network)] / math.log2(ranks)
    largest = max(network)
    return latency, network[largest] / largest / min(math.log2(ranks), 2 * (ranks - 1) / ranks)


def reduction(p: int, size: int, latency: float, per_byte: float) -> float:
    """Seconds of an all-reduce in the model."""
    doubling = math.log2(p) * (latency + size * per_byte)
    return min(doubling, (p - 1) * latency + 2 * (p - 1) / p * size * per_byte)


if __name__ == "__main__":
    main()

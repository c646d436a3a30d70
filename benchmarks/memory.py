"""Memory: the peak while training a large network beside PyTorch's, and a data set larger than memory.

    python -m benchmarks.memory peak            # 784-2048-2048-10, batch 512, momentum: ours and PyTorch's
    python -m benchmarks.memory stream          # 10 GB of memory-mapped rows (a sparse file), at constant memory

Every figure comes from a new process, and is relative to its memory before the first array. Pages of a memory-mapped
file are not counted, because the system can drop them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.machine import need_torch

ROOT = Path(__file__).parents[1]
WIDTHS, BATCH, ROWS = (784, 2048, 2048, 10), 512, 20 * 512
MIB = 2**20


class Peak:
    """The largest anonymous memory of this process within the ``with`` block, in bytes above that at its start."""

    def __enter__(self) -> Peak:
        self.start, self.most, self.going = anonymous(), 0, True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going = False
        self.thread.join()

    def _watch(self) -> None:
        while self.going:
            self.most = max(self.most, anonymous() - self.start)
            time.sleep(0.002)


def anonymous() -> int:
    """Bytes of resident memory without a file behind them (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((ROWS, WIDTHS[0]), dtype=np.float32), rng.integers(0, WIDTHS[-1], ROWS)


def ours() -> int:
    from mlp_xp import SGD, Trainer, mlp

    x, y = data()
    Trainer(mlp(4, 4, 2), optimizer=SGD(0.1, momentum=0.9), device="cpu").fit(x[:64, :4], y[:64] % 2, max_epochs=1)
    with Peak() as peak:
        trainer = Trainer(mlp(*WIDTHS), optimizer=SGD(0.01, momentum=0.9), device="cpu")
        trainer.fit(x, y, max_epochs=2, batch_size=BATCH)
    return peak.most


def pytorch() -> int:
    import torch
    from torch import nn

    def train(widths: tuple[int, ...], x: torch.Tensor, y: torch.Tensor, batch: int, epochs: int) -> None:
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
        net, loss_of = nn.Sequential(*layers), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch):
                optimizer.zero_grad()
                loss_of(net(x[rows]), y[rows]).backward()
                optimizer.step()

    x, y = map(torch.from_numpy, data())
    train((4, 4, 2), x[:64, :4], y[:64] % 2, 32, 1)
    with Peak() as peak:
        train(WIDTHS, x, y, BATCH, 2)
    return peak.most


def stream() -> int:
    from mlp_xp import SGD, Rescale, Trainer, mlp

    features, rows = 1000, 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        x = np.lib.format.open_memmap(f"{folder}/x.npy", "w+", np.uint8, (rows, features))  # sparse: holes read as 0
        y = np.zeros(rows, np.int32)
        trainer = Trainer(mlp(features, 32, 2, first=Rescale(scale=1 / 255)), optimizer=SGD(0.01), device="cpu")
        seen: list[int] = []

        class Watch:
            """Records the anonymous memory after each chunk of steps."""

            def start(self, trainer: Trainer) -> None: ...
            def epoch(self, trainer: Trainer, record: dict[str, float]) -> None: ...
            def end(self, trainer: Trainer) -> None: ...
            def chunk(self, trainer: Trainer) -> None:
                seen.append(anonymous())

        trainer.fit(x, y, max_epochs=1, batch_size=1000, callbacks=[Watch()], shuffle=False)
    print(f"{x.nbytes / 2**30:.1f} GiB; after each tenth: {[m // MIB for m in seen[:: max(1, len(seen) // 10)]]} MiB")
    return max(seen) - seen[0]


def apart(name: str) -> int:
    """The bytes that the function with this name reports from a separate process."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}
    code = f"from benchmarks import memory; print(memory.{name}())"
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    *lines, last = done.stdout.splitlines()
    print("\n".join(lines), end="\n" if lines else "")
    return int(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("peak", "stream"))
    if parser.parse_args().what == "peak":
        need_torch()
        a, b = apart("ours"), apart("pytorch")
        network = "-".join(map(str, WIDTHS))
        print(f"{network}, batch {BATCH}: ours {a / MIB:.0f} MiB, PyTorch {b / MIB:.0f} MiB: {a / b:.2f}")
    else:
        print(f"growth while training: {apart('stream') / MIB:.1f} MiB")


if __name__ == "__main__":
    main()

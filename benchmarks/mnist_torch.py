"""The same job as ``examples/mnist.py`` in idiomatic PyTorch: read, train, evaluate, print.

The network, batches, epochs and one-cycle rate are the same, and so are the 55,000 training and 5,000 validation
images; the data stay bytes and are scaled batch by batch. `benchmarks.mnist_race` runs this script.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


def idx(folder: Path, name: str) -> np.ndarray:
    content = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=16 if "idx3" in name else 8).copy()


def main(folder: Path, seed: int, epochs: int, batch_size: int, lr: float) -> None:
    x, xt = (torch.from_numpy(idx(folder, f"{part}-images-idx3").reshape(-1, 784)) for part in ("train", "t10k"))
    y, yt = (torch.from_numpy(idx(folder, f"{part}-labels-idx1")).long() for part in ("train", "t10k"))
    torch.manual_seed(seed)
    rows = torch.randperm(len(x))
    xv, yv = x[rows[:5000]], y[rows[:5000]]
    x, y = x[rows[5000:]], y[rows[5000:]]
    net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, cycle_momentum=False)
    for epoch in range(epochs):
        total = torch.zeros(())
        for rows in torch.randperm(len(x)).split(batch_size):
            loss = loss_of(net(x[rows].float() / 255), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(rows)
        valid = accuracy(net, xv, yv)
        print(f"epoch {epoch + 1}  loss {float(total) / len(x):.4f}  validation accuracy {valid:.4f}")
    print(f"test accuracy {accuracy(net, xt, yt):.4f}")


@torch.no_grad()
def accuracy(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    parts = zip(x.split(1024), y.split(1024), strict=True)
    return sum(int((net(part.float() / 255).argmax(1) == target).sum()) for part, target in parts) / len(x)


if __name__ == "__main__":
    folder, seed, epochs, batch_size, lr = sys.argv[1:]
    main(Path(folder), int(seed), int(epochs), int(batch_size), float(lr))

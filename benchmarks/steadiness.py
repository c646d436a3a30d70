"""The work beside the steps, callbacks and validation, and the steadiness of epochs, which must not slow down.

python -m benchmarks.steadiness overhead     # a progress bar, history and a log beside bare training
python -m benchmarks.steadiness denormals    # epoch 2 against epoch 100, when most gradients have vanished
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mlp_xp import SGD, Adam, CSVLog, Progress, Rescale, Trainer, mlp


class Terminal(io.StringIO):
    """A stream that pretends to be a terminal, so that a progress bar is drawn."""

    def isatty(self) -> bool:
        return True


def digits(rows: int = 12_800) -> tuple[np.ndarray, np.ndarray]:
    """Bytes with two thirds of the columns always 0, like pixels at the border, and labels that can be learned."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (rows, 784), dtype=np.uint8)
    x[:, rng.permutation(784)[:500]] = 0
    return x, (x[:, :40].sum(axis=1) % 10).astype(np.int32)


def overhead(rounds: int = 10, epochs: int = 5) -> None:
    """Alternate runs of a few epochs of 100 steps with all callbacks and with none."""
    x, y = digits()
    times: dict[str, list[float]] = {"bare": [], "callbacks": []}
    with tempfile.TemporaryDirectory() as folder:
        hooks = {"bare": [], "callbacks": [Progress(Terminal()), CSVLog(Path(folder) / "log.csv")]}
        trainers = {name: Trainer(mlp(784, 300, 10, first=Rescale(scale=1 / 255)), device="cpu") for name in hooks}
        for i in range(rounds + 1):
            for name, trainer in trainers.items():
                began = time.perf_counter()
                trainer.fit(x, y, max_epochs=epochs * (i + 1), batch_size=128, callbacks=hooks[name])
                if i:
                    times[name].append((time.perf_counter() - began) / epochs)
    a, b = (statistics.median(times[name]) for name in ("bare", "callbacks"))
    print(f"100 steps: bare {a * 1e3:.1f} ms, with progress bar, history and log {b * 1e3:.1f} ms: {b / a:.3f}")


def denormals(epochs: int = 100) -> None:
    """Time late epochs, when momentum and second moments of unused inputs have decayed to denormal numbers."""
    x, y = digits(3_200)
    silent = x.copy()
    silent[:, 200:] = 0
    for name, optimizer in {"momentum": SGD(0.05, momentum=0.9), "Adam": Adam(1e-3)}.items():
        trainer = Trainer(mlp(784, 300, 10, first=Rescale(scale=1 / 255)), optimizer=optimizer, device="cpu")
        trainer.fit(x, y, max_epochs=1, batch_size=32)
        history = trainer.fit(silent, y, max_epochs=epochs, batch_size=32)
        early, late = (statistics.median(r["seconds"] for r in history[a:b]) for a, b in ((1, 4), (-3, None)))
        print(f"{name}: epoch 2 {early * 1e3:.1f} ms, epoch {epochs} {late * 1e3:.1f} ms: {late / early:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("overhead", "denormals"))
    {"overhead": overhead, "denormals": denormals}[parser.parse_args().what]()


if __name__ == "__main__":
    main()

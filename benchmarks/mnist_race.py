"""From a cold process to a trained MNIST network: ``examples/mnist.py`` beside the same job in PyTorch.

    python -m benchmarks mnist_race --data DIR [--rounds 5]

Each round runs both as new processes, one after the other; the times include imports, decompression and evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import need_torch

ROOT = Path(__file__).parents[1]


def seconds(command: list[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = os.environ.get("MLP_XP_DATA")
    parser.add_argument("--data", type=Path, default=data, required=not data, help="folder with mnist/ ($MLP_XP_DATA)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    need_torch()
    ours, theirs, accuracies = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "run.json"
        example = [
            sys.executable,
            str(ROOT / "examples/mnist.py"),
            "--data-dir",
            str(options.data),
            "--json",
            str(report),
        ]
        for seed in range(options.rounds):
            ours.append(seconds([*example, "--seed", str(seed)]))
            run = json.loads(report.read_text())
            accuracies.append(run["result"]["test_accuracy"])
            recipe = [str(run["settings"][key]) for key in ("epochs", "batch_size", "lr")]
            rival = [sys.executable, str(ROOT / "benchmarks/mnist_torch.py"), str(options.data / "mnist"), str(seed)]
            theirs.append(seconds([*rival, *recipe]))
    print(f"examples/mnist.py  {statistics.median(ours):.2f} s  ({min(ours):.2f} to {max(ours):.2f})")
    print(f"PyTorch            {statistics.median(theirs):.2f} s  ({min(theirs):.2f} to {max(theirs):.2f})")
    print(f"ratio {statistics.median(theirs) / statistics.median(ours):.2f}; test accuracy of ours {accuracies}")


if __name__ == "__main__":
    main()

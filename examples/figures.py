"""Redraw all figures of the README and the documentation with one command.

    python examples/figures.py --out docs/figures            # all of them
    python examples/figures.py --out docs/figures --only moons.gif mnist-curves.png
    python examples/figures.py --out figures --quick         # small data, short training

Data: MNIST, notMNIST and the 4-grams in the folders ``mnist``, ``notmnist`` and ``ngram250`` of --data-dir or
``$MLP_XP_DATA``; --quick needs none of them. The figure of speed shows the results in ``benchmarks/results``.

Time: about four minutes on two cores; with --quick 20 seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from example_tools.options import new_parser
from example_tools.run import run_example

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SPEED = "speed.png"


class Job(NamedTuple):
    """A run of an example and the figures that it draws; ``{folder}`` is the folder of the figures."""

    example: str
    options: str
    quick: str  # options of --quick, in place of --data-dir
    figures: tuple[str, ...]
    data: bool = False  # whether it reads files from --data-dir


JOBS = (
    Job(
        "mnist",
        "",
        "--dataset digits --epochs 1",
        ("mnist-curves.png", "mnist-confusion.png", "mnist-mistakes.png"),
        data=True,
    ),
    Job("moons", "--animate {folder}/moons.gif", "--points 200 --epochs 2", ("moons-decision.png", "moons.gif")),
    Job("from_scratch", "", "--points 300 --epochs 1", ("from_scratch-decision.png",)),
    Job("from_scratch", "--recipe published", "--points 300 --epochs 2", ("from_scratch-loss.png",)),
    Job("tabular", "", "--epochs 3 --repeats 1", ("tabular-cancer.png",)),
    Job("notmnist", "", "--epochs 1 --views 1", ("notmnist-mistakes.png",), data=True),
    Job(
        "language_model",
        "train --save {folder}/words.safetensors",
        "--epochs 1 --vocab-size 60",
        ("language_model-map.png", "language_model-neighbourhoods.png"),
        data=True,
    ),
    Job(
        "language_model",
        "tsne --load {folder}/words.safetensors",
        "",
        ("language_model-map.png", "language_model-neighbourhoods.png"),
    ),
    Job("digits_study", "--seeds 1", "--dataset digits --epochs 1", ("digits_study-rates.png",), data=True),
)
FIGURES = (*dict.fromkeys(name for job in JOBS for name in job.figures), SPEED)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the figures")
    add("--only", nargs="+", choices=FIGURES, default=FIGURES, metavar="NAME", help=f"some of {', '.join(FIGURES)}")
    add("--quick", action="store_true", help="small data and short training")
    add("--data-dir", default=os.environ.get("MLP_XP_DATA"), metavar="DIR", help="folder of the data")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, torch:cpu, jax ...")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the examples that draw the chosen figures; return the exit code."""
    command = parser()
    options = command.parse_args(argv)
    if not (options.quick or options.data_dir):
        command.error("expected --data-dir, MLP_XP_DATA or --quick")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for job in JOBS:
            wanted = [name for name in job.figures if name in options.only]
            if wanted and (code := run(job, options, folder)):
                return code
            copy([name for name in wanted if Path(folder, name).exists()], folder, options.out)
        if SPEED in options.only:
            draw_speed(Path(folder, SPEED))
            copy([SPEED], folder, options.out)
    return 0


def copy(names: Sequence[str], source: str, target: Path) -> None:
    """Copy figures from the folder of the runs to ``target``."""
    for name in names:
        shutil.copyfile(Path(source, name), target / name)
        print(f"wrote {target / name}")


def run(job: Job, options: argparse.Namespace, folder: str) -> int:
    """Run an example with --out in ``folder``; return the exit code."""
    example = importlib.import_module(job.example)
    words = [word.format(folder=folder) for word in job.options.split()]
    words += ["--out", folder, "--device", options.device]
    if options.quick:
        words += job.quick.split()
    elif job.data:
        words += ["--data-dir", options.data_dir]
    return run_example(example.main, example.parser(), words)


def draw_speed(path: Path) -> None:
    """Draw the figure of the committed results for a CPU."""
    sys.path.append(str(ROOT))
    plot = importlib.import_module("benchmarks.plot")
    (results,) = RESULTS.glob("cpu-*.json")
    plot.draw(json.loads(results.read_text(encoding="utf-8")), path)


if __name__ == "__main__":
    sys.exit(main())

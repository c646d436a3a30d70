"""A run of an example: its options, its device, its report, and errors in one line.

An example is a function ``main(run)``, which goes from the data to the result, and a parser of its options:

    def main(run: Run) -> None:
        with run.timed("load"):
            data = load_mnist(run.options.data_dir)
        ...
        run.draw("curves.png", plots.curves, trainer.history)
        run.result |= measured("test", trainer.evaluate(*data.test))

    if __name__ == "__main__":
        sys.exit(run_example(main, parser()))
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlp_xp
from example_tools.options import given_options
from example_tools.seeds import print_spread, spread
from mlp_xp_backends import Backend, BackendError, get_backend_or_cpu

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USER_ERRORS = (BackendError, ValueError, ArithmeticError, OSError, ImportError)
"""Errors that a user's choices can cause; their messages say what was expected and what to do."""
FIRST_SEED_ONLY = ("out", "save", "checkpoint", "animate")
"""Options that write files: with --seeds, only the first run has them."""


class Run:
    """One run of an example."""

    def __init__(self, example: str, options: argparse.Namespace, given: frozenset[str] = frozenset()) -> None:
        self.example = example
        self.options = options
        self.given = given
        """The names of the options that the command line sets explicitly."""
        self.began = time.perf_counter()
        self.seconds = {"load": 0.0, "train": 0.0}
        self.epochs: list[dict[str, Any]] = []
        """The history of the training, one record per epoch."""
        self.result: dict[str, Any] = {}
        """The results: numbers, and lists of them."""

    @cached_property
    def backend(self) -> Backend:
        """The backend of --device; if a GPU was requested and is missing, the CPU, with a message."""
        return get_backend_or_cpu(self.options.device, strict=self.options.strict_device)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the ``with`` block to ``seconds[stage]``, for stages such as ``load`` and ``train``."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def draw(self, name: str, plot: Callable[..., Figure], *args: Any, **settings: Any) -> None:
        """Save the figure ``plot(*args, **settings)`` as ``name`` in the folder of --out, if --out is given."""
        if self.options.out is None:
            return
        path = self.options.out / name
        plot(*args, **settings).savefig(path)
        print(f"drew {path}")

    def report(self) -> dict[str, Any]:
        """The report of --json, with the same layout for all examples."""
        return {
            "example": self.example,
            "settings": {name: str(v) if isinstance(v, Path) else v for name, v in vars(self.options).items()},
            "device": {"backend": self.backend.name, "device": self.backend.device},
            "versions": _versions(self.backend.name),
            "epochs": self.epochs,
            "result": self.result,
            "seconds": {**self.seconds, "total": time.perf_counter() - self.began},
        }


def run_example(main: Callable[[Run], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run an example with the options in ``argv`` (by default those of the command line); return the exit code.

    With --seeds N, ``main`` runs N times. A mistake of the user ends the program with one line and exit code 2; in
    Python's development mode (``python -X dev``), the traceback is shown instead.
    """
    options = parser.parse_args(argv)
    run = Run(Path(main.__code__.co_filename).stem, options, given_options(parser, argv))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # results appear at once, also in a pipe
    try:
        _check_seeds(options)
        _make_folders(options)
        print(f"computing with {run.backend.name} on {run.backend.device}")
        if getattr(options, "seeds", 1) > 1:
            _run_seeds(main, run)
        else:
            main(run)
        if options.json is not None:
            options.json.write_text(json.dumps(run.report(), indent=1) + "\n", encoding="utf-8")
    except USER_ERRORS as error:
        if sys.flags.dev_mode:
            raise
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _run_seeds(main: Callable[[Run], None], run: Run) -> None:
    """Run ``main`` with the seeds from --seed on; ``run`` gets the first result and the spread of all."""
    initial = copy(run.options)
    main(run)
    results = [run.result]
    for seed in range(initial.seed + 1, initial.seed + initial.seeds):
        print(f"\nseed {seed}")
        options = copy(initial)
        vars(options).update(seed=seed, **{name: None for name in FIRST_SEED_ONLY if hasattr(initial, name)})
        other = Run(run.example, options, run.given)
        main(other)
        results.append(other.result)
    run.result["seeds"] = spread(results)
    print_spread(run.result["seeds"], initial.seeds)


def _check_seeds(options: argparse.Namespace) -> None:
    """Refuse several seeds for a run that does not start from its own seed."""
    for name in ("load", "resume"):
        if getattr(options, "seeds", 1) > 1 and getattr(options, name, None) is not None:
            raise ValueError(f"--{name} starts from a file, not from a seed: omit --seeds")


def _make_folders(options: argparse.Namespace) -> None:
    """Create the folders of all output files first, so that no result is lost because a folder is missing."""
    if getattr(options, "out", None) is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    files = (getattr(options, name, None) for name in ("json", "save", "checkpoint", "animate"))
    for file in filter(None, files):
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: expected the path of a file")
        file.parent.mkdir(parents=True, exist_ok=True)


def measured(part: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of `Model.evaluate` under the names of the report, such as ``test_accuracy``."""
    return {f"{part}_{name}": value for name, value in values.items()}


def percent(share: float) -> str:
    """``0.9813 -> '98.13 %'``."""
    return f"{100.0 * share:.2f} %"


def _versions(backend: str) -> dict[str, str]:
    """Versions of Python, this library, NumPy and the library that computes."""
    versions = {"python": platform.python_version(), "mlp_xp": mlp_xp.__version__}
    for library in dict.fromkeys(("numpy", backend)):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # cupy is distributed under the names of its CUDA versions
            versions[library] = str(getattr(sys.modules.get(library), "__version__", "unknown"))
    return versions

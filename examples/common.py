"""What the examples share: their options, the device, the JSON report, and mistakes told in one line.

An example is ``story(run)``, told from the data to the result, and a parser with its options:

    def story(run: Run) -> None:
        options = run.options
        with run.timed("load"):
            data = load_mnist(options.data_dir)
        ...
        run.draw("curves.png", plots.curves, trainer.history)
        run.result |= {"test_accuracy": test["accuracy"], "test_loss": test["loss"]}

    if __name__ == "__main__":
        sys.exit(tell(story, parser()))
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import mlp_xp
from mlp_xp_backends import Backend, BackendError, get_backend_or_cpu

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N = TypeVar("N", int, float)

USER_ERRORS = (BackendError, ValueError, ArithmeticError, OSError, ImportError)
"""What a user's choice can lead to; the library's messages say what was expected and what to do."""


class Parser(argparse.ArgumentParser):
    """Options with their defaults in the help, and one line for a mistake in them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **settings})

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds a default only where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def new_parser(doc: str | None) -> Parser:
    """A parser described by the first paragraph of the example's docstring, with the one on its data at the end."""
    return Parser(description=(doc or "").partition("\n\n")[0].replace("\n", " "), epilog=paragraphs(doc, "Data:"))


def paragraphs(doc: str | None, *beginnings: str) -> str:
    """Those paragraphs of a docstring that begin so, as text for a help page."""
    return " ".join(part for part in (doc or "").split("\n\n") if part.startswith(beginnings))


def add_run_options(parser: argparse.ArgumentParser, *, epochs: int | None = None, data: bool = True) -> None:
    """The options that every example has.

    ``epochs`` is the default of --epochs: None for examples whose recipes have numbers of their own. ``data`` is
    whether the example reads files.
    """
    run = parser.add_argument_group("the run")
    run.add_argument("--epochs", type=positive_int, default=epochs, metavar="N", help="passes over the training data")
    run.add_argument("--seed", type=seed, default=0, help="initial weights and the order of batches come from it")
    run.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="numbers of the network")
    run.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, torch:cpu, jax ...")
    run.add_argument("--strict-device", action="store_true", help="fail where the device is missing: no CPU instead")
    if data:
        run.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the data (else $MLP_XP_DATA, cache)")
    results = parser.add_argument_group("results")
    results.add_argument("--out", type=Path, metavar="DIR", help="draw figures into this folder")
    results.add_argument("--json", type=Path, metavar="FILE", help="write settings, epochs, results and times")


def add_recipe_option(parser: argparse.ArgumentParser) -> None:
    """--recipe published or default."""
    parser.add_argument(
        "--recipe", choices=("default", "published"), default="default", help="train well, or as it was published"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--save and --load of a trained model."""
    model = parser.add_argument_group("the model")
    model.add_argument("--save", type=Path, metavar="FILE", help="write the trained model (safetensors)")
    model.add_argument("--load", type=Path, metavar="FILE", help="evaluate the model in FILE, train nothing")


def positive_int(text: str) -> int:
    """An integer from 1."""
    return _number(int, text, lambda n: n >= 1, "an integer from 1")


def seed(text: str) -> int:
    """An integer from 0."""
    return _number(int, text, lambda n: n >= 0, "an integer from 0")


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _number(float, text, lambda x: 0.0 < x < math.inf, "a number above 0")


def share(text: str) -> float:
    """A number in [0, 1)."""
    return _number(float, text, lambda x: 0.0 <= x < 1.0, "a number from 0 to below 1")


def _number(kind: Callable[[str], N], text: str, fits: Callable[[N], bool], wanted: str) -> N:
    try:
        value = kind(text)
        if fits(value):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {wanted}, not {text!r}")


class Run:
    """One run of an example: its options, its device, and what it has to report."""

    def __init__(self, example: str, options: argparse.Namespace) -> None:
        self.example = example
        self.options = options
        self.began = time.perf_counter()
        self.seconds = {"load": 0.0, "train": 0.0}
        self.epochs: list[dict[str, Any]] = []
        """The history of the training, one record per epoch."""
        self.result: dict[str, Any] = {}
        """What the run found: numbers, and lists of them."""

    @cached_property
    def backend(self) -> Backend:
        """The device of --device; the CPU, with a line that says so, where a GPU is asked for and not there."""
        return get_backend_or_cpu(self.options.device, strict=self.options.strict_device)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time inside to ``seconds[stage]``: ``load``, ``train`` or another name."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def draw(self, name: str, plot: Callable[..., Figure], *args: Any, **settings: Any) -> None:
        """Save the figure ``plot(*args, **settings)`` as ``name`` in the folder of --out, if there is one."""
        if self.options.out is None:
            return
        path = self.options.out / name
        plot(*args, **settings).savefig(path)
        say(f"drew {path}")

    def report(self) -> dict[str, Any]:
        """Everything about the run, as JSON can hold it; the same layout for all examples."""
        return {
            "example": self.example,
            "settings": {name: _plain(value) for name, value in vars(self.options).items()},
            "device": {"backend": self.backend.name, "device": self.backend.device},
            "versions": _versions(self.backend.name),
            "epochs": list(self.epochs),
            "result": self.result,
            "seconds": {**self.seconds, "total": time.perf_counter() - self.began},
        }


def tell(story: Callable[[Run], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run an example with the options in ``argv`` (those of the command line by default); the exit code.

    A mistake of the user ends in one line and code 2. Python's development mode (``python -X dev``) shows the
    traceback instead.
    """
    options = parser.parse_args(argv)
    run = Run(Path(story.__code__.co_filename).stem, options)
    try:
        _make_folders(options)
        say(f"computing with {run.backend.name} on {run.backend.device}")
        story(run)
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


def _make_folders(options: argparse.Namespace) -> None:
    """The folders that the run will write to, before any work is lost for want of them."""
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    for file in filter(None, (options.json, getattr(options, "save", None))):
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: name a file in it")
        file.parent.mkdir(parents=True, exist_ok=True)


def say(text: str) -> None:
    """Print a line of results at once, also into a pipe."""
    print(text, flush=True)


def measured(part: str, values: Mapping[str, float]) -> dict[str, float]:
    """What `Model.evaluate` gives, under the report's names: ``measured("test", ...)["test_accuracy"]``."""
    return {f"{part}_{name}": value for name, value in values.items()}


def percent(share: float) -> str:
    """``0.9813 -> '98.13 %'``."""
    return f"{100.0 * share:.2f} %"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _versions(backend: str) -> dict[str, str]:
    """Python, this library, NumPy and the library that computed."""
    versions = {"python": platform.python_version(), "mlp_xp": mlp_xp.__version__}
    for library in dict.fromkeys(("numpy", backend)):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # cupy is distributed under the names of its CUDA versions
            versions[library] = str(getattr(sys.modules.get(library), "__version__", "unknown"))
    return versions

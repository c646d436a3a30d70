"""Command-line options: those that all examples share, the types of values, and one-line errors."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

N = TypeVar("N", int, float)


class Parser(argparse.ArgumentParser):
    """A parser that shows defaults in its help and reports a mistake in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **settings})

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Keeps paragraphs apart, and appends the default of an option unless it is None or False."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Help, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def new_parser(doc: str | None) -> Parser:
    """A parser described by the first paragraph of an example's docstring.

    The help ends with the paragraphs that begin with "Data:", "Time:" and "Source:".
    """
    return Parser(
        description=(doc or "").partition("\n\n")[0].replace("\n", " ").replace("``", ""),
        epilog=paragraphs(doc, "Data:", "Time:", "Source:"),
    )


def paragraphs(doc: str | None, *beginnings: str) -> str:
    """The paragraphs of a docstring that begin with one of ``beginnings``, as plain text for a help page."""
    found = (part for part in (doc or "").replace("``", "").split("\n\n") if part.startswith(beginnings))
    return "\n\n".join(" ".join(part.split()) for part in found)


def add_run_options(
    parser: argparse.ArgumentParser, *, epochs: int | None = None, data: bool = True, repeat: bool = True
) -> None:
    """Add the options that every example has.

    ``epochs`` is the default of --epochs (None: the recipe sets it), ``data`` says whether the example reads files, and
    ``repeat`` whether --seeds repeats all of it.
    """
    run = parser.add_argument_group("the run")
    run.add_argument("--epochs", type=positive_int, default=epochs, metavar="N", help="passes over the training data")
    run.add_argument("--seed", type=seed, default=0, help="seed of the initial weights and the order of batches")
    if repeat:
        text = "repeat with N seeds, report median and range"
        run.add_argument("--seeds", type=positive_int, default=1, metavar="N", help=text)
    run.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="dtype of the network")
    run.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, torch:cpu, jax ...")
    run.add_argument("--strict-device", action="store_true", help="fail if the device is missing (else use the CPU)")
    if data:
        run.add_argument(
            "--data-dir", type=Path, metavar="DIR", help="folder of the data (else $MLP_XP_DATA or the cache)"
        )
    results = parser.add_argument_group("results")
    results.add_argument("--out", type=Path, metavar="DIR", help="draw figures into this folder")
    results.add_argument("--json", type=Path, metavar="FILE", help="write settings, epochs, results and times as JSON")


def add_recipe_option(parser: argparse.ArgumentParser) -> None:
    """Add --recipe, published or default."""
    parser.add_argument(
        "--recipe",
        choices=("default", "published"),
        default="default",
        help="our recipe, or the published one",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add --save and --load for a trained model."""
    model = parser.add_argument_group("the model")
    model.add_argument("--save", type=Path, metavar="FILE", help="write the trained model (safetensors)")
    model.add_argument("--load", type=Path, metavar="FILE", help="evaluate the model in FILE without training")


def given_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> frozenset[str]:
    """Return the names of the options that ``argv`` sets explicitly, even to their defaults."""
    absent = object()
    namespace = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args(argv)), absent))
    return frozenset(name for name, value in vars(parser.parse_args(argv, namespace)).items() if value is not absent)


def positive_int(text: str) -> int:
    """A positive integer."""
    return _number(int, text, lambda n: n >= 1, "a positive integer")


def seed(text: str) -> int:
    """A non-negative integer."""
    return _number(int, text, lambda n: n >= 0, "a non-negative integer")


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _number(float, text, lambda x: 0.0 < x < math.inf, "a number above 0")


def share(text: str) -> float:
    """A number in [0, 1)."""
    return _number(float, text, lambda x: 0.0 <= x < 1.0, "a number in [0, 1)")


def _number(kind: Callable[[str], N], text: str, fits: Callable[[N], bool], wanted: str) -> N:
    try:
        value = kind(text)
        if fits(value):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {wanted}, not {text!r}")

"""``python -m mlp_xp show``: print the compiled form of a training step."""

from __future__ import annotations

import argparse

import numpy as np  # noqa: TID251  a step is recorded on host arrays, for any device

from mlp_xp.data.feed import Batch
from mlp_xp.nn.losses import SoftmaxCrossEntropy
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from mlp_xp.nn.step import TrainStep
from mlp_xp.training.epoch import Item, epoch_loop
from mlp_xp_backends.compiler.report import report
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import ABSENT, tree_map

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "rmsprop": RMSprop(0.001),
    "adam": Adam(0.001),
    "adamw": AdamW(0.001),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its arguments to ``commands``."""
    parser = commands.add_parser(
        "show",
        help="print a compiled training step: operations, shapes, dtypes and memory plan",
        description="Record a training step of a classifier, compile it and print one line for each operation.",
    )
    parser.add_argument("network", type=_widths, metavar="WIDTHS", help="inputs, hidden units, classes: 784-128-10")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--batch", type=_rows, default=128, metavar="ROWS")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda needs neither a GPU nor CuPy")


def _widths(text: str) -> list[int]:
    widths = [int(part) if part.isdecimal() else 0 for part in text.split("-")]
    if len(widths) < 2 or 0 in widths:
        raise argparse.ArgumentTypeError("give two or more widths above 0, such as 784-128-10")
    return widths


def _rows(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"give a positive number of rows, not {text}")
    return int(text)


class _Recorder:
    """A stand-in for a backend that keeps the body that it is asked to compile."""

    def compile(self, body: Body) -> Loop:
        self.body = body
        return lambda carry, consts, items: (carry, items)


def show(widths: list[int], optimizer: str, batch: int, dtype: str, device: str) -> str:
    """Return the compiled step of the classifier ``mlp(*widths)`` as text, one line for each operation.

    ``optimizer`` is one of `OPTIMIZERS`, ``batch`` the number of rows, ``device`` ``"cpu"`` or ``"cuda"``.

    >>> print(show([4, 3, 2], "sgd", 8, "float32", "cpu").splitlines()[-3])
    carry %37
    """
    network, rule, rng = mlp(*widths), OPTIMIZERS[optimizer], np.random.default_rng(0)
    step, recorder = TrainStep(network, SoftmaxCrossEntropy(), rule), _Recorder()
    epoch_loop.__wrapped__(recorder, step)
    params = tree_map(lambda w: w.astype(dtype), network.init(rng))
    state = step.init(np, params, network.init_state(rng))
    data = Batch(np.empty((batch, widths[0]), dtype), np.empty(batch, "int32"), ABSENT)
    rates = tree_map(lambda rate: np.full(1, rate, dtype), rule.rates(0.1, 1))
    items = Item(np.empty((1, batch), "int32"), rates, ABSENT)
    return report(recorder.body, state, data, items, device)

"""Launches of a training step on CUDA, counted without a device: ``python -m benchmarks launches``.

Every row is the step of one network, loss and optimizer: the kernels that the compiler generates and the products
that cuBLAS computes. Nothing in a step waits for the device.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mlp_xp.data.feed import Batch, gather
from mlp_xp.nn.layers import (
    GELU,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Identity,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Rescale,
    Sigmoid,
    Softplus,
    Tanh,
)
from mlp_xp.nn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Poisson,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, RMSprop
from mlp_xp.nn.schedules import LossRatio
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends.compiler.program import Program
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cuda.emit import emit
from mlp_xp_backends.trees import ABSENT, tree_map

IN, HIDDEN, OUT, BATCH = 784, 128, 10, 128

LAYERS = {
    "ReLU": (ReLU(),),
    "Identity": (Identity(),),
    "LeakyReLU": (LeakyReLU(),),
    "Sigmoid": (Sigmoid(),),
    "Tanh": (Tanh(),),
    "Softplus": (Softplus(),),
    "GELU": (GELU(),),
    "layer norm": (LayerNorm(HIDDEN), ReLU()),
    "batch norm": (BatchNorm(HIDDEN), ReLU()),
    "dropout": (ReLU(), Dropout(0.5)),
    "layer norm and dropout": (LayerNorm(HIDDEN), ReLU(), Dropout(0.5)),
}
FIRST = {"bytes, rescaled": Rescale(scale=1 / 255), "50,000 words": Embedding(50_000, 64, ids_per_row=3)}
LOSSES = (
    SoftmaxCrossEntropy(), BinaryCrossEntropy(), SquaredError(), Poisson(), AbsoluteError(), Huber(), Quantile()
)  # fmt: skip
OPTIMIZERS = {
    "SGD": SGD(0.1),
    "SGD, momentum": SGD(0.1, momentum=0.9),
    "SGD, Nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": RMSprop(),
    "Adam": Adam(),
    "AdamW": AdamW(),
    "SGD, LossRatio": SGD(LossRatio(0.1)),
}


def network(*hidden: Any) -> Chain:
    """A perceptron with one hidden layer, 784-128-10."""
    return Chain(Dense(IN, HIDDEN), *hidden, Dense(HIDDEN, OUT))


def steps() -> Iterator[tuple[str, TrainStep]]:
    """The rows of the table, by name."""
    plain = TrainStep(network(ReLU()), SoftmaxCrossEntropy(), Adam())
    for name, hidden in LAYERS.items():
        yield f"{name}, Adam", replace(plain, network=network(*hidden))
    for name, first in FIRST.items():
        yield f"{name}, Adam", replace(plain, network=_after(first))
    for loss in LOSSES:
        yield f"{type(loss).__name__}, Adam", replace(plain, loss=loss)
    for name, optimizer in OPTIMIZERS.items():
        yield name, replace(plain, optimizer=optimizer)
    yield "Adam, l2, clip_norm, max_norm", replace(plain, l2=1e-4, clip_norm=1.0, max_norm=3.0)
    yield "784-256-128-10, Adam", replace(plain, network=mlp(784, 256, 128, 10))


def _after(first: Any) -> Chain:
    width = first.width(IN if isinstance(first, Rescale) else first.ids_per_row)
    return Chain(first, Dense(width, HIDDEN), ReLU(), Dense(HIDDEN, OUT))


def recorded(step: TrainStep, weighted: bool = False, **sizes: int) -> Program:
    """Record the program that gathers a batch and takes ``step`` on it; ``sizes`` are the arguments of `arguments`."""
    return record(*arguments(step, weighted, **sizes))


def arguments(
    step: TrainStep, weighted: bool = False, batch: int = BATCH, n: int = 3, inputs: int = IN, outputs: int = OUT
) -> tuple[Any, ...]:
    """A loop's body and its arrays on the host: state, data, and the rows and rates of ``n`` steps."""
    rng = np.random.default_rng(0)
    rows = 2 * batch

    def body(xp: Any, state: Any, data: Batch, item: Any) -> Any:
        return step(xp, state, *gather(xp, data, item[0]), item[1])

    first, words = step.network.first, isinstance(step.network.first, Embedding)
    width = first.ids_per_row if isinstance(first, Embedding) else inputs
    high = first.n_ids if isinstance(first, Embedding) else 256
    takes_bytes = isinstance(first, Rescale)
    x = rng.integers(0, high, (rows, width), dtype=np.int32 if words else np.uint8)
    y = rng.integers(0, outputs, rows, dtype=np.int32)
    target = y if step.loss.target == "class" else rng.integers(0, 2, (rows, outputs)).astype(np.float32)
    w = rng.uniform(0.5, 1.5, rows).astype(np.float32) if weighted else ABSENT
    data = Batch(x if words or takes_bytes else (x / np.float32(256)).astype(np.float32), target, w)
    rates = tree_map(lambda *r: np.array(r, np.float32), *(step.optimizer.rates(0.01, t + 1) for t in range(n)))
    state = step.init(np, _cast(step.network.init(rng)), _cast(step.network.init_state(rng)))
    return body, state, data, (rng.integers(0, rows, (n, batch), dtype=np.int32), rates)


def _cast(tree: Any) -> Any:
    return tree_map(lambda a: a.astype(np.float32) if a.dtype.kind == "f" else a, tree)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m benchmarks launches", description=__doc__).parse_args()
    print(f"launches of a step of 784-128-10 at batch {BATCH}\n")
    print(f"{'step':36}{'kernels':>8}{'products':>9}{'together':>9}")
    for name, step in steps():
        emitted = emit(recorded(step))
        print(f"{name:36}{emitted.launches - emitted.products:8}{emitted.products:9}{emitted.launches:9}")


if __name__ == "__main__":
    main()

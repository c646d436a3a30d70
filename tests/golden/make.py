"""Writes a golden file for every class that lacks one: ``python tests/golden/make.py``, from the root of the project.

A golden file stays as it is for as long as its format is supported: it shows that files of the past can be read. Every
field of a case has another value than its default. A model stores inputs and outputs in its ``extra``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp.files.checkpoints import write_snapshot
from mlp_xp.files.generators import KINDS
from mlp_xp.files.models import SavedModel, write_model
from mlp_xp.files.snapshot import Best, Plan, Snapshot
from mlp_xp.nn import initializers, layers, losses, optimizers, schedules
from mlp_xp.nn.layers import Chain, Dense
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends.trees import tree_map

FOLDER = Path(__file__).parent
HEAD = Dense(3, 2, init_W=initializers.LeCun(distribution="uniform"), init_b=initializers.Constant(0.25))
SQUARES = losses.SquaredError(reduction="sum")

LAYERS: dict[str, Any] = {
    "BatchNorm": layers.BatchNorm(3, momentum=0.2, eps=1e-3),
    "Chain": Chain(layers.Tanh(), Chain(layers.ReLU(), layers.Identity())),
    "Dense": Dense(3, 3, bias=False, init_W=initializers.He(), init_b=initializers.Constant(0.5)),
    "Dropout": layers.Dropout(0.25),
    "Embedding": layers.Embedding(
        5, 3, ids_per_row=2, combine="sum", init_E=initializers.Normal(std=0.5, mean=0.125)
    ),
    "GELU": layers.GELU(),
    "Identity": layers.Identity(),
    "LayerNorm": layers.LayerNorm(3, eps=1e-3),
    "LeakyReLU": layers.LeakyReLU(slope=0.2),
    "ReLU": layers.ReLU(),
    "Rescale": layers.Rescale(shift=1.0, scale=0.5),
    "Sigmoid": layers.Sigmoid(),
    "Softplus": layers.Softplus(),
    "Tanh": layers.Tanh(),
}  # fmt: skip
INITIALIZERS: dict[str, Any] = {
    "Constant": initializers.Constant(0.5),
    "Glorot": initializers.Glorot(distribution="normal"),
    "He": initializers.He(distribution="uniform"),
    "LeCun": initializers.LeCun(distribution="uniform"),
    "Normal": initializers.Normal(std=0.5, mean=0.25),
    "Uniform": initializers.Uniform(low=-0.5, high=0.25),
}
LOSSES: dict[str, Any] = {
    "AbsoluteError": losses.AbsoluteError(reduction="sum"),
    "BinaryCrossEntropy": losses.BinaryCrossEntropy(reduction="sum"),
    "Huber": losses.Huber(reduction="sum", delta=0.5),
    "Poisson": losses.Poisson(reduction="sum"),
    "Quantile": losses.Quantile(reduction="sum", q=0.25),
    "SoftmaxCrossEntropy": losses.SoftmaxCrossEntropy(reduction="sum"),
    "SquaredError": SQUARES,
}
OPTIMIZERS: dict[str, Any] = {
    "Adam": optimizers.Adam(0.01, b1=0.8, b2=0.99, eps=1e-6, eps_hat=True),
    "AdamW": optimizers.AdamW(0.01, b1=0.8, b2=0.99, eps=1e-6, weight_decay=0.1),
    "RMSprop": optimizers.RMSprop(0.01, decay=0.9, eps=1e-6),
    "SGD": optimizers.SGD(0.02, momentum=0.5, nesterov=True),
}
SCHEDULES: dict[str, Any] = {
    "ConstantRate": schedules.ConstantRate(0.02),
    "Cosine": schedules.Cosine(0.02, end=0.01),
    "ExponentialDecay": schedules.ExponentialDecay(0.02, decay=0.5),
    "InverseScaling": schedules.InverseScaling(0.02, power=0.25),
    "LossRatio": schedules.LossRatio(0.02, window=2),
    "OneCycle": schedules.OneCycle(0.02, warmup=0.5, start=10.0, end=100.0),
    "ReduceOnPlateau": schedules.ReduceOnPlateau(0.02, factor=0.5, patience=3, threshold=0.01),
    "StepDecay": schedules.StepDecay(0.02, every=2, factor=0.5),
}


def network(layer: Any) -> Chain:
    """A network that contains ``layer`` and has parameters."""
    return Chain(layer, HEAD)


def step(optimizer: Any, **options: Any) -> TrainStep:
    """A training step with this optimizer."""
    return TrainStep(Chain(HEAD, layers.BatchNorm(2)), SQUARES, optimizer, **options)


def steps() -> dict[str, TrainStep]:
    """The step of every checkpoint, by name."""
    return (
        {name: step(optimizer) for name, optimizer in OPTIMIZERS.items()}
        | {name: step(optimizers.SGD(schedule)) for name, schedule in SCHEDULES.items()}
        | {f"generator.{name}": step(optimizers.SGD(0.1)) for name in KINDS}
        | {"TrainStep": step(optimizers.SGD(0.1), l2=0.01, clip_norm=1.0, max_norm=2.0, frozen=(0,))}
    )


def networks() -> dict[str, tuple[Chain, Any]]:
    """The network and the loss of every model, by name."""
    return (
        {name: (network(layer), SQUARES) for name, layer in LAYERS.items()}
        | {name: (Chain(Dense(3, 2, init_W=init, init_b=init)), SQUARES) for name, init in INITIALIZERS.items()}
        | {name: (Chain(HEAD), loss) for name, loss in LOSSES.items()}
    )


def model(net: Chain, loss: Any, dtype: str = "float64") -> SavedModel:
    """A model with an input and its output in ``extra``."""
    rng = np.random.default_rng(0)
    params, state = tree_map(lambda a: _cast(a, dtype), (net.init(rng), net.init_state(rng)))
    x = np.array([[0, 4], [2, 2]]) if net.first.takes == "ids" else np.arange(6.0).reshape(2, 3)
    y, _, _ = net.forward(np, params, state, x, False)
    return SavedModel(net, loss, params, state, {"x": x.tolist(), "y": y.tolist()}, dtype)


def snapshot(train: TrainStep, kind: str = "PCG64", dtype: str = "float32") -> Snapshot:
    """A run in its third epoch, after two steps with gradients of one."""
    bits = KINDS[kind](3)
    np.random.Generator(bits).random(3)
    rng = np.random.default_rng(1)
    params, layers_ = tree_map(lambda a: _cast(a, dtype), (train.network.init(rng), train.network.init_state(rng)))
    first = train.init(np, params, layers_)
    state = tree_map(lambda a: np.asarray(a + rng.random(a.shape), a.dtype), first)
    history = [
        {"epoch": 1, "loss": 0.75, "lr": 0.02, "seconds": 0.5},
        {"epoch": 2, "loss": 0.5, "lr": 0.02, "seconds": 0.25, "valid_loss": 0.625},
    ]
    return Snapshot(
        step=train,
        dtype=dtype,
        state=state,
        history=history,
        generator=bits.state,
        plan=Plan(max_epochs=5, batch_size=4, shuffle=True, rows=18),
        position=2,
        losses=np.array([0.5, 0.25], dtype),
        updates=12,
        samples=36,
        best=Best(2, 0.625, "valid_loss", "min", state.params, state.layers),
        stopped=True,
        class_weight={0: 0.5, 1: 2.0},
    )


def _cast(a: np.ndarray, dtype: str) -> np.ndarray:
    return a.astype(dtype) if a.dtype.kind == "f" else a


def main() -> None:
    """Write the missing files."""
    for name, (net, loss) in networks().items():
        if not (path := FOLDER / f"{name}.safetensors").exists():
            write_model(path, model(net, loss))
    for name, train in steps().items():
        if not (path := FOLDER / f"{name}.safetensors").exists():
            write_snapshot(path, snapshot(train, name.partition(".")[2] or "PCG64"))


if __name__ == "__main__":
    main()

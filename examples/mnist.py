"""Handwritten digits: a network with one hidden layer reads MNIST, 98 % right after a few seconds.

    python examples/mnist.py                                  # 784-300-10 on whatever device there is
    python examples/mnist.py --out pictures                   # curves, confusion matrix, sheet of mistakes
    python examples/mnist.py --hidden 512 512 --dropout 0.2 --epochs 12
    python examples/mnist.py --save run.safetensors           # then, killed or not:
    python examples/mnist.py --resume run.safetensors --epochs 8

Where MNIST cannot be had, it reads the small digits that scikit-learn carries, and says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import plots
from common import (
    Run,
    add_run_options,
    measured,
    new_parser,
    percent,
    positive_float,
    positive_int,
    say,
    share,
    tell,
)
from example_data import Dataset, load_handwritten
from mlp_xp import SGD, Adam, AdamW, Checkpoint, Progress, Rescale, RMSprop, Trainer, mlp, schedules
from mlp_xp.nn.networks import ACTIVATIONS

EPOCHS_AND_BATCH = {"mnist": (4, 256), "digits": (40, 32)}
OPTIMIZERS: dict[str, tuple[Any, float]] = {  # and the rate that suits a one-cycle schedule
    "adam": (Adam, 0.01),
    "adamw": (AdamW, 0.01),
    "rmsprop": (RMSprop, 0.002),
    "sgd": (SGD, 0.5),
    "momentum": (lambda lr: SGD(lr, momentum=0.9), 0.1),
    "nesterov": (lambda lr: SGD(lr, momentum=0.9, nesterov=True), 0.1),
}
SCHEDULES: dict[str, Any] = {
    "onecycle": schedules.OneCycle,
    "constant": schedules.ConstantRate,
    "step": lambda lr: schedules.StepDecay(lr, every=2, factor=0.3),
    "exponential": lambda lr: schedules.ExponentialDecay(lr, decay=0.7),
    "invscaling": schedules.InverseScaling,
    "cosine": schedules.Cosine,
    "plateau": lambda lr: schedules.ReduceOnPlateau(lr, patience=1),
    "lossratio": schedules.LossRatio,
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--hidden", type=positive_int, nargs="+", default=[300], metavar="N", help="units of each hidden layer")
    add("--activation", choices=ACTIVATIONS, default="relu", help="of the hidden layers")
    add("--dropout", type=share, default=0.0, metavar="P", help="share of hidden units dropped in training")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="what follows the gradient")
    add("--lr", type=positive_float, metavar="X", help="highest learning rate (else one that suits the optimizer)")
    add("--schedule", choices=SCHEDULES, default="onecycle", help="how the rate changes")
    add("--batch-size", type=positive_int, metavar="N", help="rows of a step (else 256; 32 on the small digits)")
    add("--dataset", choices=("auto", "mnist", "digits"), default="auto", help="auto is MNIST if it can be had")
    add("--save", type=Path, metavar="FILE", help="write a checkpoint after each epoch; mlp_xp.load reads the model")
    add("--resume", type=Path, metavar="FILE", help="go on with the network and the run of this checkpoint")
    add_run_options(parser)
    return parser


def new_trainer(run: Run, data: Dataset) -> Trainer:
    """The network of the options, not yet trained; pixels enter as bytes and are scaled batch by batch."""
    options = run.options
    optimizer, lr = OPTIMIZERS[options.optimizer]
    options.lr = options.lr or lr
    network = mlp(
        data.train.x.shape[1],
        *options.hidden,
        len(data.classes),
        activation=options.activation,
        dropout=options.dropout,
        first=Rescale(scale=1 / 255),
    )
    optimizer = optimizer(SCHEDULES[options.schedule](options.lr))
    return Trainer(network, optimizer=optimizer, device=run.backend, dtype=options.dtype, seed=options.seed)


def story(run: Run) -> None:
    """Load, train, measure, draw."""
    options = run.options
    with run.timed("load"):
        data = load_handwritten(options.dataset, np.random.default_rng(0), options.data_dir)  # the same parts always
    say(data.source)
    epochs, batch_size = EPOCHS_AND_BATCH[data.name]
    options.epochs = options.epochs or epochs
    options.batch_size = options.batch_size or batch_size

    trainer = Trainer.resume(options.resume, run.backend) if options.resume else new_trainer(run, data)
    with run.timed("train"):
        trainer.fit(
            *data.train,
            max_epochs=options.epochs,
            batch_size=options.batch_size,
            validation_data={"test": data.test},  # to draw the curves: nothing is chosen by it
            callbacks=[Progress(), *([Checkpoint(options.save)] if options.save else [])],
        )

    test = trainer.evaluate(*data.test)
    run.epochs = trainer.history
    run.result = {"dataset": data.name, **measured("test", test)}
    say(f"test accuracy {percent(test['accuracy'])}, test loss {test['loss']:.4f}")
    if options.out:
        draw(run, data, trainer.predict_proba(data.test.x))


def draw(run: Run, data: Dataset, p: np.ndarray[Any, Any]) -> None:
    """The three figures; ``p`` are the probabilities on the test part, (rows, 10)."""
    title = f"{data.name}: {percent(run.result['test_accuracy'])} of {len(data.test.y):,} test pictures right"
    if run.epochs:
        run.draw(f"{data.name}-curves.png", plots.curves, run.epochs)
    run.draw(f"{data.name}-confusion.png", plots.confusion_matrix, data.test.y, p.argmax(axis=1), data.classes, title)
    run.draw(f"{data.name}-mistakes.png", plots.mistakes, *data.test, data.shape, p, data.classes, title)


if __name__ == "__main__":
    sys.exit(tell(story, parser()))

"""Handwritten digits: a network with one hidden layer classifies MNIST, 98 % correct within seconds.

    python examples/mnist.py                                  # 784-300-10 on the fastest device of this machine
    python examples/mnist.py --out figures                   # curves, confusion matrix, sheet of mistakes
    python examples/mnist.py --hidden 512 512 --dropout 0.2 --epochs 12
    python examples/mnist.py --checkpoint run.safetensors     # after each epoch; if the run is killed:
    python examples/mnist.py --resume run.safetensors
    mpiexec -n 4 python -m mpi4py examples/mnist.py --group mpi    # on four processes, with the same result

Of the training images, 55,000 train the network and 5,000 (drawn at random, always the same) choose the best epoch.
The test set is evaluated once, at the end.

Data: MNIST from --data-dir, ``$MLP_XP_DATA/mnist`` or the cache, else downloaded (11 MB); if that fails, the 1,797
digits of 8 x 8 pixels that scikit-learn includes, and the first line of the output says so.

Time: about 3 seconds on two cores, 2 with the small digits.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

import mlp_xp
from example_data import Dataset, Split, load_handwritten, split
from example_tools import class_plots, plots
from example_tools.options import (
    add_model_options,
    add_run_options,
    new_parser,
    positive_float,
    positive_int,
    share,
)
from example_tools.run import Run, measured, percent, run_example
from mlp_xp import SGD, Adam, AdamW, Checkpoint, EarlyStopping, Model, Progress, Rescale, RMSprop, Trainer, mlp
from mlp_xp.nn import schedules
from mlp_xp.nn.networks import ACTIVATIONS
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import get_group

EPOCHS_AND_BATCH = {"mnist": (4, 256), "digits": (40, 32)}
OPTIMIZERS: dict[str, tuple[Any, float]] = {  # with the highest rate of its one-cycle schedule
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


IN_THE_CHECKPOINT = ("hidden", "activation", "dropout", "optimizer", "lr", "schedule", "dtype", "seed")


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--hidden", type=positive_int, nargs="+", default=[300], metavar="N", help="units of each hidden layer")
    add("--activation", choices=ACTIVATIONS, default="relu", help="activation of the hidden layers")
    add("--dropout", type=share, default=0.0, metavar="P", help="fraction of hidden units dropped in training")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="update rule")
    add("--lr", type=positive_float, metavar="X", help="highest learning rate (default: one that suits the optimizer)")
    add("--schedule", choices=SCHEDULES, default="onecycle", help="schedule of the learning rate")
    add("--batch-size", type=positive_int, metavar="N", help="rows per step (default: 256, or 32 on the small digits)")
    add("--dataset", choices=("auto", "mnist", "digits"), default="auto", help="auto: MNIST if it is available")
    add_model_options(parser)
    add("--checkpoint", type=Path, metavar="FILE", help="write the state of the run after each epoch")
    add("--group", choices=("mpi", "nccl", "torch"), help="train on all processes of this kind of launcher")
    add("--resume", type=Path, metavar="FILE", help="continue the run of this checkpoint with its network")
    add_run_options(parser)
    return parser


def main(run: Run) -> None:
    """Load, train or load a model, evaluate, draw."""
    options = run.options
    if options.resume:
        check_resume(run)
    if get_group(options.group).rank > 0:  # rank 0 prints and writes
        sys.stdout = io.StringIO()
        options.out = options.save = options.json = None
    with run.timed("load"):
        rng = np.random.default_rng(0)  # the same parts for every seed
        data = load_handwritten(options.dataset, rng, options.data_dir)
        training, valid = split(data.train, (11, 1), rng)  # 55,000 and 5,000
    print(data.source)
    model = mlp_xp.load(options.load, device=run.backend) if options.load else train(run, data, training, valid)
    if options.save:
        model.save(options.save)

    test = model.evaluate(*data.test)
    run.result = {"dataset": data.name, **measured("valid", model.evaluate(*valid)), **measured("test", test)}
    print(f"test accuracy {percent(test['accuracy'])}, test loss {test['loss']:.4f}")
    if options.out:
        draw(run, data, model.predict_proba(data.test.x))


def check_resume(run: Run) -> None:
    """Refuse options whose values are stored in the checkpoint."""
    given = [f"--{name.replace('_', '-')}" for name in IN_THE_CHECKPOINT if name in run.given]
    if given:
        raise ValueError(f"--resume takes {', '.join(given)} from the checkpoint: omit {'them' if given[1:] else 'it'}")
    vars(run.options).update(dict.fromkeys(IN_THE_CHECKPOINT))


def train(run: Run, data: Dataset, training: Split, valid: Split) -> Model:
    """Train, and return the model of the epoch with the lowest validation loss."""
    options = run.options
    epochs, batch_size = EPOCHS_AND_BATCH[data.name]
    options.epochs = options.epochs or epochs
    options.batch_size = options.batch_size or batch_size
    device = options.device if options.group else run.backend  # with a group, each rank has a GPU of its own
    if options.resume:
        trainer = Trainer.resume(options.resume, device=device, group=options.group)
    else:
        trainer = new_trainer(run, data, device)
    sample = len(valid.y)  # training rows whose accuracy is measured after each epoch
    with run.timed("train"):
        trainer.fit(
            *training,
            max_epochs=options.epochs,
            batch_size=options.batch_size,
            validation_data={"train": (training.x[:sample], training.y[:sample]), "valid": valid},
            early_stopping=EarlyStopping(patience=options.epochs),  # never stops early, restores the best epoch
            callbacks=[Progress(), *([Checkpoint(options.checkpoint)] if options.checkpoint else [])],
        )
    run.epochs = list(trainer.history)
    return trainer.model


def new_trainer(run: Run, data: Dataset, device: str | Backend) -> Trainer:
    """Return a trainer of the network of the options; pixels enter as bytes and are scaled batch by batch."""
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
    return Trainer(
        network, optimizer=optimizer, device=device, group=options.group, dtype=options.dtype, seed=options.seed
    )


def draw(run: Run, data: Dataset, p: np.ndarray[Any, Any]) -> None:
    """Draw the three figures; ``p`` (rows, 10) are the probabilities on the test part."""
    name = {"mnist": "MNIST", "digits": "8 x 8 digits"}[data.name]
    title = f"{name}: {percent(run.result['test_accuracy'])} of {len(data.test.y):,} test images correct"
    if run.epochs:
        run.draw("mnist-curves.png", plots.curves, run.epochs, title)
    predicted = p.argmax(axis=1)
    run.draw("mnist-confusion.png", class_plots.confusion_matrix, data.test.y, predicted, data.classes, title)
    run.draw("mnist-mistakes.png", class_plots.mistakes, *data.test, data.shape, p, data.classes, title)


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

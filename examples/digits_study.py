"""A study of the learning rate: 784-300-10 on MNIST, trained on single images and on mini-batches.

    python examples/digits_study.py --out figures            # Adam on mini-batches
    python examples/digits_study.py --recipe published        # SGD, one image per step
    python examples/digits_study.py --rates 0.03 --seeds 1    # one rate, one run

55,000 of the training images train the network, 5,000 choose the rate, and the test set is evaluated once, at the end.

The published report does not state the initial weights and the scale of the pixels. With weights from N(0, 1) and
pixels from 0 to 1, the loss-ratio rate reaches the published losses. With Glorot's weights and pixels from 0 to 2, the
table of rates resembles the published one: best at 0.03 or 0.01, worst at 0.0001.

Data: MNIST from --data-dir, ``$MLP_XP_DATA/mnist`` or the cache, else downloaded (11 MB); if that fails, the 1,797
digits of 8 x 8 pixels that scikit-learn includes, and the first line of the output says so.

Time: 1 to 2 minutes on two cores, 5 for the published recipe; a third of that with ``--rates 0.03 --seeds 1``.

Source: published in a course report ("Implementing MLP using NumPy", 2022).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import mlp_xp
from example_data import Dataset, load_handwritten, split
from example_tools import plots
from example_tools.options import (
    add_model_options,
    add_recipe_option,
    add_run_options,
    new_parser,
    positive_float,
    positive_int,
)
from example_tools.run import Run, measured, percent, run_example
from example_tools.seeds import print_spread, spread_of
from mlp_xp import SGD, Adam, Model, Normal, Progress, Rescale, Trainer, mlp
from mlp_xp.nn.optimizers import Optimizer
from mlp_xp.nn.schedules import LossRatio, OneCycle

RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
PUBLISHED_ACCURACY = 0.9632  # on the validation part, after 5 epochs at rate 0.03
PUBLISHED_LOSSES = (0.6391, 0.2785, 0.2107, 0.1840, 0.1644)  # mean over each epoch, loss-ratio rate
History = list[dict[str, Any]]


class Way(NamedTuple):
    """A way to train the network at a given rate."""

    name: str
    optimizer: Callable[[float], Optimizer]
    batch_size: int
    scale: float = 2 / 255  # of the pixels
    init: Normal | None = None
    l2: float = 0.0

    def at(self, rate: float) -> str:
        """The name with the rate."""
        return f"{self.name}, rate {rate:g}"


SINGLE = Way("SGD, single images", SGD, 1)
BATCHES = Way("SGD, batches of 50", SGD, 50)
RATIO = Way("SGD, single images, loss ratio", lambda lr: SGD(LossRatio(lr, window=1000)), 1, 1 / 255, Normal(std=1.0))
ADAM = Way("Adam, one cycle, batches of 128", lambda lr: Adam(OneCycle(lr)), 128, l2=1e-4)


class Attempt(NamedTuple):
    """The result of training in one way at one rate."""

    model: Model
    history: History


class Study:
    """Trains the network in several ways and keeps the results, so that each training runs once."""

    def __init__(self, run: Run, data: Dataset) -> None:
        self.run, self.data = run, data
        self.train, self.valid = split(data.train, (11, 1), np.random.default_rng(0))  # 55,000 and 5,000
        self.known: dict[tuple[Way, float, int], Attempt] = {}
        self.widths = data.train.x.shape[1], 300, len(data.classes)
        self.name = f"{'MNIST' if data.name == 'mnist' else 'small digits'}, {'-'.join(map(str, self.widths))}"

    def attempt(self, way: Way, rate: float, repeat: int = 0) -> Attempt:
        """Train the network in this way, with the seed --seed + ``repeat``."""
        key = way, rate, repeat
        if key not in self.known:
            self.known[key] = self._train(*key)
        return self.known[key]

    def _train(self, way: Way, rate: float, repeat: int) -> Attempt:
        options = self.run.options
        print(way.at(rate) + (f", seed {options.seed + repeat}" if repeat else ""))
        trainer = Trainer(
            mlp(*self.widths, activation="sigmoid", init=way.init, first=Rescale(scale=way.scale)),
            optimizer=way.optimizer(rate),
            device=self.run.backend,
            dtype=options.dtype,
            seed=options.seed + repeat,
            l2=way.l2,
        )
        with self.run.timed("train"):
            trainer.fit(
                *self.train,
                max_epochs=options.epochs,
                batch_size=way.batch_size,
                validation_data={"valid": self.valid, "train": self.train},
                callbacks=[Progress()],
            )
        if trainer.interrupted:
            raise KeyboardInterrupt
        return Attempt(trainer.model, list(trainer.history))


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add_recipe_option(parser)
    add = parser.add_argument
    add("--rates", type=positive_float, nargs="+", default=RATES, metavar="X", help="learning rates to try")
    add("--dataset", choices=("auto", "mnist", "digits"), default="auto", help="auto: MNIST if it is available")
    add_model_options(parser)
    add("--seeds", type=positive_int, default=3, dest="runs", metavar="N", help="runs at the chosen rate")
    add_run_options(parser, repeat=False)
    return parser


def main(run: Run) -> None:
    """Try the rates, repeat the best one, compare the ways of training, and test."""
    options = run.options
    with run.timed("load"):
        data = load_handwritten(options.dataset, np.random.default_rng(0), options.data_dir)
    print(data.source)
    study = Study(run, data)
    run.result["recipe"] = options.recipe
    model = mlp_xp.load(options.load, device=run.backend) if options.load else learn(study)

    valid, test = model.evaluate(*study.valid), model.evaluate(*data.test)
    run.result |= {**measured("valid", valid), **measured("test", test)}
    print(f"validation accuracy {percent(valid['accuracy'])}, test accuracy {percent(test['accuracy'])}")
    if options.recipe == "published" and data.name == "mnist":
        print(
            f"published: validation accuracy {percent(PUBLISHED_ACCURACY)} after 5 epochs at rate 0.03 (report, 2022)"
        )
    if options.save:
        model.save(options.save)


def learn(study: Study) -> Model:
    """Run the study; return the model of the first run at the chosen rate."""
    run, options = study.run, study.run.options
    published = options.recipe == "published"
    way = SINGLE if published else ADAM
    options.epochs = options.epochs or (5 if published else 8)

    rate = choose_rate(study, way)
    runs = [study.attempt(way, rate, repeat) for repeat in range(options.runs)]
    run.epochs = runs[0].history
    measured_losses = [{key: x for key, x in record.items() if key != "loss"} for record in run.epochs]  # without L2
    run.draw("digits_study-curves.png", plots.curves, measured_losses, way.at(rate))
    if len(runs) > 1:
        repeat(study, runs, f"{way.at(rate)}: {len(runs)} seeds, median and range")
    compare(study, [(SINGLE, 0.03), (RATIO, 0.1), (BATCHES, 0.5)] if published else [(BATCHES, 0.5), (ADAM, rate)])
    if published and study.data.name == "mnist":
        compare_with_published(study)
    return runs[0].model


def choose_rate(study: Study, way: Way) -> float:
    """Return the rate with the highest validation accuracy, and print a table of all rates."""
    run = study.run
    rates = sorted(set(run.options.rates), reverse=True)
    attempts = [study.attempt(way, rate) for rate in rates]
    print(f"\n{way.name}, {run.options.epochs} epochs:\n")
    print(f"{'rate':>8}{'train loss':>12}{'valid loss':>12}{'valid acc.':>12}")
    table = []
    for rate, attempt in zip(rates, attempts, strict=True):
        last = {key: attempt.history[-1][key] for key in ("train_loss", "valid_loss", "valid_accuracy")}
        table.append({"rate": rate, **last})
        print(f"{rate:8g}{last['train_loss']:12.4f}{last['valid_loss']:12.4f}{percent(last['valid_accuracy']):>12}")
    best: float = max(table, key=lambda row: row["valid_accuracy"])["rate"]
    print(f"\nbest at rate {best:g}\n")
    run.result |= {"way": way.name, "rates": table, "chosen_rate": best}
    series = {
        f"after epoch {epoch}": plots.Line(rates, [100 * a.history[epoch - 1]["valid_accuracy"] for a in attempts])
        for epoch in sorted({1, run.options.epochs})
    }
    labels = "learning rate", "validation accuracy (%)"
    run.draw("digits_study-rates.png", plots.lines, series, *labels, f"{study.name}: {way.name}", xlog=True)
    return best


def repeat(study: Study, runs: list[Attempt], title: str) -> None:
    """Draw median and range of each epoch's accuracy over the seeds."""
    series, last = {}, {}
    for name, part in (("training", "train"), ("validation", "valid")):
        values = np.array([[record[f"{part}_accuracy"] for record in attempt.history] for attempt in runs])
        last[f"{part}_accuracy"] = spread_of(values[:, -1].tolist())
        low, middle, high = (100 * f(values, axis=0) for f in (np.min, np.median, np.max))
        series[name] = plots.Line(np.arange(1, len(middle) + 1), middle, low, high)
    last["test_accuracy"] = spread_of([a.model.evaluate(*study.data.test)["accuracy"] for a in runs])
    study.run.result["seeds"] = last
    print_spread(last, len(runs))
    study.run.draw("digits_study-seeds.png", plots.lines, series, "epoch", "accuracy (%)", title)


def compare(study: Study, ways: list[tuple[Way, float]]) -> None:
    """Compare the training loss of several ways after each epoch: the cross-entropy without L2 for all."""
    series = {}
    for way, rate in ways:
        history = study.attempt(way, rate).history
        losses = [record["train_loss"] for record in history]
        series[way.at(rate)] = plots.Line(np.arange(1, len(losses) + 1), losses)
    label = "training cross-entropy (nats)"
    study.run.draw("digits_study-losses.png", plots.lines, series, "epoch", label, study.name, ylog=True)


def compare_with_published(study: Study) -> None:
    """Print the losses of the loss-ratio rate beside the published ones."""
    losses = [record["loss"] for record in study.attempt(RATIO, 0.1).history]
    study.run.result["loss_ratio"] = {"losses": losses, "published": PUBLISHED_LOSSES}
    print("loss-ratio rate, mean loss of each epoch: " + ", ".join(f"{loss:.4f}" for loss in losses))
    print("                              published: " + ", ".join(f"{loss:.4f}" for loss in PUBLISHED_LOSSES) + "\n")


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

"""A study of the learning rate: 784-300-10 on MNIST, from single pictures and from mini-batches.

    python examples/digits_study.py --out pictures            # Adam on mini-batches, one or two minutes
    python examples/digits_study.py --recipe published        # SGD on one picture at a time: ten minutes
    python examples/digits_study.py --rates 0.03 --runs 1     # one rate, one run

55,000 of the training pictures are learned, 5,000 choose the rate, and the test pictures are looked at once: at the
end.

The published tables do not tell how weights began and pixels were scaled. With weights from N(0, 1) and pixels from
0 to 1 the loss-ratio rate gives the published losses. With Glorot's weights and pixels from 0 to 2 the table of rates
looks as published: best at 0.03 or 0.01, worst at 0.0001.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import plots
from common import (
    Run,
    add_model_options,
    add_recipe_option,
    add_run_options,
    measured,
    new_parser,
    percent,
    positive_float,
    positive_int,
    say,
    tell,
)
from example_data import Dataset, load_handwritten, split
from mlp_xp import SGD, Adam, Callback, Model, Normal, Progress, Rescale, Trainer, load, mlp
from mlp_xp.nn.optimizers import Optimizer
from mlp_xp.nn.schedules import LossRatio, OneCycle
from mlp_xp.training.trainer import Record

RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
PUBLISHED_ACCURACY = 0.9632  # on the validation part, after 5 epochs at rate 0.03
PUBLISHED_RATIO = (0.6391, 0.2785, 0.2107, 0.1840, 0.1644)  # mean losses with the loss-ratio rate


class Way(NamedTuple):
    """A way to train at a given rate."""

    name: str
    optimizer: Callable[[float], Optimizer]
    batch_size: int
    scale: float = 2 / 255  # of the pixels
    init: Normal | None = None
    l2: float = 0.0

    def at(self, rate: float) -> str:
        """Its name with the rate."""
        return f"{self.name}, rate {rate:g}"


ONE = Way("SGD, one picture a step", SGD, 1)
MINI = Way("SGD, mini-batches of 50", SGD, 50)
RATIO = Way(
    "SGD, one picture a step, loss ratio", lambda lr: SGD(LossRatio(lr, window=1000)), 1, 1 / 255, Normal(std=1.0)
)
ADAM = Way("Adam with L2, one cycle, mini-batches of 128", lambda lr: Adam(OneCycle(lr)), 128, l2=1e-4)


class Attempt(NamedTuple):
    """What came of a way at a rate."""

    model: Model
    history: list[Record]
    losses: plots.Numbers  # (steps,) of all epochs


class StepLosses(Callback):
    """Keeps the loss of every step; they stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def chunk(self, trainer: Trainer) -> None:
        """Take those of the steps just done."""
        self.parts.append(trainer.progress.losses[-1])


class Study:
    """Trains the network in several ways, none of them twice."""

    def __init__(self, run: Run, data: Dataset) -> None:
        self.run, self.data = run, data
        rng = np.random.default_rng(0)  # the same parts always
        self.train, self.valid = split(data.train, (11, 1), rng)  # 55,000 and 5,000
        self.known: dict[tuple[Way, float, int, int], Attempt] = {}

    def attempt(self, way: Way, rate: float, epochs: int, repeat: int = 0) -> Attempt:
        """Train in this way; ``repeat`` changes the seed."""
        key = (way, rate, epochs, repeat)
        if key not in self.known:
            self.known[key] = self._train(way, rate, epochs, repeat)
        return self.known[key]

    def _train(self, way: Way, rate: float, epochs: int, repeat: int) -> Attempt:
        options, steps = self.run.options, StepLosses()
        say(way.at(rate) + (f", repeat {repeat}" if repeat else ""))
        widths = (self.data.train.x.shape[1], 300, len(self.data.classes))
        trainer = Trainer(
            mlp(*widths, activation="sigmoid", init=way.init, first=Rescale(scale=way.scale)),
            optimizer=way.optimizer(rate),
            device=self.run.backend,
            dtype=options.dtype,
            seed=options.seed + repeat,
            l2=way.l2,
        )
        with self.run.timed("train"):
            trainer.fit(
                *self.train,
                max_epochs=epochs,
                batch_size=way.batch_size,
                validation_data={"valid": self.valid, "train": self.train},
                callbacks=[steps, Progress()],
            )
        if trainer.interrupted:
            raise KeyboardInterrupt
        losses = np.concatenate([self.run.backend.to_numpy(part) for part in steps.parts])
        return Attempt(trainer.model, trainer.history, losses)

    def smooth(self, attempt: Attempt, batch_size: int) -> plots.Line:
        """The mean loss of every eleventh of an epoch, L2 counted in, against the epochs done."""
        rows = len(self.train.y)
        window = max(1, rows // 11 // batch_size)
        count = len(attempt.losses) // window
        means = attempt.losses[: count * window].reshape(count, window).mean(axis=1)
        return plots.Line(np.arange(1, count + 1) * window * batch_size / rows, means)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add_recipe_option(parser)
    add = parser.add_argument
    add("--rates", type=positive_float, nargs="+", default=RATES, metavar="X", help="learning rates to try")
    add("--runs", type=positive_int, default=3, metavar="N", help="runs at the chosen rate, with seeds of their own")
    add("--dataset", choices=("auto", "mnist", "digits"), default="auto", help="auto is MNIST if it can be had")
    add_model_options(parser)
    add_run_options(parser)
    return parser


def story(run: Run) -> None:
    """Try the rates, repeat the best, compare ways, test."""
    options = run.options
    with run.timed("load"):
        data = load_handwritten(options.dataset, np.random.default_rng(0), options.data_dir)
    say(data.source)
    study = Study(run, data)
    run.result["recipe"] = options.recipe
    best = load(options.load, run.backend) if options.load else learn(study)

    valid, test = best.evaluate(*study.valid), best.evaluate(*data.test)
    run.result |= {**measured("valid", valid), **measured("test", test)}
    if options.recipe == "published":
        say(f"published: validation accuracy {percent(PUBLISHED_ACCURACY)} after 5 epochs at rate 0.03")
    say(f"validation accuracy {percent(valid['accuracy'])}, test accuracy {percent(test['accuracy'])}")
    if options.save:
        best.save(options.save)


def learn(study: Study) -> Model:
    """The study itself; the model of the first run at the chosen rate."""
    run, options = study.run, study.run.options
    published = options.recipe == "published"
    way = ONE if published else ADAM
    options.epochs = options.epochs or (5 if published else 8)

    rate = choose_rate(study, way)
    runs = [study.attempt(way, rate, options.epochs, repeat) for repeat in range(options.runs)]
    run.epochs = runs[0].history
    axis = plots.CROSS_ENTROPY + (", with L2 while it learns" if way.l2 else "")
    run.draw("digits_study-curves.png", plots.curves, run.epochs, way.at(rate), axis)
    repeat(study, runs, f"{way.at(rate)}: {len(runs)} runs")
    compare(study, way, rate, options.epochs if published else 1)
    return runs[0].model


def choose_rate(study: Study, way: Way) -> float:
    """The rate with the highest accuracy on the validation part, from a table of all."""
    run = study.run
    rates = sorted(set(run.options.rates), reverse=True)
    attempts = [study.attempt(way, rate, run.options.epochs) for rate in rates]
    say(f"\n{way.name}, {run.options.epochs} epochs:\n")
    say(f"{'rate':>8}{'train loss':>12}{'valid loss':>12}{'valid acc.':>12}")
    table = []
    for rate, attempt in zip(rates, attempts, strict=True):
        last = {key: attempt.history[-1][key] for key in ("train_loss", "valid_loss", "valid_accuracy")}
        table.append({"rate": rate, **last})
        say(f"{rate:8g}{last['train_loss']:12.4f}{last['valid_loss']:12.4f}{percent(last['valid_accuracy']):>12}")
    best: float = max(table, key=lambda row: row["valid_accuracy"])["rate"]
    say(f"\nbest at rate {best:g}\n")
    run.result |= {"way": way.name, "rates": table, "chosen_rate": best}
    series = {
        f"after epoch {epoch}": plots.Line(rates, [100 * a.history[epoch - 1]["valid_accuracy"] for a in attempts])
        for epoch in sorted({1, run.options.epochs})
    }
    run.draw(
        "digits_study-rates.png", plots.lines, series, "learning rate", "validation accuracy (%)", way.name, xlog=True
    )
    return best


def repeat(study: Study, runs: list[Attempt], title: str) -> None:
    """Mean and standard deviation of each epoch's accuracy over the runs."""
    series = {}
    for name, part in (("training", "train"), ("validation", "valid")):
        values = np.array([[record[f"{part}_accuracy"] for record in attempt.history] for attempt in runs])
        mean, std = values.mean(axis=0), values.std(axis=0)
        study.run.result[f"{part}_accuracy_runs"] = {"mean": mean.tolist(), "std": std.tolist()}
        say(f"{name} accuracy of {len(runs)} runs: {percent(mean[-1])} +- {percent(std[-1])}")
        series[name] = plots.Line(np.arange(1, len(mean) + 1), 100 * mean, 100 * std)
    label = "accuracy (%), mean ± standard deviation"
    study.run.draw("digits_study-runs.png", plots.lines, series, "epoch", label, title)


def compare(study: Study, way: Way, rate: float, epochs: int) -> None:
    """The losses of several ways as they learn; those of one picture a step for ``epochs``."""
    run, series = study.run, {}
    tried = [
        (ONE, 0.03, epochs),
        (MINI, 0.5, run.options.epochs),
        (RATIO, 0.1, epochs),
        (way, rate, run.options.epochs),
    ]
    for other, lr, count in dict.fromkeys(tried):
        line = study.smooth(study.attempt(other, lr, count), other.batch_size)
        series[other.at(lr)] = line
    run.draw(
        "digits_study-losses.png",
        plots.lines,
        series,
        "epochs",
        "mean loss of the last pictures (nats, with L2)",
        ylog=True,
    )
    ratio = [record["loss"] for record in study.attempt(RATIO, 0.1, epochs).history]
    run.result["loss_ratio"] = {"losses": ratio, "published": PUBLISHED_RATIO}
    say("loss-ratio rate, mean loss of each epoch: " + ", ".join(f"{loss:.4f}" for loss in ratio))
    say("                              published: " + ", ".join(f"{loss:.4f}" for loss in PUBLISHED_RATIO) + "\n")


if __name__ == "__main__":
    sys.exit(tell(story, parser()))

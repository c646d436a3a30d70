"""Two moons: how a network bends the line between two classes.

    python examples/moons.py --out pictures                   # 2-100-100-2, ReLU, batch norm, Adam
    python examples/moons.py --recipe published --runs 20     # sigmoid, N(0, 1) weights, 50 steps on all points
    python examples/moons.py --hidden 100 --activation sigmoid --animate moons.gif

The moons touch a little: of the 1,500 test points that everybody is measured on, two lie on the wrong side of the best
line there is, which is the one that knows how the points were drawn. It gets 99.87 % right.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import plots
from common import (
    Run,
    add_model_options,
    add_recipe_option,
    add_run_options,
    measured,
    new_parser,
    percent,
    positive_int,
    say,
    tell,
)
from example_data import Dataset, Split, load_moons
from mlp_xp import SGD, Adam, Chain, Model, Normal, Progress, Trainer, load, mlp
from mlp_xp.nn.optimizers import Optimizer
from mlp_xp.nn.schedules import OneCycle
from mlp_xp.training.trainer import Record

FRAMES = 50  # of the animation, about


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add_recipe_option(parser)
    add = parser.add_argument
    add("--hidden", type=positive_int, nargs="+", default=[100, 100], metavar="N", help="units of each hidden layer")
    add("--activation", choices=("relu", "sigmoid", "tanh"), help="(else relu; sigmoid in the published recipe)")
    add("--points", type=positive_int, default=5000, metavar="N", help="points, 30 %% of them for the test")
    add("--runs", type=positive_int, default=1, metavar="N", help="train with as many seeds, from --seed on")
    add("--animate", type=Path, metavar="GIF", help="draw the decision while the first run learns")
    add_model_options(parser)
    add_run_options(parser, data=False)
    return parser


def recipe(options: argparse.Namespace) -> tuple[Chain, Optimizer, dict[str, Any]]:
    """The network, its optimizer, and how `Trainer.fit` goes about it."""
    published = options.recipe == "published"
    options.activation = options.activation or ("sigmoid" if published else "relu")
    activation, widths = options.activation, (2, *options.hidden, 2)
    if published:
        network = mlp(*widths, activation=activation, init=Normal(std=1.0))
        return network, SGD(0.1), {"max_epochs": options.epochs or 50, "batch_size": None}
    network = mlp(*widths, activation=activation, norm="batch", dropout=0.1)
    return network, Adam(OneCycle(0.05)), {"max_epochs": options.epochs or 40, "batch_size": 64}


def train(run: Run, data: Dataset, valid: Split, plane: plots.Plane) -> list[Model]:
    """A model for each seed; the history of the first is the run's."""
    options = run.options
    network, optimizer, steps = recipe(options)
    models: list[Model] = []
    options.epochs = steps["max_epochs"]
    for seed in range(options.seed, options.seed + options.runs):
        trainer = Trainer(network, optimizer=optimizer, device=run.backend, dtype=options.dtype, seed=seed)
        film = Film(trainer, plane, options.epochs) if options.animate and not models else None
        hooks: list[Any] = [*([Progress()] if options.runs == 1 else []), *([film] if film else [])]
        with run.timed("train"):
            trainer.fit(*data.train, **steps, validation_data={"valid": valid}, callbacks=hooks)
        if film:
            plots.decision_gif(options.animate, film.frames, plane, *some(data.test), data.classes)
            say(f"drew {options.animate}")
        run.epochs = run.epochs or trainer.history
        models.append(trainer.model)
        if trainer.interrupted:
            break
    return models


class Film:
    """The probabilities on the plane, before the training and after each epoch or some of them."""

    def __init__(self, trainer: Trainer, plane: plots.Plane, epochs: int) -> None:
        self.plane, self.every = plane, -(-epochs // FRAMES)
        self.frames = [("before the first step", trainer.predict_proba(plane.points)[:, 1])]

    def __call__(self, trainer: Trainer, record: Record) -> None:
        """Take a picture if it is time."""
        if trainer.epoch % self.every == 0:
            title = f"epoch {trainer.epoch}: {percent(record['valid_accuracy'])} right"
            self.frames.append((title, trainer.predict_proba(self.plane.points)[:, 1]))


def some(part: Split, most: int = 500) -> Split:
    """As many points as a picture has room for."""
    return Split(part.x[:most], part.y[:most])


def story(run: Run) -> None:
    """Draw points, train, measure, draw the decision."""
    options = run.options
    with run.timed("load"):
        data = load_moons(options.points)
        valid = load_moons(options.points, seed=43).test  # a second draw: points cost nothing here
    say(data.source)
    plane = plots.Plane.around(data.test.x)

    models = [load(options.load, run.backend)] if options.load else train(run, data, valid, plane)
    tests = [model.evaluate(*data.test) for model in models]
    accuracies = sorted(test["accuracy"] for test in tests)
    run.result = {
        "recipe": options.recipe,
        **measured("valid", models[0].evaluate(*valid)),
        **measured("test", tests[0]),
        "test_accuracies": accuracies,
        "median_test_accuracy": statistics.median(accuracies),
    }
    say(f"test accuracy {percent(tests[0]['accuracy'])}, test loss {tests[0]['loss']:.4f}")
    if len(models) > 1:
        low, middle, high = (percent(f(accuracies)) for f in (min, statistics.median, max))
        say(f"test accuracy of {len(models)} seeds: median {middle}, from {low} to {high}")
    if options.save:
        models[0].save(options.save)

    title = f"{percent(tests[0]['accuracy'])} of {len(data.test.y):,} test points right"
    p = models[0].predict_proba(plane.points)[:, 1]
    run.draw("moons-decision.png", plots.decision, plane, p, *some(data.test), data.classes, title)
    if run.epochs:
        run.draw("moons-curves.png", plots.curves, run.epochs)


if __name__ == "__main__":
    sys.exit(tell(story, parser()))

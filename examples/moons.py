"""Two moons: a network learns a curved boundary between two classes.

    python examples/moons.py --out figures                   # 2-100-100-2, ReLU, batch norm, Adam
    python examples/moons.py --recipe published --seeds 20    # sigmoid, N(0, 1) weights, 50 steps on all points
    python examples/moons.py --hidden 100 --activation sigmoid --animate moons.gif

The moons overlap slightly: 2 of the 1,500 test points are on the wrong side of the optimal boundary of the
distribution from which the points are drawn, which classifies 99.87 % correctly.

Data: 5,000 points from scikit-learn's ``make_moons``; nothing is downloaded.

Time: about 3 seconds on two cores; --animate adds 6.

Source: published at 93.93 % test accuracy in homework 1 of CS 69000-DPL (Purdue University, 2020).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import mlp_xp
from example_data import Dataset, Split, load_moons
from example_tools import plane_plots, plots
from example_tools.options import (
    add_model_options,
    add_recipe_option,
    add_run_options,
    new_parser,
    positive_int,
)
from example_tools.plane_plots import Plane
from example_tools.run import Run, measured, percent, run_example
from mlp_xp import SGD, Adam, Chain, Model, Normal, Progress, Trainer, mlp
from mlp_xp.nn.optimizers import Optimizer
from mlp_xp.nn.schedules import OneCycle

FRAMES = 50  # about as many images in an animation
SHOWN = 500  # points in an image
PUBLISHED_ACCURACY = 0.9393


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add_recipe_option(parser)
    add = parser.add_argument
    add("--hidden", type=positive_int, nargs="+", default=[100, 100], metavar="N", help="units of each hidden layer")
    add("--activation", choices=("relu", "sigmoid", "tanh"), help="(else relu; sigmoid in the published recipe)")
    add("--points", type=positive_int, default=5000, metavar="N", help="points, 30 %% of them for the test")
    add("--animate", type=Path, metavar="FILE", help="write an animation of the decision during training (.gif, .mp4)")
    add_model_options(parser)
    add_run_options(parser, data=False)
    return parser


def main(run: Run) -> None:
    """Draw points, train, evaluate, draw the decision."""
    options = run.options
    if options.animate:
        plane_plots.check_animation(options.animate)
    with run.timed("load"):
        data = load_moons(options.points)
        valid = load_moons(options.points, seed=43).test  # a second draw of the same distribution
    print(data.source)
    plane = Plane.around(data.test.x)

    model = mlp_xp.load(options.load, device=run.backend) if options.load else train(run, data, valid, plane)
    test = model.evaluate(*data.test)
    run.result = {"recipe": options.recipe, **measured("valid", model.evaluate(*valid)), **measured("test", test)}
    print(f"test accuracy {percent(test['accuracy'])}, test loss {test['loss']:.4f}")
    if options.recipe == "published":
        print(f"published: {percent(PUBLISHED_ACCURACY)}, one run (CS 69000-DPL, Purdue University, 2020)")
    if options.save:
        model.save(options.save)

    title = f"Two moons: {percent(test['accuracy'])} of {len(data.test.y):,} test points correct"
    p = model.predict_proba(plane.points)[:, 1]
    run.draw("moons-decision.png", plane_plots.decision, plane, p, *some(data.test), data.classes, title)
    if run.epochs:
        run.draw("moons-curves.png", plots.curves, run.epochs, f"two moons, {options.recipe} recipe")


def train(run: Run, data: Dataset, valid: Split, plane: Plane) -> Model:
    """Train the network; with --animate, write its decision after each epoch to a file."""
    options = run.options
    network, optimizer, steps = recipe(options)
    options.epochs = steps["max_epochs"]
    trainer = Trainer(network, optimizer=optimizer, device=run.backend, dtype=options.dtype, seed=options.seed)
    frames = Frames(trainer, plane, options.epochs) if options.animate else None
    with run.timed("train"):
        trainer.fit(
            *data.train, **steps, validation_data={"valid": valid}, callbacks=[Progress(), *filter(None, [frames])]
        )
    if frames:
        plane_plots.animate(options.animate, frames.frames, plane, *some(data.test), data.classes)
        print(f"drew {options.animate}")
    if trainer.interrupted:
        raise KeyboardInterrupt
    run.epochs = list(trainer.history)
    return trainer.model


def recipe(options: argparse.Namespace) -> tuple[Chain, Optimizer, dict[str, Any]]:
    """Return the trainer of the recipe and the settings of `Trainer.fit`."""
    published = options.recipe == "published"
    options.activation = options.activation or ("sigmoid" if published else "relu")
    activation, widths = options.activation, (2, *options.hidden, 2)
    if published:
        network = mlp(*widths, activation=activation, init=Normal(std=1.0))
        return network, SGD(0.1), {"max_epochs": options.epochs or 50, "batch_size": None}
    network = mlp(*widths, activation=activation, norm="batch", dropout=0.1)
    return network, Adam(OneCycle(0.05)), {"max_epochs": options.epochs or 40, "batch_size": 64}


class Frames:
    """The frames of an animation: probabilities in the plane, before training and after some of the epochs."""

    def __init__(self, trainer: Trainer, plane: Plane, epochs: int) -> None:
        self.plane, self.every = plane, -(-epochs // FRAMES)
        self.frames = [("before the first step", trainer.predict_proba(plane.points)[:, 1])]

    def __call__(self, trainer: Trainer, record: Any) -> None:
        """Add the frame of this epoch, if there is one."""
        if record["epoch"] % self.every == 0:
            title = f"epoch {record['epoch']}: {percent(record['valid_accuracy'])} correct"
            self.frames.append((title, trainer.predict_proba(self.plane.points)[:, 1]))


def some(part: Split) -> Split:
    """The points that are drawn in a frame."""
    return Split(part.x[:SHOWN], part.y[:SHOWN])


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

"""A table in a scikit-learn pipeline: our estimator and scikit-learn's train the same model, ours in less time.

    python examples/tabular.py                                # cell nuclei: is the tumor benign?
    python examples/tabular.py --dataset digits --hidden 64 32 --out figures
    python examples/tabular.py --device cuda --dtype float32

Both estimators have the same ``random_state``, so their losses and weights agree up to rounding in float64; only the
import differs.

Data: tables included in scikit-learn (1.7 or newer): 569 x 30, 178 x 13 or 1797 x 64 numbers.

Time: about 3 seconds on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from example_tools import plots
from example_tools.options import add_run_options, new_parser, positive_int
from example_tools.run import Run, percent, run_example
from mlp_xp import sklearn as mlp_xp_sklearn

TABLES = {"cancer": datasets.load_breast_cancer, "wine": datasets.load_wine, "digits": datasets.load_digits}
NAMES = {"cancer": "Breast cancer", "wine": "Wine", "digits": "8 x 8 digits"}


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--dataset", choices=TABLES, default="cancer", help="569 x 30, 178 x 13 or 1797 x 64 numbers")
    add("--hidden", type=positive_int, nargs="+", default=[64, 32], metavar="N", help="units of each hidden layer")
    add("--repeats", type=positive_int, default=3, metavar="N", help="fits of each estimator; the median time counts")
    add_run_options(parser, epochs=100, data=False)
    parser.set_defaults(dtype="float64")
    return parser


def train(cls: Any, run: Run, X: Any, y: Any, **settings: Any) -> tuple[Pipeline, float]:
    """Return a fitted pipeline with an estimator of ``cls``, and the median time of its fits in seconds."""
    seconds = []
    for _ in range(run.options.repeats):
        network = cls(run.options.hidden, max_iter=run.options.epochs, random_state=run.options.seed, **settings)
        pipeline = make_pipeline(StandardScaler(), network)
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the curves show the progress of the training
            pipeline.fit(X, y)
        seconds.append(time.perf_counter() - began)
    return pipeline, statistics.median(seconds)


def main(run: Run) -> None:
    """Load the data, train both estimators, and compare them."""
    options = run.options
    with run.timed("load"):
        table = TABLES[options.dataset]()
        X = table.data.astype(options.dtype)
        split = train_test_split(X, table.target, test_size=0.25, stratify=table.target, random_state=options.seed)
        X_train, X_test, y_train, y_test = split
    print(f"{NAMES[options.dataset]}: {len(X_train)} training rows, {len(X_test)} test rows, {X.shape[1]} columns")

    settings = {"device": run.backend, "dtype": options.dtype}
    with run.timed("train"):
        ours, our_seconds = train(mlp_xp_sklearn.MLPClassifier, run, X_train, y_train, **settings)
    theirs, their_seconds = train(neural_network.MLPClassifier, run, X_train, y_train)

    for name, pipeline, seconds in (("scikit-learn", theirs, their_seconds), ("mlp_xp", ours, our_seconds)):
        accuracy = percent(pipeline.score(X_test, y_test))
        print(f"{name:12}  test accuracy {accuracy}  {pipeline[-1].n_iter_} epochs in {seconds:.3f} s")
    gap = max(float(np.max(np.abs(a - b))) for a, b in zip(theirs[-1].coefs_, ours[-1].coefs_, strict=True))
    print(f"weights differ by {gap:.1e} at most; {their_seconds / our_seconds:.1f} times as fast")

    losses, their_losses = ours[-1].loss_curve_, theirs[-1].loss_curve_
    names, title = ("mlp_xp", "scikit-learn"), f"{NAMES[options.dataset]}: the same training by both libraries"
    run.draw(f"tabular-{options.dataset}.png", plots.two_curves, losses, their_losses, names, title)
    run.epochs = [{"epoch": i, "loss": loss} for i, loss in enumerate(losses, start=1)]
    run.result |= {
        "test_accuracy": ours.score(X_test, y_test),
        "test_loss": float(log_loss(y_test, ours.predict_proba(X_test))),
        "scikit_learn_test_accuracy": theirs.score(X_test, y_test),
        "scikit_learn_seconds": their_seconds,
        "mlp_xp_seconds": our_seconds,
        "largest_weight_difference": gap,
    }


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

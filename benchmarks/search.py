"""Searches: ``GridSearchCV`` beside `BatchedSearchCV`, and the time of a step of one model in a stack.

The search has 24 settings and 5 folds on 5,000 rows of 16 features with two hidden layers of 32 units. Both run with
``n_jobs`` processes of one BLAS thread, by turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import mlp_xp
from mlp_xp.sklearn import BatchedSearchCV, MLPClassifier
from mlp_xp.sweep.tasks import on_one_core

GRID = {
    "learning_rate_init": [0.003, 0.01, 0.03, 0.1],
    "momentum": [0.8, 0.9, 0.95],
    "alpha": [1e-4, 1e-2],
}
SIZES = ((16, 32, 64), (16, 64, 64), (16, 128, 64), (64, 128, 256), (64, 256, 256))
"""Inputs, units of both hidden layers, rows of a batch."""


def main() -> None:
    """Measure and print; ``--json`` writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="repetitions, of which the median counts")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="epochs of a fit")
    parser.add_argument("--n-jobs", type=int, default=2, metavar="N", help="processes of both searches")
    parser.add_argument("--only", choices=("search", "step"), help="one of the two measurements")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.only != "step":
        result["search"] = search(options.rounds, options.epochs, options.n_jobs)
    if options.only != "search":
        result["step"] = [step(*size, options.rounds) for size in SIZES]
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def search(rounds: int, epochs: int, n_jobs: int) -> dict[str, Any]:
    """Wall times of both searches, by turns, and whether they agree on the best setting."""
    x, y = make_classification(5000, 16, n_informative=8, n_classes=3, random_state=0)
    x = x.astype(np.float32)
    common = {"solver": "sgd", "batch_size": 64, "max_iter": epochs, "random_state": 0, "n_iter_no_change": epochs}
    pair = {
        "GridSearchCV": GridSearchCV(
            neural_network.MLPClassifier((32, 32), **common), GRID, cv=5, n_jobs=n_jobs, refit=False
        ),
        "BatchedSearchCV": BatchedSearchCV(MLPClassifier((32, 32), **common), GRID, cv=5, n_jobs=n_jobs, refit=False),
    }
    times: dict[str, list[float]] = {name: [] for name in pair}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rounds + 1):  # the first one starts the processes
            for name, one in pair.items():
                began = time.perf_counter()
                one.fit(x, y)
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found[1:] or found) for name, found in times.items()}
    ratio = medians["GridSearchCV"] / medians["BatchedSearchCV"]
    scores = [one.cv_results_["mean_test_score"] for one in pair.values()]
    print(f"24 settings x 5 folds, {epochs} epochs, n_jobs={n_jobs}:")
    for name, seconds in medians.items():
        print(f"  {name:16}{seconds:8.2f} s")
    print(f"  {ratio:.1f} times as fast; scores differ by at most {np.abs(scores[0] - scores[1]).max():.4f}\n")
    return {"seconds": times, "ratio": ratio}


def step(n_in: int, units: int, batch: int, rounds: int) -> dict[str, Any]:
    """CPU time of a step of one model: scikit-learn, our trainer and a sweep, on one core."""
    rng = np.random.default_rng(0)
    rows, epochs, models = 64 * batch, 2, 16
    x = rng.standard_normal((rows, n_in)).astype(np.float32)
    y = rng.integers(0, 3, rows)
    steps = rows // batch * epochs
    network, rule = mlp_xp.mlp(n_in, units, units, 3), mlp_xp.SGD(0.01, momentum=0.9)
    sweep = mlp_xp.Sweep(network, optimizer=rule, grid={"seed": list(range(models))}, device="cpu")
    theirs = neural_network.MLPClassifier(
        (units, units), solver="sgd", nesterovs_momentum=False, batch_size=batch, max_iter=epochs, tol=0.0
    )

    def alone() -> None:
        mlp_xp.Trainer(network, optimizer=rule, device="cpu").fit(x, y, max_epochs=epochs, batch_size=batch)

    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "scikit-learn": (lambda: theirs.fit(x, y), steps),
        "alone": (alone, steps),
        "stack": (lambda: sweep.fit(x, y, max_epochs=epochs, batch_size=batch), steps * models),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(rounds + 1):  # the first one compiles
            for name, (run, count) in runs.items():
                began = time.process_time()
                on_one_core(run)
                times[name].append((time.process_time() - began) / count * 1e6)
    us = {name: statistics.median(found[1:] or found) for name, found in times.items()}
    ratio = us["scikit-learn"] / us["stack"]
    print(
        f"{n_in}-{units}-{units} @ {batch}: scikit-learn {us['scikit-learn']:.0f}, alone {us['alone']:.1f}, stack "
        f"{us['stack']:.1f} us a step and model: {ratio:.1f} times as fast as scikit-learn"
    )
    return {"size": [n_in, units, batch], "microseconds": us, "ratio": ratio}


if __name__ == "__main__":
    main()

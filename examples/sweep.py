"""Many models at once: a study of the learning rate as one sweep, and a search on a table.

    python examples/sweep.py --out figures
    python examples/sweep.py --rates 0.3 0.1 0.03 --repeats 5 --epochs 5
    python examples/sweep.py --dataset digits --processes 2

The study is that of digits_study.py, 784-300-10 with six rates and several seeds, but all models train together. The
search tries settings of a classifier of cell nuclei in a pipeline, all settings and folds at once.

Data: MNIST from --data-dir, ``$MLP_XP_DATA/mnist`` or the cache, else downloaded (11 MB); if that fails, the 1,797
digits of 8 x 8 pixels that scikit-learn includes, and the output says so. The table is included in scikit-learn.

Time: 50 seconds on two cores; 10 seconds with ``--dataset digits``.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from example_data import load_handwritten, split
from example_tools.options import add_run_options, new_parser, positive_float, positive_int
from example_tools.run import Run, measured, percent, run_example
from mlp_xp import SGD, Rescale, Sweep, SweepResult, mlp
from mlp_xp.sklearn import BatchedSearchCV, MLPClassifier

RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
GRID = {
    "mlpclassifier__learning_rate_init": [0.0003, 0.003, 0.03],
    "mlpclassifier__alpha": [1e-4, 1e-1, 10.0],
    "mlpclassifier__dropout": [0.0, 0.2],
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--rates", type=positive_float, nargs="+", default=RATES, metavar="X", help="learning rates to try")
    add("--repeats", type=positive_int, default=3, metavar="N", help="models at each rate, each with its own seed")
    add("--processes", type=positive_int, default=1, metavar="N", help="processes that share the work")
    add("--dataset", choices=("auto", "mnist", "digits"), default="auto", help="auto: MNIST if it is available")
    add_run_options(parser, epochs=3, repeat=False)
    return parser


def main(run: Run) -> None:
    """Run the study of the rate, then the search."""
    best = study(run)
    run.draw("sweep-curves.png", best.plot_curves, "valid_accuracy")
    run.draw("sweep-rates.png", best.plot_spread, "lr", column="valid_accuracy")
    search(run)


def study(run: Run) -> SweepResult:
    """Train all rates and seeds in one sweep, and test the best model."""
    options = run.options
    with run.timed("load"):
        data = load_handwritten(options.dataset, np.random.default_rng(0), options.data_dir)
        train, valid = split(data.train, (11, 1), np.random.default_rng(0))
    print(data.source)
    network = mlp(train.x.shape[1], 300, len(data.classes), activation="sigmoid", first=Rescale(scale=2 / 255))
    grid = {"lr": list(options.rates), "seed": list(range(options.seed, options.seed + options.repeats))}
    sweep = Sweep(network, optimizer=SGD(momentum=0.9), grid=grid, device=run.backend, dtype=options.dtype)
    with run.timed("train"):
        result = sweep.fit(
            *train,
            max_epochs=options.epochs,
            batch_size=50,
            validation_data=valid,
            n_jobs=options.processes,
            progress=True,
        )
    print(f"{len(result)} models, {options.epochs} epochs, {run.seconds['train']:.1f} s\n")
    print(f"{'rate':>8}{'validation accuracy':>28}")
    for (rate,), values in result.values("valid_accuracy", "lr").items():
        print(f"{rate:8g}{percent(float(np.mean(values))):>18} +- {percent(float(np.std(values)))}")
    best = result.best
    tested = result.member().evaluate(*data.test)
    print(f"best at rate {best['lr']:g}, test accuracy {percent(tested['accuracy'])}\n")
    run.epochs = list(result.history(best["model"]))
    run.result |= {"models": len(result), "chosen_rate": best["lr"], **measured("test", tested)}
    return result


def search(run: Run) -> None:
    """Search 18 settings of a pipeline on 5 folds."""
    table, options = load_breast_cancer(), run.options
    network = MLPClassifier((32, 32), max_iter=30, random_state=options.seed, device=run.backend)
    pipeline = make_pipeline(StandardScaler(), network)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = BatchedSearchCV(pipeline, GRID, cv=5, n_jobs=options.processes).fit(table.data, table.target)
    seconds = time.perf_counter() - began
    settings = {name.removeprefix("mlpclassifier__"): value for name, value in found.best_params_.items()}
    print(
        f"cell nuclei: 18 settings on 5 folds in {seconds:.1f} s; the best has accuracy {percent(found.best_score_)}:"
    )
    print("  " + ", ".join(f"{name} {value:g}" for name, value in settings.items()))
    run.result |= {"search_accuracy": found.best_score_, "search_seconds": seconds, "search_best": settings}


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

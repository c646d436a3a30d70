"""Our estimators beside scikit-learn's: the same fit, the same epochs, one process, BLAS threads fixed.

``python -m benchmarks.sklearn_fit [--rounds 5] [--threads 1 2] [--cases NAME ...] [--json FILE]`` prints a table in
Markdown. Both run in turn, and the medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as Theirs
from threadpoolctl import threadpool_limits

from example_data import DataError, load_mnist
from mlp_xp.sklearn import MLPClassifier as Ours

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    data: Callable[[], tuple[Array, Array]]
    hidden: tuple[int, ...]
    epochs: int


def table(rows: int, columns: int, classes: int) -> Callable[[], tuple[Array, Array]]:
    """Random data with noisy linear classes."""

    def draw() -> tuple[Array, Array]:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(rows, columns))
        scores = X @ rng.normal(size=(columns, classes)) + rng.normal(size=(rows, classes))
        return X, scores.argmax(axis=1)

    return draw


def mnist() -> tuple[Array, Array]:
    train = load_mnist().train
    return np.asarray(train.x).reshape(len(train.x), -1) / 255.0, np.asarray(train.y)


CASES = {
    "1,000 x 20": Case(table(1_000, 20, 2), (100,), 100),
    "20,000 x 16": Case(table(20_000, 16, 3), (64, 32), 10),
    "200,000 x 50": Case(table(200_000, 50, 3), (100,), 2),
    "MNIST": Case(mnist, (100,), 2),
}


def seconds(cls: type, case: Case, X: Array, y: Array) -> float:
    model = cls(case.hidden, max_iter=case.epochs, n_iter_no_change=case.epochs, random_state=0)
    began = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - began


def compare(name: str, dtype: str, threads: int, rounds: int, X: Array, y: Array) -> dict[str, Any]:
    """The median times of both, in seconds."""
    case = CASES[name]
    X = X.astype(dtype, copy=False)
    ours, theirs = [], []
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(rounds):
            theirs.append(seconds(Theirs, case, X, y))
            ours.append(seconds(Ours, case, X, y))
    pair = statistics.median(theirs), statistics.median(ours)
    return {
        "data": name,
        "hidden": list(case.hidden),
        "epochs": case.epochs,
        "dtype": dtype,
        "threads": threads,
        "scikit-learn": pair[0],
        "mlp_xp": pair[1],
        "times": pair[0] / pair[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"], choices=["float64", "float32"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        data = {name: CASES[name].data() for name in args.cases}
    except DataError as error:
        parser.exit(2, f"{parser.prog}: MNIST is missing: set MLP_XP_DATA, or omit it from --cases ({error})\n")
    print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}, Python {platform.python_version()}; seconds\n")
    print("| data | hidden | epochs | dtype | threads | scikit-learn | mlp_xp | times as fast |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for name in args.cases:
        X, y = data[name]
        for dtype in args.dtypes:
            for threads in args.threads:
                r = compare(name, dtype, threads, args.rounds, X, y)
                results.append(r)
                hidden = "-".join(map(str, r["hidden"]))
                print(
                    f"| {name} | {hidden} | {r['epochs']} | {dtype} | {threads} | {r['scikit-learn']:.3f} "
                    f"| {r['mlp_xp']:.3f} | {r['times']:.2f} |",
                    flush=True,
                )
    if args.json is not None:
        args.json.write_text(json.dumps({"cpu": platform.processor(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

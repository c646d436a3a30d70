"""The same ``random_state`` gives scikit-learn's model, number by number, in float64."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
import sklearn
from sklearn import neural_network as theirs
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.fixes import parse_version

from mlp_xp import sklearn as ours

Data = tuple[np.ndarray, np.ndarray]
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
SGD = [
    {"solver": "sgd", "learning_rate": rate, "momentum": momentum, "nesterovs_momentum": nesterov}
    for rate in ("constant", "invscaling", "adaptive")
    for momentum, nesterov in ((0.0, True), (0.9, False), (0.9, True))
]
ADAM, LBFGS = {"solver": "adam"}, {"solver": "lbfgs"}


def classes(n: int = 3) -> Data:
    return make_classification(230, 12, n_informative=6, n_classes=n, random_state=0)


def labels() -> Data:
    X, y = make_multilabel_classification(230, 12, n_classes=4, random_state=0)
    return X / 10.0, y


def numbers(targets: int = 1) -> Data:
    X, y = make_regression(230, 12, n_targets=targets, noise=5.0, random_state=0)
    return X, y / 100.0


def both(kind: str, X: Any, y: Any, sample_weight: Any = None, **settings: Any) -> tuple[Any, Any]:
    """scikit-learn's and our estimator after the same fit."""
    given = {"hidden_layer_sizes": (16, 8), "max_iter": 20, "batch_size": 48, "random_state": 7, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        a, b = (getattr(module, kind)(**given).fit(X, y, sample_weight) for module in (theirs, ours))
    return a, b


def assert_same(a: Any, b: Any) -> None:
    """Weights within 1e-9 of the largest, 1e-6 after L-BFGS, whose line search amplifies rounding."""
    bound = 1e-6 if a.solver == "lbfgs" else 1e-9
    for u, v in zip((*a.coefs_, *a.intercepts_), (*b.coefs_, *b.intercepts_), strict=True):
        assert u.shape == v.shape and u.dtype == v.dtype
        np.testing.assert_allclose(v, u, rtol=0.0, atol=bound * np.max(np.abs(u)))
    for name in ("loss_", "n_iter_", "t_", "n_layers_", "n_outputs_", "loss_curve_", "best_loss_"):
        if hasattr(a, name) and getattr(a, name) is not None:
            np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=bound)
    assert b.out_activation_ == a.out_activation_
    if getattr(a, "validation_scores_", None) is not None:
        np.testing.assert_allclose(b.validation_scores_, a.validation_scores_, rtol=1e-9, atol=1e-9)
        assert b.best_validation_score_ == pytest.approx(a.best_validation_score_, rel=1e-9)


@pytest.mark.parametrize("solver", [*SGD, ADAM, LBFGS], ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_classifier(activation: str, solver: dict[str, Any]) -> None:
    rate = {"learning_rate_init": 0.05, "tol": 0.02, "n_iter_no_change": 2} if "learning_rate" in solver else {}
    assert_same(*both("MLPClassifier", *classes(), activation=activation, **solver, **rate))


@pytest.mark.parametrize("solver", [ADAM, SGD[2], SGD[4], LBFGS], ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("kind", "data"), [("MLPClassifier", labels), ("MLPRegressor", numbers)])
def test_multilabel_and_regressor(kind: str, data: Any, activation: str, solver: dict[str, Any]) -> None:
    assert_same(*both(kind, *data(), activation=activation, **solver))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("MLPClassifier", lambda: classes(2)),
        ("MLPClassifier", classes),
        ("MLPClassifier", labels),
        ("MLPRegressor", numbers),
    ],
    ids=["binary", "multiclass", "multilabel", "regressor"],
)
def test_early_stopping(kind: str, data: Any, solver: str) -> None:
    a, b = both(kind, *data(), solver=solver, early_stopping=True, max_iter=60, n_iter_no_change=3, tol=1e-3)
    assert_same(a, b)
    assert len(b.validation_loss_curve_) == b.n_iter_


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(("kind", "data"), [("MLPClassifier", classes), ("MLPRegressor", numbers)])
def test_sample_weights(kind: str, data: Any, early_stopping: bool, solver: str) -> None:
    X, y = data()
    w = np.random.default_rng(0).uniform(0.1, 3.0, len(X))
    assert_same(*both(kind, X, y, w, solver=solver, early_stopping=early_stopping, alpha=0.1))


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("targets", [1, 3])
def test_several_outputs_and_counts(loss: str, solver: str, targets: int) -> None:
    X, y = numbers(targets)
    y = np.random.default_rng(0).poisson(np.exp(np.clip(y, -2.0, 2.0))).astype(float)
    assert_same(*both("MLPRegressor", X, y, loss=loss, solver=solver))


@pytest.mark.parametrize("n", [2, 3, "several"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_saturated_outputs(solver: str, n: Any) -> None:
    """Their losses take the logarithm of rounded and clipped probabilities, and so do ours."""
    X, y = labels() if n == "several" else classes(n)
    with np.errstate(over="ignore"):  # of scikit-learn's softmax
        assert_same(*both("MLPClassifier", 100.0 * X, y, solver=solver, learning_rate_init=0.05))


@pytest.mark.parametrize(
    "settings",
    [
        {"shuffle": False},
        {"batch_size": "auto"},
        {"batch_size": 230},
        {"batch_size": 1, "max_iter": 2},
        {"alpha": 0.0},
        {"alpha": 10.0},
        {"hidden_layer_sizes": []},
        {"hidden_layer_sizes": 5},
        {"hidden_layer_sizes": (7, 6, 5, 4)},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1, "max_iter": 100},
        {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4},
        {"learning_rate_init": 0.5},
    ],
    ids=str,
)
def test_settings(settings: dict[str, Any]) -> None:
    assert_same(*both("MLPClassifier", *classes(), **settings))


@pytest.mark.parametrize("container", ["csr_array", "csc_matrix"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_rows(container: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr("mlp_xp.sklearn.arrays.DENSE_BYTES", 0)
    monkeypatch.setattr("mlp_xp.sklearn.lbfgs.WINDOW_BYTES", 20_000)
    X, y = classes()
    X = getattr(sparse, container)(np.where(np.abs(X) > 1.0, X, 0.0))
    a, b = both("MLPClassifier", X, y, solver=solver, early_stopping=True)
    assert_same(a, b)
    np.testing.assert_allclose(b.predict_proba(X), a.predict_proba(X), atol=1e-9)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_predictions(solver: str) -> None:
    X, y = classes()
    a, b = both("MLPClassifier", X, y, solver=solver)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        np.testing.assert_allclose(getattr(b, method)(X), getattr(a, method)(X), rtol=1e-6, atol=1e-9)
    assert b.score(X, y) == a.score(X, y)
    many = np.resize(X, (3000, X.shape[1]))
    np.testing.assert_allclose(b.predict_proba(many), a.predict_proba(many), rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_warm_start(solver: str) -> None:
    X, y = classes()
    a, b = both("MLPClassifier", X, y, solver=solver, max_iter=5, warm_start=True, learning_rate="invscaling")
    for epochs in (3, 4):
        for e in (a, b):
            e.set_params(max_iter=epochs).fit(X, y)
        assert_same(a, b)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit(solver: str) -> None:
    X, y = classes()
    pair = [
        module.MLPClassifier((16,), solver=solver, batch_size=48, random_state=7, learning_rate="invscaling")
        for module in (theirs, ours)
    ]
    for rows in (slice(0, 100), slice(100, 230), slice(50, 150)):
        for e in pair:
            e.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert_same(*pair)
    assert pair[1]._optimizer.learning_rate == pytest.approx(
        pair[0]._optimizer.learning_rate if solver == "sgd" else 0.001
    )


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_float32_stays_and_agrees(kind: str) -> None:
    X, y = classes()
    a, b = both(kind, X.astype(np.float32), y)
    assert {w.dtype for w in (*b.coefs_, *b.intercepts_)} == {np.dtype(np.float32)}
    for u, v in zip(a.coefs_, b.coefs_, strict=True):
        np.testing.assert_allclose(v, u, atol=1e-4)


def test_words_as_labels() -> None:
    X, y = classes()
    words = np.array(["one", "two", "three"], dtype=object)[y]
    fixed = parse_version(sklearn.__version__) >= parse_version("1.9")
    a, b = both("MLPClassifier", X, words, early_stopping=fixed)  # theirs failed on words before (their #33760)
    assert_same(a, b)
    assert list(b.classes_) == list(a.classes_)
    assert list(b.predict(X)) == list(a.predict(X))


def test_verbose_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    both("MLPClassifier", *classes(), verbose=True, early_stopping=True, n_iter_no_change=1, tol=0.5)
    lines = capsys.readouterr().out.splitlines()
    half = len(lines) // 2
    assert lines[:half] == lines[half:]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_warning_names_the_line_of_the_call(method: str) -> None:
    X, y = classes()
    options = {"classes": [0, 1, 2]} if method == "partial_fit" else {}
    with pytest.warns(UserWarning, match=r"clipped|Maximum iterations") as warned:
        getattr(ours.MLPClassifier(batch_size=1000, max_iter=1), method)(X, y, **options)
    assert {Path(w.filename).name for w in warned} == {Path(__file__).name}


def test_surface_is_theirs_and_more() -> None:
    for kind in ("MLPClassifier", "MLPRegressor"):
        a, b = getattr(theirs, kind)(), getattr(ours, kind)()
        mine = b.get_params()
        assert all(mine[name] == value for name, value in a.get_params().items())
        assert not [name for name in dir(a) if not name.startswith("_") and not hasattr(b, name)]

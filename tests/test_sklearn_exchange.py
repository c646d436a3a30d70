"""Conversion between scikit-learn's estimators and ours, with equal predictions and parameters."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn import neural_network

from mlp_xp import Huber, sklearn


@pytest.fixture(name="X")
def rows(rng):
    return rng.standard_normal((60, 4))


def options(**more):
    return {"hidden_layer_sizes": (5,), "solver": "lbfgs", "max_iter": 2000, "tol": 0.1, "random_state": 0, **more}


TARGETS = {
    "classes": lambda X: np.array(["b", "a", "c"])[X[:, :3].argmax(axis=1)],
    "two classes": lambda X: X[:, 0] > 0.0,
    "labels": lambda X: (X[:, :3] > 0.0).astype(int),
    "numbers": lambda X: X[:, 0] + X[:, 1],
    "several numbers": lambda X: X[:, :2] * 3.0,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("way", ["from_sklearn", "to_sklearn"])
def test_equal_predictions(target, way, X):
    kind = "MLPRegressor" if "numbers" in target else "MLPClassifier"
    ours, theirs = getattr(sklearn, kind), getattr(neural_network, kind)
    source = (theirs if way == "from_sklearn" else ours)(**options()).fit(X, TARGETS[target](X))
    other = ours.from_sklearn(source) if way == "from_sklearn" else source.to_sklearn()
    assert type(other) is (ours if way == "from_sklearn" else theirs)
    assert all(other.get_params()[name] == value for name, value in options().items())
    method = "predict_proba" if kind == "MLPClassifier" else "predict"
    np.testing.assert_allclose(getattr(other, method)(X), getattr(source, method)(X), rtol=1e-12)
    if kind == "MLPClassifier":
        np.testing.assert_array_equal(other.predict(X), source.predict(X))


@pytest.mark.parametrize("way", ["from_sklearn", "to_sklearn"])
def test_training_continues(way, X):
    y = TARGETS["classes"](X)
    kind = neural_network.MLPClassifier if way == "from_sklearn" else sklearn.MLPClassifier
    source = kind(**options(solver="adam")).partial_fit(X, y, classes=np.unique(y))
    other = sklearn.MLPClassifier.from_sklearn(source) if way == "from_sklearn" else source.to_sklearn()
    before = [W.copy() for W in source.coefs_]
    other.partial_fit(X, y)
    assert not np.array_equal(other.coefs_[0], before[0])
    assert all(np.array_equal(a, b) for a, b in zip(source.coefs_, before, strict=True)), "a copy"


def test_what_scikit_learn_lacks_is_named(X):
    y = X[:, 0]
    with pytest.raises(ValueError, match=r"one of identity, logistic, tanh, relu .* not 'gelu'"):
        sklearn.MLPRegressor(**options(activation="gelu")).fit(X, y).to_sklearn()
    with pytest.raises(ValueError, match=r"no loss=Huber"):
        sklearn.MLPRegressor(**options(loss=Huber())).fit(X, y).to_sklearn()
    with pytest.raises(TypeError, match="expected a scikit-learn MLPRegressor, got MLPClassifier"):
        sklearn.MLPRegressor.from_sklearn(neural_network.MLPClassifier())

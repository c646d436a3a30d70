"""Estimators and models of the library convert into each other with equal weights and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression

import mlp_xp
from mlp_xp.nn.layers import BatchNorm, Chain, Dense, LeakyReLU, ReLU, Rescale
from mlp_xp.nn.losses import Poisson, Quantile, SoftmaxCrossEntropy, SquaredError
from mlp_xp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK: dict[str, Any] = {"hidden_layer_sizes": (8, 6), "max_iter": 5, "random_state": 0}
WORDS = np.array(["apple", "fig", "pear"])
X, three = make_classification(120, 8, n_informative=6, n_classes=3, random_state=0)
CLASSES = {
    "several": (WORDS[three], lambda p: p),
    "two": (WORDS[three % 2], lambda p: p[:, 1:]),
    "labels": (make_multilabel_classification(120, 8, n_classes=3, random_state=0)[1], lambda p: p),
}


def same(a: Any, b: Any) -> None:
    for u, v in zip((*a.coefs_, *a.intercepts_), (*b.coefs_, *b.intercepts_), strict=True):
        assert np.array_equal(u, v) and u.dtype == v.dtype


@pytest.mark.parametrize("options", [{}, {"activation": ["tanh", LeakyReLU(0.3)], "dropout": 0.2, "dtype": "float32"}])
@pytest.mark.parametrize("kind", CLASSES)
def test_classifier(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    y, columns = CLASSES[kind]
    classifier = MLPClassifier(**QUICK, **options).fit(X, y)
    model = classifier.to_model()
    np.testing.assert_allclose(
        model.predict_proba(X), columns(classifier.predict_proba(X)), rtol=1e-5 if options else 1e-12
    )
    model.save(tmp_path / "model.safetensors")
    again = MLPClassifier.from_model(mlp_xp.load(tmp_path / "model.safetensors", device="cpu"), random_state=0)
    same(classifier, again)
    assert np.array_equal(again.classes_, classifier.classes_)
    assert np.array_equal(again.predict(X), classifier.predict(X))
    assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.get_params()["hidden_layer_sizes"] == (8, 6)
    again.partial_fit(X, y)
    again.set_params(warm_start=True, max_iter=2).fit(X, y)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", Quantile(q=0.9)])
@pytest.mark.parametrize("targets", [1, 2])
def test_regressor(targets: int, loss: Any) -> None:
    rows, y = make_regression(100, 5, n_targets=targets, random_state=0)
    y = np.abs(y) / 100.0
    regressor = MLPRegressor(loss, **QUICK).fit(rows, y)
    model = regressor.to_model("numpy:plain")
    np.testing.assert_allclose(model.predict(rows), regressor.predict(rows).reshape(100, targets), rtol=1e-12)
    again = MLPRegressor.from_model(model)
    same(regressor, again)
    assert np.array_equal(again.predict(rows), regressor.predict(rows))
    assert again.out_activation_ == regressor.out_activation_
    assert again.partial_fit(rows, y).t_ == 100


@pytest.mark.parametrize("n", [2, 3])
def test_a_trained_model_becomes_a_classifier(n: int) -> None:
    y = three % n
    trainer = mlp_xp.Trainer(mlp_xp.mlp(8, 16, n), device="cpu", dtype="float64")
    trainer.fit(X, y, max_epochs=5)
    model = trainer.model
    classifier = MLPClassifier.from_model(model)
    np.testing.assert_allclose(classifier.predict_proba(X), model.predict_proba(X), rtol=1e-9)
    assert np.array_equal(classifier.predict(X), model.predict(X))
    backwards = WORDS[:n][::-1]
    named = MLPClassifier.from_model(model, classes=backwards)
    assert np.array_equal(named.predict(X), backwards[model.predict(X)])


def test_a_trained_binary_model_becomes_a_classifier() -> None:
    trainer = mlp_xp.Trainer(mlp_xp.mlp(8, 16, 1), mlp_xp.BinaryCrossEntropy(), device="cpu", dtype="float64")
    trainer.fit(X, three % 2, max_epochs=5)
    labels = np.array(["yes", "no"])  # in the order of the outputs
    classifier = MLPClassifier.from_model(trainer.model, classes=labels)
    assert np.array_equal(classifier.predict(X), labels[trainer.predict(X)[:, 0]])


def test_a_layer_without_bias() -> None:
    trainer = mlp_xp.Trainer(Chain(Dense(8, 4, bias=False), ReLU(), Dense(4, 3)), device="cpu", dtype="float64")
    classifier = MLPClassifier.from_model(trainer.model)
    assert np.array_equal(classifier.intercepts_[0], np.zeros(4))
    np.testing.assert_allclose(classifier.predict_proba(X), trainer.model.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (Chain(Rescale(scale=0.5), Dense(8, 3)), "Rescale"),
        (Chain(Dense(8, 4), BatchNorm(4), ReLU(), Dense(4, 3)), "BatchNorm"),
        (Chain(Dense(8, 3), ReLU()), "ends with ReLU"),
        (Chain(Dense(8, 4), Dense(4, 3)), "Dense"),
    ],
)
def test_networks_that_an_estimator_does_not_have(network: Chain, named: str) -> None:
    model = mlp_xp.Trainer(network, device="cpu").model
    with pytest.raises(ValueError, match=f"the network of an estimator .*{named}"):
        MLPClassifier.from_model(model)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (SquaredError(), {}, "a classifier needs a model with SoftmaxCrossEntropy"),
        (SoftmaxCrossEntropy(), {"classes": ["a", "b"]}, "classes must be 3 labels"),
        (SoftmaxCrossEntropy(), {"alpha": -1.0}, "'alpha' parameter"),
    ],
)
def test_what_does_not_fit_a_classifier(loss: Any, options: dict[str, Any], message: str) -> None:
    model = mlp_xp.Trainer(mlp_xp.mlp(8, 3), loss, device="cpu").model
    with pytest.raises(ValueError, match=message):
        MLPClassifier.from_model(model, **options)


def test_a_regressor_needs_a_loss_of_numbers() -> None:
    assert MLPRegressor.from_model(mlp_xp.Trainer(mlp_xp.mlp(8, 1), Poisson(), device="cpu").model).loss == "poisson"
    with pytest.raises(ValueError, match="loss must be one for real numbers"):
        MLPRegressor.from_model(mlp_xp.Trainer(mlp_xp.mlp(8, 3), device="cpu").model)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_every_parameter_and_attribute_is_described(kind: type) -> None:
    docscrape = pytest.importorskip("sklearn.externals._numpydoc.docscrape")
    text = docscrape.NumpyDocString(kind.__doc__)
    described = {p.name: p for p in text["Parameters"]}
    assert set(described) == set(kind().get_params())
    for p in described.values():
        assert p.type and len(" ".join(p.desc)) > 15
    estimator = kind(max_iter=2).fit(X, three)
    names = {name for p in text["Attributes"] for name in p.name.split(", ")}
    missing = {name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")} - names
    assert not missing
    if hasattr(estimator, "_get_doc_link"):
        assert "hidden layer" in estimator._repr_html_()

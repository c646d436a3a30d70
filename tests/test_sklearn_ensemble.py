"""Ensembles: members train together, each with the same result as alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression

import mlp_xp
from mlp_xp.sklearn import EnsembleClassifier, EnsembleRegressor, MLPClassifier, MLPRegressor

X, Y = load_iris(return_X_y=True)
MEMBER = MLPClassifier((6,), solver="sgd", learning_rate_init=0.1, max_iter=10)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_members_are_those_fitted_alone_and_the_mean_is_predicted():
    ensemble = EnsembleClassifier(MEMBER, 3, random_state=0).fit(X, Y)
    probabilities = []
    for member in ensemble.estimators_:
        alone = clone(member).fit(X, Y)
        for a, b in zip(member.coefs_, alone.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        probabilities.append(alone.predict_proba(X))
    np.testing.assert_array_equal(ensemble.predict_proba(X), np.mean(probabilities, axis=0))
    np.testing.assert_array_equal(ensemble.predict_spread(X), np.std(probabilities, axis=0))
    np.testing.assert_array_equal(ensemble.predict(X), np.argmax(np.mean(probabilities, axis=0), axis=1))
    assert len({member.random_state for member in ensemble.estimators_}) == 3


def test_a_bootstrap_member_trains_on_its_rows():
    ensemble = EnsembleClassifier(MEMBER, 2, bootstrap=True, random_state=0).fit(X, Y)
    seeds = np.random.RandomState(0).randint(2**31 - 1, size=(2, 2))
    for member, (_, sample) in zip(ensemble.estimators_, seeds, strict=True):
        rows = np.random.RandomState(sample).randint(len(X), size=len(X))
        alone = clone(member).fit(X[rows], Y[rows])
        for a, b in zip(member.coefs_, alone.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_ensemble_is_one_file(tmp_path):
    for ensemble, y in (
        (EnsembleClassifier(MEMBER, 3, random_state=0), Y),
        (EnsembleClassifier(MEMBER, 2, random_state=0), Y > 0),
        (EnsembleRegressor(MLPRegressor(hidden_layer_sizes=(4,), max_iter=5), 2, random_state=0), X[:, 0]),
    ):
        path = tmp_path / "ensemble.safetensors"
        ensemble.fit(X, y).save(path)
        again = type(ensemble).load(path, device="cpu")
        np.testing.assert_array_equal(again.predict(X), ensemble.predict(X))
        np.testing.assert_array_equal(again.predict_spread(X), ensemble.predict_spread(X))
        assert mlp_xp.load(path, device="cpu").params[0].W.shape[0] == ensemble.n_members


def test_several_labels_and_several_outputs():
    x, labels = make_multilabel_classification(60, 5, n_classes=3, random_state=0)
    assert EnsembleClassifier(MEMBER, 2).fit(x, labels).predict(x).shape == labels.shape
    x, y = make_regression(60, 5, n_targets=2, random_state=0)
    assert EnsembleRegressor(MLPRegressor(max_iter=5), 2).fit(x, y).predict_spread(x).shape == y.shape


def test_a_file_of_a_single_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    clone(MEMBER).fit(X, Y).to_model("cpu").save(path)
    with pytest.raises(ValueError, match=r"holds a single model, not an ensemble: .* to MLPClassifier\.from_model"):
        EnsembleClassifier.load(path)


def test_members_of_the_wrong_kind_are_refused():
    with pytest.raises(TypeError, match="estimator must be an MLPRegressor"):
        EnsembleRegressor(MLPClassifier()).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="n_members"):
        EnsembleClassifier(MEMBER, 0).fit(X, Y)

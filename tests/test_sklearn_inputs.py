"""Targets, weights and settings that an estimator cannot use raise errors with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
from sklearn import neural_network as theirs
from sklearn.datasets import make_classification

from mlp_xp.nn.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy
from mlp_xp.sklearn import MLPClassifier, MLPRegressor
from mlp_xp.training.ranks import Ranks

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = make_classification(120, 8, n_informative=6, n_classes=3, random_state=0)
QUICK: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


@pytest.mark.parametrize("words", [["no", "yes"] * 60, np.array(["1.5", "2"] * 60), np.array(["a", 1] * 60, object)])
def test_a_regressor_refuses_strings(words: Any) -> None:
    with pytest.raises(ValueError, match=r"y must hold numbers, but holds .*: use MLPClassifier"):
        MLPRegressor(**QUICK).fit(X, words)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy(), Huber])
def test_a_regressor_refuses_losses_of_classes(loss: Any) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=r"loss must be one for real numbers, such as Huber|'loss' param"
    ) as error:
        MLPRegressor(loss, **QUICK).fit(X, X[:, 0])
    assert isinstance(loss, type) == ("call it, Huber(...)" in str(error.value))


def test_a_classifier_refuses_real_numbers() -> None:
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier(**QUICK).fit(X, X[:, 0])


def test_integers_are_numbers() -> None:
    integers = np.random.default_rng(0).integers(0, 9, (120, 2))
    a, b = (MLPRegressor("huber", **QUICK).fit(X, t) for t in (integers, integers.astype(float)))
    assert np.array_equal(a.coefs_[0], b.coefs_[0])
    marks = np.eye(3, dtype=int)[y]
    a, b = (MLPClassifier(**QUICK).fit(X, t) for t in (marks, marks.astype(bool).astype(float)))
    assert np.array_equal(a.coefs_[0], b.coefs_[0])


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({0: -1.0}, "must hold non-negative numbers, but that of 0 is -1.0"),
        ({0: np.nan}, "non-negative numbers"),
        ({0: np.inf}, "non-negative numbers"),
        ({0: "much"}, "non-negative numbers"),
        ({0: 0, 1: 0, 2: 0}, "not all zero"),
        ({7: 1.0}, r"names the label 7, but the classes are \[0, 1, 2\]"),
        ([1], r"a list of dictionaries, not \[1\]"),
        ([{0: 1.0}], "for several outputs a list"),
    ],
)
def test_class_weights_that_make_no_sense(class_weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**QUICK, class_weight=class_weight).fit(X, y)


@pytest.mark.parametrize("class_weight", [[1, 1, 1], [{0: -1.0, 1: 1.0}] * 3, [{0: 1.0, 2: 1.0}] * 3])
def test_class_weights_of_several_outputs(class_weight: Any) -> None:
    with pytest.raises(ValueError, match="class_weight"):
        MLPClassifier(**QUICK, class_weight=class_weight).fit(X, np.eye(3, dtype=int)[y])


def test_a_class_of_weight_zero_is_ignored() -> None:
    model = MLPClassifier((8,), class_weight={2: 0.0}, max_iter=60, learning_rate_init=0.05, random_state=0).fit(X, y)
    assert 2 not in model.predict(X)


def test_rows_of_few_classes_in_partial_fit() -> None:
    model = MLPClassifier((8,), class_weight={0: 2.0, 2: 0.5}, random_state=0)
    for label in range(3):
        model.partial_fit(X[y == label], y[y == label], classes=[0, 1, 2])
    assert model.t_ == 120


@pytest.mark.parametrize("factor", [1e-60, 1e60])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weights_outside_the_range_of_float32(solver: str, factor: float) -> None:
    """Only ratios count when there is no penalty."""
    w = np.random.default_rng(0).uniform(0.5, 2.0, 120)
    settings = {**QUICK, "solver": solver, "dtype": "float32", "alpha": 0.0, "max_iter": 15}
    a, b = (MLPClassifier(**settings).fit(X, y, weights) for weights in (w, factor * w))
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("w", [np.zeros(120), -np.ones(120), np.full(120, np.nan), np.full(120, np.inf)])
def test_weights_that_make_no_sense(w: Any) -> None:
    with pytest.raises(ValueError, match=r"sample_weight|Sample weights"):
        MLPClassifier(**QUICK).fit(X, y, w)


@pytest.mark.parametrize("how", ["warm_start", "partial_fit"])
def test_another_network_cannot_go_on(how: str) -> None:
    model = MLPClassifier(**QUICK, warm_start=how == "warm_start").fit(X, y).set_params(hidden_layer_sizes=(8, 4))
    with pytest.raises(ValueError, match=r"fitted with layers of \[8, 8, 3\] units, and now has \[8, 8, 4, 3\]"):
        model.fit(X, y) if how == "warm_start" else model.partial_fit(X, y)
    assert model.set_params(hidden_layer_sizes=[8]).fit(X, y).predict(X).shape == (120,)


@pytest.mark.parametrize(
    "rows",
    [
        np.where(X > 2.0, np.nan, X),
        np.where(X > 2.0, np.inf, X),
        X[:, :7],
        X[0],
        X[:0],
        X.astype(complex),
        X.astype(str),
        np.full((3, 8), "a"),
        None,
    ],
)
def test_rows_to_predict_are_checked_as_theirs(rows: Any) -> None:
    outcomes = []
    for module in (theirs, None):
        model = (module.MLPClassifier if module else MLPClassifier)(**QUICK).fit(X, y)
        try:
            outcomes.append(model.predict(rows))
        except (TypeError, ValueError) as error:
            outcomes.append(str(error))
    assert np.array_equal(outcomes[0], outcomes[1])


def test_rows_of_any_kind_predict_the_same() -> None:
    pandas = pytest.importorskip("pandas")
    model = MLPClassifier(**QUICK).fit(X, y)
    expected = model.predict_proba(X)
    for rows in (X.tolist(), np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2], pandas.DataFrame(X)):
        np.testing.assert_allclose(model.predict_proba(rows), expected, rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(np.tile(X, (40, 1)))[:120], expected, rtol=1e-12)
    huge = np.full((2, 8), 1e308)
    with np.errstate(all="ignore"):
        assert model.predict(huge).shape == (2,)


def test_rows_without_a_label_in_partial_fit_of_several_outputs() -> None:
    model = MLPClassifier((8,), class_weight=[{1: 2.0}, {0: 3.0, 1: 1.0}, {1: 2.0}], random_state=0)
    marks = np.eye(3, dtype=int)
    model.partial_fit(X[:3], marks, classes=[0, 1, 2])
    model.partial_fit(X[:2], marks[:2])
    assert model.t_ == 5


@pytest.mark.parametrize("device", ["cpu", None])
def test_the_ranks_are_given_the_name_of_the_device(device: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend in place of the name ``cuda`` would be the first GPU for every rank of a machine."""
    named, backend = [], Ranks.backend
    monkeypatch.setattr(Ranks, "backend", lambda ranks, name: named.append(name) or backend(ranks, name))
    MLPClassifier(**QUICK, device=device).fit(X, y)
    assert named == ["cpu"]

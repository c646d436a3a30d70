"""Options of our estimators that scikit-learn's do not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
from sklearn import neural_network as theirs
from sklearn.datasets import load_iris, make_classification, make_regression
from sklearn.metrics import balanced_accuracy_score, get_scorer, mean_pinball_loss
from sklearn.utils.class_weight import compute_sample_weight

from mlp_xp import BackendError, get_backend, schedules
from mlp_xp.nn.layers import LeakyReLU
from mlp_xp.nn.losses import Huber, Poisson, Quantile, SquaredError
from mlp_xp.nn.optimizers import SGD, Adam, RMSprop
from mlp_xp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = make_classification(240, 8, n_informative=6, n_classes=3, random_state=0)
QUICK: dict[str, Any] = {"hidden_layer_sizes": (16, 8), "max_iter": 15, "random_state": 0}


def largest_difference(a: Any, b: Any) -> float:
    return max(float(np.max(np.abs(u - v))) for u, v in zip(a.coefs_, b.coefs_, strict=True))


@pytest.mark.parametrize("device", ["torch:cpu", pytest.param("jax:cpu", marks=pytest.mark.slow), "array_api_strict"])
def test_every_device_learns_the_same(device: str) -> None:
    pytest.importorskip(device.partition(":")[0])
    here = MLPClassifier(**QUICK, dropout=0.2, early_stopping=True).fit(X, y)
    there = MLPClassifier(**QUICK, dropout=0.2, early_stopping=True, device=device).fit(X, y)
    assert largest_difference(here, there) < 1e-12
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_gpu_learns_the_same(solver: str) -> None:
    try:
        get_backend("cuda")
    except BackendError as error:
        pytest.skip(str(error))
    here = MLPClassifier(**QUICK, solver=solver).fit(X, y)
    there = MLPClassifier(**QUICK, solver=solver, device="cuda").fit(X, y)
    assert largest_difference(here, there) < 1e-9
    assert all(isinstance(W, np.ndarray) for W in there.coefs_)


def test_dtype_holds_whatever_the_rows_are() -> None:
    for given, asked in ((np.float64, "float32"), (np.float32, "float64"), (np.int64, "float32")):
        model = MLPClassifier(**QUICK, dtype=asked).fit((10 * X).astype(given), y)
        assert {str(W.dtype) for W in (*model.coefs_, *model.intercepts_)} == {asked}


def test_dropout_is_of_training_alone() -> None:
    model = MLPClassifier(**QUICK, dropout=0.5).fit(X, y)
    assert np.array_equal(model.predict_proba(X), model.predict_proba(X))
    assert largest_difference(model, MLPClassifier(**QUICK).fit(X, y)) > 1e-3
    assert largest_difference(model, MLPClassifier(**QUICK, dropout=0.5).fit(X, y)) == 0.0
    with pytest.raises(ValueError, match="dropout needs a solver that trains in epochs"):
        MLPClassifier(solver="lbfgs", dropout=0.5).fit(X, y)


@pytest.mark.parametrize(
    ("options", "validation", "message"),
    [
        ({"hidden_layer_sizes": (8.5,)}, None, r"each of hidden_layer_sizes must be a positive integer, not 8\.5"),
        ({"solver": Adam}, None, "the class Adam: call it"),
        ({}, X, r"validation_data must be \(X, y\)"),
    ],
)
def test_what_is_asked_for_wrongly_is_told(options: dict[str, Any], validation: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MLPClassifier(**options).fit(X, y, validation_data=validation)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 2: 0.5}])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_class_weights_are_factors_of_sample_weights(class_weight: Any, solver: str) -> None:
    w = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    a = MLPClassifier(**QUICK, solver=solver, class_weight=class_weight).fit(X, y, w)
    b = theirs.MLPClassifier(**QUICK, solver=solver).fit(X, y, w * compute_sample_weight(class_weight, y))
    assert largest_difference(a, b) < 1e-6


def test_balanced_classes_serve_the_rare_one() -> None:
    X, y = make_classification(600, 8, weights=[0.95], class_sep=0.5, random_state=0)
    scores = [
        balanced_accuracy_score(
            y, MLPClassifier((16,), class_weight=c, max_iter=60, random_state=0).fit(X, y).predict(X)
        )
        for c in (None, "balanced")
    ]
    assert scores[1] > scores[0] + 0.05
    with pytest.raises(ValueError, match="needs all labels at once"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_own_validation_set() -> None:
    train, valid = slice(0, 180), slice(180, None)
    data = X[valid], y[valid]
    model = MLPClassifier(**QUICK).fit(X[train], y[train], validation_data=data)
    plain = MLPClassifier(**QUICK).fit(X[train], y[train])
    assert largest_difference(model, plain) == 0.0, "without early stopping it is only measured"
    assert model.validation_scores_[-1] == model.score(*data)
    p = model.predict_proba(X[valid])
    assert model.validation_loss_curve_[-1] == pytest.approx(-np.log(p[np.arange(60), y[valid]]).mean())


def test_early_stopping_on_own_validation_set_keeps_the_best() -> None:
    data = X[180:], y[180:]
    settings = QUICK | {"max_iter": 300, "learning_rate_init": 0.02, "n_iter_no_change": 5}
    model = MLPClassifier(**settings, early_stopping=True, scoring="loss").fit(X[:180], y[:180], validation_data=data)
    assert model.stopped_ and model.n_iter_ < 300
    assert model.best_validation_score_ == max(model.validation_scores_) == -min(model.validation_loss_curve_)
    p = model.predict_proba(X[180:])
    assert -np.log(p[np.arange(60), y[180:]]).mean() == pytest.approx(-model.best_validation_score_)


@pytest.mark.parametrize("scoring", ["f1_macro", "neg_log_loss", get_scorer("balanced_accuracy")], ids=str)
def test_scorers(scoring: Any) -> None:
    frames = pytest.importorskip("pandas")
    table = frames.DataFrame(X, columns=[f"x{i}" for i in range(8)])
    model = MLPClassifier(**QUICK, early_stopping=True, scoring=scoring).fit(table, y)
    best = int(np.argmax(model.validation_scores_))
    assert model.best_validation_score_ == model.validation_scores_[best]
    assert len(model.validation_scores_) == model.n_iter_


def test_labels_of_a_validation_set_must_be_known() -> None:
    with pytest.raises(ValueError, match="labels that were not in the training data"):
        MLPClassifier(**QUICK).fit(X, y, validation_data=(X, y + 1))


def test_partial_fit_stops_early() -> None:
    model = MLPClassifier((16,), early_stopping=True, n_iter_no_change=3, learning_rate_init=0.05, random_state=0)
    data = X[180:], y[180:]
    calls = 0
    while not getattr(model, "stopped_", False) and calls < 300:
        model.partial_fit(X[:180], y[:180], classes=[0, 1, 2], validation_data=data)
        calls += 1
    assert 4 <= calls < 300
    assert model.score(*data) == model.best_validation_score_ == max(model.validation_scores_)
    before = model.coefs_[0].copy()
    assert np.array_equal(model.partial_fit(X[:180], y[:180], validation_data=data).coefs_[0], before)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_early_stopping_may_be_switched_off(method: str) -> None:
    model = MLPClassifier(**QUICK, early_stopping=True, warm_start=True)
    model.fit(X[:180], y[:180], validation_data=(X[180:], y[180:])).set_params(early_stopping=False)
    getattr(model, method)(X, y)
    assert model.best_loss_ == min(model.loss_curve_[15:])


def test_epochs_may_follow_lbfgs() -> None:
    model = MLPClassifier(**QUICK, solver="lbfgs", warm_start=True).fit(X, y)
    before = model.loss_
    model.set_params(solver="adam", learning_rate_init=1e-4).fit(X, y)
    assert len(model.loss_curve_) == 15 and model.loss_ < before


def test_early_stopping_may_be_switched_on() -> None:
    train, data = (X[:180], y[:180]), (X[180:], y[180:])
    model = MLPClassifier(**QUICK, learning_rate_init=0.05, warm_start=True).fit(*train, validation_data=data)
    best = model.best_validation_score_
    model.set_params(early_stopping=True, learning_rate_init=10.0, max_iter=1).fit(*train, validation_data=data)
    assert model.validation_scores_[-1] < best
    assert model.score(*data) == best


@pytest.mark.parametrize(
    ("loss", "q"), [("absolute_error", 0.5), ("quantile", 0.5), (Quantile(q=0.9), 0.9), (Quantile(q=0.1), 0.1)]
)
def test_losses_predict_their_quantiles(loss: Any, q: float) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (2000, 1))
    t = 2.0 * X[:, 0] + rng.exponential(1.0, 2000)
    model = MLPRegressor(loss, (16,), learning_rate_init=0.02, max_iter=100, random_state=0).fit(X, t)
    assert np.mean(t <= model.predict(X)) == pytest.approx(q, abs=0.05)
    assert mean_pinball_loss(t, model.predict(X), alpha=q) < mean_pinball_loss(t, 2.0 * X[:, 0] + 1.0, alpha=q)


def test_huber_shrugs_off_outliers() -> None:
    X, t = make_regression(300, 5, random_state=0)
    t /= 100.0
    spoiled = t.copy()
    spoiled[::10] += 100.0
    settings: dict[str, Any] = {"hidden_layer_sizes": (), "max_iter": 400, "learning_rate_init": 0.05, "tol": 0.0}
    errors = {
        name: np.mean(np.abs(MLPRegressor(loss, **settings, random_state=0).fit(X, spoiled).predict(X) - t))
        for name, loss in {"huber": Huber(delta=0.1), "square": "squared_error"}.items()
    }
    assert errors["huber"] < 0.2 * errors["square"]


def test_losses_of_the_library() -> None:
    X, t = make_regression(100, 5, random_state=0)
    square = MLPRegressor(SquaredError(), **QUICK).fit(X, t / 100.0)
    assert largest_difference(square, MLPRegressor(**QUICK).fit(X, t / 100.0)) < 1e-12
    counts = np.random.default_rng(0).poisson(2.0, 100)
    assert MLPRegressor(Poisson(), **QUICK).fit(X, counts).out_activation_ == "exp"
    with pytest.raises(ValueError, match="not negative"):
        MLPRegressor("poisson").fit(X, counts - 1)


def test_activations_per_layer() -> None:
    same = MLPClassifier(**QUICK, activation=["tanh", "tanh"]).fit(X, y)
    assert largest_difference(same, MLPClassifier(**QUICK, activation="tanh").fit(X, y)) == 0.0
    for activation in ("gelu", "softplus", "leaky_relu", LeakyReLU(0.2), ["relu", "gelu"], ("logistic", LeakyReLU())):
        model = MLPClassifier(**QUICK | {"max_iter": 40, "learning_rate_init": 0.02}, activation=activation).fit(X, y)
        assert model.score(X, y) > 0.7
    with pytest.raises(ValueError, match="has 1 entries, but there are 2 hidden layers"):
        MLPClassifier(**QUICK, activation=["relu"]).fit(X, y)
    with pytest.raises(ValueError, match=r"must be one of .*gelu"):
        MLPClassifier(**QUICK, activation=["relu", "step"]).fit(X, y)


@pytest.mark.parametrize("w", [None, np.linspace(0.5, 1.5, 240)], ids=["plain", "weighted"])
@pytest.mark.parametrize("size", [1, 24, 240])
def test_what_a_penalty_does_in_an_epoch(size: int, w: Any) -> None:
    """Rows of zeros have no gradient, so that weights only decay: by ``lr alpha``, over the batch's weight or not."""
    W = np.random.RandomState(0).uniform(-np.sqrt(6.0 / 11.0), np.sqrt(6.0 / 11.0), (8, 3))
    sums = np.add.reduceat(np.ones(240) if w is None else w, np.arange(0, 240, size))
    for mode, decay in (("constant", np.full(len(sums), 1e-3)), ("batch", 1e-3 / sums)):
        model = MLPClassifier((), solver="sgd", momentum=0.0, learning_rate_init=0.01, alpha=0.1, shuffle=False)
        model.set_params(l2_mode=mode, batch_size=size, max_iter=1, random_state=0).fit(np.zeros_like(X), y, w)
        np.testing.assert_allclose(model.coefs_[0], W * np.prod(1.0 - decay), rtol=1e-12)


@pytest.mark.parametrize("w", [None, np.linspace(0.5, 1.5, 240)], ids=["plain", "weighted"])
def test_a_constant_penalty_is_the_same_for_every_solver(w: Any) -> None:
    settings = {"alpha": 0.1, "l2_mode": "constant", "random_state": 0, "max_iter": 1000, "n_iter_no_change": np.inf}
    a = MLPClassifier((), solver="lbfgs", **settings).fit(X, y, w)
    b = MLPClassifier((), solver="sgd", learning_rate_init=0.1, batch_size=240, **settings).fit(X, y, w)
    assert a.loss_ == pytest.approx(b.loss_, rel=1e-5)
    assert largest_difference(a, b) < 0.02


def test_alpha_of_adamw_is_weight_decay() -> None:
    torch = pytest.importorskip("torch")
    model = MLPClassifier((), solver="adamw", alpha=0.5, batch_size=240, shuffle=False, random_state=0, max_iter=5)
    model.fit(X, y)
    rng, bound = np.random.RandomState(0), np.sqrt(6.0 / (8 + 3))
    W, b = (torch.tensor(rng.uniform(-bound, bound, shape), requires_grad=True) for shape in ((8, 3), 3))
    optimizer = torch.optim.AdamW([W, b], lr=0.001, weight_decay=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(torch.tensor(X) @ W + b, torch.tensor(y)).backward()
        optimizer.step()
    np.testing.assert_allclose(model.coefs_[0], W.detach().numpy(), rtol=1e-9)


def test_optimizers_of_the_library() -> None:
    by_name = MLPClassifier(**QUICK, solver="sgd", learning_rate_init=0.05).fit(X, y)
    by_object = MLPClassifier(**QUICK, solver=SGD(0.05, momentum=0.9, nesterov=True)).fit(X, y)
    assert largest_difference(by_name, by_object) == 0.0
    assert MLPClassifier(**QUICK | {"max_iter": 60}, solver=RMSprop(0.01)).fit(X, y).score(X, y) > 0.8


def test_schedules() -> None:
    constant = MLPClassifier(**QUICK, learning_rate_init=0.01).fit(X, y)
    flat = MLPClassifier(**QUICK, learning_rate=schedules.Cosine(0.01, end=0.01)).fit(X, y)
    assert largest_difference(constant, flat) < 1e-12
    inverse = MLPClassifier(**QUICK, solver="sgd", learning_rate="invscaling", learning_rate_init=0.1).fit(X, y)
    given = MLPClassifier(**QUICK, solver="sgd", learning_rate=schedules.InverseScaling(0.1, power=0.5)).fit(X, y)
    assert largest_difference(inverse, given) == 0.0
    in_adam = MLPClassifier(**QUICK, solver=Adam(schedules.OneCycle(0.05), eps_hat=True)).fit(X, y)
    by_rate = MLPClassifier(**QUICK, learning_rate=schedules.OneCycle(0.05)).fit(X, y)
    assert largest_difference(in_adam, by_rate) == 0.0
    ends = MLPClassifier(**QUICK, learning_rate=schedules.Cosine(0.01)).fit(X, y)
    assert ends._optimizer.learning_rate == pytest.approx(0.0)
    assert MLPClassifier(**QUICK, learning_rate=schedules.LossRatio(0.01, window=2)).fit(X, y).score(X, y) > 0.6


def test_ctrl_c_keeps_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from mlp_xp.sklearn import stochastic

    note = stochastic.note

    def interrupt_after_three(e: Any, *rest: Any) -> bool:
        is_best = note(e, *rest)
        if e.n_iter_ == 3:
            signal.raise_signal(signal.SIGINT)
        return is_best

    monkeypatch.setattr(stochastic, "note", interrupt_after_three)
    with pytest.warns(UserWarning, match="interrupted by user"):
        model = MLPClassifier(**QUICK).fit(X, y)
    assert model.n_iter_ == 3
    assert model.predict(X).shape == y.shape


def test_iris_with_all_of_it() -> None:
    rows, names = load_iris(return_X_y=True)
    model = MLPClassifier(
        (32, 16),
        activation=["gelu", "relu"],
        solver="adamw",
        learning_rate=schedules.OneCycle(0.03),
        dropout=0.1,
        class_weight="balanced",
        early_stopping=True,
        scoring="balanced_accuracy",
        n_iter_no_change=30,
        max_iter=60,
        random_state=0,
        dtype="float32",
    ).fit(rows, names)
    assert model.score(rows, names) > 0.93


def test_weights_that_the_user_sets_take_the_dtype_of_the_network():
    x, y = make_regression(60, 3, random_state=0)
    model = MLPRegressor(hidden_layer_sizes=(4,), dtype="float32", random_state=0).partial_fit(x, y)
    model.intercepts_ = [b.astype(np.float64) for b in model.intercepts_]
    model.partial_fit(x, y)
    assert {a.dtype for a in (*model.coefs_, *model.intercepts_)} == {np.dtype("float32")}

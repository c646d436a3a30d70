"""Robust losses, and the losses that scikit-learn reports, against formulas of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
from scipy.special import expit, huber, softmax
from sklearn.metrics import log_loss, mean_absolute_error, mean_pinball_loss, mean_poisson_deviance, mean_squared_error

from mlp_xp.nn.losses import AbsoluteError, Huber, Quantile
from mlp_xp.sklearn.losses import BinaryLogLoss, HalfSquaredError, LogLoss, PoissonDeviance
from mlp_xp_backends.trees import ABSENT

RNG = np.random.default_rng(0)
z, t = RNG.normal(size=(2, 40, 3))
w = RNG.uniform(0.5, 2.0, 40)
one_hot = np.eye(3)[RNG.integers(0, 3, 40)].astype(bool)
yes = RNG.integers(0, 2, (40, 3)).astype(bool)
counts = RNG.poisson(2.0, (40, 3)).astype(float)

CASES: dict[str, tuple[Any, Any, Any]] = {
    "absolute": (AbsoluteError(), t, lambda w: 3.0 * mean_absolute_error(t, z, sample_weight=w)),
    "huber": (Huber(delta=0.7), t, lambda w: np.average(huber(0.7, z - t).sum(axis=1), weights=w)),
    "quantile": (Quantile(q=0.8), t, lambda w: 3.0 * mean_pinball_loss(t, z, sample_weight=w, alpha=0.8)),
    "log": (LogLoss(), one_hot, lambda w: log_loss(one_hot, softmax(z, axis=1), sample_weight=w)),
    "binary log": (
        BinaryLogLoss(),
        yes,
        lambda w: sum(log_loss(yes[:, k], expit(z[:, k]), sample_weight=w) for k in range(3)),
    ),
    "half square": (HalfSquaredError(), t, lambda w: 0.5 * mean_squared_error(t, z, sample_weight=w)),
    "poisson": (
        PoissonDeviance(),
        counts,
        lambda w: 0.5 * sum(mean_poisson_deviance(counts[:, k], np.exp(z[:, k]), sample_weight=w) for k in range(3)),
    ),
}


@pytest.mark.parametrize("weights", [None, w], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_value(name: str, weights: Any) -> None:
    loss, y, expected = CASES[name]
    value, _ = loss.forward(np, z, y, ABSENT if weights is None else weights)
    assert float(value) == pytest.approx(expected(weights), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if name != "half square"])
def test_slope_is_the_derivative(name: str) -> None:
    loss, y, _ = CASES[name]
    step = 1e-6
    _, cache = loss.rows(np, z, y)
    slope = loss.slope(np, cache)
    for k in range(3):
        shift = step * np.eye(3)[k]
        difference = (loss.rows(np, z + shift, y)[0] - loss.rows(np, z - shift, y)[0]) / (2.0 * step)
        np.testing.assert_allclose(slope[:, k], difference, atol=1e-7)


def test_half_square_reports_the_mean_and_descends_the_sum() -> None:
    loss = HalfSquaredError()
    _, cache = loss.rows(np, z, t)
    assert np.array_equal(loss.slope(np, cache), z - t)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("loss", "y"), [(LogLoss(), np.eye(2, dtype=bool)), (BinaryLogLoss(), np.array([[True], [False]]))]
)
def test_probabilities_are_clipped_at_the_epsilon(loss: Any, y: Any, dtype: Any) -> None:
    eps = np.finfo(dtype).eps
    sure = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype)[:, : y.shape[1]]
    np.testing.assert_allclose(loss.rows(np, sure, y)[0], eps, rtol=1e-6)
    np.testing.assert_allclose(loss.rows(np, -sure, y)[0], -np.log(eps), rtol=1e-6)


def test_small_probabilities_keep_their_digits() -> None:
    far = np.array([[-600.0], [-30.0], [30.0]])
    np.testing.assert_allclose(BinaryLogLoss().output(np, far), expit(far), rtol=1e-14)


@pytest.mark.parametrize("loss", [AbsoluteError(), Huber(), Quantile(q=0.2)])
def test_robust_slopes_are_bounded(loss: Any) -> None:
    _, cache = loss.rows(np, 1e6 * z, t)
    assert np.max(np.abs(loss.slope(np, cache))) <= 1.0


def test_at_the_target_nothing_pulls() -> None:
    for loss in (AbsoluteError(), Huber(), Quantile()):
        _, cache = loss.rows(np, t, t)
        assert np.all(loss.slope(np, cache) == 0.0)


def test_parameters_are_checked() -> None:
    for delta in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="delta must be a finite number above 0"):
            Huber(delta=delta)
    for q in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="q must be a number in"):
            Quantile(q=q)
    with pytest.raises(ValueError, match="reduction must be"):
        AbsoluteError(reduction="median")  # type: ignore[arg-type]

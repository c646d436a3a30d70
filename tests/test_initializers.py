"""Initial weights: moments, bounds, and the generator that they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlp_xp.nn.initializers import Constant, Glorot, He, LeCun, Normal, Uniform

SHAPE, FANS = (400, 300), (400, 300)
VARIANCES = {He: 2 / 400, Glorot: 2 / 700, LeCun: 1 / 400}
SCALED = [(make, kind) for make in VARIANCES for kind in ("normal", "uniform")]


def moments_hold(w, mean, variance, kurtosis):
    """The sample mean and variance within five standard deviations of theirs."""
    n = w.size
    assert abs(w.mean() - mean) < 5 * math.sqrt(variance / n)
    assert abs(w.var() - variance) < 5 * variance * math.sqrt((kurtosis - 1) / n)


@pytest.mark.parametrize(("make", "kind"), SCALED)
def test_scaled_weights_have_the_variance_of_their_rule(make, kind):
    w = make(kind)(np.random.default_rng(0), SHAPE, FANS)
    assert w.dtype == np.float64
    assert w.shape == SHAPE
    moments_hold(w, 0.0, VARIANCES[make], 3.0 if kind == "normal" else 1.8)
    if kind == "uniform":
        assert math.sqrt(3 * VARIANCES[make]) * 0.999 < np.abs(w).max() <= math.sqrt(3 * VARIANCES[make])


def test_glorot_uniform_has_the_published_bound():
    w = Glorot()(np.random.default_rng(0), SHAPE, FANS)  # Glorot and Bengio 2010, eq. 16
    assert 0.999 * math.sqrt(6 / 700) < np.abs(w).max() <= math.sqrt(6 / 700)


def test_normal_uniform_and_constant():
    rng = np.random.default_rng(0)
    moments_hold(Normal(std=0.5)(rng, SHAPE, FANS), 0.0, 0.25, 3.0)
    w = Uniform(low=-1.0, high=3.0)(rng, SHAPE, FANS)
    moments_hold(w, 1.0, 16 / 12, 1.8)
    assert w.min() >= -1.0
    assert w.max() < 3.0
    np.testing.assert_array_equal(Constant(0.25)(rng, (2, 3), (2, 3)), np.full((2, 3), 0.25))


@pytest.mark.parametrize("initializer", [He(), Glorot(), LeCun(), Normal(std=0.1), Uniform()])
def test_the_generator_alone_decides(initializer):
    a, b, c = (initializer(np.random.default_rng(seed), SHAPE, FANS) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_constant_draws_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    Constant(1.0)(rng, SHAPE, FANS)
    assert rng.bit_generator.state == before

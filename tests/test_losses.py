"""Losses against torch, SciPy and JAX, and the laws of weights, reductions and huge logits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import special

from mlp_xp.nn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Poisson,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)
from mlp_xp.nn.metrics import accuracy, binary_accuracy
from mlp_xp_backends import get_backend
from mlp_xp_backends.numpy_namespace import xp as XP
from mlp_xp_backends.trees import ABSENT

ROWS, N = 9, 6
LOSSES = (SoftmaxCrossEntropy, BinaryCrossEntropy, SquaredError, Poisson, AbsoluteError, Huber, Quantile)
NAMES = ("classes", "distributions", "flags", "numbers", "counts", "absolute", "huber", "quantile")
HUBER = partial(Huber, delta=0.7)
QUANTILE = partial(Quantile, q=0.8)


def pairs():
    """Every loss with targets it takes."""
    rng = np.random.default_rng(0)
    return [
        (SoftmaxCrossEntropy, rng.integers(0, N, ROWS, dtype=np.int32)),
        (SoftmaxCrossEntropy, rng.dirichlet(np.ones(N), ROWS)),
        (BinaryCrossEntropy, (rng.random((ROWS, N)) < 0.4) * 1.0),
        (SquaredError, rng.standard_normal((ROWS, N))),
        (Poisson, rng.poisson(2.0, (ROWS, N)) * 1.0),
        (AbsoluteError, rng.standard_normal((ROWS, N))),
        (HUBER, rng.standard_normal((ROWS, N))),
        (QUANTILE, rng.standard_normal((ROWS, N))),
    ]


each = pytest.mark.parametrize(("make", "y"), pairs(), ids=NAMES)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])


@pytest.fixture
def z():
    return 2.0 * np.random.default_rng(1).standard_normal((ROWS, N))


@pytest.fixture
def w():
    return np.random.default_rng(2).uniform(0.0, 2.0, ROWS)


def by_torch(torch, make, z, y, reduction):
    f = torch.nn.functional
    if make is SoftmaxCrossEntropy:
        return f.cross_entropy(z, y.long() if y.ndim == 1 else y, reduction=reduction)
    rows = {
        BinaryCrossEntropy: lambda: f.binary_cross_entropy_with_logits(z, y, reduction="none"),
        SquaredError: lambda: 0.5 * f.mse_loss(z, y, reduction="none"),
        Poisson: lambda: f.poisson_nll_loss(z, y, log_input=True, full=False, reduction="none"),
        AbsoluteError: lambda: f.l1_loss(z, y, reduction="none"),
        HUBER: lambda: f.huber_loss(z, y, reduction="none", delta=0.7),
        QUANTILE: lambda: torch.maximum(0.8 * (y - z), 0.2 * (z - y)),
    }[make]().sum(dim=-1)
    return rows.mean() if reduction == "mean" else rows.sum()


@each
@reductions
def test_loss_and_derivative_are_those_of_torch(make, y, reduction, z):
    torch = pytest.importorskip("torch")
    t = torch.tensor(z, requires_grad=True)
    theirs = by_torch(torch, make, t, torch.tensor(y), reduction)
    theirs.backward()
    ours, cache = make(reduction=reduction).forward(XP, z, y, ABSENT)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-13)
    np.testing.assert_allclose(make(reduction=reduction).backward(XP, cache), t.grad.numpy(), rtol=1e-12, atol=1e-14)


@each
@reductions
def test_weighted_derivative_is_the_one_that_jax_finds(make, y, reduction, z, w):
    jax = pytest.importorskip("jax")
    loss = make(reduction=reduction)
    with jax.enable_x64(True):
        theirs = jax.grad(
            lambda z: loss.forward(get_backend("jax:cpu").xp, z, jax.numpy.asarray(y), jax.numpy.asarray(w))[0]
        )(jax.numpy.asarray(z))
    ours = loss.backward(XP, loss.forward(XP, z, y, w)[1])
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=1e-12, atol=1e-14)


def test_cross_entropy_is_log_softmax_of_the_class(z):
    y = np.arange(ROWS, dtype=np.int32) % N
    for logits in (z, 1e4 * np.sign(z)):
        cost, (p, _) = SoftmaxCrossEntropy().rows(XP, logits, y)
        np.testing.assert_allclose(cost, -special.log_softmax(logits, axis=-1)[np.arange(ROWS), y], rtol=1e-13)
        np.testing.assert_allclose(
            cost, special.logsumexp(logits, axis=-1) - logits[np.arange(ROWS), y], rtol=1e-13, atol=1e-11
        )
        np.testing.assert_allclose(p, special.softmax(logits, axis=-1), rtol=1e-13)


def test_one_hot_distributions_are_classes(z):
    y = np.arange(ROWS, dtype=np.int32) % N
    for kind in (np.uint8, np.int64, np.int32):
        a, cache_a = SoftmaxCrossEntropy().forward(XP, z, y.astype(kind), ABSENT)
        b, cache_b = SoftmaxCrossEntropy().forward(XP, z, np.eye(N)[y], ABSENT)
        assert a == b
        np.testing.assert_array_equal(
            SoftmaxCrossEntropy().backward(XP, cache_a), SoftmaxCrossEntropy().backward(XP, cache_b)
        )


def test_softmax_cares_for_differences_alone(z):
    y = np.zeros(ROWS, np.int32)
    a, b = (SoftmaxCrossEntropy().forward(XP, logits, y, ABSENT)[0] for logits in (z, z + 1000.0))
    assert a == pytest.approx(b, rel=1e-12)


@each
@reductions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_give_finite_numbers(make, y, reduction, dtype, size, z):
    logits = (size * np.sign(z)).astype(dtype)
    logits[0] = size
    loss = make(reduction=reduction)
    cost, cache = loss.forward(XP, logits, y, np.ones(ROWS, dtype))
    for a in (cost, loss.backward(XP, cache), loss.output(XP, logits)):
        assert a.dtype == dtype
        assert np.all(np.isfinite(a))


@each
def test_sum_is_the_mean_times_the_rows(make, y, z):
    (mean, a), (total, b) = (make(reduction=r).forward(XP, z, y, ABSENT) for r in ("mean", "sum"))
    assert total == pytest.approx(ROWS * mean, rel=1e-13)
    np.testing.assert_allclose(
        make(reduction="sum").backward(XP, b), ROWS * make(reduction="mean").backward(XP, a), rtol=1e-13
    )


@each
@reductions
def test_a_whole_weight_is_a_row_repeated(make, y, reduction, z):
    times = np.array([0, 1, 2, 3, 1, 1, 0, 2, 1])
    loss = make(reduction=reduction)
    weighted, _ = loss.forward(XP, z, y, times)
    repeated, _ = loss.forward(XP, np.repeat(z, times, axis=0), np.repeat(y, times, axis=0), ABSENT)
    assert weighted == pytest.approx(repeated, rel=1e-13)


@each
@reductions
def test_a_row_without_weight_has_no_say(make, y, reduction, z, w):
    w[3] = 0.0
    loss = make(reduction=reduction)
    cost, cache = loss.forward(XP, z, y, w)
    z[3] += 5.0
    other, _ = loss.forward(XP, z, y, w)
    assert cost == other
    np.testing.assert_array_equal(loss.backward(XP, cache)[3], 0.0)


@each
def test_a_batch_without_weight_costs_nothing(make, y, z):
    cost, cache = make().forward(XP, z, y, np.zeros(ROWS))
    assert cost == 0.0
    np.testing.assert_array_equal(make().backward(XP, cache), 0.0)


@each
@reductions
def test_models_in_front_cost_what_each_costs(make, y, reduction, z, w):
    stack = np.stack([z, 0.5 * z, -z])
    loss = make(reduction=reduction)
    costs, cache = loss.forward(XP, stack, y, w)
    slopes = loss.backward(XP, cache)
    assert costs.shape == (3,)
    for i in range(3):
        cost, cache = loss.forward(XP, stack[i], y, w)
        np.testing.assert_allclose(costs[i], cost, rtol=1e-14)
        np.testing.assert_allclose(slopes[i], loss.backward(XP, cache), rtol=1e-14)


@reductions
def test_models_in_front_may_have_weights_of_their_own(reduction, z):
    stack, w = np.stack([z, -z]), np.random.default_rng(3).uniform(0.5, 2.0, (2, ROWS))
    loss, y = SquaredError(reduction=reduction), np.zeros((ROWS, N))
    costs, cache = loss.forward(XP, stack, y, w)
    for i in range(2):
        cost, alone = loss.forward(XP, stack[i], y, w[i])
        np.testing.assert_allclose(costs[i], cost, rtol=1e-14)
        np.testing.assert_allclose(loss.backward(XP, cache)[i], loss.backward(XP, alone), rtol=1e-14)


def test_output_is_the_mean_of_the_distribution(z):
    np.testing.assert_allclose(SoftmaxCrossEntropy().output(XP, z), special.softmax(z, axis=-1), rtol=1e-13)
    np.testing.assert_allclose(BinaryCrossEntropy().output(XP, z), special.expit(z), rtol=1e-13)
    np.testing.assert_allclose(Poisson().output(XP, z), np.exp(z), rtol=1e-13)
    assert SquaredError().output(XP, z) is z


def test_accuracy_counts_the_largest_output():
    z = np.array([[1.0, 2.0, 0.0], [5.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(accuracy(XP, z, np.array([1, 1, 2], np.int32)), [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(accuracy(XP, z, np.eye(3)[[1, 0, 0]]), [1.0, 1.0, 0.0])


def test_an_output_of_zero_and_a_probability_of_one_half_are_not_positive():
    z, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [0.5], [0.6]])
    np.testing.assert_array_equal(binary_accuracy(XP, z, y), [1.0, 0.0, 0.0, 1.0])


def test_binary_accuracy_is_the_share_of_right_signs():
    z = np.array([[1.0, -2.0, 3.0, -4.0]])
    np.testing.assert_array_equal(binary_accuracy(XP, z, np.array([[1, 0, 0, 0]])), [0.75])


def test_losses_of_location_have_their_minimum_at_median_mean_and_quantile():
    y = np.random.default_rng(0).exponential(size=(1001, 1))
    grid = np.linspace(0.0, 3.0, 3001)
    for loss, place in (
        (AbsoluteError(), np.median(y)),
        (SquaredError(), np.mean(y)),
        (Quantile(q=0.9), np.quantile(y, 0.9)),
        (Huber(delta=1e-6), np.median(y)),
        (Huber(delta=1e6), np.mean(y)),
    ):
        z = np.broadcast_to(grid[:, None, None], (len(grid), *y.shape))
        assert grid[np.argmin(loss.forward(XP, z, y, ABSENT)[0])] == pytest.approx(place, abs=6e-3)


def test_labels_in_bytes_for_more_classes_than_bytes_have() -> None:
    z, y = np.random.default_rng(0).standard_normal((5, 300)), np.array([0, 44, 99, 200, 255])
    (cost, slope), (same, alike) = (
        (cost, SoftmaxCrossEntropy().slope(XP, cache))
        for cost, cache in (SoftmaxCrossEntropy().rows(XP, z, labels) for labels in (y, y.astype("uint8")))
    )
    np.testing.assert_array_equal(cost, same)
    np.testing.assert_array_equal(slope, alike)

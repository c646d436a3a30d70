"""Gradient checks of every layer, activation and loss, and tests that the check detects wrong gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mlp_xp import check_gradients
from mlp_xp.nn.layers import (
    GELU,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Rescale,
    Sigmoid,
    Softplus,
    Tanh,
)
from mlp_xp.nn.layers.base import Spec
from mlp_xp.nn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Poisson,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)
from mlp_xp.nn.networks import mlp
from mlp_xp_backends.trees import ABSENT

ROWS, N_IN, N_OUT = 7, 6, 4
MIDDLE = [
    *(Identity(), ReLU(), LeakyReLU(0.1), Sigmoid(), Tanh(), Softplus(), GELU()),
    *(LayerNorm(5), BatchNorm(5), Dropout(0.3), Rescale(shift=0.2, scale=3.0)),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    return rng.standard_normal((ROWS, N_IN))


@pytest.fixture
def classes(rng):
    return rng.integers(0, N_OUT, ROWS)


@pytest.mark.parametrize("layer", MIDDLE, ids=lambda layer: type(layer).__name__)
def test_layer_between_dense_layers(layer, x, classes):
    report = check_gradients(Chain(Dense(N_IN, 5), layer, Dense(5, N_OUT)), SoftmaxCrossEntropy(), x, classes)
    assert report.ok, report
    assert set(report.errors) >= {"0.W", "0.b", "2.W", "2.b", "x"}


@pytest.mark.parametrize(
    "layer", [*MIDDLE[:7], LayerNorm(N_IN), BatchNorm(N_IN), Dropout(0.3), Rescale(shift=0.2, scale=3.0)]
)
def test_layer_alone_at_the_input(layer, x, rng):
    chain = Chain(layer, Dense(N_IN, N_OUT))
    if layer.takes == "numbers":
        x = rng.integers(0, 9, x.shape)
    report = check_gradients(chain, SquaredError(), x, rng.standard_normal((ROWS, N_OUT)))
    assert report.ok, report


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_embedding(combine, rng, classes):
    first = Embedding(8, 3, ids_per_row=2, combine=combine)
    chain = Chain(first, Dense(first.width(2), N_OUT))
    report = check_gradients(chain, SoftmaxCrossEntropy(), rng.integers(0, 8, (ROWS, 2)), classes)
    assert report.ok, report
    assert "x" not in report.errors


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "make",
    [SoftmaxCrossEntropy, "soft", BinaryCrossEntropy, SquaredError, Poisson, AbsoluteError, Huber, Quantile],
)
def test_loss(make, reduction, weighted, x, classes, rng):
    y = {
        SoftmaxCrossEntropy: classes,
        "soft": rng.dirichlet(np.ones(N_OUT), ROWS),
        BinaryCrossEntropy: rng.integers(0, 2, (ROWS, N_OUT)),
        Poisson: rng.poisson(2.0, (ROWS, N_OUT)),
    }.get(make, rng.standard_normal((ROWS, N_OUT)))
    loss = (SoftmaxCrossEntropy if make == "soft" else make)(reduction=reduction)
    report = check_gradients(mlp(N_IN, 5, N_OUT), loss, x, y, sample_weight=rng.random(ROWS) if weighted else None)
    assert report.ok, report


@pytest.mark.parametrize("norm", [None, "layer", "batch"])
def test_deep_network_with_everything(norm, x, classes):
    network = mlp(N_IN, 9, 8, 7, N_OUT, activation="gelu", norm=norm, dropout=0.2)
    report = check_gradients(network, SoftmaxCrossEntropy(), x, classes)
    assert report.ok, report


class WrongTanh(Tanh):
    def backward(self, xp, params, y, dy):
        return dy * (1.0 - y * y * 1.001), ABSENT


class WrongBias(Dense):
    def gradient(self, xp, params, x, dy):
        right = super().gradient(xp, params, x, dy)
        return right._replace(b=right.b * 1.0001)


def test_a_wrong_derivative_is_found_and_named(x, classes):
    report = check_gradients(Chain(WrongBias(N_IN, 5), Tanh(), Dense(5, N_OUT)), SoftmaxCrossEntropy(), x, classes)
    assert not report.ok
    assert [name for name, error in report.errors.items() if error > report.tolerance] == ["0.b"]
    assert [line.split()[0] for line in str(report).splitlines() if "WRONG" in line] == ["0.b"]

    report = check_gradients(Chain(Dense(N_IN, 5), WrongTanh(), Dense(5, N_OUT)), SoftmaxCrossEntropy(), x, classes)
    wrong = {name for name, error in report.errors.items() if error > report.tolerance}
    assert wrong == {"0.W", "0.b", "x"}


class Greedy(Tanh):
    def forward(self, xp, params, x):
        x *= 2.0
        return super().forward(xp, params, x)


class GreedyBack(Tanh):
    def backward(self, xp, params, y, dy):
        dy *= 1.0 - y * y
        return dy, ABSENT


@pytest.mark.parametrize("layer", [Greedy(), GreedyBack()])
@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_that_writes_to_its_arguments_is_named(layer, place, x, rng):
    chain = Chain(*[Dense(N_IN, N_IN)] * place, Chain(layer), Dense(N_IN, 2))
    before = x.copy()
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}.(for|back)ward writes to its arguments"):
        check_gradients(chain, SquaredError(), x, rng.standard_normal((ROWS, 2)))
    np.testing.assert_array_equal(x, before)
    x[0, 0] = 1.0  # still writable


def test_a_loss_without_any_derivative_is_refused():
    class Noise(Tanh):
        def forward(self, xp, params, x):
            y, cache = super().forward(xp, params, x)
            return y + np.random.default_rng().random(y.shape), cache

    with pytest.raises(ValueError, match="no derivative at any entry that was tried"):
        check_gradients(Chain(Noise(), Dense(3, 2)), SquaredError(), np.ones((4, 3)), np.ones((4, 2)))


def test_a_kink_is_stepped_around():
    """Inputs closer to 0 than the step of the differences, on both sides of it."""
    x = np.array([[1e-6, -1e-6, 0.5, -0.5]] * 3)
    report = check_gradients(Chain(ReLU(), Dense(4, 2)), SquaredError(), x, np.zeros((3, 2)))
    assert report.ok, report


@dataclass(frozen=True)
class Kinked(Layer):
    """``y = x + kink |p| / 2`` at p = 0, where the slope changes by ``kink``."""

    kink: float

    def specs(self):
        return Spec(1, 1)

    def init(self, rng):
        return np.zeros((1, 1))

    def forward(self, xp, params, x):
        return x + 0.5 * self.kink * xp.abs(params), xp.sign(params)

    def backward(self, xp, params, sign, dy):
        return dy, xp.sum(dy * 0.5 * self.kink * sign, axis=-2, keepdims=True)


@pytest.mark.parametrize(("size", "limit"), [(0.1, 1e-5**0.5), (1.0, 1e-5**0.5), (50.0, 50.0 * 1e-5**0.5)])
def test_a_kink_is_a_second_difference_above_h_to_the_power_of_1_5(size, limit):
    """A slope that changes by k makes a second difference of k h, with h = 1e-5; a large loss is rounded more."""
    for kink in (0.8 * limit, 1.2 * limit):
        chain, x, y = Chain(Kinked(kink)), np.full((1, 1), size), np.zeros((1, 1))
        params = chain.init(None)
        if kink < limit:
            assert check_gradients(chain, AbsoluteError(), x, y, params=params).ok
        else:
            with pytest.raises(ValueError, match="no derivative at any entry"):
                check_gradients(chain, AbsoluteError(), x, y, params=params)


def test_rounding_leaves_much_room_below_the_tolerance(x, classes):
    assert max(check_gradients(mlp(N_IN, 5, N_OUT), SoftmaxCrossEntropy(), x, classes).errors.values()) < 1e-9


def test_data_that_do_not_fit_are_refused(x, classes):
    with pytest.raises(ValueError, match="takes 5 features but 6 arrive"):
        check_gradients(mlp(5, N_OUT), SoftmaxCrossEntropy(), x, classes)
    with pytest.raises(ValueError, match="classes"):
        check_gradients(mlp(N_IN, N_OUT), SoftmaxCrossEntropy(), x, classes + N_OUT)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_layer_of_ones_own_needs_forward_and_backward_alone(place, x, classes):
    """First in a network, between others and last: what the base class derives from ``backward`` is right."""

    @dataclass(frozen=True)
    class Scaled(Layer):
        n: int

        def specs(self):
            return Spec(1, self.n)

        def init(self, rng):
            return np.ones((1, self.n))

        def forward(self, xp, params, x):
            return x * params, x

        def backward(self, xp, params, x, dy):
            return dy * params, xp.sum(dy * x, axis=-2, keepdims=True)

    layers = [Dense(N_IN, 5), Dense(5, N_OUT)]
    layers.insert(place, Scaled([N_IN, 5, N_OUT][place]))
    assert check_gradients(Chain(*layers), SoftmaxCrossEntropy(), x, classes).ok


# The report is what its documentation says


@dataclass(frozen=True)
class Faint(Layer):
    """``y = (a + faint b) x`` with one column; its gradients are multiplied by factors of their own."""

    faint: float = 1.0
    wrong_a: float = 1.0
    wrong_b: float = 1.0

    def specs(self):
        return Spec(1, 1), Spec(1, 1)

    def init(self, rng):
        return np.ones((1, 1)), np.zeros((1, 1))

    def forward(self, xp, params, x):
        a, b = params
        return (a + self.faint * b) * x, x

    def backward(self, xp, params, x, dy):
        a, b = params
        da = xp.sum(dy * x, axis=-2, keepdims=True)
        return dy * (a + self.faint * b), (self.wrong_a * da, self.faint * self.wrong_b * da)


def errors_of(layer, **options):
    """At a = 1, b = 0, x = 1 and a target of 0, with 4 rows: ``da = 4``, ``db = 4 faint`` and ``|dx| = 2``."""
    params = (layer.init(None),)
    x, y = np.ones((4, 1)), np.zeros((4, 1))
    return check_gradients(Chain(layer), SquaredError(reduction="sum"), x, y, params=params, **options)


@pytest.mark.parametrize("factor", [3.0, 1.25, 0.75, 0.0, -1.0])
def test_the_error_is_relative_to_the_larger_of_gradient_and_difference(factor):
    report = errors_of(Faint(wrong_b=factor))
    assert report.errors["0.1"] == pytest.approx(abs(factor - 1.0) / max(abs(factor), 1.0), rel=1e-6)
    assert max(report.errors["0.0"], report.errors["x"]) < 1e-9


def test_the_error_of_a_faint_gradient_is_relative_to_a_thousandth_of_the_largest():
    assert errors_of(Faint(faint=1e-5, wrong_b=2.0)).errors["0.1"] == pytest.approx(1e-5 / 1e-3, rel=1e-3)


def test_the_default_tolerance_is_1e_7():
    assert errors_of(Faint(wrong_a=1.0 + 0.9e-7)).ok
    assert not errors_of(Faint(wrong_a=1.0 + 1.1e-7)).ok
    assert errors_of(Faint(wrong_a=1.5), tolerance=0.34).ok


@dataclass(frozen=True)
class Counted(SquaredError):  # noqa: N818  a loss, not an exception
    """Keeps the outputs of all forward passes."""

    seen: list

    def rows(self, xp, z, y):
        self.seen.append(z.copy())
        return super().rows(xp, z, y)


@dataclass(frozen=True)
class Offset(Layer):
    """``y = x + p``."""

    n: int

    def specs(self):
        return Spec(1, self.n)

    def init(self, rng):
        return np.zeros((1, self.n))

    def forward(self, xp, params, x):
        return x + params, ABSENT

    def backward(self, xp, params, cache, dy):
        return dy, xp.sum(dy, axis=-2, keepdims=True)


@pytest.mark.parametrize(("options", "expected"), [({}, 30), ({"entries": 7}, 7), ({"entries": 100}, 50)])
def test_so_many_random_entries_are_checked(options, expected):
    loss = Counted(seen=[])
    assert check_gradients(Chain(Offset(50)), loss, np.zeros((1, 50)), np.ones((1, 50)), **options).ok
    at, *moved = np.concatenate(loss.seen)[1:]
    changes = [tuple(np.flatnonzero(z != at)) for z in moved[: 2 * expected]]  # those of p, then those of x
    assert [len(change) for change in changes] == [1] * 2 * expected
    assert len(set(changes)) == expected
    if expected < 50:
        assert set(changes) != {(k,) for k in range(expected)}


def test_biases_are_moved_away_from_zero():
    """By 0.1 N(0, 1): the standard deviation of 10,000 such numbers is 0.1 within five of its own."""
    loss = Counted(seen=[])
    check_gradients(Chain(Offset(10_000)), loss, np.zeros((1, 10_000)), np.zeros((1, 10_000)), entries=1)
    assert abs(loss.seen[0].std() - 0.1) < 5 * 0.1 / np.sqrt(2 * 10_000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros(N_IN)}, "x must have two axes"),
        ({"x": np.zeros((1, ROWS, N_IN))}, "x must have two axes"),
        ({"x": np.zeros((ROWS - 1, N_IN))}, "y has shape .* one entry for each row"),
        ({"sample_weight": np.ones(ROWS - 1)}, "sample_weight has shape .* one entry for each row"),
        ({"sample_weight": np.ones((ROWS, 1))}, "sample_weight has shape .* one entry for each row"),
        ({"y": np.full(ROWS, -1)}, "y must contain classes from 0 to 3, but contains -1"),
        ({"y": np.full(ROWS, N_OUT)}, "y must contain classes from 0 to 3, but contains 4"),
        ({"y": np.zeros((ROWS, N_OUT - 1))}, "one column for each of the 4 outputs"),
        ({"y": np.zeros(ROWS)}, "one column for each of the 4 outputs"),
    ],
)
def test_rows_that_do_not_match_are_refused(change, words, x, classes):
    given = {"x": x, "y": classes} | change
    with pytest.raises(ValueError, match=words):
        check_gradients(mlp(N_IN, N_OUT), SoftmaxCrossEntropy(), **given)


@pytest.mark.parametrize("y", [0, N_OUT - 1])
def test_the_first_and_the_last_class_are_classes(y, x):
    assert check_gradients(mlp(N_IN, N_OUT), SoftmaxCrossEntropy(), x, np.full(ROWS, y)).ok

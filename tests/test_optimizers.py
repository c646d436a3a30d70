"""Optimizers against torch and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Rates, RMSprop
from mlp_xp.nn.schedules import OneCycle
from mlp_xp_backends.trees import leaves, tree_map

SHAPE = (5, 4)


def path(optimizer, gradients, w, rates=None):
    """``w`` after steps along the gradients, at rates that may change."""
    w, slots = w.copy(), optimizer.init(np, w)
    for t, g in enumerate(gradients):
        lr = optimizer.lr if rates is None else rates[t]
        w, slots = optimizer.update(np, w, slots, g, Rates(*tree_map(np.asarray, tuple(optimizer.rates(lr, t + 1)))))
    return w


def torch_path(torch, make, gradients, w, rates=None):
    p = torch.tensor(w, requires_grad=True)
    optimizer = make([p])
    for t, g in enumerate(gradients):
        p.grad = torch.tensor(g)
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[t]
        optimizer.step()
    return p.detach().numpy()


ORACLES = {
    "SGD": (SGD(0.1), lambda o, p: o.SGD(p, 0.1)),
    "momentum": (SGD(0.1, momentum=0.9), lambda o, p: o.SGD(p, 0.1, momentum=0.9)),
    "Nesterov": (SGD(0.1, momentum=0.9, nesterov=True), lambda o, p: o.SGD(p, 0.1, momentum=0.9, nesterov=True)),
    "Adam": (Adam(0.01, b1=0.8, b2=0.99, eps=1e-6), lambda o, p: o.Adam(p, 0.01, (0.8, 0.99), 1e-6)),
    "AdamW": (AdamW(0.01, weight_decay=0.3), lambda o, p: o.AdamW(p, 0.01, weight_decay=0.3)),
    "RMSprop": (RMSprop(0.01, decay=0.9, eps=1e-6), lambda o, p: o.RMSprop(p, 0.01, alpha=0.9, eps=1e-6)),
}


@pytest.fixture
def w():
    return np.random.default_rng(0).standard_normal(SHAPE)


@pytest.fixture
def gradients():
    return np.random.default_rng(1).standard_normal((25, *SHAPE)) * np.geomspace(1e-4, 10.0, 5)[:, None]


@pytest.mark.parametrize("name", ORACLES)
def test_optimizer_goes_the_way_of_torch(name, w, gradients):
    torch = pytest.importorskip("torch")
    ours, theirs = ORACLES[name]
    there = torch_path(torch, lambda p: theirs(torch.optim, p), gradients, w)
    np.testing.assert_allclose(path(ours, gradients, w), there, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimizer_goes_the_way_of_torch_at_changing_rates(name, w, gradients):
    torch = pytest.importorskip("torch")
    rates = np.geomspace(0.1, 0.001, len(gradients)).tolist()
    ours, theirs = ORACLES[name]
    there = torch_path(torch, lambda p: theirs(torch.optim, p), gradients, w, rates)
    np.testing.assert_allclose(path(ours, gradients, w, rates), there, rtol=1e-11, atol=1e-13)


def test_velocity_holds_the_rate(w):
    """After the rate falls to 0 classical momentum coasts on: ``v_k = mu^k v_0``."""
    g = np.ones((4, *SHAPE))
    ours = path(SGD(0.1, momentum=0.5), g, w, rates=[0.1, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(ours, w - 0.1 * (1 + 0.5 + 0.25 + 0.125), rtol=1e-13)


def on_parabola(optimizer, steps, w=1.0, a=0.5):
    """Steps on ``a w^2 / 2``, whose gradient is ``a w``."""
    w = np.full(SHAPE, w)
    slots = optimizer.init(np, w)
    for t in range(steps):
        rates = Rates(*tree_map(np.asarray, tuple(optimizer.rates(optimizer.lr, t + 1))))
        w, slots = optimizer.update(np, w, slots, a * w, rates)
    return w


def test_descent_on_a_parabola_is_a_geometric_series():
    np.testing.assert_allclose(on_parabola(SGD(0.1), 20), (1 - 0.1 * 0.5) ** 20, rtol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_on_a_parabola_is_a_linear_recursion(nesterov):
    mu, lr, a = 0.8, 0.3, 0.5
    matrix = np.array([[1 + mu - lr * a, -mu], [1, 0]])
    if nesterov:  # w_(t+1) = (1 - lr a)(w_t + mu (w_t - w_(t-1))) in the point where the gradient is taken
        matrix = np.array([[(1 + mu) * (1 - lr * a), -mu * (1 - lr * a)], [1, 0]])
    x = np.array([1.0, 1.0])
    path = [x[0]]
    for _ in range(15):
        x = matrix @ x
        path.append(x[0])
    expected = path[-1]
    if nesterov:  # ours is the look-ahead point x_t + mu (x_t - x_(t-1))
        expected = path[-1] + mu * (path[-1] - path[-2])
    np.testing.assert_allclose(on_parabola(SGD(lr, momentum=mu, nesterov=nesterov), 15), expected, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [Adam(0.01, eps=0.0), AdamW(0.01, eps=0.0, weight_decay=0.0)])
def test_adam_takes_steps_of_the_rate_along_a_steady_gradient(optimizer, w):
    g = np.broadcast_to(np.geomspace(-1e-5, -1e5, SHAPE[1]), SHAPE) * np.where(np.arange(5) % 2, 1, -1)[:, None]
    np.testing.assert_allclose(path(optimizer, [g] * 10, w), w - 10 * 0.01 * np.sign(g), rtol=1e-12, atol=1e-13)


def test_eps_hat_stands_beside_the_uncorrected_root(w, gradients):
    optimizer = Adam(0.01, eps=1e-2, eps_hat=True)
    m, v, expected = np.zeros(SHAPE), np.zeros(SHAPE), w.copy()
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-2)
    np.testing.assert_allclose(path(optimizer, gradients, w), expected, rtol=1e-12)


def test_rmsprop_settles_on_steps_of_the_rate_along_a_steady_gradient(w):
    optimizer = RMSprop(0.01, decay=0.5, eps=0.0)
    before, after = (path(optimizer, [np.full(SHAPE, 7.0)] * n, w) for n in (60, 61))
    np.testing.assert_allclose(before - after, 0.01, rtol=1e-9)


def test_decoupled_decay_shrinks_weights_without_a_gradient(w):
    optimizer = AdamW(0.1, weight_decay=0.5)
    np.testing.assert_allclose(path(optimizer, np.zeros((3, *SHAPE)), w), w * (1 - 0.1 * 0.5) ** 3, rtol=1e-13)


@pytest.mark.parametrize("name", ORACLES)
def test_update_consumes_its_arrays_and_leaves_the_gradient(name, w):
    optimizer, _ = ORACLES[name]
    g = np.ones(SHAPE)
    g.flags.writeable = False
    slots = optimizer.init(np, w)
    after, _ = optimizer.update(np, w, slots, g, optimizer.rates(0.1, 1))
    assert after is w


@pytest.mark.parametrize("name", ORACLES)
def test_float32_stays_float32(name, w, gradients):
    optimizer, _ = ORACLES[name]
    w = w.astype(np.float32)
    rates = tree_map(np.float32, optimizer.rates(0.1, 1))
    after, slots = optimizer.update(np, w, optimizer.init(np, w), gradients[0].astype(np.float32), rates)
    assert {a.dtype.name for a in (after, *leaves(slots))} == {"float32"}


def test_a_schedule_may_stand_for_the_rate():
    assert Adam(OneCycle(0.01)).lr == OneCycle(0.01)

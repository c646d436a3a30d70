"""The learning-rate range test: its suggestion, and that it leaves the trainer as it was."""

from __future__ import annotations

import numpy as np
import pytest

import mlp_xp
from mlp_xp import Trainer, mlp
from mlp_xp.training.lr_finder import rate_ramp, result, smooth
from mlp_xp_backends.trees import leaves


@pytest.fixture(name="data")
def classes(rng):
    x = rng.standard_normal((600, 4)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0.0).astype(int)


def bits(snapshot):
    return [a.tobytes() for a in leaves((snapshot.state, snapshot.losses))], snapshot.generator, snapshot.history


@pytest.mark.parametrize("lr", [0.01, mlp_xp.LossRatio(0.01), mlp_xp.OneCycle(0.01)])
def test_the_trainer_stays_as_it_is_bit_for_bit(lr, data):
    network = mlp(4, 16, 2, norm="batch", dropout=0.2)
    searched, other = (Trainer(network, optimizer=mlp_xp.Adam(lr), device="cpu") for _ in range(2))
    for trainer in (searched, other):
        trainer.fit(*data, max_epochs=1)
    before = bits(searched.snapshot())
    searched.find_lr(*data, steps=20)
    assert bits(searched.snapshot()) == before
    for trainer in (searched, other):
        trainer.fit(*data, max_epochs=2)
    assert bits(searched.snapshot())[0] == bits(other.snapshot())[0]


def test_rates_grow_by_a_constant_factor_over_several_epochs(data):
    found = Trainer(mlp(4, 8, 2), device="cpu").find_lr(*data, low=1e-5, high=1e-2, steps=31, batch_size=50)
    assert len(found.rates) == 31 > 600 / 50
    np.testing.assert_allclose(found.rates[1:] / found.rates[:-1], 10 ** (3 / 30))
    assert (found.rates[0], found.rates[-1]) == (1e-5, pytest.approx(1e-2))


def test_the_suggestion_trains_better_than_a_tenth_and_it_stops_at_the_explosion(data):
    step = {"optimizer": mlp_xp.SGD(0.1), "device": "cpu"}
    found = Trainer(mlp(4, 32, 2), **step).find_lr(*data, high=1e4)
    assert len(found.rates) < 100, "the loss explodes"
    losses = []
    for lr in (found.suggestion, found.suggestion / 10.0):
        trainer = Trainer(mlp(4, 32, 2), optimizer=mlp_xp.SGD(lr), device="cpu")
        losses.append(trainer.fit(*data, max_epochs=5)[-1]["loss"])
    assert losses[0] < losses[1]


def test_the_suggestion_is_where_the_loss_falls_fastest():
    rates = np.geomspace(1e-6, 1.0, 121)
    losses = 1.0 - 1.0 / (1.0 + np.exp(-6.0 * (np.log10(rates) + 3.0)))  # steepest at 1e-3
    assert result(rates, losses).suggestion == pytest.approx(1e-3 * 10 ** (6 / 120 * 9), rel=0.5), (
        "the mean lags 9 steps"
    )


def test_noise_of_the_first_batches_is_not_taken_for_a_fall():
    rates = np.geomspace(1e-6, 1.0, 121)
    losses = 0.3 - 0.1 / (1.0 + np.exp(-6.0 * (np.log10(rates) + 2.0)))  # steepest at 1e-2
    losses[:2] += 0.1, 0.05  # two hard batches
    assert 3e-3 < result(rates, losses).suggestion < 1e-1


def test_smoothing_keeps_a_constant():
    np.testing.assert_allclose(smooth(np.full(20, 3.0)), 3.0)


def test_plot(data):
    pytest.importorskip("matplotlib")
    found = Trainer(mlp(4, 8, 2), device="cpu").find_lr(*data, steps=20)
    assert found.plot().axes[0].get_xscale() == "log"
    assert "suggestion" in repr(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "low must be below high"),
        ({"low": 0.0}, "low must be a finite number above 0"),
        ({"steps": 3}, "steps must be an integer of at least 10"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_errors(options, message, data):
    with pytest.raises(ValueError, match=message):
        Trainer(mlp(4, 2), device="cpu").find_lr(*data, **options)


def test_a_loss_that_explodes_at_once():
    with pytest.raises(ValueError, match=r"explodes after 0 steps, at rate 0\.1"):
        result(rate_ramp(0.1, 1.0, 10), np.full(10, np.nan))


def test_it_works_on_other_libraries(data):
    pytest.importorskip("torch")
    assert 0.0 < Trainer(mlp(4, 8, 2), device="torch:cpu").find_lr(*data, steps=20).suggestion <= 10.0

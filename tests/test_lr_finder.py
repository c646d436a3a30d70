"""The learning-rate range test: its suggestion, and that it leaves the trainer unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import mlp_xp
from mlp_xp import Trainer, mlp
from mlp_xp.training.lr_finder import exploded, rate_ramp, result, smooth
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
    """Losses and their mean against the rates, on a logarithmic axis, and a line at the suggestion."""
    pytest.importorskip("matplotlib")
    found = Trainer(mlp(4, 8, 2), device="cpu").find_lr(*data, steps=20)
    (axes,) = found.plot().axes
    losses, smoothed, mark = axes.lines
    for line, drawn in ((losses, found.losses), (smoothed, found.smoothed)):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([found.rates, drawn]))
    assert set(mark.get_xdata()) == {found.suggestion}
    assert axes.get_xscale() == "log" and (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "loss")
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["loss", "smoothed", f"suggestion {found.suggestion:.2g}"]
    assert repr(found) == f"RateSearch of 20 steps: suggestion {found.suggestion:.2g}"


def test_smoothing_is_the_mean_of_the_past_with_weights_of_0_9_to_the_power_of_the_age():
    losses = np.array([2.0, 0.5, 4.0, 1.0])
    weights = 0.9 ** np.arange(4)[::-1]
    assert smooth(losses)[-1] == pytest.approx(np.average(losses, weights=weights))


@pytest.mark.parametrize("jump", [30.0, np.inf, np.nan])
def test_the_steps_before_the_smoothed_loss_exceeds_four_times_its_minimum_are_kept(jump):
    """One loss of 30 among ones lifts the mean to about 1 + 0.1 * 29 = 3.9, two of them to 6.5."""
    losses = np.ones(60)
    losses[50:] = jump
    kept = 51 if jump == 30.0 else 50
    assert [exploded(losses[:n]) for n in (0, 50, 51, 52)] == [False, False, kept == 50, True]
    found = result(np.geomspace(1e-3, 1.0, 60), losses)
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == kept


def test_five_steps_before_an_explosion_are_enough_and_four_are_not():
    rates = rate_ramp(0.1, 1.0, 10)
    for n in (4, 5):
        losses = np.append(np.linspace(2.0, 1.0, n), np.full(10 - n, np.inf))
        if n == 5:
            assert len(result(rates, losses).rates) == 5
        else:
            with pytest.raises(ValueError, match=rf"explodes after 4 steps, at rate {rates[4]:.2g}:"):
                result(rates, losses)


@dataclass(frozen=True)
class Watched(mlp_xp.SGD):
    """Records the rate and the number of each step, and the updates of the parameters of a layer."""

    steps: ClassVar[list[tuple[float, int]]] = []
    updates: ClassVar[list[int]] = []

    def rates(self, lr, t):
        self.steps.append((lr, t))
        return super().rates(lr, t)

    def update(self, xp, w, slots, g, rates):
        self.updates.append(1)
        return super().update(xp, w, slots, g, rates)


def test_a_search_ends_with_the_step_after_which_the_loss_has_exploded(data, monkeypatch):
    monkeypatch.setattr("mlp_xp.training.epoch.chunk_steps", lambda *args: 1)
    Watched.updates.clear()
    trainer = Trainer(mlp(4, 2), optimizer=Watched(0.1), device="numpy:plain")
    found = trainer.find_lr(*data, low=1e-2, high=1e8, steps=100, batch_size=60)
    assert len(found.rates) < 100
    assert len(Watched.updates) == 2 * (len(found.rates) + 1), "for W and b"


def test_a_search_continues_the_steps_of_the_optimizer(data):
    """Adam's bias correction, for one, depends on their number."""
    trainer = Trainer(mlp(4, 8, 2), optimizer=Watched(0.01), device="cpu")
    trainer.fit(*data, max_epochs=1, batch_size=200)
    Watched.steps.clear()
    trainer.find_lr(*data, low=1e-5, high=1e-2, steps=10, batch_size=200)
    lrs, numbers = zip(*Watched.steps, strict=True)
    assert numbers == tuple(range(4, 14))
    np.testing.assert_allclose(lrs, np.geomspace(1e-5, 1e-2, 10))


@pytest.mark.parametrize("batch_size", [600, 1000])
def test_a_batch_may_be_all_rows(data, batch_size):
    found = Trainer(mlp(4, 2), device="cpu").find_lr(*data, steps=10, batch_size=batch_size)
    assert len(found.rates) == 10


def test_the_schedule_that_adapts_to_losses_does_not_change_the_rates_of_the_search(data):
    """`LossRatio` multiplies each rate by a ratio of losses; the search equals that of a constant rate."""
    runs = [
        Trainer(mlp(4, 8, 2), optimizer=mlp_xp.SGD(lr), device="cpu").find_lr(*data, steps=20)
        for lr in (0.01, mlp_xp.LossRatio(0.01, window=2))
    ]
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "low must be below high"),
        ({"low": 1.0, "high": 1.0}, "low must be below high, but low=1 and high=1"),
        ({"low": 0.0}, "low must be a finite number above 0"),
        ({"steps": 3}, "steps must be an integer of at least 10"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
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

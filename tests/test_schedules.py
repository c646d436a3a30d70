"""Schedules against torch's and by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlp_xp.nn.schedules import (
    ConstantRate,
    Cosine,
    ExponentialDecay,
    InverseScaling,
    Losses,
    LossRatio,
    Moment,
    OneCycle,
    ReduceOnPlateau,
    StepDecay,
    as_schedule,
)


def rates(schedule, steps):
    return [schedule.rate(Moment(step, steps, 0, 0)) for step in range(steps)]


def epoch_rates(schedule, epochs, losses=()):
    return [schedule.rate(Moment(7 * e, 7 * epochs, e, 100 * e, losses[:e])) for e in range(epochs)]


def torch_rates(make, steps, lr=0.1, losses=None):
    """The rates of a scheduler of torch; it is stepped after every step of the optimizer."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    seen = []
    for i in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if i + 1 < steps:
            scheduler.step(*(() if losses is None else (losses[i],)))
    return seen


@pytest.mark.parametrize("steps", [5, 10, 33, 400])
@pytest.mark.parametrize(("warmup", "start", "end"), [(0.3, 25.0, 1e4), (0.25, 10.0, 100.0)])
def test_one_cycle_is_that_of_torch(steps, warmup, start, end):
    theirs = torch_rates(
        lambda s, o: s.OneCycleLR(
            o, 0.1, steps, pct_start=warmup, div_factor=start, final_div_factor=end, cycle_momentum=False
        ),
        steps,
    )
    np.testing.assert_allclose(rates(OneCycle(0.1, warmup=warmup, start=start, end=end), steps), theirs, rtol=1e-10)


def test_one_cycle_climbs_to_its_rate_and_ends_far_below_its_start():
    r = rates(OneCycle(0.1), 101)
    peak = int(np.argmax(r))
    assert r[0] == pytest.approx(0.1 / 25)
    assert max(r) <= 0.1
    assert max(r) == pytest.approx(0.1, rel=1e-3)
    assert r[-1] == pytest.approx(0.1 / 25 / 1e4)
    assert np.all(np.diff(r[: peak + 1]) > 0)
    assert np.all(np.diff(r[peak:]) < 0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_of_few_steps_stays_between_0_and_its_rate(steps):
    assert all(0.0 < r <= 0.1 for r in rates(OneCycle(0.1), steps))


def test_cosine_is_that_of_torch():
    theirs = torch_rates(lambda s, o: s.CosineAnnealingLR(o, 40, eta_min=0.01), 40)
    np.testing.assert_allclose(rates(Cosine(0.1, end=0.01), 40), theirs, rtol=1e-12)


def test_step_is_that_of_torch():
    theirs = torch_rates(lambda s, o: s.StepLR(o, 3, 0.5), 12)
    np.testing.assert_allclose(epoch_rates(StepDecay(0.1, every=3, factor=0.5), 12), theirs, rtol=1e-12)


def test_exponential_is_that_of_torch():
    theirs = torch_rates(lambda s, o: s.ExponentialLR(o, 0.9), 12)
    np.testing.assert_allclose(epoch_rates(ExponentialDecay(0.1, decay=0.9), 12), theirs, rtol=1e-12)


def test_reduce_on_plateau_reads_each_loss_once():
    """An epoch takes no longer in a long run, and the rates are those of a plain list."""

    class Counted(Losses):
        read = 0

        def __getitem__(self, key):
            part = super().__getitem__(key)
            self.read += len(part)
            return part

    rule, losses, seen = ReduceOnPlateau(0.1, factor=0.5, patience=1), Counted(), []
    for epoch in range(200):
        at = Moment(0, 0, epoch, 0, losses)
        assert rule.rate(at) == rule.rate(at) == rule.rate(at._replace(losses=seen))
        seen.append(math.sin(epoch) / (epoch + 1))
        losses.append(seen[-1])
    assert losses.read == 199 and rule.rate(at) < 0.1


def test_reduce_on_plateau_is_that_of_torch():
    rng = np.random.default_rng(0)
    losses = (np.geomspace(1.0, 0.5, 80) + 0.1 * rng.random(80)).tolist()
    theirs = torch_rates(
        lambda s, o: s.ReduceLROnPlateau(o, factor=0.5, patience=3, threshold=1e-2, eps=0.0), 80, losses=losses
    )
    assert len(set(theirs)) > 3
    np.testing.assert_allclose(
        epoch_rates(ReduceOnPlateau(0.1, factor=0.5, patience=3, threshold=1e-2), 80, losses), theirs, rtol=1e-12
    )


def test_inverse_scaling_falls_with_the_rows_seen():
    np.testing.assert_allclose(
        epoch_rates(InverseScaling(0.1, power=0.5), 4), [0.1 / math.sqrt(100 * e + 1) for e in range(4)], rtol=1e-15
    )


def test_constant_is_a_number_and_a_number_is_constant():
    assert set(rates(ConstantRate(0.1), 5)) == {0.1}
    assert as_schedule(0.1) == ConstantRate(0.1)
    assert as_schedule(1) == ConstantRate(1.0)
    assert as_schedule(Cosine(0.1)) == Cosine(0.1)


def loss_ratio(losses, window):
    """The factor of the rate after each step, by the definition."""
    factors, factor = [], 1.0
    for t in range(1, len(losses) + 1):
        if t % window == 0 and t >= 2 * window:
            factor *= np.mean(losses[t - window : t]) / np.mean(losses[t - 2 * window : t - window])
        factors.append(factor)
    return factors


@pytest.mark.parametrize("window", [1, 4])
def test_loss_ratio_is_the_ratio_of_two_windows(backend, window):
    rule = LossRatio(0.1, window=window)
    losses = np.random.default_rng(0).uniform(0.5, 1.5, (15, 2)) * np.linspace(1.0, 0.3, 15)[:, None]
    xp = backend.xp

    def body(xp, state, consts, loss):
        state = rule.observe(xp, state, loss)
        return state, state.factor

    items = backend.asarray(losses)
    _, factors = backend.compile(body)(rule.init(xp, (2,), items.dtype), (), items)
    expected = np.stack([loss_ratio(losses[:, i], window) for i in range(2)], axis=1)
    np.testing.assert_allclose(backend.to_numpy(factors), expected, rtol=1e-12)
    assert rule.rate(Moment(0, 1, 0, 0)) == 0.1


@pytest.mark.parametrize(
    "schedule", [StepDecay(0.1, every=2), ExponentialDecay(0.1), InverseScaling(0.1), ConstantRate(0.1)]
)
def test_schedule_by_epoch_has_one_rate_in_all_steps_of_it(schedule):
    assert schedule.by_epoch
    assert len({schedule.rate(Moment(step, 50, 3, 700)) for step in range(30, 40)}) == 1

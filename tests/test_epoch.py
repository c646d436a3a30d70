"""The arithmetic of an epoch: the weights and losses of batches, the rates, and the lengths of chunks."""

from __future__ import annotations

import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlp_xp import SGD, Adam, Cosine, StepDecay, Trainer, mlp
from mlp_xp.nn.optimizers import Rates
from mlp_xp.nn.schedules import Moment
from mlp_xp.training import epoch as epochs
from mlp_xp.training.epoch import batch_weights, chunk_steps, learning_rates, losses_on_host, mean_loss, rates_of
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import leaves


@pytest.mark.parametrize("block", [1, 7, 16, 20, 1000])
@pytest.mark.parametrize("models", [None, 3])
def test_the_weight_of_a_batch_is_the_sum_over_its_rows(
    block: int, models: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "BLOCK", block)
    rng = np.random.default_rng(0)
    shape = (50,) if models is None else (models, 50)
    order, w = rng.permuted(np.broadcast_to(np.arange(50), shape), axis=-1), rng.uniform(size=50).astype(np.float32)
    for weights, each in ((w, w.astype(np.float64)), ({}, np.ones(50))):
        found = batch_weights(order, 8, *([weights] if len(weights) else []))
        assert found.dtype == np.float64
        for step in range(7):
            expected = each[order[..., 8 * step : 8 * step + 8]].sum(axis=-1)
            np.testing.assert_allclose(found[step], expected, rtol=1e-12)


def test_the_weights_of_batches_are_summed_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float32 weight takes 4 bytes; gathered and in float64, it takes 12 more, of 1000 rows at a time."""
    monkeypatch.setattr(epochs, "BLOCK", 1000)
    order, w = np.arange(100_000), np.ones(100_000, np.float32)
    tracemalloc.start()
    sums = batch_weights(order, 100, w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sums.tolist() == [100.0] * 1000
    assert peak < 100_000


@pytest.mark.parametrize("models", [None, 2])
def test_the_loss_of_an_epoch_is_the_mean_over_its_rows(models: int | None) -> None:
    """Of batches of 3, 3 and 1 rows: from their means, or from their sums."""
    rows = np.random.default_rng(0).uniform(size=(7,) if models is None else (7, models))
    parts = np.split(rows, [3, 6])
    weights = np.array([3.0, 3.0, 1.0])
    for reduction in ("mean", "sum"):
        losses = np.stack([getattr(part, reduction)(axis=0) for part in parts])
        found = mean_loss(losses, weights, reduction)
        assert isinstance(found, float) is (models is None)
        np.testing.assert_allclose(found, rows.mean(axis=0))


@pytest.mark.parametrize(
    ("device", "batch_size", "steps"),
    [
        ("cpu", 10, 18),
        ("cpu", 1, 120),
        ("cpu", 199, 1),
        ("cpu", 1000, 1),
        ("cuda:0", 10, 40),
        ("cuda:0", 1, 150),
        ("cuda:0", 401, 1),
    ],
)
def test_a_chunk_has_as_many_steps_as_its_work_allows(
    device: str, batch_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step multiplies each of 100 weights 3 times a row: forward, and for the gradients of weights and inputs.

    On a CPU, any step takes the time of some more.
    """
    monkeypatch.setattr(epochs, "CHUNK_WORK", 60_000.0)
    monkeypatch.setattr(epochs, "STEP_WORK", 200.0)
    monkeypatch.setattr(epochs, "GPU_WORK", 120_000.0)
    monkeypatch.setattr(epochs, "GPU_STEPS", 150)
    backend: Any = SimpleNamespace(device=device)
    params = (np.zeros((9, 10)), (np.zeros(6), np.zeros((2, 2, 1))))
    assert chunk_steps(backend, params, batch_size) == steps
    assert chunk_steps(backend, (), batch_size) == (298 if device == "cpu" else 150), "a network without weights"


def test_rates_by_epoch_stay_for_all_of_its_steps_and_others_change_with_each() -> None:
    at = Moment(10, 30, 4, 0)
    assert learning_rates(StepDecay(0.8, every=2, factor=0.5), at, 5) == [0.2] * 5
    cosine = Cosine(0.1)
    assert learning_rates(cosine, at, 5) == [cosine.rate(Moment(10 + i, 30, 4, 0)) for i in range(5)]


def test_the_rates_of_a_step_are_those_of_its_number() -> None:
    table = rates_of(Adam(0.1), [0.1, 0.2, 0.3], 5)
    for i, lr in enumerate([0.1, 0.2, 0.3]):
        expected = leaves(Adam(0.1).rates(lr, 6 + i))
        assert [column[i] for column in leaves(table)] == expected
    assert rates_of(SGD(0.1), [0.5], 0) == Rates((np.array([0.5]),))


def test_losses_of_no_chunks_are_none() -> None:
    assert losses_on_host(get_backend("cpu"), []).shape == (0,)


def test_progress_before_the_first_fit() -> None:
    trainer = Trainer(mlp(4, 3), device="cpu")
    at = trainer.progress
    assert not trainer.interrupted and trainer.epoch == 0
    assert (at.epoch, at.max_epochs, at.step, at.steps, at.losses) == (1, 0, 0, 0, ())


def test_the_seconds_of_epochs_add_up_to_less_than_those_of_the_fit() -> None:
    began = time.perf_counter()
    history = Trainer(mlp(4, 3), device="cpu").fit(np.zeros((40, 4)), np.zeros(40, int), max_epochs=3)
    assert min(history["seconds"]) > 0.0 and sum(history["seconds"]) < time.perf_counter() - began

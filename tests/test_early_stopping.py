"""Early stopping as a rule on a sequence of scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlp_xp import EarlyStopping, Trainer, mlp
from mlp_xp.files.snapshot import Best, Plan
from mlp_xp.training.early_stopping import best_epoch, is_over


def run(rule: EarlyStopping, scores: list[float], best: Best | None = None, first: int = 1) -> tuple[int, Any]:
    """The epoch after which the rule ends the run, or 0, and the best epoch, whose network is its number."""
    for epoch, score in enumerate(scores, first):
        best = best_epoch(rule, best, {"epoch": epoch, rule.monitor: score}, lambda epoch=epoch: ((epoch,), ()))
        if is_over(rule, best, epoch):
            return epoch, best
    return 0, best


@pytest.mark.parametrize(
    ("options", "scores", "ended", "best"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.0, 2.5, 1.0], 4, 2),
        ({"patience": 1}, [3.0, 2.0, 1.0], 0, 3),
        ({"patience": 1}, [3.0, 3.0], 2, 1),
        ({"patience": 3}, [3.0, 3.0, 3.0], 0, 1),
        ({"patience": 2, "min_delta": 0.25}, [3.0, 2.75, 2.5], 0, 3),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.5, 2.75], 3, 1),
        ({"patience": 2, "monitor": "valid_accuracy"}, [0.25, 0.5, 0.5, 0.75], 0, 4),
        ({"patience": 2, "monitor": "valid_accuracy"}, [0.25, 0.5, 0.5, 0.25, 0.75], 4, 2),
        ({"patience": 1, "monitor": "f1", "mode": "max", "min_delta": 0.25}, [0.25, 0.5], 2, 1),
        ({"patience": 2}, [math.nan, math.nan], 0, 1),
        ({"patience": 2}, [math.nan, 5.0, math.nan, 6.0], 4, 2),
        ({"patience": 2}, [math.nan, math.nan, math.nan], 3, 1),
    ],
)
def test_a_run_ends_after_so_many_epochs_without_a_gain_above_min_delta(
    options: dict[str, Any], scores: list[float], ended: int, best: int
) -> None:
    rule = EarlyStopping(**options)
    found, kept = run(rule, scores)
    assert (found, kept.epoch, kept.params) == (ended, best, (best,))
    assert (kept.monitor, kept.mode) == (rule.monitor, rule.mode)


def test_a_longer_patience_continues_a_run_that_was_stopped() -> None:
    ended, best = run(EarlyStopping(patience=2), [1.0, 2.0, 3.0])
    assert ended == 3 and is_over(EarlyStopping(patience=1), best, 3)
    assert not is_over(EarlyStopping(patience=3), best, 3)
    assert run(EarlyStopping(patience=3), [4.0], best, first=4)[0] == 4


def test_the_best_epoch_is_kept_only_by_calls_that_continue_with_the_same_rule() -> None:
    kept = Best(1, 0.5, "valid_loss", "min", (), ())
    for rule, continues, expected in (
        (EarlyStopping(), True, kept),
        (None, True, kept),
        (EarlyStopping(), False, None),
        (None, False, None),
        (EarlyStopping(monitor="valid_accuracy"), True, None),
        (EarlyStopping(mode="max"), True, None),
    ):
        run = Trainer(mlp(2, 2), device="cpu")._run
        run.best, run.stopped, run.continues = kept, True, continues
        run.begin(Plan(5, 4, True, 4), rule)
        assert run.best is expected and run.stopped is (expected is kept)
    fresh = Trainer(mlp(2, 2), device="cpu")._run
    fresh.begin(Plan(5, 4, True, 4), EarlyStopping(patience=1))
    assert fresh.best is None and not fresh.is_done(EarlyStopping(patience=1))


@pytest.mark.parametrize("name", ["loss", "valid_loss", "train_error", "error"])
def test_lower_losses_and_errors_are_better(name: str) -> None:
    assert EarlyStopping(monitor=name).mode == "min" and EarlyStopping(monitor=name, mode="max").mode == "max"


def test_the_monitored_column_must_be_recorded() -> None:
    EarlyStopping().check(["loss", "valid_loss"])
    with pytest.raises(ValueError, match=r"monitors 'valid_loss', but an epoch records loss, lr: pass validation_data"):
        EarlyStopping().check(["loss", "lr"])
    with pytest.raises(ValueError, match=r"an epoch records loss, test_loss: monitor one of these"):
        EarlyStopping().check(["loss", "test_loss"])


@pytest.mark.parametrize("min_delta", [0, 0.0, np.float64(0.25), np.float32(0.5), 1e308])
def test_min_delta_is_a_number_from_0(min_delta: Any) -> None:
    held = EarlyStopping(min_delta=min_delta).min_delta
    assert type(held) is float and held == min_delta
    for bad in (-1e-9, math.inf, math.nan, None, "0.5", [1], True):
        with pytest.raises(
            (ValueError, TypeError), match="EarlyStopping: min_delta must be a finite number of at least 0, not "
        ):
            EarlyStopping(min_delta=bad)

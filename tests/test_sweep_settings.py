"""Folds, settings and the rungs of halving."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlp_xp import SGD, Adam, Dense, Dropout, Halving, SquaredError, Sweep, mlp
from mlp_xp.nn.layers import Chain
from mlp_xp.sweep.folds import as_folds
from mlp_xp.sweep.settings import from_distributions, from_grid, from_list

# Folds


@pytest.mark.parametrize(("rows", "k"), [(10, 2), (10, 3), (7, 7)])
def test_a_number_of_folds_is_that_of_scikit_learn(rows, k):
    KFold = pytest.importorskip("sklearn.model_selection").KFold
    x = np.zeros((rows, 1))
    for ours, theirs in zip(as_folds(k, x, x), KFold(k).split(x), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_a_splitter_sees_the_targets():
    StratifiedKFold = pytest.importorskip("sklearn.model_selection").StratifiedKFold
    y = np.array([0, 0, 0, 0, 1, 1])
    for train, held in as_folds(StratifiedKFold(2), np.zeros((6, 2)), y):
        assert (sorted(y[train]), sorted(y[held])) == ([0, 0, 1], [0, 0, 1])


def test_pairs_are_row_numbers_or_masks():
    mask = np.array([True, False, True, False])
    (train, held), (first, last) = as_folds([(mask, ~mask), ([0], (3,))], np.zeros((4, 1)), np.zeros(4))
    assert (train.tolist(), held.tolist(), first.tolist(), last.tolist()) == ([0, 2], [1, 3], [0], [3])
    assert as_folds(None, np.zeros((4, 1)), np.zeros(4)) == []


@pytest.mark.parametrize(
    ("folds", "error", "words"),
    [
        (1, ValueError, "folds must be from 2 to the number of rows, 4, not 1"),
        (5, ValueError, "folds must be from 2 to the number of rows, 4, not 5"),
        (2.5, TypeError, "folds must be a positive integer, not 2.5"),
        ([([0, 1], [2], [3])], TypeError, "pairs of row numbers"),
        ([3, 4], TypeError, "pairs of row numbers"),
        ([([], [1])], ValueError, "at least one row number on each side"),
        ([([0], [])], ValueError, "at least one row number on each side"),
        ([([0.5], [1])], ValueError, "at least one row number on each side"),
        ([([[0]], [1])], ValueError, "at least one row number on each side"),
        ([([True, False], [1])], ValueError, "at least one row number on each side"),
        ([([0], [4])], ValueError, "names the rows 4 ... 4, but x has 4 rows, from 0"),
        ([([-1, 2], [3])], ValueError, "names the rows -1 ... 2"),
    ],
)
def test_impossible_folds_are_refused(folds, error, words):
    with pytest.raises(error, match=words):
        as_folds(folds, np.zeros((4, 1)), np.zeros(4))


def test_row_numbers_above_2_31_are_kept():
    for rows, dtype in ((2**31, "int32"), (2**31 + 1, "int64")):
        x = np.broadcast_to(np.zeros((1, 1)), (rows, 1))
        ((_, held),) = as_folds([([0], [rows - 1])], x, None)
        assert (held.tolist(), held.dtype) == ([rows - 1], dtype)


# Settings


def test_a_grid_is_a_product_and_a_list_of_grids_their_sum():
    assert from_grid({"a": [1, 2], "b": (3, 4)}) == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]
    assert from_grid([{"a": [1]}, {"b": [2, 3]}]) == [{"a": 1}, {"b": 2}, {"b": 3}]
    assert [type(one["a"]) for one in from_grid({"a": np.arange(2)})] == [int, int]  # as JSON takes them


@pytest.mark.parametrize("grid", [[], "lr", 3, {"lr"}])
def test_a_grid_is_a_dict_or_a_list_of_dicts(grid):
    with pytest.raises(TypeError, match="grid must be a dict such as"):
        from_grid(grid)


@pytest.mark.parametrize("values", ["0.1", b"0.1", 0.1, None])
def test_values_of_a_grid_are_lists(values):
    with pytest.raises(TypeError, match="grid: 'lr' must be a list of values"):
        from_grid({"lr": values})
    with pytest.raises(TypeError, match="distributions: 'lr' must have a method rvs or be a list of values"):
        from_distributions({"lr": values}, 3, 0)


@pytest.mark.parametrize("distributions", [{}, [], "lr", 3])
def test_distributions_are_a_dict(distributions):
    with pytest.raises(TypeError, match="distributions must be a dict"):
        from_distributions(distributions, 3, 0)
    with pytest.raises(TypeError, match="'lr' must have a method rvs or be a list of values"):
        from_distributions({"lr": []}, 3, 0)


def test_every_value_of_a_list_is_drawn_and_as_a_number_of_python():
    drawn = from_distributions({"a": [1, 2, 3], "b": np.array([0.5])}, 100, 0)
    assert len(drawn) == 100
    assert {one["a"] for one in drawn} == {1, 2, 3}
    assert {type(one["b"]) for one in drawn} == {float}


@pytest.mark.parametrize("settings", [[], [3], ["lr"], [{"lr": 0.1}, None], 3, {"lr": 0.1}])
def test_settings_are_dicts(settings):
    with pytest.raises(TypeError, match="settings must be a list of at least one dict"):
        from_list(settings)


def test_exactly_one_source_of_settings():
    with pytest.raises(TypeError, match="and grid and settings is given"):
        Sweep(mlp(3, 4, 2), grid={"lr": [0.1]}, settings=[{"lr": 0.1}])
    with pytest.raises(TypeError, match="n is the number of settings drawn from distributions"):
        Sweep(mlp(3, 4, 2), grid={"lr": [0.1]}, n=3)


def test_a_sweep_shows_the_number_of_its_settings_and_their_parameters():
    assert repr(Sweep(mlp(3, 4, 2), grid={"lr": [0.1, 0.2], "seed": [0]})) == "<Sweep of 2 settings of lr, seed>"
    assert repr(Sweep(mlp(3, 4, 2), settings=[{}])) == "<Sweep of 1 setting>"
    assert repr(Sweep(mlp(3, 4, 2), settings=[{"lr": 0.1}, {"b1": 0.5}])) == "<Sweep of 2 settings of lr, b1>"


@pytest.mark.parametrize(
    ("network", "setting", "words"),
    [
        (mlp(3, 4, 2), {"dropout": 0.5}, "it has none"),
        (mlp(3, 4, 2), {"widht": 3}, "unknown parameter 'widht'; known are lr, .*, max_epochs, dropout"),
        (lambda width=4: mlp(3, width, 2), {"wdith": 3}, "known are lr, .*, max_epochs, width"),
        (mlp(3, 4, 2), {"seed": "a"}, "seed"),
        (mlp(3, 4, 2), {"batch_size": 0}, "batch_size must be a positive integer"),
        (mlp(3, 4, 2), {"class_weight": "equal"}, "class_weight"),
        (Dense, {}, "n_in"),
    ],
)
def test_a_setting_that_cannot_be_is_named(network, setting, words):
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        Sweep(network, optimizer=SGD(), settings=[setting], device="cpu")
    assert str(caught.value).startswith(f"setting {setting!r}: ")


def test_a_setting_changes_what_it_names_and_nothing_else():
    base = Sweep(
        Chain(Dropout(0.1), Dense(3, 4), Dropout(0.2), Dense(4, 2)), optimizer=Adam(0.3, b1=0.7), l2=0.5, clip_norm=2.0,
        max_norm=3.0, class_weight="balanced", seed=9, settings=[{}], device="cpu",
    ).base  # fmt: skip
    plain = base.candidate({}, 7, 8, 1)
    assert (plain.step.optimizer, plain.step.l2, plain.step.clip_norm, plain.step.max_norm) == (
        base.optimizer,
        0.5,
        2,
        3,
    )
    assert plain[1:] == (9, 7, 8, "balanced", 1, None)
    changes = {"dropout": 0.6, "b1": 0.5, "l2": 0.25, "seed": 3, "batch_size": 4, "max_epochs": 5, "class_weight": None}
    changed = base.candidate({**changes, "loss": SquaredError()}, 7, 8, None)
    assert [layer.rate for layer in changed.step.network.layers[::2]] == [0.6, 0.6]
    assert (changed.step.optimizer, changed.step.l2, changed.step.loss) == (Adam(0.3, b1=0.5), 0.25, SquaredError())
    assert (changed.step.clip_norm, changed[1:]) == (2.0, (3, 4, 5, None, None, None))


# Halving


@pytest.mark.parametrize(
    ("factor", "least", "epochs", "settings", "rungs"),
    [
        (3, 1, 27, 27, [1, 3, 9]),
        (3, 1, 28, 27, [1, 3, 9]),
        (3, 1, 28, 28, [1, 3, 9, 27]),
        (2, 4, 8, 16, [4]),
        (2, 4, 9, 16, [4, 8]),
        (2.5, 2, 5, 9, [2]),
        (2.5, 2, 30, 9, [2, 5, 13]),
        (2, 5, 5, 4, []),
        (2, 1, 9, 1, []),
    ],
)
def test_rungs_grow_by_the_factor_until_one_setting_is_left(factor, least, epochs, settings, rungs):
    assert Halving(factor=factor, min_epochs=least).rungs(epochs, settings) == rungs


@pytest.mark.parametrize("factor", [1.0, 1.5, 1.999, 0.0, math.nan, math.inf])
def test_a_factor_below_2_would_drop_nothing_in_some_rungs(factor):
    with pytest.raises(ValueError, match=f"factor must be a finite number of at least 2, not {factor}"):
        Halving(factor=factor)


def run_of(*losses: float, diverged: int | None = None, name: str = "valid_loss") -> Any:
    return SimpleNamespace(records=[{name: loss} for loss in losses], diverged=diverged)


def test_the_best_share_survives_with_all_its_folds():
    """Five settings of two folds, of which one third, rounded up, go on: those with the best means."""
    means = [3.0, 1.0, 2.0, 5.0, 4.0]
    runs = [run_of(9.0, mean + d, 0.0) for mean in means for d in (-0.5, 0.5)]
    assert Halving().survivors(runs, range(10), 2, 2) == {2, 3, 4, 5}
    assert Halving().survivors(runs, {0, 1, 6, 7, 8, 9}, 2, 2) == {0, 1}
    assert Halving(factor=2).survivors(runs, range(10), 2, 2) == {0, 1, 2, 3, 4, 5}
    higher = [run_of(m, name="valid_accuracy") for m in means]
    assert Halving(monitor="valid_accuracy").survivors(higher, range(5), 1, 1) == {3, 4}


def test_models_that_diverged_or_have_nan_come_last_and_ties_go_to_the_first():
    rule = Halving(factor=2)
    assert rule.survivors([run_of(math.nan), run_of(9.0), run_of(1.0, diverged=1), run_of(8.0)], range(4), 1, 1) == {
        1,
        3,
    }
    assert rule.survivors([run_of(1.0, diverged=2), run_of(2.0)], range(2), 1, 1) == {0}  # it had not diverged yet
    assert rule.survivors([run_of(1.0, diverged=2), run_of(2.0)], range(2), 1, 2) == {1}
    assert rule.survivors([run_of(diverged=1), run_of(2.0)], range(2), 1, 1) == {1}
    assert rule.survivors([run_of(1.0)] * 4, range(4), 1, 1) == {0, 1}


def test_a_run_that_stopped_early_counts_with_its_last_epoch():
    assert Halving(factor=2).survivors([run_of(1.0), run_of(0.5, 2.0, 3.0)], range(2), 1, 3) == {0}

"""The parts of a sweep: folds, settings, rungs of halving, what a result reports, and what a stack holds."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlp_xp import SGD, Adam, Dense, Dropout, EarlyStopping, Halving, SquaredError, Sweep, Trainer, mlp
from mlp_xp.nn.layers import Chain, Embedding
from mlp_xp.sweep.folds import as_folds
from mlp_xp.sweep.settings import from_distributions, from_grid, from_list
from mlp_xp.sweep.stack import models_together
from mlp_xp.sweep.tasks import processes, run_tasks
from mlp_xp_backends import get_backend

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
Y = (X[:, 0] > 0.0).astype(int)
FIT: dict[str, Any] = {"max_epochs": 3, "batch_size": 20}


def sweep(*rates: float, **options: Any) -> Sweep:
    return Sweep(mlp(3, 4, 2), optimizer=SGD(), grid={"lr": rates}, device="numpy:plain", **options)


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
        (2.5, TypeError, "folds must be an integer, not 2.5"),
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


@pytest.mark.parametrize("settings", [[], [3], ["lr"], [{"lr": 0.1}, None]])
def test_settings_are_dicts(settings):
    with pytest.raises(TypeError, match="settings must be a list of at least one dict"):
        from_list(settings)


def test_exactly_one_source_of_settings():
    with pytest.raises(TypeError, match="and grid and settings is given"):
        sweep(0.1, settings=[{"lr": 0.1}])


@pytest.mark.parametrize(
    ("network", "setting", "words"),
    [
        (mlp(3, 4, 2), {"dropout": 0.5}, "it has none"),
        (mlp(3, 4, 2), {"widht": 3}, "unknown parameter 'widht'; known are lr, .*, max_epochs, dropout"),
        (lambda width=4: mlp(3, width, 2), {"wdith": 3}, "known are lr, .*, max_epochs, width"),
        (mlp(3, 4, 2), {"seed": "a"}, "seed"),
        (mlp(3, 4, 2), {"batch_size": 0}, "batch_size must be at least 1"),
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
    assert plain[1:] == (9, 7, 8, "balanced", 1)
    changes = {"dropout": 0.6, "b1": 0.5, "l2": 0.25, "seed": 3, "batch_size": 4, "max_epochs": 5, "class_weight": None}
    changed = base.candidate({**changes, "loss": SquaredError()}, 7, 8, None)
    assert [layer.rate for layer in changed.step.network.layers[::2]] == [0.6, 0.6]
    assert (changed.step.optimizer, changed.step.l2, changed.step.loss) == (Adam(0.3, b1=0.5), 0.25, SquaredError())
    assert (changed.step.clip_norm, changed[1:]) == (2.0, (3, 4, 5, None, None))


# Halving


@pytest.mark.parametrize(
    ("factor", "least", "epochs", "settings", "rungs"),
    [
        (3, 1, 27, 27, [1, 3, 9]),
        (3, 1, 28, 27, [1, 3, 9]),
        (3, 1, 28, 28, [1, 3, 9, 27]),
        (2, 4, 8, 16, [4]),
        (2, 4, 9, 16, [4, 8]),
        (1.5, 2, 5, 9, [2, 3]),
        (1.5, 2, 6, 9, [2, 3, 5]),
        (2, 5, 5, 4, []),
        (2, 1, 9, 1, []),
    ],
)
def test_rungs_grow_by_the_factor_until_one_setting_is_left(factor, least, epochs, settings, rungs):
    assert Halving(factor=factor, min_epochs=least).rungs(epochs, settings) == rungs


def run_of(*losses: float, diverged: int | None = None, name: str = "valid_loss") -> Any:
    return SimpleNamespace(records=[{name: loss} for loss in losses], diverged=diverged)


def test_the_best_share_survives_with_all_its_folds():
    """Five settings of two folds, of which one third, rounded up, go on: those with the best means."""
    means = [3.0, 1.0, 2.0, 5.0, 4.0]
    runs = [run_of(9.0, mean + d, 0.0) for mean in means for d in (-0.5, 0.5)]
    assert Halving().survivors(runs, range(10), 2, 2) == {2, 3, 4, 5}
    assert Halving().survivors(runs, {0, 1, 6, 7, 8, 9}, 2, 2) == {0, 1}
    assert Halving(factor=1.25).survivors(runs, range(10), 2, 2) == {0, 1, 2, 3, 4, 5, 8, 9}
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


# Stacks


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("numpy", {1: 16, 249_999: 16, 250_000: 8, 799_999: 8, 800_000: 4, 3_999_999: 4, 4_000_000: 2, 10**12: 2}),
        ("torch", {249_999: 16, 250_000: 8, 800_000: 4, 1_999_999: 4, 2_000_000: 1}),
        ("jax", {249_999: 16, 250_000: 8, 800_000: 1}),
        ("another", {249_999: 16, 250_000: 8, 800_000: 1}),
    ],
)
def test_a_stack_on_a_cpu_is_as_large_as_the_cache(name, sizes):
    """The network has as many numbers as its forward pass has multiply-adds for a row."""
    backend = SimpleNamespace(device="cpu", name=name)
    for work, size in sizes.items():
        network = Chain(Dense(1, 1, bias=False))
        assert models_together(backend, network, work, "float32") == size


@pytest.mark.parametrize(("free", "size"), [(10**3, 1), (10 * 4 * 6 * (300 + 10 * 7), 1), (10**6, 11), (10**12, 1024)])
def test_a_stack_on_a_gpu_takes_a_tenth_of_its_free_memory(free, size):
    """Six copies of 300 numbers and of the 10 outputs of 7 rows, 4 bytes each: 8,880 bytes for a model."""
    backend = SimpleNamespace(device="cuda:0", name="cupy", memory=lambda: SimpleNamespace(free=free))
    assert models_together(backend, Chain(Dense(30, 10, bias=False)), 7, "float32") == size


def test_models_that_read_ids_train_one_by_one():
    assert models_together(get_backend("numpy:plain"), Chain(Embedding(5, 3), Dense(3, 2)), 1, "float32") == 1


# Tasks


def test_tasks_run_here_in_order_unless_processes_are_asked_for():
    assert list(run_tasks(lambda a, b: a - b, [(3, 1), (5, 4)], None)) == [2, 1]
    assert list(run_tasks(lambda a, b: a - b, [(3, 1), (5, 4)], 1)) == [2, 1]
    assert processes(None) == processes(1) == 1


def test_processes_need_joblib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "joblib", None)
    assert processes(None) == processes(1) == 1
    with pytest.raises(ImportError, match="n_jobs needs joblib: pip install joblib"):
        processes(2)


def test_progress_is_reported_to_stderr(capsys):
    sweep(0.1, 0.2).fit(X, Y, **FIT, progress=True)
    assert capsys.readouterr().err.split("\r")[-1] == "2 of 2 models\n"
    sweep(0.1, 0.2).fit(X, Y, **FIT)
    assert capsys.readouterr().err == ""


# Results


def test_a_result_without_validation_is_ordered_by_its_loss():
    result = sweep(0.001, 0.5).fit(X, Y, **FIT)
    assert (result.monitor, result.mode, len(result)) == ("loss", "min", 2)
    assert result.best["lr"] == 0.5
    assert repr(result) == f"SweepResult of 2 models; the best has loss {result.best['loss']:.4g}"
    assert list(result.best) == ["model", "lr", "epochs", "diverged", "loss"]


def test_early_stopping_decides_what_is_best_and_reports_the_best_epoch():
    rule = EarlyStopping(monitor="valid_accuracy", patience=2)
    fit = {"max_epochs": 30, "batch_size": 10, "early_stopping": rule, "validation_data": (X[40:], Y[40:])}
    result = sweep(0.001, 0.5).fit(X[:40], Y[:40], **fit)
    assert (result.monitor, result.mode) == ("valid_accuracy", "max")
    for i, record in enumerate(result.records):
        column = result.history(i)["valid_accuracy"]
        assert record["valid_accuracy"] == max(column)
        assert record["loss"] == result.history(i)["loss"][column.index(max(column))]
        assert record["epochs"] == len(column) <= column.index(max(column)) + 3
        assert result.member(i).evaluate(X[40:], Y[40:])["accuracy"] == pytest.approx(max(column))
    assert result.best["valid_accuracy"] == max(record["valid_accuracy"] for record in result.records)
    assert result.best_setting == result.best["model"]


def test_a_sweep_whose_models_all_diverge_says_so():
    result = sweep(1e30, 1e31).fit(1e3 * X, Y, **FIT)
    assert repr(result) == "SweepResult of 2 models, all of which diverged"
    with pytest.raises(ValueError, match="no model has a finite loss: all have diverged; try smaller learning rates"):
        result.best  # noqa: B018  a property that raises


def test_out_of_fold_is_the_mean_of_all_folds_that_hold_a_row_out_and_nan_without_any():
    folds = [(range(30, 60), range(20)), (range(30, 60), range(10, 30))]
    result = sweep(0.1, 0.5).fit(X, Y, **FIT, folds=folds)
    assert [(r["lr"], r["fold"]) for r in result.records] == [(0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1)]
    for setting in (0, 1):
        first, second = (result.member(2 * setting + fold).predict_proba(X) for fold in (0, 1))
        found = result.out_of_fold(setting)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[:10], first[:10])
        np.testing.assert_allclose(found[10:20], (first[10:20] + second[10:20]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(found[20:30], second[20:30])
        assert np.isnan(found[30:]).all()
    np.testing.assert_array_equal(result.out_of_fold(), result.out_of_fold(result.best_setting))
    with pytest.raises(ValueError, match="out_of_fold needs a sweep over folds"):
        sweep(0.1).fit(X, Y, **FIT).out_of_fold()


def test_a_trainer_goes_on_where_its_model_is():
    result = sweep(0.1, 0.5).fit(X, Y, **FIT)
    ours = result.trainer(1)
    assert ours.epoch == 3
    whole = Trainer(mlp(3, 4, 2), optimizer=SGD(0.5), device="numpy:plain")
    for trainer in (ours, whole):
        trainer.fit(X, Y, max_epochs=6, batch_size=20)
    np.testing.assert_array_equal(ours.model.params[0].W, whole.model.params[0].W)


def test_validation_sets_have_names():
    data = {"near": (X[:9], Y[:9]), "far": (X[9:], Y[9:], np.ones(51))}
    result = sweep(0.1).fit(X, Y, **FIT, validation_data=data)
    assert {"near_loss", "near_accuracy", "far_loss", "far_accuracy"} <= result.best.keys()
    for name, arrays in data.items():
        assert result.best[f"{name}_loss"] == pytest.approx(result.member().evaluate(*arrays)["loss"], rel=1e-6)
    with pytest.raises(ValueError, match="folds measure their held-out rows as 'valid'"):
        sweep(0.1).fit(X, Y, **FIT, validation_data=(X, Y), folds=2)
    with pytest.raises(TypeError, match=r"validation_data must be \(x, y\)"):
        sweep(0.1).fit(X, Y, **FIT, validation_data=(X,))

"""Many models at once: each equals the same model trained alone, whatever trains beside it."""

from __future__ import annotations

import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import (
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    Chain,
    Dense,
    EarlyStopping,
    Embedding,
    Halving,
    ReLU,
    RMSprop,
    SquaredError,
    Sweep,
    Trainer,
    TrainingDivergedError,
    mlp,
    schedules,
)
from mlp_xp.sweep.binding import differing, structure
from mlp_xp.sweep.driver import train
from mlp_xp.sweep.folds import as_folds
from mlp_xp.sweep.storage import Storage
from mlp_xp.sweep.team import Team
from tests import sweep_cases
from tests.sweep_cases import same, values

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 6))
Y = np.argmax(X[:, :3] + 0.7 * RNG.standard_normal((150, 3)), axis=1)
X, Y, XV, YV = X[:103], Y[:103], X[103:], Y[103:]
FIT: dict[str, Any] = {"max_epochs": 5, "batch_size": 25}


def network(width=8, dropout=0.3, activation="relu"):
    return mlp(6, width, 3, dropout=dropout, activation=activation)


def alone(setting, optimizer, device, dtype, x=X, y=Y, **fit):
    return sweep_cases.alone(network, setting, optimizer, device, dtype, x, y, **FIT | fit)


SETTINGS = {
    "momentum, dropout, schedule": (
        SGD(0.1),
        [
            {"momentum": 0.5, "seed": 1},
            {"momentum": 0.9, "seed": 2, "dropout": 0.6},
            {"momentum": 0.7, "lr": schedules.OneCycle(0.2)},
        ],
    ),
    "penalty, limits": (
        SGD(0.1),
        [
            {"l2": 1e-3, "clip_norm": 0.5, "max_norm": 1.0},
            {"l2": 0.1, "clip_norm": 0.1, "max_norm": 0.3, "max_epochs": 3},
        ],
    ),
    "Adam": (Adam(0.01), [{"b1": 0.8}, {"b2": 0.9, "seed": 4}, {"eps": 1e-3, "lr": 0.1}]),
    "AdamW": (AdamW(0.01), [{"weight_decay": 0.5}, {"b1": 0.1, "b2": 0.5}]),
    "RMSprop": (RMSprop(0.01), [{"decay": 0.9}, {"decay": 0.5, "eps": 0.1}]),
    "loss ratio": (
        SGD(schedules.LossRatio(0.1, window=4)),
        [{"seed": 1}, {"lr": schedules.LossRatio(0.2, window=4)}],
    ),
    "plateau": (SGD(schedules.ReduceOnPlateau(0.5, patience=0)), [{"seed": 1}, {"seed": 2}]),
}
NUMPY = ["numpy:plain", "numpy"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", NUMPY)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_equals_the_same_model_alone(name, device, dtype):
    optimizer, settings = SETTINGS[name]
    data = {"validation_data": (XV, YV)}
    result = Sweep(network, optimizer=optimizer, settings=settings, device=device, dtype=dtype).fit(X, Y, **FIT, **data)
    for i, setting in enumerate(settings):
        same(result, i, alone(setting, optimizer, device, dtype, **data))


@pytest.mark.parametrize("device", ["torch:cpu", "jax:cpu"])
def test_other_libraries_agree_to_1e_9(device):
    optimizer, settings = SGD(0.1), [{"momentum": 0.5}, {"momentum": 0.9, "dropout": 0.6, "seed": 1}]
    result = Sweep(network, optimizer=optimizer, settings=settings, device=device, dtype="float64").fit(X, Y, **FIT)
    for i, setting in enumerate(settings):
        same(result, i, alone(setting, optimizer, device, "float64"), exact=False)


def test_settings_that_differ_in_numbers_are_one_group():
    def steps(settings):
        sweep = Sweep(network, optimizer=SGD(0.1), settings=settings, device="cpu")
        return [sweep.base.candidate(setting, 1, 1, None).step for setting in settings]

    together = steps([{"lr": 0.1, "momentum": 0.5}, {"lr": schedules.Cosine(0.1), "momentum": 0.9, "dropout": 0.1}])
    assert len(set(map(structure, together))) == 1
    assert {path[-1] for path in differing(together)} == {"momentum", "scale", "threshold"}
    apart = steps(
        [{}, {"momentum": 0.5}, {"l2": 0.1}, {"dropout": 0.0}, {"width": 9}, {"activation": "tanh"},
         {"clip_norm": 1.0}, {"optimizer": Adam()}, {"lr": schedules.LossRatio(0.1)}]
    )  # fmt: skip
    assert len(set(map(structure, apart))) == len(apart)


def test_what_differs_in_structure_trains_too():
    settings = [{"width": 4}, {"width": 9, "activation": "tanh"}, {"batch_size": 40}, {"optimizer": Adam(0.01)}]
    result = Sweep(network, optimizer=SGD(0.1), settings=settings, device="numpy:plain").fit(X, Y, **FIT)
    for i, setting in enumerate(settings):
        same(result, i, alone(setting, SGD(0.1), "numpy:plain", "float32"))


def test_running_means_are_each_models_own():
    net = Chain(Dense(6, 8), BatchNorm(8), Dense(8, 3))
    result = Sweep(net, optimizer=SGD(), grid={"lr": [0.1, 0.01]}, device="numpy:plain").fit(X, Y, **FIT)
    for i, lr in enumerate([0.1, 0.01]):
        trainer = Trainer(net, optimizer=SGD(lr), device="numpy:plain")
        trainer.fit(X, Y, **FIT)
        same(result, i, trainer)


@pytest.mark.parametrize("together", [1, 2, 3, 16])
def test_stacks_of_any_size_and_refilled_ones_give_the_same_models(together):
    """Early stopping ends the models at different epochs; others take their places."""
    rule = EarlyStopping(patience=1)
    settings = [{"lr": lr, "seed": seed} for seed in range(3) for lr in (0.5, 0.01, 3.0)]
    fit = {"validation_data": (XV, YV), "early_stopping": rule, "max_epochs": 12}
    result = Sweep(network, optimizer=SGD(), settings=settings, device="numpy:plain").fit(
        X, Y, **FIT | fit, together=together
    )
    assert len({record["epochs"] for record in result.records}) > 2
    for i, setting in enumerate(settings):
        same(result, i, alone(setting, SGD(), "numpy:plain", "float32", **fit))


@pytest.mark.parametrize("device", ["numpy:plain", "numpy", "torch:cpu", "jax:cpu"])
def test_models_that_read_words(device):
    """Each model has the ids of its own order of rows."""
    rng = np.random.default_rng(0)
    rows, models = (100, 2) if device == "jax:cpu" else (103, 3)  # JAX compiles for every number of rows and models
    x, y = rng.integers(0, 20, (rows, 3)), Y[:rows]
    fit = FIT | {"validation_data": (x[:40], Y[:40])}

    def words():
        return Chain(Embedding(20, 5, ids_per_row=3), Dense(15, 8), ReLU(), Dense(8, 3))

    settings, optimizer = [{"lr": 0.1}, {"momentum": 0.5, "seed": 1}, {"lr": 0.2}][:models], SGD(0.1, momentum=0.9)
    sweep = Sweep(words(), optimizer=optimizer, settings=settings, device=device, dtype="float64")
    result = sweep.fit(x, y, **fit, together=2)
    for i, setting in enumerate(settings):
        trainer = sweep_cases.alone(words, setting, optimizer, device, "float64", x, y, **fit)
        same(result, i, trainer, exact=device.startswith("numpy"))


def test_a_diverging_model_is_marked_and_affects_no_other():
    settings = [{"lr": 0.1}, {"lr": 1e30}, {"lr": 0.2}]
    result = Sweep(network, optimizer=SGD(), settings=settings, device="numpy:plain").fit(X, Y, **FIT)
    with pytest.raises(TrainingDivergedError, match="epoch 1"), np.errstate(all="ignore"):
        alone(settings[1], SGD(), "numpy:plain", "float32")
    assert [record["diverged"] for record in result.records] == [None, 1, None]
    assert result.best["model"] != 1
    for i in (0, 2):
        same(result, i, alone(settings[i], SGD(), "numpy:plain", "float32"))


def test_folds_of_unequal_size_are_exact():
    """103 rows in 4 folds: the models of 78 rows and of 77 form two groups."""
    settings = [{"seed": 1}, {"seed": 2, "lr": 0.3}]
    result = Sweep(network, optimizer=SGD(0.1), settings=settings, device="numpy:plain").fit(X, Y, **FIT, folds=4)
    parts = np.array_split(np.arange(len(X)), 4)
    out = np.empty((len(X), 3), np.float32)
    for i, setting in enumerate(settings):
        for fold, held in enumerate(parts):
            rows = np.setdiff1d(np.arange(len(X)), held)
            valid = (X[held], Y[held])
            trainer = alone(setting, SGD(0.1), "numpy:plain", "float32", X[rows], Y[rows], validation_data=valid)
            same(result, 4 * i + fold, trainer)
            if i == 1:
                out[held] = trainer.predict_proba(X[held])
    np.testing.assert_array_equal(result.out_of_fold(1), out)


def test_weights_and_class_weights_of_a_fold_are_those_of_its_rows():
    w = RNG.uniform(0.5, 2.0, len(X))
    settings = [{"class_weight": "balanced"}, {"class_weight": [1.0, 2.0, 3.0]}, {}]
    result = Sweep(network, optimizer=SGD(0.1), settings=settings, device="numpy:plain").fit(
        X, Y, **FIT, folds=3, sample_weight=w
    )
    parts = np.array_split(np.arange(len(X)), 3)
    for i, setting in enumerate(settings):
        for fold, held in enumerate(parts):
            rows = np.setdiff1d(np.arange(len(X)), held)
            fit = {"validation_data": (X[held], Y[held], w[held]), "sample_weight": w[rows]}
            trainer = alone(setting, SGD(0.1), "numpy:plain", "float32", X[rows], Y[rows], **fit)
            same(result, 3 * i + fold, trainer)


@pytest.mark.parametrize("folds", [None, 3])
def test_settings_may_have_their_own_weights_of_rows_and_batches_of_all_rows(folds):
    w = RNG.uniform(0.5, 2.0, (2, len(X)))
    settings = [{"sample_weight": w[0]}, {"sample_weight": w[1], "seed": 2}, {}, {"batch_size": None}]
    sweep = Sweep(network, optimizer=SGD(0.1), settings=settings, device="numpy:plain")
    result = sweep.fit(X, Y, **FIT, folds=folds, sample_weight=w[0] + 1.0)
    everything = [(np.arange(len(X)), np.arange(0))]
    parts = everything if folds is None else as_folds(folds, X, Y)
    for i, setting in enumerate(settings):
        own = setting.get("sample_weight", w[0] + 1.0)
        for fold, (rows, held) in enumerate(parts):
            fit = {} if folds is None else {"validation_data": (X[held], Y[held], own[held])}
            one = setting | {"sample_weight": own[rows]}
            same(result, len(parts) * i + fold, alone(one, SGD(0.1), "numpy:plain", "float32", X[rows], Y[rows], **fit))


def test_survivors_of_halving_have_the_bits_of_a_run_without():
    settings = [{"lr": lr, "seed": seed} for lr in (1e-3, 0.1, 0.3, 1.0) for seed in (0, 1)]
    data = {"validation_data": (XV, YV), "max_epochs": 8, "batch_size": 25}
    sweep = Sweep(network, optimizer=SGD(schedules.Cosine(0.1)), settings=settings, device="numpy:plain")
    whole = sweep.fit(X, Y, **data)
    halved = sweep.fit(X, Y, **data, halving=Halving(factor=2, min_epochs=2), together=3)
    epochs = [record["epochs"] for record in halved.records]
    assert sorted(epochs) == [2, 2, 2, 2, 4, 4, 8, 8]
    for i, n in enumerate(epochs):
        assert values(halved.history(i)) == values(whole.history(i))[:n]
    at_two = [whole.history(i)["valid_loss"][1] for i in range(8)]
    assert {i for i, n in enumerate(epochs) if n > 2} == set(np.argsort(at_two)[:4])
    best = halved.best["model"]
    same(halved, best, whole.trainer(best))


def test_a_killed_sweep_continues_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    settings = [{"lr": lr, "momentum": m} for lr in (0.1, 0.2, 0.4) for m in (0.5, 0.9)]
    data = {"validation_data": (XV, YV), "early_stopping": EarlyStopping(patience=2), **FIT}
    sweep = Sweep(network, optimizer=SGD(0.1), settings=settings, device="numpy:plain")
    whole = sweep.fit(X, Y, **data)
    trained = []

    def counted(group, runs, until, save, limit=2):
        if len(trained) == limit:
            raise KeyboardInterrupt
        trained.append([run.index for run in runs if not run.is_done])
        return train(group, runs, until, save)

    monkeypatch.setattr("mlp_xp.sweep.sweep.train", counted)
    monkeypatch.setattr("mlp_xp.sweep.tasks.STACKS", 1)
    with pytest.raises(KeyboardInterrupt):
        sweep.fit(X, Y, **data, checkpoint=tmp_path, together=2)
    trained.clear()
    result = sweep.fit(X, Y, **data, checkpoint=tmp_path, together=2)
    assert [part for part in trained if part] == [[4, 5]]
    for i in range(6):
        same(result, i, whole.trainer(i))
    for other in (
        {"max_epochs": 9},
        {"sample_weight": np.linspace(1.0, 2.0, len(X))},
        {"validation_data": (XV, YV[::-1])},
        {"validation_data": (XV, YV, np.linspace(1.0, 2.0, len(XV)))},
    ):
        with pytest.raises(ValueError, match="another sweep"):
            sweep.fit(X, Y, **data | other, checkpoint=tmp_path)


def test_a_sweep_that_is_killed_before_its_first_model_can_be_started_again(tmp_path, monkeypatch):
    def killed(file, text, **options):
        file.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    sweep = Sweep(network, optimizer=SGD(), grid={"lr": [0.1]}, device="numpy:plain")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", killed)
        sweep.fit(X, Y, **FIT, checkpoint=tmp_path)
    sweep.fit(X, Y, **FIT, checkpoint=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-00000.safetensors", "sweep.txt"]


@pytest.mark.parametrize("rule", [None, EarlyStopping(patience=2)])
def test_a_sweep_that_is_killed_within_a_stack_continues_there(tmp_path, monkeypatch, rule):
    settings = [{"lr": lr, "momentum": m} for lr in (0.1, 0.2, 1e30, 0.4) for m in (0.5, 0.9)]
    data = FIT | {"validation_data": (XV, YV), "early_stopping": rule, "max_epochs": 6}
    sweep = Sweep(network, optimizer=SGD(schedules.Cosine(0.1)), settings=settings, device="numpy")
    whole = sweep.fit(X, Y, **data)
    epoch, epochs = Team.epoch, []

    def counted(team):
        if len(epochs) == 4:
            raise KeyboardInterrupt
        epochs.append(len(team.under_way))
        epoch(team)

    monkeypatch.setattr(Team, "epoch", counted)
    monkeypatch.setattr("mlp_xp.sweep.team.INTERVAL", 0.0)
    parts = 0
    while True:  # killed after every four epochs
        epochs.clear()
        parts += 1
        try:
            result = sweep.fit(X, Y, **data, checkpoint=tmp_path, together=3)
            break
        except KeyboardInterrupt:
            continue
    assert parts > 2
    assert values(result.records) == values(whole.records)
    for i, record in enumerate(whole.records):
        if record["diverged"] is None:
            same(result, i, whole.trainer(i))


def test_tasks_of_other_processes_write_what_is_under_way(tmp_path, monkeypatch):
    """Both tasks are killed after two epochs; the next call begins with the third."""
    joblib = pytest.importorskip("joblib")
    both = threading.Barrier(2, timeout=60)
    sweep = Sweep(network, optimizer=SGD(0.1), grid={"lr": [0.1, 0.2], "seed": [0, 1]}, device="numpy:plain")
    whole, epoch = sweep.fit(X, Y, **FIT), Team.epoch

    def killed(team):
        if any(run.epoch == 2 for run in team.members):
            both.wait()  # joblib does not wait for the other one
            raise RuntimeError("killed")
        epoch(team)

    monkeypatch.setattr("mlp_xp.sweep.team.INTERVAL", 0.0)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(Team, "epoch", killed)
            sweep.fit(X, Y, **FIT, checkpoint=tmp_path)
        epochs = []
        monkeypatch.setattr(Team, "epoch", lambda team: epochs.append(team.members[0].epoch) or epoch(team))
        result = sweep.fit(X, Y, **FIT, checkpoint=tmp_path)
    assert set(epochs) == {2, 3, 4}
    for i in range(4):
        same(result, i, whole.trainer(i))


def test_a_machine_that_does_not_see_the_folder_writes_nothing(tmp_path):
    storage = Storage(tmp_path / "sweep", [], None)
    (tmp_path / "sweep" / "sweep.txt").unlink()
    (tmp_path / "sweep").rmdir()
    storage.write_if_seen(None)
    assert not list(tmp_path.iterdir())


def test_processes_give_the_same_models():
    pytest.importorskip("joblib")
    settings = [{"lr": lr} for lr in (0.1, 0.2, 0.4)]
    sweep = Sweep(network, optimizer=SGD(0.1), settings=settings, device="numpy:plain")
    here, there = sweep.fit(X, Y, **FIT), sweep.fit(X, Y, **FIT, n_jobs=2, together=1)
    for i in range(3):
        same(there, i, here.trainer(i))


def test_regression_with_several_outputs():
    y = X @ RNG.standard_normal((6, 2))
    sweep = Sweep(mlp(6, 8, 2), SquaredError(), SGD(), grid={"lr": [0.01, 0.05]}, device="numpy:plain", dtype="float64")
    result = sweep.fit(X, y, **FIT, folds=2)
    assert result.out_of_fold().shape == y.shape
    assert result.best["lr"] == 0.05


def test_thousands_of_models_train_in_chunks():
    grid = {"lr": list(np.linspace(0.01, 0.1, 20).tolist()), "seed": list(range(20))}
    result = Sweep(mlp(6, 2, 3), optimizer=SGD(), grid=grid, device="numpy:plain").fit(
        X, Y, max_epochs=1, batch_size=None
    )
    assert len(result) == 400
    assert len({record["loss"] for record in result.records}) == 20


@pytest.mark.slow
def test_ten_thousand_models_need_the_working_memory_of_a_few():
    """A batch takes 40 KB of each model: 400 MB, were they all trained at once. The result keeps some KB of each."""
    x = RNG.standard_normal((500, 20))
    y = (x[:, 0] > 0.0).astype(int)

    def memory(models):
        grid = {"lr": np.linspace(0.01, 0.1, models // 10).tolist(), "seed": list(range(10))}
        sweep = Sweep(mlp(20, 2, 2), optimizer=SGD(), grid=grid, device="numpy")
        tracemalloc.start()
        result = sweep.fit(x, y, max_epochs=1, batch_size=None)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(result) == models
        return kept, peak - kept

    memory(20)
    kept, working = memory(10_000)
    assert working < 20e6
    assert kept < 10_000 * 10e3


# The table, distributions, errors


def test_the_table_has_settings_values_and_folds():
    pd = pytest.importorskip("pandas")
    result = Sweep(network, optimizer=SGD(), grid={"lr": [0.1, 0.2]}, device="numpy:plain").fit(X, Y, **FIT, folds=2)
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["model", "lr", "fold", "epochs", "diverged", "loss", "valid_loss", "valid_accuracy"]
    assert list(frame["lr"]) == [0.1, 0.1, 0.2, 0.2]
    assert result.best["valid_loss"] == frame["valid_loss"].min()
    assert result.best_setting == int(np.argmin(frame.groupby("lr")["valid_loss"].mean()))
    assert result.member().evaluate(X, Y)["loss"] > 0.0


def test_distributions_are_drawn_by_the_seed():
    stats = pytest.importorskip("scipy.stats")
    distributions = {"lr": stats.loguniform(1e-3, 1e-1), "momentum": [0.5, 0.9]}
    a, b, c = (
        Sweep(network, optimizer=SGD(), distributions=distributions, n=5, seed=seed, device="cpu").settings
        for seed in (0, 0, 1)
    )
    assert a == b != c
    assert all(1e-3 <= setting["lr"] <= 1e-1 for setting in a)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TypeError, "needs one of grid, settings, distributions"),
        ({"grid": {"lr": []}}, ValueError, "'lr' has no values"),
        ({"grid": {"lr": 0.1}}, TypeError, "must be a list of values"),
        ({"grid": {"rate": [0.1]}}, ValueError, "unknown parameter 'rate'; known are lr, momentum"),
        ({"grid": {"b1": [0.1]}}, ValueError, "unknown parameter 'b1'"),
        ({"grid": {"lr": [-1.0]}}, ValueError, "lr must be"),
        ({"grid": {"width": [0]}}, ValueError, "width"),
        ({"settings": []}, TypeError, "at least one dict"),
        ({"distributions": {"lr": [0.1]}, "n": 0}, ValueError, "n must be a positive integer"),
    ],
)
def test_impossible_settings_are_refused_before_training(arguments, error, says):
    with pytest.raises(error, match=says):
        Sweep(network, optimizer=SGD(), device="cpu", **arguments)


@pytest.mark.parametrize(
    ("fit", "error", "says"),
    [
        ({"folds": 1}, ValueError, "folds must be from 2"),
        ({"folds": [(np.arange(5), np.arange(200))]}, ValueError, "but x has 103 rows"),
        ({"early_stopping": EarlyStopping()}, ValueError, "pass validation_data"),
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"halving": 3, "validation_data": (XV, YV)}, TypeError, "Halving"),
        ({"halving": Halving()}, ValueError, "valid_loss"),
        ({"folds": 2, "sample_weight": np.arange(103) < 50}, ValueError, "fold 0 trains on 51 rows, and the sample"),
        (
            {"folds": [(np.arange(60), np.arange(60, 70))], "sample_weight": np.arange(103) < 50},
            ValueError,
            "holds out",
        ),
    ],
)
def test_impossible_fits_are_refused(fit, error, says):
    with pytest.raises(error, match=says):
        Sweep(network, optimizer=SGD(), grid={"lr": [0.1, 0.2]}, device="cpu").fit(X, Y, **FIT | fit)


@pytest.mark.parametrize("x", [None, 3.0, "x", iter([X])], ids=["None", "a number", "text", "an iterator"])
def test_rows_that_are_not_an_array_are_refused(x):
    with pytest.raises((TypeError, ValueError), match="x must"):
        Sweep(network, optimizer=SGD(), grid={"lr": [0.1]}, device="cpu").fit(x, Y, **FIT)


@pytest.mark.slow
def test_a_dask_cluster_trains_the_same_models():
    distributed = pytest.importorskip("distributed")
    joblib = pytest.importorskip("joblib")
    sweep = Sweep(network, optimizer=SGD(0.1), grid={"lr": [0.1, 0.2, 0.4]}, device="numpy:plain")
    here = sweep.fit(X, Y, **FIT)
    with (
        warnings.catch_warnings(action="ignore"),  # those of Dask
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask", n_jobs=2),
    ):
        there = sweep.fit(X, Y, **FIT, together=1)
    for i in range(3):
        same(there, i, here.trainer(i))


def test_the_figures_can_be_drawn():
    pytest.importorskip("matplotlib")
    grid = {"lr": [0.01, 0.1, 1e30], "momentum": [0.5, 0.9]}
    result = Sweep(network, optimizer=SGD(), grid=grid, device="numpy:plain").fit(X, Y, **FIT)
    curves = result.plot_curves().axes[0]
    assert len(curves.lines) == 4  # the models that diverged in the first epoch have none
    assert curves.get_title() == "6 models, that with the lowest loss in red"
    assert all(float(tick).is_integer() for tick in curves.get_xticks())
    spread = result.plot_spread("lr").axes[0]
    assert [text.get_text() for text in spread.get_legend().get_texts()] == ["a model", "mean ± standard deviation"]
    assert result.plot_heatmap("lr", "momentum").axes[0].images[0].get_array().shape == (2, 3)
    assert result.plot_spread("lr").axes[0].get_xscale() == "log"
    with pytest.raises(ValueError, match="'b1' is not a parameter of this sweep; these are lr, momentum"):
        result.plot_spread("b1")

"""The trainer: laws of every run, for any network."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import mlp_xp.training.ranks
from mlp_xp import (
    SGD,
    Adam,
    BatchNorm,
    Chain,
    Checkpoint,
    CSVLog,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    FileError,
    He,
    JSONLines,
    Progress,
    ReLU,
    Rescale,
    SoftmaxCrossEntropy,
    SquaredError,
    Trainer,
    TrainingDivergedError,
    TrainStep,
    mlp,
)
from mlp_xp.nn.schedules import InverseScaling, LossRatio, Moment, OneCycle, ReduceOnPlateau
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import ABSENT, leaves, tree_map


def blobs(rows: int = 210, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three well-separated classes in four dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    centres = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 3.0, 0]])
    return (centres[y] + rng.standard_normal((rows, 4))).astype(np.float32), y


@pytest.fixture(params=["cpu", "torch:cpu", pytest.param("jax:cpu", marks=pytest.mark.slow)])
def device(request: pytest.FixtureRequest) -> str:
    """Engines that train; JAX compiles for seconds, and `test_resuming` has one of its runs in the default suite."""
    pytest.importorskip({"cpu": "numpy"}.get(request.param, request.param.partition(":")[0]))
    return str(request.param)


def bits(trainer: Trainer) -> list[bytes]:
    return [trainer.backend.to_numpy(leaf).tobytes() for leaf in leaves(trainer.state)]


def network() -> Chain:
    return Chain(Dense(4, 8), BatchNorm(8), ReLU(), Dropout(0.2), Dense(8, 3))


def by_hand(step: TrainStep, x: np.ndarray, y: np.ndarray, epochs: int, batch: int, seed: int) -> list[float]:
    """The documented run, written out: draws, orders, steps on batches, the last and smaller one included."""
    rng = np.random.default_rng(seed)
    state = step.init(np, step.network.init(rng), step.network.init_state(rng))
    losses, t = [], 0
    for _ in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            t += 1
            rates = tree_map(np.float64, step.optimizer.rates(step.optimizer.lr, t))
            state, loss = step(get_backend("cpu").xp, state, x[rows], y[rows], ABSENT, rates)
            total += float(loss) * len(rows)
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("batch_size", [1, 64, 210])
def test_fit_is_the_loop_written_out(batch_size: int) -> None:
    x, y = blobs()
    x = x.astype(np.float64)
    net = Chain(Dense(4, 8), ReLU(), Dropout(0.2), Dense(8, 3))
    trainer = Trainer(net, optimizer=Adam(0.01), device="cpu", dtype="float64", seed=3)
    history = trainer.fit(x, y, max_epochs=2, batch_size=batch_size)
    expected = by_hand(TrainStep(net, SoftmaxCrossEntropy(), Adam(0.01)), x, y, 2, batch_size, 3)
    np.testing.assert_allclose([record["loss"] for record in history], expected, rtol=1e-10)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(device: str) -> None:
    x, y = blobs()
    runs = []
    for seed in (0, 0, 1):
        trainer = Trainer(network(), optimizer=Adam(OneCycle(0.01)), device=device, seed=seed)
        trainer.fit(x, y, max_epochs=2, batch_size=32)
        runs.append(bits(trainer))
    assert runs[0] == runs[1] != runs[2]


def test_training_learns_and_predictions_agree_with_evaluation(device: str) -> None:
    x, y = blobs()
    trainer = Trainer(mlp(4, 16, 3), optimizer=Adam(0.02), device=device)
    trainer.fit(x, y, max_epochs=20, batch_size=32)
    measured = trainer.evaluate(x, y)
    assert measured["accuracy"] > 0.95
    assert np.mean(trainer.predict(x) == y) == pytest.approx(measured["accuracy"])
    p = trainer.predict_proba(x)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-5)
    assert -np.mean(np.log(p[np.arange(len(y)), y])) == pytest.approx(measured["loss"], rel=1e-4)


def test_streamed_data_give_the_bits_of_resident_data(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_xp.data.feed.WINDOW_BYTES", 2000)  # a few batches a window
    x, y = blobs()
    runs = []
    for resident in (True, False):
        trainer = Trainer(network(), optimizer=SGD(0.05, momentum=0.9), device=device, seed=1)
        trainer.fit(x, y, max_epochs=2, batch_size=16, resident=resident)
        runs.append(bits(trainer))
    assert runs[0] == runs[1]


def test_memory_mapped_data_train_like_data_in_memory(tmp_path: object) -> None:
    x, y = blobs()
    np.save(f"{tmp_path}/x.npy", x)
    runs = []
    for data in (x, np.load(f"{tmp_path}/x.npy", mmap_mode="r")):
        trainer = Trainer(network(), device="cpu")
        trainer.fit(data, y, max_epochs=1, batch_size=32)
        runs.append(bits(trainer))
    assert runs[0] == runs[1]


def test_chunks_do_not_change_the_bits(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs()
    runs = []
    for work in (1e10, 1.0, 3e6):
        monkeypatch.setattr("mlp_xp.training.epoch.CHUNK_WORK", work)
        trainer = Trainer(network(), optimizer=Adam(0.01), device=device)
        trainer.fit(x, y, max_epochs=2, batch_size=16)
        runs.append(bits(trainer))
    assert runs[0] == runs[1] == runs[2]


def test_weights_count_rows_like_repetition() -> None:
    """With the summed loss and one batch, a weight of two is the row twice."""
    x, y = blobs(60)
    x = x.astype(np.float64)
    w = np.arange(60) % 3
    twice = np.repeat(np.arange(60), w)
    runs = []
    for data in ((x, y, w), (x[twice], y[twice], None)):
        trainer = Trainer(mlp(4, 5, 3), SoftmaxCrossEntropy(reduction="sum"), SGD(0.001), device="cpu", dtype="float64")
        history = trainer.fit(*data[:2], sample_weight=data[2], max_epochs=3, batch_size=None, shuffle=False)
        runs.append([record["loss"] for record in history])
    np.testing.assert_allclose(*runs, rtol=1e-12)


def test_validation_is_recorded_by_name() -> None:
    x, y = blobs()
    trainer = Trainer(mlp(4, 3), device="cpu")
    (record,) = trainer.fit(x, y, max_epochs=1, validation_data={"valid": (x[:50], y[:50]), "train": (x, y)})
    assert set(record) >= {"loss", "valid_loss", "valid_accuracy", "train_loss", "train_accuracy", "lr", "seconds"}
    assert record["train_loss"] == pytest.approx(trainer.evaluate(x, y)["loss"])


def test_early_stopping_restores_the_best_epoch() -> None:
    """Validation labels are wrong, so every epoch makes that loss worse: the first one stays."""
    x, y = blobs()
    seen = []

    def keep(trainer: Trainer, record: dict[str, float]) -> None:
        seen.append(bits(trainer))

    trainer = Trainer(mlp(4, 8, 3), optimizer=Adam(0.01), device="cpu")
    history = trainer.fit(
        x,
        y,
        max_epochs=50,
        validation_data=(x, (y + 1) % 3),
        early_stopping=EarlyStopping(patience=3),
        callbacks=[keep],
    )
    losses = [record["valid_loss"] for record in history]
    assert len(history) == int(np.argmin(losses)) + 1 + 3 < 50
    assert trainer.evaluate(x, (y + 1) % 3)["loss"] == pytest.approx(min(losses))


def test_a_function_stops_the_training_by_returning_true() -> None:
    x, y = blobs()
    trainer = Trainer(mlp(4, 3), device="cpu")
    assert len(trainer.fit(x, y, max_epochs=9, callbacks=[lambda trainer, record: record["epoch"] == 2])) == 2


def test_epochs_are_counted_over_calls() -> None:
    """Three epochs and then two more are five epochs, with a constant rate."""
    x, y = blobs()
    once, twice = (Trainer(network(), optimizer=Adam(0.01), device="cpu") for _ in range(2))
    once.fit(x, y, max_epochs=5, batch_size=32)
    twice.fit(x, y, max_epochs=3, batch_size=32)
    twice.fit(x, y, max_epochs=5, batch_size=32)
    assert bits(once) == bits(twice)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_ctrl_c_keeps_what_was_learned_and_the_run_can_be_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_xp.training.epoch.CHUNK_WORK", 1.0)
    x, y = blobs()
    whole = Trainer(network(), optimizer=Adam(0.01), device="cpu")
    whole.fit(x, y, max_epochs=3, batch_size=32)

    class Press:
        def start(self, trainer: Trainer) -> None: ...
        def epoch(self, trainer: Trainer, record: dict[str, float]) -> None: ...
        def end(self, trainer: Trainer) -> None: ...
        def chunk(self, trainer: Trainer) -> None:
            if trainer.epoch == 1 and trainer.progress.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    trainer = Trainer(network(), optimizer=Adam(0.01), device="cpu")
    assert len(trainer.fit(x, y, max_epochs=3, batch_size=32, callbacks=[Press()])) == 1
    assert trainer.interrupted
    assert np.isfinite(trainer.evaluate(x, y)["loss"])
    with pytest.raises(ValueError, match="with the same data and options"):
        trainer.fit(x, y, max_epochs=3, batch_size=16)
    trainer.fit(x, y, max_epochs=3, batch_size=32)
    assert bits(trainer) == bits(whole)


def test_divergence_is_an_error_that_names_epoch_and_rate() -> None:
    x, y = blobs()
    trainer = Trainer(mlp(4, 8, 1), SquaredError(), SGD(1e6), device="cpu")
    with np.errstate(all="ignore"), pytest.raises(TrainingDivergedError, match=r"epoch 1 .* rate 1e\+06.*clip_norm"):
        trainer.fit(x, y.astype(np.float32), max_epochs=3, batch_size=32)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (InverseScaling(0.5, power=0.5), [0.5, 0.5 / 211**0.5, 0.5 / 421**0.5]),
        (ReduceOnPlateau(0.5, factor=0.1, patience=0, threshold=0.9), [0.5, 0.5, 0.05]),
        (LossRatio(0.5), [0.5, 0.5, 0.5]),
        (OneCycle(0.5), [OneCycle(0.5).rate(Moment(step, 9, 0, 0)) for step in (2, 5, 8)]),  # 9 steps in all
    ],
)
def test_the_history_holds_the_rate(schedule: object, expected: list[float]) -> None:
    x, y = blobs()
    trainer = Trainer(mlp(4, 3), optimizer=SGD(schedule), device="cpu")
    history = trainer.fit(x, y, max_epochs=3, batch_size=70)
    np.testing.assert_allclose([record["lr"] for record in history], expected)


def test_bytes_and_ids_stay_small_on_the_device() -> None:
    rng = np.random.default_rng(0)
    pixels, ids, y = rng.integers(0, 256, (40, 6), dtype=np.uint8), rng.integers(0, 5, (40, 2)), rng.integers(0, 3, 40)
    for x, first, width in ((pixels, Rescale(scale=1 / 255), 6), (ids, Embedding(5, 4, ids_per_row=2), 8)):
        trainer = Trainer(mlp(width, 3, first=first), device="cpu")
        assert np.isfinite(trainer.fit(x, y, max_epochs=1)[0]["loss"])
        assert {leaf.dtype for leaf in leaves(trainer.state.params)} == {np.dtype(np.float32)}


BAD = {
    "one axis": (lambda x, y: (x[:, 0], y), "two axes"),
    "no rows": (lambda x, y: (x[:0], y[:0]), "no rows"),
    "columns": (lambda x, y: (x[:, :3], y), "takes 4 features but 3 arrive"),
    "strings": (lambda x, y: (x.astype(str), y), "real numbers"),
    "complex": (lambda x, y: (x.astype(complex), y), "real numbers"),
    "targets": (lambda x, y: (x, y[:-1]), "one target per row"),
    "float labels": (lambda x, y: (x, y.astype(float)), "integer class labels"),
    "label names": (lambda x, y: (x, y.astype(str)), "number the classes"),
    "too large": (lambda x, y: (x, y + 1), r"from 0 to 2"),
    "negative": (lambda x, y: (x, y - 1), r"from 0 to 2"),
    "distribution": (lambda x, y: (x, np.ones((len(y), 3))), "one distribution per row"),
    "shape": (lambda x, y: (x, np.ones((len(y), 2))), "must have shape"),
    "column of labels": (lambda x, y: (x, y[:, None]), r"integer labels have shape \(210,\): y\.ravel"),
    "halves": (lambda x, y: (x, y / 2), r"np\.unique"),
    "one row": (lambda x, y: (x[0], y[:1]), r"x\[None, :\]"),
    "sparse": (lambda x, y: (pytest.importorskip("scipy.sparse").csr_array(x), y), "toarray"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_where_they_enter(case: str) -> None:
    change, message = BAD[case]
    trainer = Trainer(mlp(4, 3), device="cpu")
    before = bits(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.fit(*change(*blobs()), max_epochs=1)
    assert bits(trainer) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs must be a positive integer, not 0"),
        ({"max_epochs": 1, "batch_size": -1}, "batch_size must be a positive integer, not -1"),
        ({"max_epochs": 1, "sample_weight": -np.ones(210)}, "non-negative"),
        ({"max_epochs": 1, "sample_weight": np.zeros(210)}, "at least one positive"),
        ({"max_epochs": 1, "sample_weight": np.ones(3)}, "210 numbers"),
        ({"max_epochs": 1.5}, r"max_epochs must be a positive integer, not 1\.5"),
        ({"max_epochs": "3"}, "max_epochs must be a positive integer, not '3'"),
        ({"max_epochs": 1, "batch_size": 0}, "batch_size must be a positive integer, not 0"),
        ({"max_epochs": 1, "validation_data": 0.2}, r"validation_data must be \(x, y\)"),
        ({"max_epochs": 1, "validation_data": (1, 2, 3, 4)}, r"validation_data must be \(x, y\)"),
        ({"max_epochs": 1, "validation_data": {0: blobs()}}, "must name its sets by strings such as 'valid', not 0"),
        ({"max_epochs": 1, "validation_data": {"valid": blobs(), "other": 3}}, r"must be \(x, y\) .* not 3"),
        ({"max_epochs": 1, "early_stopping": True}, "early_stopping must be"),
        ({"max_epochs": 1, "callbacks": Progress()}, r"callbacks must be a list, such as \[Progress"),
        ({"max_epochs": 1, "callbacks": [Progress]}, "the class Progress: call it"),
        ({"max_epochs": 1, "callbacks": [3]}, "callback"),
        ({"max_epochs": 1, "callbacks": [Checkpoint("/nowhere/run.safetensors")]}, "no folder /nowhere"),
        ({"max_epochs": 1, "callbacks": [CSVLog("/nowhere/run.csv")]}, "no folder /nowhere"),
        (
            {"max_epochs": 1, "validation_data": blobs(), "early_stopping": EarlyStopping(monitor="val_loss")},
            "monitor one of these",
        ),
        ({"max_epochs": 1, "shuffle": "no"}, "shuffle must be True or False, not 'no'"),
        ({"max_epochs": 1, "resident": "auto"}, "resident must be True or False"),
        ({"max_epochs": 1, "sample_weight": np.full(210, 1e-60)}, "out of the range of float32"),
        ({"max_epochs": 1, "sample_weight": np.full(210, 1e37)}, "out of the range of float32"),
        ({"max_epochs": 1, "early_stopping": EarlyStopping()}, "monitors 'valid_loss'"),
        ({"max_epochs": 1, "validation_data": (np.zeros((5, 4)), np.full(5, 7))}, r"from 0 to 2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError, FileError), match=message):
        Trainer(mlp(4, 3), device="cpu").fit(*blobs(), **options)


WRONG = {
    "a layer": (lambda: Trainer(Dense(4, 3)), "network must be a Chain"),
    "a list": (lambda: Trainer([Dense(4, 3)]), "network must be a Chain"),
    "a function": (lambda: Trainer(mlp), "network must be a Chain"),
    "a name": (lambda: Trainer(mlp(4, 3), optimizer="adam"), r"such as Adam\(0\.001\), not 'adam'"),
    "a class": (lambda: Trainer(mlp(4, 3), optimizer=Adam), "the class Adam: call it"),
    "a class of schedules": (lambda: Adam(OneCycle), "the class OneCycle: call it"),
    "a falling rate": (lambda: Adam(OneCycle(-1.0)), "lr must be a finite number"),
    "a loss by name": (lambda: Trainer(mlp(4, 3), "cross_entropy"), "loss must be .* not 'cross_entropy'"),
    "the optimizer as loss": (lambda: Trainer(mlp(4, 3), Adam()), "loss must be"),
    "a number as device": (lambda: Trainer(mlp(4, 3), device=0), "device must be"),
    "a type as dtype": (
        lambda: Trainer(mlp(4, 3), dtype=np.float32),
        "dtype must be 'float32' .* not the class float32$",
    ),
    "a class as a word": (lambda: mlp(4, 3, norm=ReLU), "norm must be 'layer' or 'batch', not the class ReLU$"),
    "a number as model": (lambda: Trainer.from_model(3), "model must be a Model, .* not 3"),
    "a trainer as model": (lambda: Trainer.from_model(Trainer(mlp(4, 3))), "model must be a Model, such as trainer"),
    "one layer to freeze": (
        lambda: Trainer.from_model(Trainer(mlp(4, 3)).model, frozen=0),
        r"frozen must be positions of layers, such as \(0, 1\), not 0",
    ),
    "no path of a log": (lambda: CSVLog(None), "path of a file, .* got None"),
    "no path of lines": (lambda: JSONLines(None), "path of a file, .* got None"),
    "no path of a checkpoint": (lambda: Checkpoint(None), "path of a file, .* got None"),
    "no rows": (lambda: Trainer(mlp(4, 3)).fit(None, [0], max_epochs=1), r"x must be an array .* not None$"),
    "an array as validation data": (
        lambda: Trainer(mlp(4, 3)).fit(*blobs(), max_epochs=1, validation_data=blobs()[0]),
        r"^validation_data must be [^\n]* \(ndarray\)$",
    ),
    "numbers in strings": (
        lambda: Trainer(mlp(4, 1), SquaredError()).fit(np.ones((2, 4)), ["0.5", "1"], max_epochs=1),
        r"y must hold numbers, .* convert it with y\.astype\(float\)",
    ),
    "a record out of range": (lambda: Trainer(mlp(4, 3)).history[-1], "no record at position -1: the history has 0"),
    "a negative seed": (lambda: Trainer(mlp(4, 3), seed=-1), "seed must be a non-negative integer"),
    "a chain of a list": (lambda: Chain([Dense(4, 3)]), "each layer of a Chain"),
    "a chain of classes": (lambda: Chain(Dense(4, 3), ReLU), "the class ReLU: call it"),
    "widths in a list": (lambda: mlp([4, 3]), r"not mlp\(\[4, 3\]\)"),
    "one width": (lambda: mlp(4), r"not mlp\(4\)"),
    "no activation": (lambda: mlp(4, 3, activation=None), "activation must be"),
    "a class of activations": (lambda: mlp(4, 5, 3, activation=ReLU), "the class ReLU: call it"),
    "a class of initializers": (lambda: mlp(4, 3, init=He), "the class He: call it"),
    "a name of initializers": (lambda: mlp(4, 3, init="he"), r"init must be an object such as Glorot\(\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments_of_the_wrong_kind_are_refused_at_once(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        make()


def test_divergence_names_the_row_that_is_no_number() -> None:
    x, y = blobs()
    x[7, 2] = np.nan
    with pytest.raises(TrainingDivergedError, match="x holds NaN or infinity, the first in row 7"):
        Trainer(mlp(4, 3), device="cpu").fit(x, y, max_epochs=1)


def test_nothing_left_to_train_is_said() -> None:
    trainer = Trainer(mlp(4, 3), device="cpu")
    trainer.fit(*blobs(), max_epochs=3)
    before = bits(trainer)
    with pytest.warns(
        UserWarning, match=r"3 epochs are done and max_epochs.* is 2: .* max_epochs=5 trains 2 more"
    ) as caught:
        trainer.fit(*blobs(), max_epochs=2)
    assert caught[0].filename == __file__
    assert bits(trainer) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_files_get_the_permissions_of_other_new_files(tmp_path: Path) -> None:
    Trainer(mlp(4, 3), device="cpu").model.save(tmp_path / "net.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("limit", [{"l2": -1.0}, {"clip_norm": 0.0}, {"max_norm": -2.0}, {"dtype": "float16"}])
def test_bad_limits_are_refused(limit: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(limit))):
        Trainer(mlp(4, 3), device="cpu", **limit)


def test_ids_outside_the_table_are_refused() -> None:
    trainer = Trainer(mlp(8, 3, first=Embedding(5, 4, ids_per_row=2)), device="cpu")
    with pytest.raises(ValueError, match=r"from 0 to 4"):
        trainer.fit(np.array([[0, 5]]), np.array([0]), max_epochs=1)
    with pytest.raises(ValueError, match="integer ids"):
        trainer.fit(np.array([[0.0, 1.0]]), np.array([0]), max_epochs=1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
def test_ids_of_every_dtype_are_the_same_ids(device: str, dtype: str) -> None:
    """A byte holds ids below 256 of a table that has more."""
    ids, runs = np.random.default_rng(0).integers(0, 100, (64, 2)), []
    for given in (ids, ids.astype(dtype)):
        trainer = Trainer(mlp(8, 3, first=Embedding(300, 4, ids_per_row=2)), device=device)
        trainer.fit(given, ids[:, 0] % 3, max_epochs=1, batch_size=32)
        runs.append(bits(trainer))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_of_the_engine_are_trained_on_without_a_copy(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xp = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    x, y = blobs()
    feeds = []
    make = mlp_xp.training.ranks.make_feed
    monkeypatch.setattr("mlp_xp.training.ranks.make_feed", lambda *args: feeds.append(make(*args)) or feeds[-1])
    given = xp.asarray(x)
    runs = []
    for data in ((given, xp.asarray(y)), (x, y)):
        trainer = Trainer(mlp(4, 3), device=f"{library}:cpu")
        trainer.fit(*data, max_epochs=1)
        runs.append(bits(trainer))
    assert runs[0] == runs[1]
    place = [np.from_dlpack(a).ctypes.data for a in (given, feeds[0].data.x)]
    assert place[0] == place[1]
    for foreign in ("cpu", f"{library}:cpu"):
        assert np.isfinite(Trainer(mlp(4, 3), device=foreign).fit(given, xp.asarray(y), max_epochs=1)[0]["loss"])

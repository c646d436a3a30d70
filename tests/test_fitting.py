"""The trainer's interface: histories, early stopping, class weights, fine-tuning, callbacks, and invalid data."""

from __future__ import annotations

import csv
import os
import signal
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import (
    SGD,
    Adam,
    BatchNorm,
    Callback,
    CSVLog,
    Dense,
    EarlyStopping,
    History,
    SquaredError,
    Trainer,
    mlp,
)
from mlp_xp.data.class_weights import weigh_classes
from mlp_xp.data.feed import make_feed
from mlp_xp.files.snapshot import Best, Plan
from mlp_xp.nn.schedules import Moment, ReduceOnPlateau
from mlp_xp.training.epoch import batch_weights, mean_loss, rate_table, row_order, stacked_rates
from mlp_xp_backends.trees import leaves

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((60, 4)).astype(np.float32), rng.integers(0, 3, 60)


def bits(trainer: Trainer) -> list[bytes]:
    return [trainer.backend.to_numpy(leaf).tobytes() for leaf in leaves(trainer.state)]


# The history


def test_a_history_does_not_grow_with_the_run() -> None:
    trainer = Trainer(mlp(4, 3), device="cpu")
    first = trainer.fit(X, Y, max_epochs=2)
    second = trainer.fit(X, Y, max_epochs=3, validation_data=(X, Y))
    assert isinstance(first, History) and (len(first), len(second), len(trainer.history)) == (2, 3, 3)
    assert first == second[:2] and first["epoch"] == [1, 2] and second[-1]["epoch"] == 3
    assert np.isnan(second["valid_loss"][:2]).all() and second["valid_loss"][2] == second[-1]["valid_loss"]
    first[-1]["loss"] = 0.0
    assert trainer.history[1]["loss"] > 0.0
    with pytest.raises(KeyError, match="no epoch recorded 'accuracy'; the columns are epoch, loss"):
        first["accuracy"]


def test_a_history_becomes_a_frame_and_a_figure() -> None:
    history = Trainer(mlp(4, 3), device="cpu").fit(X, Y, max_epochs=2, validation_data=(X, Y))
    frame = pytest.importorskip("pandas") and history.to_pandas()
    assert list(frame.columns) == list(history.columns) and frame["loss"].tolist() == history["loss"]
    figure = pytest.importorskip("matplotlib") and history.plot()
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert len(history.plot("loss").axes) == 1


# Early stopping


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "valid_f1"}, "mode must be 'min' or 'max' for monitor='valid_f1'"),
        ({"mode": "best"}, "mode must be"),
        ({"patience": 0}, "patience must be a positive integer"),
        ({"min_delta": float("nan")}, "min_delta must be a finite number of at least 0, not nan"),
        ({"min_delta": -1.0}, "min_delta"),
        ({"monitor": 3}, "name of a column"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        EarlyStopping(**options)


def test_the_mode_says_what_is_better() -> None:
    best = Best(1, 0.5, "valid_error", "min", (), ())
    assert EarlyStopping(monitor="valid_error").improves(0.4, best)
    assert not EarlyStopping(monitor="valid_error", min_delta=0.2).improves(0.4, best)
    assert EarlyStopping(monitor="valid_accuracy").improves(0.6, best)
    assert EarlyStopping(monitor="valid_f1", mode="max").improves(0.6, best)
    nan = best._replace(score=float("nan"))
    assert EarlyStopping().improves(0.4, nan) and not EarlyStopping().improves(float("nan"), nan)
    assert not EarlyStopping().improves(float("nan"), best)


def test_another_fit_chooses_among_its_own_epochs() -> None:
    """The first fit ends with a best loss that the second, on other labels, never reaches."""
    rule = EarlyStopping(patience=2)
    trainer = Trainer(mlp(4, 8, 3), optimizer=Adam(0.02), device="cpu")
    easy = np.argmax(X[:, :3], axis=1)
    trainer.fit(X, easy, max_epochs=30, validation_data=(X, easy), early_stopping=rule)
    before, start = bits(trainer), trainer.epoch
    trainer.fit(X, Y, max_epochs=start + 4, validation_data=(X, Y), early_stopping=rule)
    assert trainer.epoch > start and bits(trainer) != before
    trainer.fit(X, Y, max_epochs=trainer.epoch + 2)  # without validation
    trainer.fit(
        X,
        Y,
        max_epochs=trainer.epoch + 2,
        validation_data=(X, Y),
        early_stopping=EarlyStopping(monitor="valid_accuracy"),
    )


@pytest.mark.parametrize("first", [True, False])
def test_calls_with_and_without_validation_follow_each_other(first: bool) -> None:
    """Schedules then monitor the training loss, which all epochs have."""
    trainer = Trainer(mlp(4, 3), optimizer=SGD(ReduceOnPlateau(0.1, patience=0)), device="cpu")
    for epochs, valid in ((2, first), (4, not first), (6, first)):
        trainer.fit(X, Y, max_epochs=epochs, validation_data=(X, Y) if valid else None)
    assert len(trainer.history) == 6
    losses = trainer.history["loss"]
    expected = ReduceOnPlateau(0.1, patience=0).rate(Moment(0, 0, 5, 0, losses[:5]))
    assert trainer.history["lr"][-1] == expected


def test_a_score_that_is_nan_at_first_does_not_block_later_ones() -> None:
    """The validation set is poisoned in the first epoch only."""
    valid, seen = X.copy(), []

    def heal(trainer: Trainer, record: dict[str, float]) -> None:
        seen.append(record["valid_loss"])
        valid[0, 0] = X[0, 0]

    valid[0, 0] = np.nan
    trainer = Trainer(mlp(4, 3), optimizer=SGD(0.1), device="cpu")
    trainer.fit(X, Y, max_epochs=5, validation_data=(valid, Y), early_stopping=EarlyStopping(), callbacks=[heal])
    assert np.isnan(seen[0]) and trainer.evaluate(X, Y)["loss"] == pytest.approx(min(seen[1:]))


# Callbacks


@pytest.mark.parametrize(("answer", "epochs"), [(True, 1), (np.True_, 1), (1, 3), ("stop", 3), (None, 3), (False, 3)])
def test_true_and_nothing_else_ends_the_training(answer: Any, epochs: int) -> None:
    class Answer(Callback):
        def epoch(self, trainer: Trainer, record: dict[str, float]) -> Any:
            return answer

    for callback in (Answer(), lambda trainer, record: answer):
        trainer = Trainer(mlp(4, 3), device="cpu")
        assert len(trainer.fit(X, Y, max_epochs=3, callbacks=[callback])) == epochs
        assert not trainer.interrupted


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize("when", ["epoch", "end"])
def test_ctrl_c_in_the_last_callbacks_is_not_lost(when: str) -> None:
    class Press(Callback):
        def epoch(self, trainer: Trainer, record: dict[str, float]) -> None:
            if when == "epoch" and record["epoch"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def end(self, trainer: Trainer) -> None:
            if when == "end":
                os.kill(os.getpid(), signal.SIGINT)

    trainer = Trainer(mlp(4, 3), device="cpu")
    assert len(trainer.fit(X, Y, max_epochs=2, callbacks=[Press()])) == 2
    assert trainer.interrupted


def test_fit_restores_the_handler_of_ctrl_c_and_runs_in_other_threads() -> None:
    before, trainer = signal.getsignal(signal.SIGINT), Trainer(mlp(4, 3), device="cpu")
    trainer.fit(X, Y, max_epochs=1)
    assert signal.getsignal(signal.SIGINT) is before
    thread = threading.Thread(target=lambda: trainer.fit(X, Y, max_epochs=2))
    thread.start()
    thread.join()
    assert trainer.epoch == 2 and signal.getsignal(signal.SIGINT) is before


def test_the_options_of_early_stopping_become_numbers_of_python() -> None:
    rule = EarlyStopping(min_delta=np.float32(0.5), patience=np.int64(3))
    assert (type(rule.min_delta), type(rule.patience)) == (float, int)


def test_the_log_is_a_rectangle_when_columns_are_added(tmp_path: Path) -> None:
    trainer = Trainer(mlp(4, 3), device="cpu")
    trainer.fit(X, Y, max_epochs=2, callbacks=[CSVLog(tmp_path / "log.csv")])
    options: dict[str, Any] = {"validation_data": (X, Y), "callbacks": [CSVLog(tmp_path / "log.csv")]}
    trainer.fit(X, Y, max_epochs=3, **options)
    trainer.fit(X, Y, max_epochs=4, callbacks=[CSVLog(tmp_path / "log.csv")])
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(trainer.history.columns) and len(rows) == 5 and {len(row) for row in rows} == {len(rows[0])}
    column = rows[0].index("valid_loss")
    assert [bool(row[column]) for row in rows[1:]] == [False, False, True, False]


# Class weights


def test_class_weights_are_sample_weights() -> None:
    table = {0: 2.0, 2: 0.5}
    runs = []
    for options, w in (
        ({"class_weight": table}, None),
        ({"class_weight": [2.0, 1.0, 0.5]}, np.ones(60)),
        ({}, np.array([2.0, 1.0, 0.5])[Y]),
    ):
        trainer = Trainer(mlp(4, 3), device="cpu", **options)
        trainer.fit(X, Y, max_epochs=2, batch_size=16, sample_weight=w)
        runs.append(bits(trainer))
    assert runs[0] == runs[1] == runs[2]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    utils = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.array([0, 0, 0, 2, 2, 3])
    expected = utils.compute_sample_weight("balanced", labels)
    np.testing.assert_allclose(weigh_classes("balanced", labels, 5), expected)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ([1.0], "3 weights, one for each class, not 1"),
        ([1.0, 0.0, 1.0], "finite number above 0, not 0.0"),
        ([1.0, -1.0, 1.0], "above 0, not -1.0"),
        ({5: 1.0}, r"names class 5, but the classes are 0 \.\.\. 2"),
        ({"a": 1.0}, "a class is an integer"),
        ("even", "'balanced'"),
        (3.0, "'balanced'"),
    ],
)
def test_class_weights_that_make_no_sense_are_refused(class_weight: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Trainer(mlp(4, 3), device="cpu", class_weight=class_weight).fit(X, Y, max_epochs=1)


def test_class_weights_survive_a_checkpoint(tmp_path: Path) -> None:
    for class_weight in ("balanced", [1.0, 2.0, 3.0], {1: 4.0}):
        trainer = Trainer(mlp(4, 3), device="cpu", class_weight=class_weight)
        trainer.save_checkpoint(tmp_path / "c")
        resumed = Trainer.resume(tmp_path / "c", device="cpu")
        for t in (trainer, resumed):
            t.fit(X, Y, max_epochs=1)
        assert resumed.snapshot().class_weight == class_weight and bits(resumed) == bits(trainer)


# Fine-tuning


def test_fine_tuning_starts_from_the_model_and_keeps_frozen_layers() -> None:
    old = Trainer(mlp(4, 8, 6, 3), optimizer=Adam(0.01), device="cpu")
    old.fit(X, Y, max_epochs=2)
    model = old.model
    same = Trainer.from_model(model)
    np.testing.assert_array_equal(same.predict_proba(X), model.predict_proba(X))
    trainer = Trainer.from_model(model, Adam(0.01), head=Dense(6, 2), frozen=[0, 2], seed=1)
    assert trainer.step.frozen == (0, 2)
    trainer.fit(X, Y % 2, max_epochs=2)
    for i, (before, after) in enumerate(zip(model.params, trainer.state.params, strict=True)):
        if i in (0, 2):
            assert [a.tobytes() for a in leaves(before)] == [a.tobytes() for a in leaves(after)]
    assert trainer.predict_proba(X).shape == (60, 2) and len(trainer.state.slots) == 2
    again = Trainer.from_snapshot(trainer.snapshot(), device="cpu")
    assert again.step.frozen == (0, 2) and bits(again) == bits(trainer)
    assert "frozen layers 0, 2" in str(trainer)


def test_a_new_head_starts_with_a_state_of_its_own() -> None:
    """The other layers keep theirs, that of batch normalization included."""
    old = Trainer(mlp(4, 8, 3, norm="batch"), optimizer=Adam(0.01), device="cpu")
    old.fit(X, Y, max_epochs=1)
    head = BatchNorm(8)
    trainer = Trainer.from_model(old.model, loss=SquaredError(), head=head, seed=5)
    new = trainer.snapshot().state
    for found, expected in ((new.params, old.model.params), (new.layers, old.model.state)):
        assert [a.tobytes() for a in leaves(found[:-1])] == [a.tobytes() for a in leaves(expected[:-1])]
    for found, expected in ((new.params[-1], head.init(rng)), (new.layers[-1], head.init_state(rng))):
        np.testing.assert_equal(list(map(np.asarray, leaves(found))), list(map(np.asarray, leaves(expected))))
    assert len(trainer.fit(X, np.zeros((60, 8)), max_epochs=1)) == 1


def test_models_and_trainers_print_as_tables_and_compare_as_objects() -> None:
    trainer = Trainer(mlp(4, 8, 3), device="cpu")
    model = trainer.model
    assert model == model and model != trainer.model
    for text in (str(model), str(trainer)):
        assert "Dense" in text and "67" in text and "numpy on cpu" in text and len(text) < 1000
    assert repr(model) == "<Model of 3 layers with 67 parameters>"


# Data


def test_integer_one_hot_targets_are_distributions() -> None:
    runs = []
    for y in (np.eye(3, dtype=np.int64)[Y], np.eye(3, dtype=np.float32)[Y], np.eye(3, dtype=bool)[Y]):
        trainer = Trainer(mlp(4, 3), device="cpu")
        trainer.fit(X, y, max_epochs=1)
        runs.append((bits(trainer), trainer.evaluate(X, y)))
    assert runs[0] == runs[1] == runs[2]


def test_a_row_with_nan_has_no_class() -> None:
    x = X.copy()
    x[7, 1] = np.nan
    model = Trainer(mlp(4, 3), device="cpu").model
    assert np.isnan(model.predict_proba(x)[7]).all() and np.isfinite(model.predict_proba(x)[8:]).all()
    with pytest.raises(ValueError, match="the outputs of row 7 are NaN"):
        model.predict(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ((row for row in X), Y), "x must be an array of shape .* stack its rows first"),
        (lambda: (np.ma.masked_array(X, X > 1), Y), "masked arrays are not supported"),
        (lambda: (X, np.ma.masked_array(Y, Y > 1)), "masked arrays are not supported"),
    ],
)
def test_data_that_are_no_arrays_are_refused(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Trainer(mlp(4, 3), device="cpu").fit(*make(), max_epochs=1)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, "all"])
def test_batch_sizes_of_evaluation_are_checked(batch_size: Any) -> None:
    model = Trainer(mlp(4, 3), device="cpu").model
    for call in (lambda: model.evaluate(X, Y, batch_size=batch_size), lambda: model.outputs(X, batch_size=batch_size)):
        with pytest.raises((ValueError, TypeError), match="batch_size must be"):
            call()


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_batches_of_evaluation_do_not_matter(batch_size: int) -> None:
    model = Trainer(mlp(4, 3), device="cpu", dtype="float64").model
    expected = model.evaluate(X, Y)
    assert model.evaluate(X, Y, batch_size=batch_size) == pytest.approx(expected)
    np.testing.assert_allclose(model.outputs(X, batch_size=batch_size), model.outputs(X), rtol=1e-12)


def test_row_numbers_have_64_bits_where_32_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, Any]] = []
    monkeypatch.setattr(np, "arange", lambda n, dtype: made.append((n, dtype)))
    for rows in (2**31, 2**31 + 1):
        row_order(rng, Plan(1, 1, False, rows))
    assert made == [(2**31, np.int32), (2**31 + 1, np.int64)]


def test_streaming_needs_few_bytes_of_memory_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four for the order, and four for a label where the given ones are wider."""
    monkeypatch.setattr("mlp_xp.data.feed.WINDOW_BYTES", 100_000)
    rows = 200_000
    x, y = np.zeros((rows, 1), np.float32), np.zeros(rows, np.int64)
    trainer = Trainer(mlp(1, 2), optimizer=SGD(0.1), device="cpu")
    trainer.fit(x[:9000], y[:9000], max_epochs=1, batch_size=2000, resident=False)  # imports and compiles
    tracemalloc.start()
    trainer.fit(x, y, max_epochs=2, batch_size=2000, resident=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * rows


def test_the_order_of_32_bit_numbers_is_that_of_a_permutation() -> None:
    order = row_order(np.random.default_rng(5), Plan(1, 1, True, 1000))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, np.random.default_rng(5).permutation(1000))


def test_bytes_count_as_what_they_become_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp.data.feed import Batch, fits
    from mlp_xp_backends import get_backend
    from mlp_xp_backends.protocol import Memory
    from mlp_xp_backends.trees import ABSENT

    backend = pytest.importorskip("torch") and get_backend("torch:cpu")
    pixels = Batch(np.zeros((100, 4), np.uint8), ABSENT, ABSENT)  # 400 bytes here, 1600 as float32
    monkeypatch.setattr(type(backend), "memory", lambda self: Memory(3000, 3000))
    assert not fits(backend, mlp(4, 3), pixels, "float32")
    monkeypatch.setattr(type(backend), "memory", lambda self: Memory(3300, 3300))
    assert fits(backend, mlp(4, 3), pixels, "float32")
    assert str(make_feed(backend, mlp(4, 3), pixels, "float32", True).data.x.dtype) == "torch.float32"


# Many models in one epoch


def test_every_model_of_an_epoch_has_its_own_order_and_rates() -> None:
    """The epoch of three stacked models is the three epochs of one, within rounding."""
    from mlp_xp.data.feed import Batch
    from mlp_xp.nn.schedules import ConstantRate, Moment
    from mlp_xp.nn.step import TrainStep
    from mlp_xp.training.epoch import epoch_loop, run_epoch
    from mlp_xp_backends import get_backend
    from mlp_xp_backends.trees import ABSENT, tree_map

    backend, net = get_backend("cpu"), mlp(4, 8, 2)
    step = TrainStep(net, SquaredError(), SGD(0.1))
    y = rng.standard_normal((60, 2)).astype(np.float32)
    orders = np.stack([np.random.default_rng(i).permutation(60).astype(np.int32) for i in range(3)])
    tables = [rate_table(SGD(0.1), ConstantRate(0.1 * (i + 1)), Moment(0, 4, 0, 0), 4) for i in range(3)]
    hosts = [tree_map(lambda a: a.astype(np.float32), net.init(np.random.default_rng(i))) for i in range(3)]

    def run(params: Any, order: Any, rates: Any, resident: bool) -> tuple[Any, Any]:
        feed = make_feed(backend, net, Batch(X, y, ABSENT), "float32", resident)
        state = step.init(np, params, net.init_state(rng))
        losses = []
        for chunk in run_epoch(epoch_loop(backend, step), feed, state, order, 16, rates):
            state, _ = chunk.state, losses.append(np.array(chunk.losses))
        weights = batch_weights(order, 16)
        return state.params, mean_loss(np.concatenate(losses), weights)

    alone = [run(p, orders[i], tables[i], True) for i, p in enumerate(hosts)]
    stacked = tree_map(lambda *leaves: np.stack(leaves), *hosts)
    for resident in (True, False):
        params, losses = run(stacked, orders, stacked_rates(tables), resident)
        for i, (expected, loss) in enumerate(alone):
            np.testing.assert_allclose(losses[i], loss, rtol=1e-6)
            for a, b in zip(leaves(params), leaves(expected), strict=True):
                np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)

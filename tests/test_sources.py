"""Training on sources of batches gives the same bits as on arrays, with checks of each batch and resumption."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlp_xp import SGD, Adam, BatchNorm, Callback, Chain, Dense, ReLU, SquaredError, StepDecay, Trainer, mlp
from mlp_xp.data.sources import BatchSource, arrow_batches
from mlp_xp.nn.schedules import OneCycle
from mlp_xp.training.divergence import TrainingDivergedError
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends.trees import leaves

ROWS, SIZE = 110, 16


@pytest.fixture(name="data")
def classes(rng):
    x = rng.standard_normal((ROWS, 4)).astype(np.float32)
    return x, (x[:, 0] > 0.0).astype(int), rng.uniform(0.5, 2.0, ROWS)


def batches_of(*arrays, size=SIZE):
    """A generator function over the rows in order."""

    def batches():
        for i in range(0, ROWS, size):
            yield tuple(a[i : i + size] for a in arrays)

    return batches


def trainer(**options):
    return Trainer(mlp(4, 8, 2, dropout=0.2), optimizer=Adam(OneCycle(0.01)), device="cpu", **options)


def bits(trainer):
    return [a.tobytes() for a in leaves(trainer.snapshot().state)]


class TestLaws:
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("kind", ["function", "counted", "list"])
    def test_same_bits_and_history_as_arrays_in_order(self, kind, weighted, data):
        x, y, w = data
        expected = trainer()
        validation = (x, y, w) if weighted else (x, y)
        expected.fit(
            x,
            y,
            max_epochs=3,
            batch_size=SIZE,
            shuffle=False,
            sample_weight=w if weighted else None,
            validation_data=validation,
        )
        make = batches_of(*validation)
        source = {"function": make, "counted": BatchSource(make, length=7), "list": BatchSource(list(make()))}[kind]
        found = trainer()
        found.fit(source, max_epochs=3, validation_data=make)
        assert bits(found) == bits(expected)
        for a, b in zip(found.history, expected.history, strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == pytest.approx(
                {k: v for k, v in b.items() if k != "seconds"}, rel=1e-6
            )

    def test_class_weights(self, data):
        x, y, w = data
        expected, found = (trainer(class_weight=[1.0, 3.0]) for _ in range(2))
        expected.fit(x, y, max_epochs=2, batch_size=SIZE, shuffle=False, sample_weight=w)
        found.fit(batches_of(x, y, w), max_epochs=2)
        assert bits(found) == bits(expected)

    def test_batches_of_changing_sizes(self, data):
        x, y, _ = data
        sizes = [5, 5, 40, 1, 59]
        cuts = np.cumsum(sizes)[:-1]
        parts = list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))
        history = Trainer(mlp(4, 2), device="cpu").fit(BatchSource(parts), max_epochs=2)
        assert len(history) == 2

    def test_a_source_on_another_library(self, data):
        pytest.importorskip("torch")
        x, y, _ = data
        found = Trainer(mlp(4, 8, 2), device="torch:cpu")
        found.fit(batches_of(x, y), max_epochs=2)
        expected = Trainer(mlp(4, 8, 2), device="torch:cpu")
        expected.fit(x, y, max_epochs=2, batch_size=SIZE, shuffle=False)
        assert bits(found) == bits(expected)

    def test_samples_seen_count_rows(self, data):
        x, y, _ = data
        t = trainer()
        t.fit(batches_of(x, y), max_epochs=2)
        assert t.snapshot().samples == 2 * ROWS


class StopsAfter(Callback):
    def __init__(self, step):
        self.step, self.totals = step, set()

    def chunk(self, trainer):
        self.totals.add(trainer.progress.steps)
        return trainer.epoch == 1 and trainer.progress.step >= self.step


class TestBesideFit:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_evaluate_measures_all_rows_of_a_source(self, weighted, data):
        t, arrays = trainer(), data if weighted else data[:2]
        expected = t.evaluate(*arrays)
        assert t.evaluate(batches_of(*arrays)) == pytest.approx(expected, rel=1e-6)
        assert t.model.evaluate(BatchSource(batches_of(*arrays), length=7)) == pytest.approx(expected, rel=1e-6)

    def test_find_lr_trains_on_the_first_batches_of_a_source(self, data):
        x, y, w = data
        t = trainer(class_weight=[1.0, 2.0])
        found = t.find_lr(batches_of(x, y, w), steps=40)
        expected = t.find_lr(x, y, batch_size=SIZE, sample_weight=w, steps=40)
        np.testing.assert_array_equal(found.losses, expected.losses)

    @pytest.mark.parametrize("method", ["evaluate", "find_lr"])
    def test_arguments_that_a_source_replaces(self, method, data):
        x, y, _ = data
        with pytest.raises(TypeError, match="or leave y and sample_weight out"):
            getattr(trainer(), method)(batches_of(x, y), y)
        with pytest.raises(TypeError, match="y, the targets of the rows of x, is missing"):
            getattr(trainer(), method)(x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_batch_with_nan_is_named(value, data):
    x, y, _ = data
    x = x.copy()
    x[3 * SIZE + 5, 1] = value
    with pytest.raises(TrainingDivergedError, match=r"x of batch 3 of the source holds NaN .*in row 5"):
        trainer().fit(batches_of(x, y), max_epochs=1)
    with pytest.raises(TrainingDivergedError, match="try a rate"):
        Trainer(mlp(4, 2), optimizer=SGD(1e38), device="cpu").fit(batches_of(data[0], y), max_epochs=3)


def test_resuming_inside_an_epoch_skips_the_batches_done(data, tmp_path, monkeypatch):
    monkeypatch.setattr("mlp_xp.data.stream.STACK", 2)
    x, y, w = data
    make = batches_of(x, y, w)
    whole, part = trainer(), trainer()
    whole.fit(make, max_epochs=3)
    stop = StopsAfter(3)
    part.fit(make, max_epochs=3, callbacks=[stop])
    assert part.interrupted
    assert 3 <= part.progress.step < 7
    assert stop.totals == {7}, "the total of a progress bar"
    part.save_checkpoint(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", device="cpu")
    resumed.fit(make, max_epochs=3)
    assert bits(resumed) == bits(whole)
    assert resumed.history["loss"] == whole.history["loss"]


def test_a_pytorch_loader(data):
    torch = pytest.importorskip("torch")
    x, y, _ = data
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(dataset, batch_size=SIZE)
    expected, found = trainer(), trainer()
    expected.fit(x, y, max_epochs=2, batch_size=SIZE, shuffle=False)
    found.fit(loader, max_epochs=2, validation_data=loader)
    assert bits(found) == bits(expected)
    assert BatchSource(loader).length == 7
    shuffled = torch.utils.data.DataLoader(dataset, batch_size=SIZE, shuffle=True)
    assert len(trainer().fit(shuffled, max_epochs=1)) == 1


class TestArrow:
    @pytest.fixture
    def table(self, data):
        pa = pytest.importorskip("pyarrow")
        x, y, w = data
        return pa.table({**{f"f{i}": x[:, i] for i in range(4)}, "label": y, "w": w})

    def test_parquet_by_batches_whatever_the_row_groups(self, table, data, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        (tmp_path / "set").mkdir()
        parquet.write_table(table.slice(0, 50), tmp_path / "set" / "a.parquet", row_group_size=7)
        parquet.write_table(table.slice(50), tmp_path / "set" / "b.parquet", row_group_size=33)
        source = arrow_batches(tmp_path / "set", "label", batch_size=SIZE, sample_weight="w")
        assert source.length == 7
        found = list(source)
        assert [len(y) for _, y, _ in found] == [16] * 6 + [14]
        for column, whole in zip(zip(*found, strict=True), data, strict=True):
            np.testing.assert_array_equal(np.concatenate(column), whole)
        x, y, w = data
        expected, other = trainer(), trainer()
        expected.fit(x, y, max_epochs=2, batch_size=SIZE, shuffle=False, sample_weight=w)
        other.fit(source, max_epochs=2)
        assert bits(expected) == bits(other)

    def test_several_targets_and_chosen_features(self, table):
        x, y = next(iter(arrow_batches(table, ["f0", "f1"], features=["f3", "f2"], batch_size=200)))
        np.testing.assert_array_equal(x, np.column_stack([table["f3"], table["f2"]]))
        np.testing.assert_array_equal(y, np.column_stack([table["f0"], table["f1"]]))

    def test_columns_that_do_not_fit(self, table):
        with pytest.raises(ValueError, match="have no column 'nothing'; their columns are f0, "):
            arrow_batches(table, "nothing")
        table = table.append_column("city", [["x"] * ROWS])
        with pytest.raises(ValueError, match=r"not numeric: 'city' \(string\)"):
            arrow_batches(table, "label")


class TestErrors:
    def test_an_iterator_can_be_read_once(self, data):
        with pytest.raises(TypeError, match="pass the generator function itself"):
            trainer().fit(batches_of(*data)(), max_epochs=1)

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            (lambda x, y: (x[:, :3], y), "batch 1 of the source: x has 3 columns"),
            (lambda x, y: (x, y + 5), r"batch 1 of the source: y must be integers from 0 to 1 for 2 outputs"),
            (lambda x, y: (x, y[:-1]), r"batch 1 of the source: y has shape \(15,\) but x has 16 rows"),
            (lambda x, y: (x.astype(str), y), "batch 1 of the source: x must hold real numbers"),
            (lambda x, y: (x, y, -np.ones(len(x))), "batch 1 of the source: sample_weight must be"),
        ],
    )
    def test_a_wrong_batch_is_named(self, batch, message, data):
        x, y, _ = data
        parts = list(batches_of(x, y)())
        parts[1] = batch(*parts[1])
        with pytest.raises(ValueError, match=message):
            trainer().fit(BatchSource(parts), max_epochs=1)

    def test_what_is_no_batch(self, data):
        with pytest.raises(TypeError, match=r"batch 0 of the source must be \(x, y\) or \(x, y, sample_weight\)"):
            trainer().fit(BatchSource([{"x": data[0]}]), max_epochs=1)
        with pytest.raises(TypeError, match="must return an iterator of batches"):
            trainer().fit(lambda: 3, max_epochs=1)
        with pytest.raises(TypeError, match="expected a function or an iterable"):
            BatchSource(3)

    def test_fewer_batches_than_an_epoch_has(self, data):
        with pytest.raises(ValueError, match="ended after 7 batches, but an epoch has 8"):
            trainer().fit(BatchSource(batches_of(*data), length=8), max_epochs=1)
        with pytest.raises(ValueError, match="the source has no batches"):
            trainer().fit(lambda: iter(()), max_epochs=1)

    def test_arguments_that_a_source_replaces(self, data):
        x, y, w = data
        with pytest.raises(TypeError, match="or leave y and sample_weight out"):
            trainer().fit(batches_of(x, y), y, max_epochs=1)
        with pytest.raises(TypeError, match="or leave y and sample_weight out"):
            trainer().fit(batches_of(x, y), sample_weight=w, max_epochs=1)
        with pytest.raises(TypeError, match="y, the targets of the rows of x, is missing"):
            trainer().fit(x, max_epochs=1)
        with pytest.raises(ValueError, match="needs all labels at once"):
            trainer(class_weight="balanced").fit(batches_of(x, y), max_epochs=1)


def test_a_group_of_processes_needs_arrays(data):
    x, y, _ = data
    t = trainer()
    t._run.ranks = Ranks(SimpleNamespace(size=2, rank=0))
    t._run.ranks.size = 2
    with pytest.raises(ValueError, match="with a group pass arrays"):
        t.fit(batches_of(x, y), max_epochs=1)
    with pytest.raises(ValueError, match="find_lr trains in one process"):
        t.find_lr(x, y)


def test_a_longer_source_is_cut(data):
    x, y, _ = data

    def endless():
        while True:
            yield x[:SIZE], y[:SIZE]

    t = Trainer(mlp(4, 2), optimizer=Adam(StepDecay(0.01, every=1)), device="cpu")
    t.fit(BatchSource(endless, length=5), max_epochs=2)
    assert t.snapshot().updates == 10


class TestFrames:
    @pytest.fixture(params=["pandas", "polars", "pyarrow"])
    def frame_of(self, request):
        library = pytest.importorskip(request.param)
        return library.table if request.param == "pyarrow" else library.DataFrame

    def columns(self, data):
        return {f"f{i}": data[0][:, i] for i in range(4)}

    def test_same_bits_as_arrays(self, frame_of, data):
        x, y, _ = data
        frame, target = frame_of(self.columns(data)), frame_of({"y": y})["y"]
        a, b = trainer(), trainer()
        for t, arrays in ((a, (x, y)), (b, (frame, target))):
            t.fit(*arrays, max_epochs=2, validation_data=arrays)
        assert bits(a) == bits(b)
        np.testing.assert_array_equal(a.predict_proba(x), b.predict_proba(frame))

    def test_a_frame_of_several_targets(self, frame_of, data):
        frame = frame_of(self.columns(data))
        t = Trainer(Chain(Dense(4, 4), BatchNorm(4), ReLU(), Dense(4, 4)), SquaredError(), device="cpu")
        assert len(t.fit(frame, frame, max_epochs=1)) == 1

    def test_columns_of_mixed_numbers_and_missing_ones(self, frame_of):
        from mlp_xp.data.frames import frame_to_numpy

        found = frame_to_numpy(frame_of({"a": [1, 2, None], "b": [0.5, None, 1.5]}))
        np.testing.assert_array_equal(found, [[1, 0.5], [2, np.nan], [np.nan, 1.5]])

    def test_columns_that_are_not_numeric_are_named(self, frame_of, data):
        frame = frame_of({**self.columns(data), "city": ["x"] * ROWS, "n": ["3"] * ROWS})
        with pytest.raises(ValueError, match=r"x has columns that are not numeric: 'city' \(.*\), 'n' \(.*\); encode"):
            trainer().fit(frame, data[1], max_epochs=1)


def test_nullable_columns_of_pandas():
    pd = pytest.importorskip("pandas")
    from mlp_xp.data.frames import frame_to_numpy

    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.array([True, False], dtype="boolean")})
    np.testing.assert_array_equal(frame_to_numpy(frame), [[1.0, 1.0], [np.nan, 0.0]])


def test_a_frame_of_one_type_is_not_copied():
    pd = pytest.importorskip("pandas")
    from mlp_xp.data.frames import frame_to_numpy

    a = np.zeros((5, 3))
    assert np.shares_memory(frame_to_numpy(pd.DataFrame(a, copy=False)), a)


def test_a_table_without_rows():
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="the data have no rows"):
        arrow_batches(arrow.table({"a": arrow.array([], "f8"), "y": arrow.array([], "i8")}), "y")

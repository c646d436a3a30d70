"""The size of stacks, the processes of tasks, and the reports of results."""

from __future__ import annotations

import io
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlp_xp import SGD, Dense, EarlyStopping, Halving, SoftmaxCrossEntropy, Sweep, Trainer, mlp
from mlp_xp.nn.layers import Chain
from mlp_xp.sweep.stack import Stack, models_together
from mlp_xp.sweep.tasks import STACKS, divided, processes, run_tasks, stack_size

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
Y = (X[:, 0] > 0.0).astype(int)
FIT: dict[str, Any] = {"max_epochs": 3, "batch_size": 20}


def sweep(*rates: float, **options: Any) -> Sweep:
    return Sweep(mlp(3, 4, 2), optimizer=SGD(), grid={"lr": rates}, device="numpy:plain", **options)


# Stacks


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "another"])
def test_a_stack_on_a_cpu_is_smaller_the_more_work_a_model_is(name):
    """Where the sizes change is measured; many small models train together, and the largest one by one."""
    backend, network = SimpleNamespace(device="cpu", name=name), Chain(Dense(1, 1, bias=False))
    sizes = [models_together(backend, network, int(work), "float32") for work in np.geomspace(1, 1e15, 200)]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (16, 1)
    wider = Chain(Dense(10, 1, bias=False))  # ten times the work of a row
    for rows in (10**4, 10**5, 10**6, 10**8):
        same = models_together(backend, network, 10 * rows, "float32")
        assert models_together(backend, wider, rows, "float32") == same


@pytest.mark.parametrize(("free", "size"), [(10**3, 1), (10 * 4 * 6 * (300 + 10 * 7), 1), (10**6, 11), (10**12, 1024)])
def test_a_stack_on_a_gpu_takes_a_tenth_of_its_free_memory(free, size):
    """Six copies of 300 numbers and of the 10 outputs of 7 rows, 4 bytes each: 8,880 bytes for a model."""
    backend = SimpleNamespace(device="cuda:0", name="cupy", memory=lambda: SimpleNamespace(free=free))
    assert models_together(backend, Chain(Dense(30, 10, bias=False)), 7, "float32") == size


@pytest.mark.parametrize(("together", "sizes"), [(4, [4, 4, 2, 1]), (3, [2, 2, 2, 2, 1, 1]), (2, [2, 2, 2, 2, 1, 1])])
def test_a_stack_is_refilled_and_then_compacted_when_half_of_its_models_are_left(monkeypatch, together, sizes):
    """Each size is compiled, so models that are done stay until then. These end after 1, 2, 3 and 4 epochs.

    Four models, of which at most three train together, are two stacks of two.
    """
    found, epoch = [], Stack.epoch
    monkeypatch.setattr(Stack, "epoch", lambda stack, plans: found.append(len(plans)) or epoch(stack, plans))
    settings = [{"max_epochs": n} for n in (1, 2, 3, 4)]
    result = Sweep(mlp(3, 4, 2), optimizer=SGD(0.1), settings=settings, device="numpy:plain").fit(
        X, Y, **FIT, together=together
    )
    assert [record["epochs"] for record in result.records] == [1, 2, 3, 4]
    assert found == sizes


# Tasks


def test_tasks_run_here_in_order_unless_processes_are_asked_for():
    assert list(run_tasks(lambda a, b: a - b, [(3, 1), (5, 4)], None)) == [2, 1]
    assert list(run_tasks(lambda a, b: a - b, [(3, 1), (5, 4)], 1)) == [2, 1]
    assert processes(None) == processes(1) == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
@pytest.mark.parametrize("most", [1, 2, 7, 16, 1000])
def test_models_are_divided_into_equal_stacks(most, workers):
    for n in (1, 2, 5, 15, 16, 17, 33, 120, 121, 1000):
        tasks = divided(range(n), most, workers)
        assert [i for members in tasks for i in members] == list(range(n))
        lengths = []
        for task in tasks:
            left, before = len(task), len(lengths)
            while left:
                lengths.append(stack_size(left, most))
                left -= lengths[-1]
            assert len(lengths) - before <= STACKS
        assert max(lengths) <= most
        assert max(lengths) - min(lengths) <= 1
        assert len(tasks) % workers == 0 or len(tasks) == n
    assert divided([], most, workers) == []


def test_120_models_in_stacks_of_16_are_four_tasks_for_two_processes():
    assert [len(members) for members in divided(range(120), 16, 2)] == [30, 30, 30, 30]
    assert [len(members) for members in divided(range(120), 16, 1)] == [60, 60]
    assert [len(members) for members in divided(range(3), 16, 4)] == [1, 1, 1]


@pytest.mark.parametrize("in_any_order", [True, False])
def test_a_task_has_one_blas_thread_to_its_end_and_later_there_are_as_many_as_before(in_any_order):
    """Threads share one limit, so the first that ends must not lift it for the others.

    Ray's backend, among others, can only return all results at once.
    """
    joblib, threadpoolctl = pytest.importorskip("joblib"), pytest.importorskip("threadpoolctl")
    threads = type("Threads", (joblib.parallel.ThreadingBackend,), {"supports_return_generator": in_any_order})
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with joblib.parallel_config(backend=threads(), n_jobs=2):
            found = list(run_tasks(blas_threads, [(0.5,), (0.1,)], None))
        assert found == [[1] * len(before)] * 2
        assert blas_threads() == before


def blas_threads(seconds: float = 0.0) -> list[int]:
    """The numbers of threads of each OpenBLAS after some time; MKL, which other tests load, has one for each thread."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    time.sleep(seconds)
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"]


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


def test_progress_on_a_terminal_counts_the_models_that_are_done(monkeypatch):
    class Terminal(io.StringIO):
        flushed = ()

        def isatty(self):
            return True

        def flush(self):
            self.flushed = (*self.flushed, self.getvalue().rpartition("\r")[2])

    for options, flushed, shown in (({}, (), ""), ({"progress": True}, ("1 of 2 models", "2 of 2 models"), "\n")):
        monkeypatch.setattr("sys.stderr", Terminal())
        sweep(0.1, 0.2).fit(X, Y, **FIT, **options)
        assert sys.stderr.flushed == flushed  # a terminal shows a line without an end only then
        assert sys.stderr.getvalue()[-1:] == shown


@pytest.mark.parametrize("halving", [None, Halving(factor=2, monitor="loss")])
def test_progress_counts_the_models_that_were_dropped_or_done_in_an_earlier_call(tmp_path, capsys, halving):
    for _ in range(2):
        sweep(0.1, 0.2, 0.3, 0.4).fit(X, Y, **FIT, progress=True, halving=halving, checkpoint=tmp_path)
        assert capsys.readouterr().err.split("\r")[-1] == "4 of 4 models\n"


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


def test_a_model_that_halving_dropped_is_that_of_its_best_epoch():
    """The record, the model, and their number are of the same epoch, whether the model was dropped or stopped early."""
    rule = EarlyStopping(monitor="valid_accuracy", patience=50)
    fit = {"max_epochs": 16, "batch_size": 10, "early_stopping": rule, "validation_data": (X[40:], Y[40:])}
    result = sweep(3.0, 1.0, 0.5, 0.01).fit(X[:40], Y[:40], **fit, halving=Halving(factor=2, min_epochs=7))
    assert sorted(record["epochs"] for record in result.records) == [7, 7, 14, 16]
    best = [int(np.argmax(result.history(i)["valid_accuracy"])) + 1 for i in range(4)]
    assert any(best[i] < record["epochs"] == 7 for i, record in enumerate(result.records))
    for i, record in enumerate(result.records):
        found = result.member(i).evaluate(X[40:], Y[40:])
        assert found["accuracy"] == pytest.approx(record["valid_accuracy"])
        assert found["loss"] == pytest.approx(record["valid_loss"], rel=1e-5)


def test_lists_and_frames_have_predictions_out_of_fold():
    whole = sweep(0.1).fit(X, Y, **FIT, folds=2).out_of_fold()
    frame = pytest.importorskip("pandas").DataFrame(X)
    for x, y in ((X.tolist(), Y.tolist()), (frame, frame[0] > 0.0)):
        np.testing.assert_allclose(sweep(0.1).fit(x, 1 * y, **FIT, folds=2).out_of_fold(), whole, rtol=1e-5)


def test_a_parameter_may_have_the_name_of_a_column():
    losses = [SoftmaxCrossEntropy(), SoftmaxCrossEntropy(reduction="sum")]
    result = Sweep(mlp(3, 4, 2), optimizer=SGD(0.01), grid={"loss": losses}, device="cpu").fit(X, Y, **FIT, folds=2)
    assert [record["setting_loss"] for record in result.records] == [losses[0]] * 2 + [losses[1]] * 2
    found = result.values("valid_accuracy", "loss")
    assert found == {(loss,): [result.records[2 * i + j]["valid_accuracy"] for j in (0, 1)] for i, loss in
                     enumerate(losses)}  # fmt: skip
    assert [len(values) for values in result.values("loss", "fold").values()] == [2, 2]
    assert {type(value) for values in result.values("loss", "fold").values() for value in values} == {float}


def test_values_are_those_of_the_models_that_have_the_parameters():
    settings = [{"lr": 0.1}, {"momentum": 0.9}, {"lr": 0.1, "momentum": 0.5}]
    result = Sweep(mlp(3, 4, 2), optimizer=SGD(), settings=settings, device="cpu").fit(X, Y, **FIT)
    loss = [record["loss"] for record in result.records]
    assert result.values("loss", "lr") == {(0.1,): [loss[0], loss[2]]}
    assert result.values("loss", "lr", "momentum") == {(0.1, 0.5): [loss[2]]}
    with pytest.raises(ValueError, match="'valid_loss' is not a column of this sweep; these are loss"):
        result.values("valid_loss", "lr")


def test_settings_with_arrays_are_told_apart_by_their_values():
    """The text of long arrays shows only their ends."""
    w = np.ones((2, 2000))
    w[1, 1000] = 2.0
    x, settings = RNG.standard_normal((2000, 3)), [{"sample_weight": one} for one in (w[0], w[1], w[0])]
    result = Sweep(mlp(3, 4, 2), optimizer=SGD(), settings=settings, device="cpu").fit(
        x, (x[:, 0] > 0.0).astype(int), max_epochs=1
    )
    assert [len(values) for values in result.values("loss", "sample_weight").values()] == [2, 1]


def test_a_sweep_whose_models_all_diverge_says_so():
    result = sweep(1e30, 1e31).fit(1e3 * X, Y, **FIT)
    with pytest.raises(ValueError, match="no setting has a finite loss on all folds"):
        result.best_setting  # noqa: B018  a property that raises
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


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_setting_has_the_best_mean_and_no_fold_that_diverged(mode):
    settings = [{"lr": 1e30}, {"lr": 1e-3}, {"lr": 0.5}]
    rule = EarlyStopping(monitor="valid_loss", mode=mode, patience=9)
    models = Sweep(mlp(3, 4, 2), optimizer=SGD(), settings=settings, device="numpy:plain")
    result = models.fit(1e3 * X, Y, **FIT, folds=2, early_stopping=rule)
    assert [record["diverged"] is None for record in result.records[:2]] == [False, False]
    means = [np.mean([r["valid_loss"] for r in result.records[2 * i : 2 * i + 2]]) for i in (1, 2)]
    assert result.best_setting == 1 + int(np.argmin(means) if mode == "min" else np.argmax(means))


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
    with pytest.raises(ValueError, match="'valid' names the rows that a fold holds out"):
        sweep(0.1).fit(X, Y, **FIT, validation_data=(X, Y), folds=2)
    with pytest.raises(TypeError, match=r"validation_data must be \(x, y\)"):
        sweep(0.1).fit(X, Y, **FIT, validation_data=(X,))

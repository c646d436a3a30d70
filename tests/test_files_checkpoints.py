"""Snapshots as files: bit for bit, whatever the optimizer, schedule, generator and length of the history."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from golden import make
from surgery import assembled, parts
from test_files_golden import same
from test_files_models import Cubic, Square

from mlp_xp.files import generators
from mlp_xp.files.checkpoints import check_savable, read_snapshot, write_snapshot
from mlp_xp.files.disk import FileError
from mlp_xp.files.snapshot import Snapshot
from mlp_xp.nn.layers import Chain, Dense, ReLU
from mlp_xp.nn.losses import SquaredError
from mlp_xp.nn.optimizers import SGD
from mlp_xp.nn.schedules import ConstantRate, LossRatio
from mlp_xp.nn.step import TrainState, TrainStep


def run(**changes: object) -> Snapshot:
    return make.snapshot(make.step(SGD(0.1)))._replace(**changes)


def again(path: Path, snapshot: Snapshot, known: tuple[type, ...] = ()) -> Snapshot:
    check_savable(snapshot)
    write_snapshot(path, snapshot)
    return read_snapshot(path, known)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [*make.OPTIMIZERS.values(), *map(SGD, make.SCHEDULES.values())])
def test_a_snapshot_survives(tmp_path: Path, optimizer: object, dtype: str) -> None:
    snapshot = make.snapshot(make.step(optimizer), dtype=dtype)
    assert same(again(tmp_path / "c", snapshot), snapshot)


def test_the_state_of_a_loss_ratio_stays_0d(tmp_path: Path) -> None:
    snapshot = make.snapshot(make.step(SGD(LossRatio(0.1, window=2))))
    assert [a.shape for a in again(tmp_path / "c", snapshot).state.ratio] == [()] * 4


@pytest.mark.parametrize("kind", generators.KINDS)
def test_a_generator_goes_on_with_the_same_numbers(tmp_path: Path, kind: str) -> None:
    bits = generators.KINDS[kind](0)
    rng = np.random.Generator(bits)
    rng.integers(10, size=7, dtype="int32")  # leaves half of a 64-bit number behind
    copy = generators.KINDS[kind](1)
    copy.state = again(tmp_path / "c", run(generator=bits.state)).generator
    np.testing.assert_array_equal(rng.permutation(10_000), np.random.Generator(copy).permutation(10_000))


def test_a_snapshot_between_epochs_survives(tmp_path: Path) -> None:
    begin = run(history=[], plan=None, position=0, losses=np.empty(0, "float32"), updates=0, samples=0, best=None)
    assert same(again(tmp_path / "c", begin), begin)


@pytest.mark.parametrize("weights", [None, "balanced", [1.0, 0.5], {0: 0.5, 3: 2.0}])
def test_class_weights_survive(tmp_path: Path, weights: object) -> None:
    assert again(tmp_path / "c", run(class_weight=weights)).class_weight == weights


def test_a_stack_of_models_survives(tmp_path: Path) -> None:
    def stacked(tree: object) -> object:
        return make.tree_map(lambda a: np.stack([a, 2 * a]), tree)

    whole = make.snapshot(make.step(SGD(LossRatio(0.1), momentum=0.5)))
    whole = whole._replace(state=stacked(whole.state), losses=stacked(whole.losses).T, best=None)
    assert same(again(tmp_path / "c", whole), whole)


def test_layers_losses_optimizers_and_schedules_of_ones_own_can_be_resumed(tmp_path: Path) -> None:
    class Pair(NamedTuple):
        a: object
        b: object

    @dataclass(frozen=True)
    class Own(SGD):
        def init(self, xp, w):
            return Pair(xp.zeros(w.shape, dtype=w.dtype), xp.ones(w.shape[:-2], dtype=w.dtype))

    @dataclass(frozen=True)
    class Rate(ConstantRate):
        pass

    step = TrainStep(Chain(Dense(3, 2), Square(0.5)), Cubic(), Own(Rate(0.1)))
    snapshot = make.snapshot(step)
    assert same(again(tmp_path / "c", snapshot, known=(Square, Cubic, Own, Rate)), snapshot)
    with pytest.raises(FileError, match="Rate is not a class of mlp_xp"):
        read_snapshot(tmp_path / "c", known=(Square, Cubic, Own))


def test_a_history_keeps_its_integers_gaps_and_bits(tmp_path: Path) -> None:
    history = [
        {"epoch": 1, "loss": 0.1, "seconds": 2},
        {"epoch": 2, "loss": float("nan"), "seconds": 0.5, "valid_loss": float("inf")},
        {"epoch": 3, "loss": -0.0, "seconds": 0.5, "count": np.int64(7), "ok": np.float32(0.1), "odd name\0": 1e308},
    ]
    read = again(tmp_path / "c", run(history=history)).history
    assert [list(record) for record in read] == [list(record) for record in history]
    assert repr(read[2]["count"]) == "7" and repr(read[2]["loss"]) == "-0.0" and read[1]["valid_loss"] == float("inf")
    assert [type(record["epoch"]) for record in read] == [int] * 3
    assert read[2]["ok"] == float(np.float32(0.1)) and np.isnan(read[1]["loss"])


def test_integers_stay_integers_as_far_as_float64_is_exact(tmp_path: Path) -> None:
    limit = 2**53
    history = [{"epoch": 1, "loss": 0.5, "exact": limit, "negative": -limit, "rounded": limit + 1}]
    read = again(tmp_path / "c", run(history=history)).history[0]
    assert [repr(read[name]) for name in ("exact", "negative", "rounded")] == [
        "9007199254740992", "-9007199254740992", "9007199254740992.0",
    ]  # fmt: skip


def test_a_history_that_was_changed_to_hold_other_numbers_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "c", run(history=[{"epoch": 1, "loss": 0.5, "seconds": 1.0}]))
    index, header, data = parts((tmp_path / "c").read_bytes())
    begin = index["history"]["data_offsets"][0]
    for value in (1.5, float("nan"), float("inf"), 2.0**53 + 2):
        changed = data[:begin] + np.float64(value).tobytes() + data[begin + 8 :]
        (tmp_path / "c").write_bytes(assembled(index, header, changed))
        with pytest.raises(FileError, match="a column of integers in the history holds other numbers"):
            read_snapshot(tmp_path / "c")


def test_a_long_history_is_small_in_the_index_and_fast(tmp_path: Path) -> None:
    history = [{"epoch": i, "loss": 1 / i, "lr": 0.1, "seconds": 0.01, "valid_loss": 2 / i} for i in range(1, 160_001)]
    began = time.thread_time()
    write_snapshot(tmp_path / "c", run(history=history))
    written = time.thread_time()
    assert read_snapshot(tmp_path / "c").history == history
    assert written - began < 3.0 and time.thread_time() - written < 6.0  # a third of that on an idle machine
    assert len(json.dumps(parts((tmp_path / "c").read_bytes())[0])) < 5000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": {"bit_generator": "Dice", "state": 3}}, "cannot save the bit generator 'Dice': pass seed as"),
        ({"history": [{"epoch": 1, "loss": "low"}]}, "the history holds loss='low'"),
        ({"history": [{"epoch": 1, "loss": None}]}, "the history holds loss=None"),
        ({"history": [{"epoch": 1}]}, "lacks 'loss'"),
        ({"history": [{"epoch": 1, "loss": 10**400}]}, "loss"),
        ({"step": TrainStep(Chain(Dense(3, 2)), SquaredError(), SGD(0.1))}, "layers.1"),
        ({"state": TrainState(((),), ((),), (), ())}, "without parameters"),
        ({"dtype": "float64"}, "must be float64"),
        ({"losses": np.array([1 + 2j, 3])}, "losses is an array of complex128"),
        ({"plan": None}, "with the plan None"),
    ],
)
def test_what_cannot_be_saved_is_reported_before_training(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        check_savable(run(**changes))
    assert not isinstance(caught.value, FileError)
    if "step" not in changes and "dtype" not in changes:
        write_snapshot(tmp_path / "c", run())
        before = (tmp_path / "c").read_bytes()
        with pytest.raises((TypeError, ValueError), match=message):
            write_snapshot(tmp_path / "c", run(**changes))
        assert (tmp_path / "c").read_bytes() == before


def test_an_optimizer_whose_state_does_not_fit_is_reported_before_training() -> None:
    class Moody(SGD):
        pass

    with pytest.raises(ValueError, match=r"slots\.0"):
        snapshot = run()
        check_savable(snapshot._replace(state=snapshot.state._replace(slots=tuple(snapshot.state.params))))
    check_savable(make.snapshot(TrainStep(Chain(Dense(3, 2), ReLU()), SquaredError(), Moody(0.1))))

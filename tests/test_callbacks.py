"""Callbacks: what `Progress` prints, and when `Checkpoint` writes."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import Callback, Checkpoint, CSVLog, Progress, Trainer, mlp
from mlp_xp.files.checkpoints import read_snapshot

X, Y = np.random.default_rng(0).standard_normal((40, 4)), np.arange(40) % 3
STEPS = 5


def fit(*callbacks: Any, max_epochs: int = 2, trainer: Trainer | None = None) -> Trainer:
    """Epochs of five steps of eight rows."""
    trainer = trainer or Trainer(mlp(4, 3), device="cpu")
    trainer.fit(X, Y, max_epochs=max_epochs, batch_size=8, callbacks=callbacks)
    return trainer


@pytest.fixture(name="single_steps")
def chunks_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlp_xp.training.epoch.chunk_steps", lambda *args: 1)


class StopAt(Callback):
    """Ends the training after a step of an epoch, or with step 0 after its end."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = epoch, step

    def chunk(self, trainer: Trainer) -> bool:
        at = trainer.progress
        return (at.epoch, at.step) == self.at

    def epoch(self, trainer: Trainer, record: dict[str, float]) -> bool:
        return (record["epoch"], 0) == self.at


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(record: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in record.items() if name != "epoch")


def test_progress_prints_a_line_an_epoch_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(Progress())
    lines = [f"epoch {i + 1}/2  {shown(record)}\n" for i, record in enumerate(trainer.history)]
    assert capsys.readouterr() == ("", "".join(lines))


def test_progress_without_tqdm_prints_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = Terminal()
    fit(Progress(stream))
    assert [line[:10] for line in stream.getvalue().splitlines()] == ["epoch 1/2 ", "epoch 2/2 "]


def test_progress_draws_a_bar_of_the_steps_of_each_epoch(single_steps: None) -> None:
    pytest.importorskip("tqdm")
    stream = Terminal()
    progress, seen = Progress(stream), []

    class Look(Callback):
        def chunk(self, trainer: Trainer) -> None:
            seen.append((progress.bar.n, progress.bar.total, progress.bar.desc))

    trainer = fit(progress, Look())
    assert seen == [(step, STEPS, f"epoch {epoch}/2: ") for epoch in (1, 2) for step in range(1, STEPS + 1)]
    written = stream.getvalue()
    assert "| 5/5 [" in written and "step/s]" in written
    for i, record in enumerate(trainer.history):
        assert f"\repoch {i + 1}/2  {shown(record)}\n" in written
    assert progress.bar.disable, "a bar that is closed"
    assert not written.rstrip("\r").rpartition("\r")[2].strip(), "a closed bar is wiped off"


@pytest.mark.parametrize(
    ("epoch", "after", "where"), [(2, 3, "in epoch 2 after 3 of 5 steps"), (1, 2, "epoch 1 after 2")]
)
def test_progress_says_where_a_run_was_interrupted(single_steps: None, epoch: int, after: int, where: str) -> None:
    stream = io.StringIO()
    fit(StopAt(epoch, after), Progress(stream))
    assert f"interrupted {'' if where[:2] == 'in' else 'in '}{where}" in stream.getvalue().splitlines()[-1]


def test_progress_says_after_which_epoch_a_run_was_interrupted() -> None:
    class Interrupted(Progress):
        def end(self, trainer: Trainer) -> None:
            trainer._run.interrupted = True  # as Ctrl-C between two epochs does
            super().end(trainer)

    stream = io.StringIO()
    fit(Interrupted(stream), StopAt(1, 0))
    assert stream.getvalue().splitlines()[1:] == [
        "interrupted after epoch 1; the trainer keeps the parameters reached so far"
    ]


def test_progress_of_a_run_that_was_not_interrupted_ends_with_the_last_epoch() -> None:
    stream = io.StringIO()
    fit(Progress(stream), max_epochs=1)
    assert len(stream.getvalue().splitlines()) == 1


# Checkpoint


class Watch(Callback):
    """The steps of the run in the file, after every chunk and after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[int] = []

    def chunk(self, trainer: Trainer) -> None:
        self.written.append(read_snapshot(self.path).updates if self.path.exists() else 0)

    def epoch(self, trainer: Trainer, record: dict[str, float]) -> None:
        self.chunk(trainer)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]),
        (2, [0, 2, 2, 4, 4, 5, 5, 7, 7, 9, 9, 10]),
        (2.5, [0, 0, 3, 3, 3, 5, 5, 5, 8, 8, 8, 10]),
        (math.inf, [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 10]),
    ],
)
def test_checkpoints_are_written_after_epochs_and_about_every_so_many_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single_steps: None, seconds: float, written: list[int]
) -> None:
    """Each step takes a second, and the end of an epoch no time."""

    class Second(Callback):
        now = 100.0

        def chunk(self, trainer: Trainer) -> None:
            self.now += 1.0

    clock, watch = Second(), Watch(tmp_path / "c")
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    fit(clock, Checkpoint(tmp_path / "c", seconds=seconds), watch)
    assert watch.written == written


def test_a_checkpoint_is_written_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlp_xp.training.callbacks as module

    count, write = [], module.write_snapshot
    monkeypatch.setattr(module, "write_snapshot", lambda *args: count.append(1) or write(*args))
    fit(Checkpoint(tmp_path / "c"), max_epochs=3)
    assert len(count) == 3


@pytest.mark.parametrize("seconds", [True, "5", None, -1.0, math.nan, 1j])
def test_seconds_of_checkpoints_are_a_number_from_0(seconds: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="Checkpoint: seconds must be a number of at least 0, not "):
        Checkpoint("c", seconds=seconds)


@pytest.mark.parametrize("seconds", [0, 0.0, 3, np.float32(2.5), math.inf])
def test_seconds_of_checkpoints_may_be_any_number_from_0(seconds: Any) -> None:
    assert Checkpoint("c", seconds=seconds).seconds == seconds


# Logs


def test_a_log_of_a_run_without_epochs_is_not_there(tmp_path: Path) -> None:
    """A file of an earlier run is removed at the start."""
    (tmp_path / "log.csv").write_text("old")
    CSVLog(tmp_path / "log.csv").start(Trainer(mlp(4, 3), device="cpu"))
    assert not (tmp_path / "log.csv").exists()

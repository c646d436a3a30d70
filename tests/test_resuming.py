"""A run that is stopped anywhere and resumed ends with the same bits as an uninterrupted run."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import (
    SGD,
    Adam,
    BatchNorm,
    Callback,
    Chain,
    Checkpoint,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    ReLU,
    Trainer,
    TrainingDivergedError,
    mlp,
)
from mlp_xp.files.snapshot import Snapshot
from mlp_xp.nn.schedules import LossRatio, OneCycle, ReduceOnPlateau
from mlp_xp_backends.trees import leaves

ROWS = 130


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, 4)), rng.integers(0, 3, ROWS)


def network() -> Chain:
    return Chain(Dense(4, 8), BatchNorm(8), ReLU(), Dropout(0.2), Dense(8, 3))


X, Y = data()
VALID = {"validation_data": (X[:50], (Y[:50] + 1) % 3)}
KINDS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "Adam and batch norm": (lambda **o: Trainer(network(), optimizer=Adam(OneCycle(0.01)), **o), {}, X),
    "momentum": (lambda **o: Trainer(mlp(4, 8, 3), optimizer=SGD(0.05, momentum=0.9), **o), {}, X),
    "loss ratio": (lambda **o: Trainer(mlp(4, 8, 3), optimizer=SGD(LossRatio(0.05, window=5)), **o), {}, X),
    "plateau": (lambda **o: Trainer(mlp(4, 8, 3), optimizer=SGD(ReduceOnPlateau(0.1, patience=0)), **o), VALID, X),
    "early stopping": (
        lambda **o: Trainer(network(), optimizer=Adam(0.01), **o),
        {**VALID, "early_stopping": EarlyStopping(patience=2)},
        X,
    ),
    "weights": (
        lambda **o: Trainer(mlp(4, 8, 3), class_weight="balanced", **o),
        {"sample_weight": np.arange(ROWS) % 5 + 0.5},
        X,
    ),
    "ids": (
        lambda **o: Trainer(mlp(8, 8, 3, first=Embedding(7, 4, ids_per_row=2)), **o),
        {},
        np.arange(2 * ROWS).reshape(-1, 2) % 7,
    ),
    "one epoch in order": (lambda **o: Trainer(mlp(4, 8, 3), **o), {"shuffle": False, "max_epochs": 1}, X),
}


def everything(trainer: Trainer) -> tuple[Any, ...]:
    """The complete result of a run, except for the seconds."""
    s = trainer.snapshot()
    history = [{name: repr(value) for name, value in record.items() if name != "seconds"} for record in s.history]
    arrays = [leaf.tobytes() for leaf in leaves(s.state)]
    best = None if s.best is None else (s.best[:4], [leaf.tobytes() for leaf in leaves(s.best[4:])])
    return arrays, history, s.position, s.updates, s.samples, best, s.stopped, repr(s.generator)


class Stop(Callback):
    """Ends the training after some chunks, and keeps a snapshot of that moment."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.snapshot: Snapshot | None = None

    def chunk(self, trainer: Trainer) -> bool:
        self.left -= 1
        if self.left == 0:
            self.snapshot = trainer.snapshot()
        return self.left <= 0


def fit(trainer: Trainer, kind: str, **options: Any) -> Trainer:
    _, more, x = KINDS[kind]
    trainer.fit(x, Y, **{"max_epochs": 2, "batch_size": 16, **more, **options})
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stopped_at_any_chunk_ends_with_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at every chunk boundary; continued with the other residency and other chunk lengths."""
    make = KINDS[kind][0]
    whole = everything(fit(make(device="cpu", seed=3), kind))
    for resident, most, other in ((True, 3, 5), (False, 1000, 2)):
        stops = 0
        while True:
            steps_per_chunk(monkeypatch, most)
            stops += 1
            stop = Stop(stops)
            fit(make(device="cpu", seed=3), kind, resident=resident, callbacks=[stop])
            if stop.snapshot is None:
                break
            steps_per_chunk(monkeypatch, other)
            resumed = Trainer.from_snapshot(stop.snapshot, device="cpu")
            assert everything(fit(resumed, kind, resident=not resident)) == whole, (resident, most, other, stops)
        assert stops > 1


def steps_per_chunk(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("mlp_xp.training.epoch.chunk_steps", lambda *args: most)


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("torch:cpu", "Adam and batch norm"),
        pytest.param("jax:cpu", "momentum", marks=pytest.mark.slow),
        pytest.param("jax:cpu", "Adam and batch norm", marks=pytest.mark.slow),
    ],
)
def test_other_engines_continue_with_the_same_bits_too(device: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each length of a chunk costs JAX a compilation, so there are two: 4 steps, and 2."""
    make, options = KINDS[kind][0], {"max_epochs": 2, "batch_size": 16}
    x, y = X[:128], Y[:128]
    steps_per_chunk(monkeypatch, 4)
    whole, stopped, stop = make(device=device), make(device=device), Stop(1)
    whole.fit(x, y, **options)
    stopped.fit(x, y, **options, callbacks=[stop])
    assert stop.snapshot is not None
    steps_per_chunk(monkeypatch, 2)
    resumed = Trainer.from_snapshot(stop.snapshot, device=device)
    resumed.fit(x, y, **options, resident=False)
    assert everything(resumed) == everything(whole)


def test_the_same_trainer_continues_after_an_exception_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    steps_per_chunk(monkeypatch, 3)
    kind = "Adam and batch norm"
    make = KINDS[kind][0]
    whole = everything(fit(make(device="cpu"), kind))
    for where in ("chunk", "epoch"):

        class Fail(Callback):
            def chunk(self, trainer: Trainer, where: str = where) -> None:
                if where == "chunk" and trainer.epoch == 1:
                    raise RuntimeError("out of coffee")

            def epoch(self, trainer: Trainer, record: dict[str, float], where: str = where) -> None:
                if where == "epoch" and trainer.epoch == 1:
                    raise RuntimeError("out of coffee")

        trainer = make(device="cpu")
        with pytest.raises(RuntimeError, match="coffee"):
            fit(trainer, kind, callbacks=[Fail()])
        assert everything(fit(trainer, kind)) == whole


@dataclass(frozen=True)
class Failing(ReLU):
    """Does something in the forward pass of one step."""

    todo: tuple[Any, ...]  # the step counted down, and what to do in it

    def forward(self, xp, params, x):
        self.todo[0][0] -= 1
        if self.todo[0][0] == 0:
            self.todo[1]()
        return super().forward(xp, params, x)

    def __hash__(self) -> int:
        return id(self.todo)


def exhausted() -> None:
    raise MemoryError


def interrupted_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))  # the handler runs between two instructions


@pytest.mark.parametrize(("todo", "error"), [(exhausted, MemoryError), (interrupted_twice, KeyboardInterrupt)])
def test_a_trainer_that_failed_inside_a_step_must_be_resumed(tmp_path: Path, todo: Any, error: type) -> None:
    def make(step: int) -> Trainer:
        layer = Failing(([step], todo))
        return Trainer(Chain(Dense(4, 8), layer, Dense(8, 3)), optimizer=SGD(0.1), device="numpy:plain")

    def uses(trainer: Trainer) -> list[Any]:
        return [
            lambda: fit(trainer, "momentum"),
            lambda: trainer.predict(X),
            lambda: trainer.evaluate(X, Y),
            lambda: trainer.model,
            lambda: trainer.save_checkpoint(tmp_path / "c"),
        ]

    trainer = make(5)
    with pytest.raises(error):
        fit(trainer, "momentum")
    for use in uses(trainer):
        with pytest.raises(RuntimeError, match=r"partly updated: continue from a checkpoint with Trainer\.resume"):
            use()
    outside = make(-1)
    with pytest.raises(RuntimeError, match="coffee"):
        fit(outside, "momentum", callbacks=[Spill()])
    for use in uses(outside)[1:4]:
        use()
    assert everything(fit(outside, "momentum")) == everything(fit(make(-1), "momentum"))


class Spill(Callback):
    """Fails between two steps."""

    def chunk(self, trainer: Trainer) -> None:
        raise RuntimeError("out of coffee")


def test_other_options_inside_an_epoch_are_refused() -> None:
    trainer = KINDS["momentum"][0](device="cpu")
    fit(trainer, "momentum", callbacks=[Stop(1)], resident=True)
    assert trainer.interrupted
    with pytest.raises(ValueError, match="it had batch_size=16, not 32"):
        fit(trainer, "momentum", batch_size=32)


def test_a_checkpoint_written_after_the_last_chunk_of_an_epoch_is_resumed(tmp_path: Path) -> None:
    kind = "momentum"
    make = KINDS[kind][0]

    class Save(Callback):
        def chunk(self, trainer: Trainer) -> bool:
            trainer.save_checkpoint(tmp_path / "c")
            return trainer.progress.step == trainer.progress.steps

    fit(make(device="cpu"), kind, callbacks=[Save()])
    resumed = Trainer.resume(tmp_path / "c", device="cpu")
    assert resumed.progress.step == resumed.progress.steps > 0
    assert everything(fit(resumed, kind, resident=False)) == everything(fit(make(device="cpu"), kind))


def test_a_checkpoint_holds_the_steps_of_an_interrupted_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps_per_chunk(monkeypatch, 2)
    stopped = fit(KINDS["momentum"][0](device="cpu"), "momentum", callbacks=[Checkpoint(tmp_path / "c"), Stop(1)])
    assert everything(Trainer.resume(tmp_path / "c", device="cpu")) == everything(stopped)
    assert stopped.progress.step == 2


def test_the_end_of_early_stopping_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    kind = "early stopping"
    trainer = fit(KINDS[kind][0](device="cpu"), kind, max_epochs=50, callbacks=[Checkpoint(tmp_path / "c")])
    assert trainer.epoch < 50
    resumed = Trainer.resume(tmp_path / "c", device="cpu")
    with pytest.warns(UserWarning, match=r"early stopping ended this run after epoch \d+: nothing is left") as warned:
        fit(resumed, kind, max_epochs=50)
    assert Path(warned[0].filename).name == Path(__file__).name  # the line of the call
    assert everything(resumed)[:5] == everything(trainer)[:5]


GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.SFC64, np.random.MT19937, np.random.Philox]


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.__name__)
def test_every_generator_is_resumed(tmp_path: Path, kind: Any) -> None:
    def make() -> Trainer:
        return Trainer(mlp(4, 8, 3), device="cpu", seed=np.random.Generator(kind(1)))

    trainer = make()
    trainer.fit(X, Y, max_epochs=1, batch_size=64, callbacks=[Checkpoint(tmp_path / "c")])
    resumed = Trainer.resume(tmp_path / "c", device="cpu")
    for t in (trainer, resumed):
        t.fit(X, Y, max_epochs=3, batch_size=64)
    assert everything(resumed) == everything(trainer)


def test_what_cannot_be_saved_is_reported_before_training(tmp_path: Path) -> None:
    class Own(np.random.PCG64):
        pass

    with pytest.raises(ValueError, match="NumPy generator over PCG64"):
        Trainer(mlp(4, 3), device="cpu", seed=np.random.Generator(Own(0)))

    trainer = Trainer(Chain(Dense(4, 8), ReLU(), Dense(8, 3)), device="cpu")
    trainer._run.records.append({"epoch": "one", "loss": 1.0})  # type: ignore[dict-item]
    before = everything(trainer)[0]
    with pytest.raises((TypeError, ValueError)):
        trainer.fit(X, Y, max_epochs=3, callbacks=[Checkpoint(tmp_path / "c")])
    assert everything(trainer)[0] == before and not (tmp_path / "c").exists()


def test_a_full_disk_warns_and_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "momentum"
    make = KINDS[kind][0]
    path = tmp_path / "c"
    trainer = fit(make(device="cpu"), kind, max_epochs=1, callbacks=[Checkpoint(path)])
    good = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match=f"without a new checkpoint: cannot write {path}"):
            fit(trainer, kind, callbacks=[Checkpoint(path)])
    assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]
    undisturbed = fit(make(device="cpu"), kind)
    assert everything(trainer)[0] == everything(undisturbed)[0]


def test_parameters_that_overflow_in_the_last_step_are_neither_kept_nor_written(tmp_path: Path) -> None:
    """The loss is measured before the update, so it is finite when the update overflows."""
    x, y = np.ones((4, 4), np.float32), np.zeros(4, np.int64)
    trainer = Trainer(mlp(4, 3), optimizer=SGD(0.0), device="cpu")
    trainer.fit(x, y, max_epochs=1, callbacks=[Checkpoint(tmp_path / "c")])
    good = (tmp_path / "c").read_bytes()
    trainer = Trainer(mlp(4, 3), optimizer=SGD(3e38), l2=1e5, device="cpu")
    with (
        np.errstate(all="ignore"),
        pytest.warns(UserWarning, match="was not written: the parameters contain"),
        pytest.raises(TrainingDivergedError, match="the parameters after epoch 1 contain infinities"),
    ):
        trainer.fit(x, y, max_epochs=1, callbacks=[Checkpoint(tmp_path / "c")])
    assert (tmp_path / "c").read_bytes() == good


def test_a_snapshot_does_not_change_when_training_goes_on() -> None:
    trainer = fit(KINDS["momentum"][0](device="cpu"), "momentum", max_epochs=1)
    snapshot = trainer.snapshot()
    again = Trainer.from_snapshot(snapshot, device="cpu")
    before = [leaf.tobytes() for leaf in leaves(snapshot.state)], len(snapshot.history)
    fit(trainer, "momentum")
    fit(again, "momentum")
    assert ([leaf.tobytes() for leaf in leaves(snapshot.state)], len(snapshot.history)) == before
    assert everything(trainer) == everything(again)

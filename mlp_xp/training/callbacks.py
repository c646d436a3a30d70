"""Callbacks and Ctrl-C, which run beside the training and can end it. None makes the device wait inside an epoch."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np  # noqa: TID251  snapshots are host arrays

from mlp_xp._checks import Number, instead, shown
from mlp_xp.files.checkpoints import check_savable, write_snapshot
from mlp_xp.files.disk import as_path, check_folder, remove_stale
from mlp_xp.training.history import Record
from mlp_xp_backends.trees import leaves

if TYPE_CHECKING:
    from mlp_xp.training.trainer import Trainer


@runtime_checkable
class Callback(Protocol):
    """Called by `Trainer.fit`; each method does nothing unless it is overridden.

    ``chunk`` and ``epoch`` end the training by returning True. Any other value has no meaning.

    >>> class Enough(Callback):
    ...     def epoch(self, trainer, record):
    ...         return trainer.epoch == 2
    >>> trainer = Trainer(mlp(2, 2), device="cpu")
    >>> len(trainer.fit(np.ones((4, 2)), np.zeros(4, int), max_epochs=10, callbacks=[Enough()]))
    2
    """

    def start(self, trainer: Trainer) -> None:
        """Before the first step."""
        return None

    def chunk(self, trainer: Trainer) -> Any:
        """After some steps, a few times per second; see `Trainer.progress`. True ends the training inside the epoch."""
        return None

    def epoch(self, trainer: Trainer, record: Record) -> Any:
        """After an epoch and its validation; ``record`` is its entry in the history. True ends the training."""
        return None

    def end(self, trainer: Trainer) -> None:
        """After the last step, even if Ctrl-C was pressed."""
        return None


class Each(Callback):
    """Calls a function ``f(trainer, record)`` after every epoch."""

    def __init__(self, f: Callable[[Trainer, Record], Any]) -> None:
        self.f = f

    def epoch(self, trainer: Trainer, record: Record) -> Any:
        """Call ``f(trainer, record)``."""
        return self.f(trainer, record)


def as_callbacks(callbacks: Any) -> list[Callback]:
    """Return a list of callbacks, with functions wrapped as `Each`. Raises `TypeError` for anything else."""
    if isinstance(callbacks, Callback) or not hasattr(callbacks, "__iter__"):
        raise TypeError(f"callbacks must be a list, such as [Progress()], not {shown(callbacks)}")
    return [_as_callback(callback) for callback in callbacks]


def _as_callback(callback: Any) -> Callback:
    if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
        raise TypeError(f"a callback must be a Callback or a function of trainer and record, not {instead(callback)}")
    return callback if isinstance(callback, Callback) else Each(callback)


def ends_training(answers: list[Any]) -> bool:
    """Whether one of the values that callbacks returned is True (of Python or NumPy)."""
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


class Interrupt:
    """Lets the current steps finish after Ctrl-C.

    Within the ``with`` block, the first SIGINT only sets ``requested``; the second one interrupts at once, as usual.
    Outside the main thread, where Python does not allow signal handlers, this class does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Checkpoint(Callback):
    """Write a checkpoint after every epoch and, inside epochs, about every ``seconds`` seconds.

    ``Trainer.resume`` continues from it. Parameters with infinities or NaN are never written. If writing fails, for
    instance because the disk is full, a warning names the path and the training continues; the last good file is kept.

    >>> trainer, data = Trainer(mlp(2, 2), device="cpu"), (np.zeros((4, 2)), np.zeros(4, int))
    >>> history = trainer.fit(*data, max_epochs=3, callbacks=[Checkpoint("run.safetensors")])
    >>> Trainer.resume("run.safetensors", device="cpu").epoch
    3
    """

    def __init__(self, path: str | Path, *, seconds: float = math.inf) -> None:
        self.path = as_path(path)
        self.seconds = Number(0.0, ends="[]")("Checkpoint: seconds", seconds)
        self.written = time.monotonic()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, seconds={self.seconds})"

    def start(self, trainer: Trainer) -> None:
        """Raise an error before the first step if the file cannot be written or the run cannot be saved."""
        check_folder(self.path)
        remove_stale(self.path)
        check_savable(trainer.snapshot())

    def chunk(self, trainer: Trainer) -> None:
        """Write if the time has come. Waits for the device when it writes."""
        if time.monotonic() - self.written >= self.seconds:
            self._write(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Write the checkpoint."""
        self._write(trainer)

    def end(self, trainer: Trainer) -> None:
        """Write the steps of an interrupted epoch."""
        if trainer.interrupted:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self.written = time.monotonic()
        snapshot = trainer.snapshot()
        if not all(np.all(np.isfinite(a)) for a in leaves((snapshot.state.params, snapshot.state.layers))):
            warnings.warn(f"{self.path} was not written: the parameters contain infinities or NaN", stacklevel=2)
            return
        try:
            write_snapshot(self.path, snapshot)
        except OSError as error:
            warnings.warn(f"training continues without a new checkpoint: {error}", stacklevel=2)

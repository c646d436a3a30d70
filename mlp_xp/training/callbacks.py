"""Callbacks: what happens beside the training. None of them makes the device wait inside an epoch."""

from __future__ import annotations

import csv
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, runtime_checkable

import numpy as np  # noqa: TID251  snapshots are host arrays

from mlp_xp._checks import instead, shown
from mlp_xp.files.atomic import remove_stale
from mlp_xp.files.checkpoints import check_savable, write_snapshot
from mlp_xp.files.paths import as_path, check_folder
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
        """After some steps, a few times a second; see `Trainer.progress`. True ends the training inside the epoch."""
        return None

    def epoch(self, trainer: Trainer, record: Record) -> Any:
        """After an epoch and its validation; ``record`` is its entry in the history. True ends the training."""
        return None

    def end(self, trainer: Trainer) -> None:
        """After the last step, also when Ctrl-C was pressed."""
        return None


class Each(Callback):
    """A function ``f(trainer, record)`` of every epoch."""

    def __init__(self, f: Callable[[Trainer, Record], Any]) -> None:
        self.f = f

    def epoch(self, trainer: Trainer, record: Record) -> Any:
        """``f(trainer, record)``."""
        return self.f(trainer, record)


def as_callbacks(callbacks: Any) -> list[Callback]:
    """A list of callbacks, functions wrapped as `Each`; `TypeError` for anything else."""
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


SILENCE = 10.0
"""Seconds after which `Progress` prints a line within an epoch."""


class Progress(Callback):
    """A tqdm bar on stderr if that is a terminal and tqdm is installed; otherwise a line after each epoch.

    Without a bar, a line also reports the step whenever ten seconds have passed since the last line.

    >>> import sys
    >>> trainer, data = Trainer(mlp(2, 2), device="cpu"), (np.zeros((4, 2)), np.zeros(4, int))
    >>> history = trainer.fit(*data, max_epochs=1, callbacks=[Progress(sys.stdout)])
    epoch 1/1  loss 0.6931  lr 0.001  seconds ...
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.bar: Any = None
        self.printed = 0.0  # when the last line was

    def start(self, trainer: Trainer) -> None:
        """Open the bar."""
        self.bar = _bar(self.stream)
        self.printed = time.monotonic()

    def chunk(self, trainer: Trainer) -> None:
        """Move the bar; without one, report the step every ten seconds."""
        at = trainer.progress
        if self.bar is None:
            if time.monotonic() - self.printed > SILENCE:
                self._print(f"epoch {at.epoch}/{at.max_epochs}  step {at.step}/{at.steps}")
            return
        self.bar.total = at.steps
        self.bar.n = at.step
        self.bar.set_description(f"epoch {at.epoch}/{at.max_epochs}", refresh=False)
        self.bar.refresh()

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Print the epoch's line."""
        line = f"epoch {trainer.epoch}/{trainer.progress.max_epochs}  " + "  ".join(
            f"{key} {value:.4g}" for key, value in record.items() if key != "epoch"
        )
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)
        self.printed = time.monotonic()

    def end(self, trainer: Trainer) -> None:
        """Close the bar; report an interruption."""
        if self.bar is not None:
            self.bar.close()
        if trainer.interrupted:
            at = trainer.progress
            where = (
                f"in epoch {at.epoch} after {at.step} of {at.steps} steps" if at.step else f"after epoch {at.epoch - 1}"
            )
            print(f"interrupted {where}; the parameters keep what was learned so far", file=self.stream, flush=True)


def _bar(stream: TextIO) -> Any:
    """A tqdm bar, or None where a bar cannot be drawn."""
    if not stream.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(file=stream, unit="step", leave=False, dynamic_ncols=True)


class CSVLog(Callback):
    """A file of comma-separated values with a header and one row per epoch; a resumed run continues it.

    When an epoch brings new columns, the file is written anew, with empty fields in the earlier rows.

    >>> trainer, data = Trainer(mlp(2, 2), device="cpu"), (np.zeros((4, 2)), np.zeros(4, int))
    >>> history = trainer.fit(*data, max_epochs=3, callbacks=[CSVLog("log.csv")])
    >>> from pathlib import Path
    >>> Path("log.csv").read_text().splitlines()[0]
    'epoch,loss,lr,seconds'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)
        self.columns: tuple[str, ...] = ()

    def start(self, trainer: Trainer) -> None:
        """Write the epochs so far, which a resumed run has in its checkpoint."""
        check_folder(self.path)
        self.path.unlink(missing_ok=True)
        self._rewrite(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Append the record."""
        if set(record) <= set(self.columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, restval="").writerow(record)
        else:
            self._rewrite(trainer)

    def _rewrite(self, trainer: Trainer) -> None:
        """Write the whole history."""
        self.columns = trainer.history.columns
        if not self.columns:
            return
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(trainer.history)


class Checkpoint(Callback):
    """Write a checkpoint after every epoch, and inside epochs about every ``seconds``.

    ``Trainer.resume`` continues from it. Parameters with infinities or NaN are never written, and if writing fails, for
    instance on a full disk, a warning names the path and training continues: the last good file stays.

    >>> trainer, data = Trainer(mlp(2, 2), device="cpu"), (np.zeros((4, 2)), np.zeros(4, int))
    >>> history = trainer.fit(*data, max_epochs=3, callbacks=[Checkpoint("run.safetensors")])
    >>> Trainer.resume("run.safetensors", device="cpu").epoch
    3
    """

    def __init__(self, path: str | Path, *, seconds: float = math.inf) -> None:
        if not isinstance(seconds, (int, float, np.number)) or isinstance(seconds, bool) or not seconds >= 0.0:
            raise ValueError(f"Checkpoint: seconds must be a number from 0, not {shown(seconds)}")
        self.path = as_path(path)
        self.seconds = seconds
        self.written = time.monotonic()

    def start(self, trainer: Trainer) -> None:
        """Raise an error before the first step if the file could not be written or the run not be saved."""
        check_folder(self.path)
        remove_stale(self.path)
        check_savable(trainer.snapshot())

    def chunk(self, trainer: Trainer) -> None:
        """Write if it is time. Waits for the device when it writes."""
        if time.monotonic() - self.written >= self.seconds:
            self._write(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Write."""
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

"""Callbacks: what happens beside the training. None of them makes the device wait inside an epoch."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, runtime_checkable

from mlp_xp._checks import shown
from mlp_xp.files.paths import check_folder

if TYPE_CHECKING:
    from mlp_xp.training.trainer import Record, Trainer


@runtime_checkable
class Callback(Protocol):
    """Called by `Trainer.fit`; each method does nothing unless it is written."""

    def start(self, trainer: Trainer) -> None:
        """Before the first step."""
        return None

    def chunk(self, trainer: Trainer) -> None:
        """After some steps, a few times a second; ``trainer.position`` of them are done in this epoch."""
        return None

    def epoch(self, trainer: Trainer, record: Record) -> Any:
        """After an epoch and its validation; ``record`` is its line of the history. True ends the training."""
        return None

    def end(self, trainer: Trainer) -> None:
        """After the last step, also when Ctrl-C was pressed."""
        return None


class Each(Callback):
    """A function ``f(trainer, record)`` of every epoch."""

    def __init__(self, f: Callable[[Trainer, Record], Any]) -> None:
        self.f = f

    def epoch(self, trainer: Trainer, record: Record) -> Any:
        """``f(trainer, record) is True``."""
        return self.f(trainer, record) is True


def as_callbacks(callbacks: Any) -> list[Callback]:
    """A list of callbacks, made of functions where they are such; `TypeError` for anything else."""
    if isinstance(callbacks, Callback) or not hasattr(callbacks, "__iter__"):
        raise TypeError(f"callbacks must be a list, such as [Progress()], not {shown(callbacks)}")
    return [_as_callback(callback) for callback in callbacks]


def _as_callback(callback: Any) -> Callback:
    if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
        raise TypeError(f"a callback must be a Callback or a function of trainer and record, not {shown(callback)}")
    return callback if isinstance(callback, Callback) else Each(callback)


class Progress(Callback):
    """A tqdm bar on stderr where that is a terminal and tqdm is installed; one line an epoch otherwise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.bar: Any = None

    def start(self, trainer: Trainer) -> None:
        """Open the bar."""
        self.bar = _bar(self.stream)

    def chunk(self, trainer: Trainer) -> None:
        """Move the bar."""
        if self.bar is None or trainer.run is None:
            return
        steps = -(-trainer.run.rows // trainer.run.batch_size)
        self.bar.total = steps
        self.bar.n = trainer.position
        self.bar.set_description(f"epoch {trainer.epoch + 1}/{trainer.run.epochs}", refresh=False)
        self.bar.refresh()

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Print the epoch's line."""
        epochs = trainer.run.epochs if trainer.run is not None else trainer.epoch
        line = f"epoch {trainer.epoch}/{epochs}  " + "  ".join(
            f"{key} {value:.4g}" for key, value in record.items() if key != "epoch"
        )
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def end(self, trainer: Trainer) -> None:
        """Close the bar; say so if the run was interrupted."""
        if self.bar is not None:
            self.bar.close()
        if trainer.interrupted:
            print(
                f"stopped by Ctrl-C in epoch {trainer.epoch + 1} after {trainer.position} steps; "
                "what was learned so far is kept",
                file=self.stream,
                flush=True,
            )


def _bar(stream: TextIO) -> Any:
    """A tqdm bar, or None where it would be in the way."""
    if not stream.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(file=stream, unit="step", leave=False, dynamic_ncols=True)


class CSVLog(Callback):
    """One row per epoch in a file of comma-separated values; a resumed run appends to it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def start(self, trainer: Trainer) -> None:
        """Write the epochs so far, which a resumed run brings along."""
        check_folder(self.path)
        self.path.unlink(missing_ok=True)
        self._append(*trainer.history)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Append the record."""
        self._append(record)

    def _append(self, *records: Record) -> None:
        if not records:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows(records)


class Checkpoint(Callback):
    """Write a checkpoint after every epoch, and inside epochs about every ``seconds``.

    ``Trainer.resume`` goes on from it. A state that has diverged is never written, so the last good one stays.
    """

    def __init__(self, path: str | Path, seconds: float = math.inf) -> None:
        self.path = Path(path)
        self.seconds = seconds
        self.written = time.monotonic()

    def start(self, trainer: Trainer) -> None:
        """Make sure that there is a folder to write to before hours are spent."""
        check_folder(self.path)

    def chunk(self, trainer: Trainer) -> None:
        """Write if it is time and the losses so far are finite. Waits for the device when it writes."""
        if time.monotonic() - self.written < self.seconds:
            return
        last = trainer.backend.to_numpy(trainer.losses[-1])
        if math.isfinite(float(last.sum())):
            self._write(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Write."""
        self._write(trainer)

    def end(self, trainer: Trainer) -> None:
        """Write what an interrupted epoch has learned."""
        if trainer.interrupted:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        trainer.save(self.path)
        self.written = time.monotonic()

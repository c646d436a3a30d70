"""Callbacks that report each epoch: a progress bar or lines, CSV and JSON files, and TensorBoard.

For any other tracker, a function suffices: ``callbacks=[lambda trainer, record: tracker.log(record)]``.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mlp_xp._checks import check_kind
from mlp_xp._optional import need
from mlp_xp.files.disk import as_path, check_folder
from mlp_xp.training.callbacks import Callback
from mlp_xp.training.history import Record

if TYPE_CHECKING:
    from mlp_xp.training.trainer import Trainer

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
        check_kind("stream", self.stream, ("write", "isatty"), "sys.stdout")
        self.bar: Any = None
        self.printed = 0.0  # the time of the last line

    def __repr__(self) -> str:
        stream = "" if self.stream is sys.stderr else getattr(self.stream, "name", type(self.stream).__name__)
        return f"Progress({stream})"

    def start(self, trainer: Trainer) -> None:
        """Open the bar."""
        self.bar = _bar(self.stream)
        self.printed = time.monotonic()

    def chunk(self, trainer: Trainer) -> None:
        """Advance the bar; without a bar, report the step every ten seconds."""
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
            print(f"interrupted {where}; the trainer keeps the parameters reached so far", file=self.stream, flush=True)


def _bar(stream: TextIO) -> Any:
    """A tqdm bar, or None if a bar cannot be drawn."""
    if not stream.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(file=stream, unit="step", leave=False, dynamic_ncols=True)


class CSVLog(Callback):
    """A file of comma-separated values with a header and one row per epoch; a resumed run continues it.

    When an epoch adds columns, the file is rewritten, with empty fields in the earlier rows.

    >>> trainer, data = Trainer(mlp(2, 2), device="cpu"), (np.zeros((4, 2)), np.zeros(4, int))
    >>> history = trainer.fit(*data, max_epochs=3, callbacks=[CSVLog("log.csv")])
    >>> from pathlib import Path
    >>> Path("log.csv").read_text().splitlines()[0]
    'epoch,loss,lr,seconds'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)
        self.columns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"CSVLog({str(self.path)!r})"

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


class JSONLines(Callback):
    """A file with one JSON object per epoch; a resumed run continues it. Numbers that are not finite are ``null``.

    >>> import numpy as np, pathlib
    >>> x, y = np.zeros((8, 2)), np.zeros(8, int)
    >>> _ = Trainer(mlp(2, 2), device="cpu").fit(x, y, max_epochs=3, callbacks=[JSONLines("log.jsonl")])
    >>> pathlib.Path("log.jsonl").read_text().count('"loss"')
    3
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)

    def __repr__(self) -> str:
        return f"JSONLines({str(self.path)!r})"

    def start(self, trainer: Trainer) -> None:
        """Write the epochs so far, which a resumed run has in its checkpoint."""
        check_folder(self.path)
        self.path.write_text("".join(map(_line, trainer.history)), encoding="utf-8")

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Append the record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))


def _line(record: Record) -> str:
    return json.dumps({name: value if math.isfinite(value) else None for name, value in record.items()}) + "\n"


class TensorBoard(Callback):
    """Scalars for TensorBoard in ``folder``, one event per epoch and column; needs the extra ``tensorboard``.

    To compare runs, write them to folders side by side. A resumed run hides the events of epochs that it repeats.

    >>> callbacks = [TensorBoard("runs/first"), JSONLines("runs/first.jsonl")]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = as_path(folder)
        self.writer: Any = None

    def __repr__(self) -> str:
        return f"TensorBoard({str(self.folder)!r})"

    def start(self, trainer: Trainer) -> None:
        """Open the event file; `ImportError` naming the extra without tensorboardX."""
        purge = trainer.epoch + 1 if trainer.epoch else None
        self.writer = need("tensorboardX", "tensorboard").SummaryWriter(str(self.folder), purge_step=purge)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        """Write every column but the number of the epoch, which is the step."""
        for name, value in record.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, int(record["epoch"]))
        self.writer.flush()

    def end(self, trainer: Trainer) -> None:
        """Close the event file."""
        self.writer.close()

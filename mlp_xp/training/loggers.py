"""Callbacks that record each epoch: JSON lines, and TensorBoard.

For any other tracker a function suffices: ``callbacks=[lambda trainer, record: tracker.log(record)]``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlp_xp._optional import need
from mlp_xp.files.paths import as_path, check_folder
from mlp_xp.training.callbacks import Callback
from mlp_xp.training.history import Record

if TYPE_CHECKING:
    from mlp_xp.training.trainer import Trainer


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

    Runs that are to be compared write to folders side by side. A resumed run hides events of epochs that it repeats.

    >>> callbacks = [TensorBoard("runs/first"), JSONLines("runs/first.jsonl")]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.writer: Any = None

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

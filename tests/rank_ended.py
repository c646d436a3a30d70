"""Every rank runs this under mpiexec: a run with checkpoints that one rank ends.

It is ``killed`` after some seconds, or it ``dies`` or ``raises`` an error at some call of the group. It notes the time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
from rank_cases import CASES, result

from mlp_xp import Trainer
from mlp_xp.training import epoch
from mlp_xp.training.callbacks import Checkpoint
from mlp_xp_backends.groups import get_group


class Ending:
    """A group in which this rank ends at one of its calls."""

    def __init__(self, group: Any, folder: Path, how: str, calls: int) -> None:
        self.rank, self.size, self.local_rank, self.native = group.rank, group.size, group.local_rank, group.native
        self.broadcast, self.barrier, self.abort = group.broadcast, group.barrier, group.abort
        self.group, self.folder, self.how, self.calls = group, folder, how, calls

    def sum(self, x: Any, out: Any = None) -> Any:
        self.calls -= 1
        if self.calls == 0 and self.how == "raises":
            note_time(self.folder)
            raise ValueError("row 7 is bad")
        if self.calls == 0:
            kill(self.folder)
        return self.group.sum(x, out)


def note_time(folder: Path) -> None:
    (folder / "ended.new").write_text(str(time.time()))
    (folder / "ended.new").replace(folder / "ended")  # the job may end meanwhile: a whole file or none


def kill(folder: Path) -> None:
    note_time(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, max_epochs: int, how: str, victim: int, when: float) -> None:
    epoch.CHUNK_WORK = 0  # every step is a chunk, and a checkpoint is written after each
    group, path = get_group("mpi"), folder / "run.ckpt"
    if group.rank == victim % group.size:
        if how == "killed":
            timer = Timer(when, kill, (folder,))
            timer.daemon = True
            timer.start()
        elif how != "goes on":
            group = Ending(group, folder, how, int(when))
    trainer, fit = CASES["dropout"](group=group)
    if path.exists():
        trainer = Trainer.resume(path, device="cpu", group=group)
    history = trainer.fit(**fit | {"max_epochs": max_epochs}, callbacks=[Checkpoint(path, seconds=0)])
    if group.rank == 0:
        np.savez(folder / "new.npz", **result(trainer, history))
        (folder / "new.npz").replace(folder / "found.npz")  # another rank may be killed meanwhile


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))

"""A folder in which every model of a sweep is a checkpoint, so that a killed sweep continues."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlp_xp.files import disk
from mlp_xp.files.checkpoints import read_snapshot, write_snapshot
from mlp_xp.files.config import custom_types
from mlp_xp.files.snapshot import Snapshot
from mlp_xp.sweep.run import Candidate, Run


class Storage:
    """The models of a sweep on disk: ``model-00000.safetensors``, ...; without a folder, nothing is stored.

    Raises `ValueError` if the folder contains another sweep.
    """

    def __init__(self, folder: str | Path | None, candidates: Sequence[Candidate], options: Any) -> None:
        self.folder = None if folder is None else Path(folder).absolute()
        if self.folder is None:
            return
        self.types = {kind for candidate in candidates for kind in custom_types(candidate.step)}
        identity = hashlib.sha256(repr((list(candidates), options)).encode()).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / "sweep.txt"
        if not marker.exists():
            disk.write(marker, lambda file: file.write_text(identity + "\n", encoding="utf-8"))
        elif marker.read_text(encoding="utf-8").strip() != identity:
            raise ValueError(
                f"{self.folder} holds the models of another sweep: continue that one with its settings, data and "
                "options, or choose another folder"
            )

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"model-{index:05}.safetensors"

    def read(self, index: int) -> Snapshot | None:
        """Read the model, as far as it is trained, if its file exists."""
        if self.folder is None or not self._path(index).exists():
            return None
        return read_snapshot(self._path(index), self.types)

    def write(self, run: Run) -> None:
        """Write a model as far as it is trained."""
        if self.folder is not None:
            write_snapshot(self._path(run.index), run.snapshot)

    def write_if_seen(self, run: Run) -> None:
        """Write a model unless this process runs on a machine that does not see the folder."""
        if self.folder is not None and self.folder.exists():
            self.write(run)

"""The number of files through which a batch and a parameter pass: those with a function that runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlp_xp
import mlp_xp_backends
from mlp_xp import Trainer, get_backend, mlp

FOLDERS = [Path(package.__file__).parent for package in (mlp_xp, mlp_xp_backends)]
FEATURES = {
    *(f"mlp_xp/data/{name}.py" for name in ("class_weights", "frames", "shares", "sources", "stream")),
    *(f"mlp_xp/training/{name}.py" for name in ("divergence", "early_stopping", "group_ranks", "loggers", "messages")),
    *("mlp_xp/forward.py", "mlp_xp/model.py", "mlp_xp/nn/parts.py"),
}
"""The files of what the fit below does not use."""


def files_of(f: Callable[[], Any]) -> set[str]:
    """The files of both packages of which a function runs while ``f`` does."""
    names: set[str] = set()

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            names.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        f()
    finally:
        sys.setprofile(before)
    paths = map(Path, names)
    return {
        path.relative_to(folder.parent).as_posix() for path in paths for folder in FOLDERS if folder in path.parents
    }


def listed(files: set[str]) -> str:
    return f"{len(files)} files:\n" + "\n".join(sorted(files))


@pytest.fixture(scope="module")
def fits() -> list[set[str]]:
    """The files of two fits of a trainer, whose loop another trainer has compiled."""
    x, y = np.random.default_rng(0).standard_normal((1000, 20)).astype(np.float32), np.arange(1000) % 3
    network, backend = mlp(20, 32, 3), get_backend("cpu")
    Trainer(network, device=backend).fit(x, y, max_epochs=1, batch_size=50)
    trainer = Trainer(network, device=backend)
    return [files_of(partial(trainer.fit, x, y, max_epochs=n, batch_size=50)) for n in (1, 2)]


def test_a_batch_passes_through_few_files(fits: list[set[str]]) -> None:
    """From `fit` to the BLAS: 18 files, and of the compiler six, or eleven if arrays have moved and are bound anew."""
    for files in fits:
        assert len({name for name in files if "/compiler/" not in name}) <= 18, listed(files)
        assert len(files) <= 30, listed(files)


def test_a_fit_enters_no_file_of_a_feature_that_it_does_not_use(fits: list[set[str]]) -> None:
    assert all((folder.parent / name).exists() for folder in FOLDERS[:1] for name in FEATURES)
    assert not (fits[0] | fits[1]) & FEATURES


@pytest.mark.parametrize(("device", "most"), [(get_backend("cpu"), 17), ("cpu", 18)])
def test_a_parameter_passes_through_few_files(tmp_path: Path, device: Any, most: int) -> None:
    """From `init` to the file; one of them finds the device by its name."""
    network = mlp(20, 32, 3)

    def save() -> None:
        Trainer(network, device=device).model.save(tmp_path / "model.safetensors")

    save()
    files = files_of(save)
    assert len(files) <= most, listed(files)

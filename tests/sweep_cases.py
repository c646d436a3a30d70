"""Helpers for the tests of sweeps: a model of a sweep beside the same model trained alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlp_xp import Trainer
from mlp_xp_backends.trees import leaves

STEP = ("loss", "seed", "l2", "clip_norm", "max_norm", "class_weight")


def alone(build: Any, setting: Any, optimizer: Any, device: str, dtype: str, x: Any, y: Any, **fit: Any) -> Trainer:
    """The trainer of a setting after its fit; ``build`` makes the network from the rest of the setting."""
    setting = dict(setting)
    step = {name: setting.pop(name) for name in STEP if name in setting}
    building = {name: setting.pop(name) for name in ("width", "dropout", "activation") if name in setting}
    fit |= {name: setting.pop(name) for name in ("batch_size", "max_epochs", "sample_weight") if name in setting}
    optimizer = replace(setting.pop("optimizer", optimizer), **setting)
    trainer = Trainer(build(**building), optimizer=optimizer, device=device, dtype=dtype, **step)
    trainer.fit(x, y, **fit)
    return trainer


def values(history: Any) -> list[dict[str, Any]]:
    """The records of a history without times."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def same(result: Any, model: int, trainer: Trainer, exact: bool = True) -> None:
    """Assert that a model of a sweep is that of a trainer: its history, its parameters and its optimizer's state."""
    ours, theirs = result.trainer(model).snapshot(), trainer.snapshot()
    assert ours.generator == theirs.generator
    assert (ours.updates, ours.samples, ours.stopped) == (theirs.updates, theirs.samples, theirs.stopped)
    pairs = list(zip(leaves(ours.state), leaves(theirs.state), strict=True))
    if exact:
        assert values(ours.history) == values(theirs.history)
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    else:
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)

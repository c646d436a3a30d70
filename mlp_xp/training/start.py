"""The start of a run: its snapshot before the first step."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID251  snapshots hold host arrays

from mlp_xp.data.class_weights import check_class_weight
from mlp_xp.files.snapshot import Snapshot
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import Tree


def first_snapshot(
    step: TrainStep, dtype: str, params: Tree, layers: Tree, rng: np.random.Generator, class_weight: Any
) -> Snapshot:
    """A run of ``step`` with these parameters and states of layers, before its first step."""
    params, layers = tree_map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, (params, layers))
    return Snapshot(
        step=step,
        dtype=dtype,
        state=step.init(np, params, layers),
        history=[],
        generator=dict(rng.bit_generator.state),
        plan=None,
        position=0,
        losses=np.empty(0, dtype),
        updates=0,
        samples=0,
        best=None,
        stopped=False,
        class_weight=check_class_weight(class_weight),
    )

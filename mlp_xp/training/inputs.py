"""The data that a call of `Trainer.fit` is given: checked, weighted, and as feeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np  # noqa: TID251  sums over ranks are host arrays

from mlp_xp._checks import shown
from mlp_xp.data.checks import check_inputs, check_targets, check_weights
from mlp_xp.data.class_weights import weigh_classes
from mlp_xp.data.feed import Batch
from mlp_xp.data.sources import as_source
from mlp_xp.data.stream import Stream
from mlp_xp.model import Evaluation
from mlp_xp.training.run import Run
from mlp_xp_backends.typing import Array, HostArray


def checked_data(run: Run, x: Any, y: Any, sample_weight: Any, sharded: bool) -> Batch:
    """The data set, with the class weights folded into the sample weights."""
    x = check_inputs(run.backend, run.step.network, x)
    rows, n_out = int(x.shape[0]), run.step.network.width(x.shape[1])
    y = check_targets(run.backend, run.step.loss, n_out, y, rows)
    w = check_weights(run.backend, sample_weight, rows, run.dtype)
    if run.class_weight is not None:
        total = run.ranks.total if sharded else np.asarray
        weighted = weigh_classes(run.class_weight, y, n_out or 0, w, total)
        w = check_weights(run.backend, weighted, rows, run.dtype)
    return Batch(x, y, w)


def stream(run: Run, source: Any, y: Any, sample_weight: Any) -> Stream:
    """The batches of a source as a feed."""
    if y is not None or sample_weight is not None:
        raise TypeError(
            f"x must be an array of shape (rows, features), not {shown(source)}: stack its rows first; or leave y "
            "and sample_weight out, for a source of batches (x, y) or (x, y, sample_weight)"
        )
    if run.ranks.group.size > 1:
        raise ValueError("a source of batches trains in one process: with a group pass arrays, or shards of them")
    if run.class_weight == "balanced":
        raise ValueError("class_weight='balanced' needs all labels at once: for a source pass a weight per class")
    network = run.step.network

    def weigh(y: HostArray, w: Any) -> Any:
        n_out = network.width(None)
        return weigh_classes(run.class_weight, y, n_out or 0, w)

    return Stream(run.backend, network, run.step.loss, as_source(source), run.dtype, weigh)


def evaluation(run: Run, arrays: Sequence[Array], sharded: bool) -> Evaluation:
    """A validation set, of which each rank measures its share."""
    x, y, w = (*arrays, None, None)[:3]
    own = slice if sharded else run.ranks.own
    step, total = run.step, run.ranks.total
    return Evaluation(step.network, step.loss, run.backend, run.dtype, x, y, w, own=own, total=total)

"""The arguments of `Trainer.fit`: options are checked; data are checked, weighted, divided among ranks, and fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np  # noqa: TID251  sums over ranks are host arrays

from mlp_xp._checks import Flag, check_count, check_set, instead, shown
from mlp_xp.data.checks import check_inputs, check_targets, check_weights, is_source
from mlp_xp.data.class_weights import weigh_classes
from mlp_xp.data.feed import Batch, Feed
from mlp_xp.data.sources import as_source
from mlp_xp.data.stream import Stream
from mlp_xp.files.snapshot import Plan
from mlp_xp.model import Evaluation
from mlp_xp.nn.losses import Loss
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp.training.ranks import Division
from mlp_xp.training.run import Run
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.typing import Array, HostArray


class FitOptions(NamedTuple):
    """The options of `Trainer.fit` that do not depend on the data."""

    max_epochs: int
    batch_size: int | None
    validation_sets: Mapping[str, tuple[Array, ...]]
    shuffle: bool
    early_stopping: EarlyStopping | None
    resident: bool | None
    sharded: bool

    @classmethod
    def checked(
        cls,
        max_epochs: Any,
        batch_size: Any,
        validation_data: Any,
        shuffle: Any,
        early_stopping: Any,
        resident: Any,
        sharded: Any,
        loss: Loss,
    ) -> Self:
        """Return the options with Python numbers. Raises `TypeError` or `ValueError` for invalid ones."""
        max_epochs = check_count("max_epochs", max_epochs)
        batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        sets = _named_sets(validation_data)
        if early_stopping is not None:
            if not isinstance(early_stopping, EarlyStopping):
                such_as = "an object such as EarlyStopping(patience=10)"
                raise TypeError(f"early_stopping must be {such_as}, not {instead(early_stopping)}")
            measured = ("loss", *(metric.__name__ for metric in loss.metrics))
            early_stopping.check(("epoch", "loss", "lr", "seconds", *(f"{s}_{m}" for s in sets for m in measured)))
        resident = None if resident is None else Flag()("resident", resident)
        shuffle, sharded = Flag()("shuffle", shuffle), Flag()("sharded", sharded)
        return cls(max_epochs, batch_size, sets, shuffle, early_stopping, resident, sharded)


def _named_sets(validation_data: Any) -> Mapping[str, tuple[Array, ...]]:
    """Return the validation sets by name. Raises `TypeError` for anything else."""
    if validation_data is None:
        return {}
    given: Mapping[str, Any] = validation_data if isinstance(validation_data, Mapping) else {"valid": validation_data}
    sets = {name: (arrays,) if is_source(arrays) else arrays for name, arrays in given.items()}
    for name, arrays in sets.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"validation_data must name its sets by strings such as 'valid', not {shown(name)}")
        if not is_source(given[name]):
            check_set(arrays, "validation_data must be (x, y) or (x, y, sample_weight), or several of these by name")
    return sets


class Inputs(NamedTuple):
    """The data and options on which the epochs of a call of `Trainer.fit` run."""

    plan: Plan
    data: Batch
    division: Division
    feed: Feed | Stream
    evaluations: Mapping[str, Evaluation]
    """The validation sets by name."""

    @property
    def rows(self) -> int:
        """The number of rows in the last epoch."""
        return self.feed.rows if isinstance(self.feed, Stream) else self.division.rows


def prepare(run: Run, x: Any, y: Any, sample_weight: Any, options: FitOptions) -> Inputs:
    """Check the data and the options, also against an interrupted epoch and the other ranks, and make the feed."""
    ranks, step = run.ranks, run.step
    source = stream(run, x, y, sample_weight) if is_source(x) else None
    data = checked_data(run, x, y, sample_weight, options.sharded) if source is None else source.data
    division = ranks.division(int(data.x.shape[0]), options.sharded)
    rows = division.rows
    plan = Plan(options.max_epochs, min(options.batch_size or rows, rows), options.shuffle, rows)
    if source is not None:
        plan = plan._replace(batch_size=1, shuffle=False)
    run.check_plan(plan)
    if ranks.size > 1:
        ranks.check_equal(
            options=(plan, options.early_stopping, tuple(options.validation_sets), options.resident, options.sharded),
            step=(step, run.dtype, run.class_weight),
            progress=(run.updates, run.position, run.rng.bit_generator.state),
            parameters=to_host(run.backend, run.state),
        )
    sets = {name: evaluation(run, name, arrays, options.sharded) for name, arrays in options.validation_sets.items()}
    feed = source or ranks.feed(run.backend, step.network, data, run.dtype, options.resident)
    return Inputs(plan, data, division, feed, sets)


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


def stream(run: Run, x: Any, y: Any, sample_weight: Any) -> Stream:
    """The batches of a source as a feed."""
    source = as_source(x, y, sample_weight)
    if run.ranks.size > 1:
        raise ValueError("a source of batches trains in one process: with a group pass arrays, or shards of them")
    if run.class_weight == "balanced":
        raise ValueError("class_weight='balanced' needs all labels at once: for a source pass a weight per class")
    network = run.step.network

    def weigh(y: HostArray, w: Any) -> Any:
        n_out = network.width(None)
        return weigh_classes(run.class_weight, y, n_out or 0, w)

    return Stream(run.backend, network, run.step.loss, source, run.dtype, weigh)


def evaluation(run: Run, name: str, arrays: Sequence[Array], sharded: bool) -> Evaluation:
    """A validation set, of which each rank evaluates its share."""
    x, y, w = (*arrays, None, None)[:3]
    own = slice if sharded else run.ranks.own
    step, total = run.step, run.ranks.total
    try:
        return Evaluation(step.network, step.loss, run.backend, run.dtype, x, y, w, own=own, total=total)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"validation data {name!r}: {error}") from error

"""The runs of a group of a sweep in a stack: their data, and the values measured after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  measured values are host arrays

from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.forward import over_steps
from mlp_xp.model import as_backend, sums_of
from mlp_xp.nn.step import TrainStep
from mlp_xp.sweep.binding import Path
from mlp_xp.sweep.run import Run
from mlp_xp.sweep.stack import EpochPlan, Stack
from mlp_xp.sweep.team import Team
from mlp_xp.training.epoch import batch_weights, mean_loss
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray


class Measured(NamedTuple):
    """A set of rows on which models are evaluated after each epoch."""

    data: Batch
    rows: dict[int | None, HostArray] | None
    """The rows held out in each fold, or ``None`` for all rows in every fold."""


class Group(NamedTuple):
    """The common properties of the runs of a group; all of them can be sent to another process."""

    device: Any
    dtype: str
    step: TrainStep
    paths: tuple[Path, ...]
    own_l2: bool
    batch_size: int
    data: Batch
    parts: dict[int | None, HostArray | None]
    """The training rows of each fold; ``None`` for all."""
    sets: dict[str, Measured]
    resident: bool | None
    size: int
    """Models that train together at most."""


def train(
    group: Group, runs: Sequence[Run], until: int | None = None, save: Callable[[Run], Any] | None = None
) -> Sequence[Run]:
    """Train all runs as `Team.train` does, and return them."""
    RunTeam(group).train(runs, until, save)
    return runs


class RunTeam(Team[Run]):
    """The runs of a group in a stack."""

    def __init__(self, group: Group) -> None:
        self.group = group

        def feed(data: Batch) -> Feed:
            return make_feed(as_backend(group.device), group.step.network, data, group.dtype, group.resident)

        of_data = feed(group.data)
        self.sets = {
            name: (of_data if part.data is group.data else feed(part.data), part) for name, part in group.sets.items()
        }
        super().__init__(Stack(of_data, group.step, group.paths, group.batch_size), group.size)

    def plan(self, member: Run, known: dict[Any, Any]) -> EpochPlan:
        """See `Team`."""
        return member.plan(self.group.parts[member.candidate.fold], known, self.group.own_l2)

    def measure(self, losses: HostArray) -> tuple[HostArray, list[dict[str, float]]]:
        """See `Team`: the loss and the metrics on each set."""
        order = np.stack([plan.order for plan in self.plans])
        weights = batch_weights(order, self.group.batch_size, self.group.data.w)
        found: list[dict[str, float]] = [{} for _ in self.members]
        loss = self.group.step.loss
        names = ("loss", *(metric.__name__ for metric in loss.metrics))
        for name, (feed, part) in self.sets.items():
            rows = np.arange(part.data.x.shape[0], dtype=np.int32)
            if part.rows is not None:
                rows = np.stack([part.rows[run.candidate.fold] for run in self.members])
            sums = sum(over_steps(block) for block in self.stack.measure(feed, rows, sums_of(loss)))
            total = rows.shape[-1] if part.data.w is ABSENT else part.data.w[rows].sum(axis=-1, dtype=np.float64)
            values = np.broadcast_to(np.asarray(sums).reshape(len(names), -1), (len(names), len(found))) / total
            for values_of, column in zip(found, values.T.tolist(), strict=True):
                values_of |= {f"{name}_{key}": value for key, value in zip(names, column, strict=True)}
        return mean_loss(losses, weights, loss.reduction), found

"""The groups of a sweep: models that can train together, with their checked data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np  # noqa: TID251  data enter on the host

from mlp_xp._checks import check_count, shown
from mlp_xp.data.checks import check_inputs, check_targets, check_weights, on_host
from mlp_xp.data.class_weights import weigh_classes
from mlp_xp.data.feed import Batch
from mlp_xp.sweep.binding import differing, structure
from mlp_xp.sweep.driver import Group, Measured
from mlp_xp.sweep.folds import Folds
from mlp_xp.sweep.halving import Halving
from mlp_xp.sweep.run import Candidate
from mlp_xp.sweep.stack import models_together
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp.training.inputs import FitOptions
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, HostArray


class Fitting:
    """The data and options of a call of `Sweep.fit`."""

    def __init__(
        self,
        backend: Backend,
        device: Any,
        dtype: str,
        split: Folds,
        sets: dict[str, tuple[Array, ...]],
        rule: EarlyStopping | None,
        halving: Halving | None,
        shuffle: bool,
        resident: bool | None,
    ) -> None:
        if halving is not None and not isinstance(halving, Halving):
            raise TypeError(f"halving must be an object such as Halving(factor=3), not {shown(halving)}")
        self.backend, self.device, self.dtype, self.split = backend, device, dtype, split
        self.sets, self.rule, self.halving, self.shuffle, self.resident = sets, rule, halving, shuffle, resident

    def rows_of(self, candidate: Candidate, rows: int) -> int:
        """The rows on which a model trains."""
        return rows if candidate.fold is None else len(self.split[candidate.fold][0])

    def clipped(self, candidate: Candidate, rows: int) -> Candidate:
        """``candidate`` with a batch size of at most the number of its rows."""
        return candidate._replace(batch_size=min(candidate.batch_size, self.rows_of(candidate, rows)))

    def groups(
        self, candidates: Sequence[Candidate], x: Array, y: Array, w: Array | None, together: int | None
    ) -> list[tuple[Group, list[int]]]:
        """The candidates, grouped by those that can train together, with their checked data."""
        rows, found = int(np.shape(x)[0]), dict[Any, list[int]]()
        for i, candidate in enumerate(candidates):
            held = 0 if candidate.fold is None else len(self.split[candidate.fold][1])
            of_classes = None if candidate.class_weight is None else (repr(candidate.class_weight), candidate.fold)
            weight = of_classes, None if candidate.sample_weight is None else id(candidate.sample_weight)
            size = (candidate.batch_size, self.rows_of(candidate, rows), held)
            found.setdefault((structure(candidate.step), size, weight), []).append(i)
        return [(self._group([candidates[i] for i in part], x, y, w, together), part) for part in found.values()]

    def _group(self, part: list[Candidate], x: Array, y: Array, w: Array | None, together: int | None) -> Group:
        first = part[0]
        step, batch_size = first.step, first.batch_size
        for rule in (self.rule, self.halving and EarlyStopping(monitor=self.halving.monitor, mode=self.halving.mode)):
            FitOptions.checked(1, None, self._sets_to_check(x, y), self.shuffle, rule, self.resident, False, step.loss)
        data = self._checked(step, x, y, w if first.sample_weight is None else first.sample_weight)
        train: dict[int | None, Any] = {None: None}
        held: dict[int | None, HostArray] = {}
        for i, (rows_in, rows_out) in enumerate(self.split):
            train[i], held[i] = rows_in, rows_out
        sets = {name: Measured(self._checked(step, *arrays), None) for name, arrays in self.sets.items()}
        if self.split:
            self._check_folds(data.w)
            sets["valid"] = Measured(data, held)
        if first.class_weight is not None:
            data = self._weighted(data, first, train[first.fold], step)
        size = models_together(self.backend, step.network, batch_size, self.dtype)
        size = size if together is None else check_count("together", together)
        own_l2 = bool(step.l2)
        paths = differing([candidate.step for candidate in part])
        return Group(self.device, self.dtype, step, paths, own_l2, batch_size, data, train, sets, self.resident, size)

    def identity(self, group: Group, candidates: Sequence[Candidate], w: Array | None) -> tuple[Any, ...]:
        """The identity of this call, beside its settings: shapes, and a digest of first rows, targets and weights."""
        weights = {id(w): w for w in (w, *(one.sample_weight for one in candidates)) if w is not None}
        sets = [group.data, *(part.data for part in group.sets.values())]
        digest = hashlib.sha256()
        for array in (*(a for data in sets for a in (data.x[:1000], data.y, data.w)), *weights.values()):
            if array is not ABSENT:
                digest.update(np.ascontiguousarray(on_host(self.backend, array)).tobytes())
        folds = [rows.tolist() for pair in self.split for rows in pair]
        return group.dtype, tuple(group.data.x.shape), digest.hexdigest(), folds

    def _check_folds(self, w: Any) -> None:
        """Raise `ValueError` if all rows on one side of a fold have the weight 0."""
        for i, pair in enumerate(self.split):
            for rows, does in zip(pair, ("trains on", "holds out"), strict=True):
                if w is not ABSENT and not np.any(w[rows] > 0.0):
                    raise ValueError(f"fold {i} {does} {len(rows)} rows, and the sample_weight of all of them is 0")

    def _sets_to_check(self, x: Array, y: Array) -> Any:
        return {**self.sets, **({"valid": (x, y)} if self.split else {})} or None

    def _checked(self, step: Any, x: Array, y: Array, w: Array | None = None) -> Batch:
        x = check_inputs(self.backend, step.network, x)
        rows = int(x.shape[0])
        y = check_targets(self.backend, step.loss, step.network.width(x.shape[1]), y, rows)
        return Batch(x, y, check_weights(self.backend, w, rows, self.dtype))

    def _weighted(self, data: Batch, candidate: Candidate, part: HostArray | None, step: Any) -> Batch:
        """The data with class weights; ``balanced`` counts only the training rows."""
        rows = np.arange(len(data.y)) if part is None else part
        n_out = step.network.width(data.x.shape[1]) or 0
        given = ABSENT if data.w is ABSENT else data.w[rows]
        w = np.zeros(len(data.y))
        w[rows] = weigh_classes(candidate.class_weight, data.y[rows], n_out, given)
        return data._replace(w=check_weights(self.backend, w, len(w), self.dtype))


def named_sets(validation_data: Any, split: Folds) -> dict[str, tuple[Array, ...]]:
    """Validation sets by name."""
    if validation_data is None:
        return {}
    sets = dict(validation_data) if isinstance(validation_data, Mapping) else {"valid": validation_data}
    if split and "valid" in sets:
        raise ValueError("'valid' names the rows that a fold holds out: give other validation sets other names")
    return sets

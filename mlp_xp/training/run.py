"""A run: the state of the network, the current epoch, and everything else on which the rest of the run depends."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  snapshots hold host arrays

from mlp_xp._checks import shown
from mlp_xp.data.feed import Batch, Feed
from mlp_xp.data.stream import Stream
from mlp_xp.files.generators import KINDS
from mlp_xp.files.snapshot import Plan, Snapshot
from mlp_xp.nn.schedules import Losses, Moment, as_schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training import epoch as epochs
from mlp_xp.training.divergence import diverged, place_of_nan
from mlp_xp.training.early_stopping import EarlyStopping, best_epoch, is_over, same_rule
from mlp_xp.training.history import Record, monitored
from mlp_xp.training.ranks import Division, Ranks
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import memory_guard, to_device, to_host
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import leaves, tree_map
from mlp_xp_backends.typing import Array, Tree


class EpochProgress(NamedTuple):
    """The position of a run, for callbacks: see `Trainer.progress`.

    >>> class Steps(Callback):
    ...     def chunk(self, trainer):
    ...         print(trainer.progress.step, "of", trainer.progress.steps)
    >>> x, y = np.zeros((4, 2)), np.zeros(4, int)
    >>> history = Trainer(mlp(2, 2), device="cpu").fit(x, y, max_epochs=1, batch_size=2, callbacks=[Steps()])
    2 of 2
    """

    epoch: int
    """The number of the current epoch, counted from 1."""
    max_epochs: int
    step: int
    """The number of steps done in this epoch."""
    steps: int
    """The number of steps in an epoch."""
    losses: tuple[Array, ...]
    """The losses of the steps done, a device array for each chunk of steps."""


def generator(seed: Any) -> np.random.Generator:
    """Return a generator with this seed, or ``seed`` itself if it is a generator."""
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be a non-negative integer or a NumPy generator, not {shown(seed)}") from None
    if type(rng.bit_generator).__name__ not in KINDS:
        raise ValueError(f"seed must be a NumPy generator over {', '.join(KINDS)}, not {shown(seed)}")
    return rng


def generator_in(state: dict[str, Any]) -> np.random.Generator:
    """Return a new generator whose bit generator has this state."""
    bits = KINDS[state["bit_generator"]]()
    bits.state = state
    return np.random.Generator(bits)


def first_snapshot(
    step: TrainStep, dtype: str, params: Tree, layers: Tree, rng: np.random.Generator, class_weight: Any
) -> Snapshot:
    """A run of ``step`` before its first step, from parameters and states of layers on the host."""
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
        class_weight=class_weight,
    )


class Run:
    """A run on a device, between two steps. `Trainer` is its public interface."""

    def __init__(self, snapshot: Snapshot, backend: Backend, ranks: Ranks) -> None:
        self.step, self.dtype, self.backend, self.ranks = snapshot.step, snapshot.dtype, backend, ranks
        with memory_guard(backend.device, backend.memory):
            self.state: TrainState = to_device(backend, snapshot.state)
            best = snapshot.best
            if best is not None:
                params, layers = to_device(backend, (best.params, best.layers))
                best = best._replace(params=params, layers=layers)
        self.best, self.stopped = best, snapshot.stopped
        self.interrupted = False
        """Whether Ctrl-C or a callback ended the last `fit` early."""
        self.class_weight = snapshot.class_weight
        self.rng = generator_in(snapshot.generator)
        self.records = [dict(record) for record in snapshot.history]
        self.plan, self.position = snapshot.plan, snapshot.position
        self.losses: list[Array] = [backend.asarray(np.array(snapshot.losses))] if snapshot.position else []
        self.updates, self.samples = snapshot.updates, snapshot.samples
        self.continues = True  # the next fit continues the run of the snapshot
        self.is_partly_updated = False

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.records)

    @cached_property
    def monitored(self) -> tuple[str, Losses]:
        """The loss that schedules monitor, by name, and its value in each epoch."""
        return monitored(self.records)

    def snapshot(self) -> Snapshot:
        """See `Trainer.snapshot`."""
        self.check_whole()
        best = self.best
        kept = () if best is None else (best.params, best.layers)
        state, kept, losses = to_host(self.backend, (self.state, kept, tuple(self.losses)))
        return Snapshot(
            step=self.step,
            dtype=self.dtype,
            state=state,
            history=[dict(record) for record in self.records],
            generator=dict(self.rng.bit_generator.state),
            plan=self.plan,
            position=self.position,
            losses=np.concatenate(losses) if losses else np.empty(0, self.dtype),
            updates=self.updates,
            samples=self.samples,
            best=None if best is None else best._replace(params=kept[0], layers=kept[1]),
            stopped=self.stopped,
            class_weight=self.class_weight,
        )

    def check_whole(self) -> None:
        """Raise `RuntimeError` if an exception inside a step left parameters that are partly updated."""
        if self.is_partly_updated:
            raise RuntimeError(
                "an exception inside a step left this trainer with parameters that are partly updated: continue from "
                "a checkpoint with Trainer.resume(path), or train a new trainer"
            )

    @property
    def progress(self) -> EpochProgress:
        """The position of the run, for callbacks."""
        plan = self.plan
        steps = 0 if plan is None else epochs.step_count(plan.rows, plan.batch_size)
        most = self.epoch if plan is None else plan.max_epochs
        return EpochProgress(self.epoch + 1, most, self.position, steps, tuple(self.losses))

    def check_plan(self, plan: Plan) -> None:
        """Raise `ValueError` if the current epoch was begun with other options."""
        if self.position and self.plan is not None and plan != self.plan:
            changed = [
                f"{name}={before!r}, not {now!r}"
                for name, before, now in zip(Plan._fields, self.plan, plan, strict=True)
                if before != now
            ]
            raise ValueError(
                f"this run was interrupted inside epoch {self.epoch + 1}: to finish it, fit with the same data and "
                f"options; it had {', '.join(changed)}"
            )

    def begin(self, plan: Plan, rule: EarlyStopping | None) -> None:
        """Set the attributes that belong to a call of `fit`."""
        if not self.continues or (rule and self.best and not same_rule(rule, self.best)):
            self.best, self.stopped = None, False
        self.plan, self.continues, self.interrupted = plan, True, False
        if self.is_done(rule):
            if self.epoch >= plan.max_epochs:
                why = f"{self.epoch} epochs are done and max_epochs, which counts all of them, is {plan.max_epochs}"
                how = f"max_epochs={self.epoch + plan.max_epochs} trains {plan.max_epochs} more"
            else:
                why, how = f"early stopping ended this run after epoch {self.epoch}", "a longer patience continues it"
            warnings.warn(f"{why}: nothing is left to train; {how}", stacklevel=3)

    def is_done(self, rule: EarlyStopping | None) -> bool:
        """Whether nothing is left to train."""
        assert self.plan is not None
        stopped = rule and self.best and self.stopped and is_over(rule, self.best, self.epoch)
        return self.epoch >= self.plan.max_epochs or bool(stopped)  # a longer patience continues a run

    def run_epoch(
        self, feed: Feed | Stream, data: Batch, division: Division, stops: Callable[[], bool]
    ) -> Record | None:
        """Run an epoch, or the rest of it. Return its record, or ``None`` if ``stops`` returned True after a chunk."""
        assert self.plan is not None
        began, plan = time.perf_counter(), self.plan
        self.drawn = copy.deepcopy(self.rng)  # becomes the generator when the epoch is finished
        order = division.order(self.drawn, plan)
        moment = self._moment()
        steps = epochs.step_count(plan.rows, plan.batch_size)
        lrs = epochs.learning_rates(as_schedule(self.step.optimizer.lr), moment, steps)
        rates = epochs.rates_of(self.step.optimizer, lrs, moment.step)
        loop = self._marked(epochs.epoch_loop(self.ranks.bound(self.backend), self.step))
        chunks = epochs.run_epoch(
            loop, feed, self.state, order, plan.batch_size, rates, start=self.position, cut=division.cut
        )
        for chunk in self.ranks.steps(chunks):
            self.state = chunk.state
            self.losses.append(chunk.losses)
            self.updates += chunk.end - chunk.start
            self.position = chunk.end
            self.is_partly_updated = False
            if self.ranks.any(stops()):
                return None
        losses = epochs.losses_on_host(self.backend, self.losses)
        weights = division.weights(order, plan.batch_size, data.w)
        loss = epochs.mean_loss(losses, weights, self.step.loss.reduction)
        if not math.isfinite(loss):
            what = f"the loss of epoch {self.epoch + 1} is {loss} at rate {lrs[-1]:g}"
            raise diverged(what, place_of_nan(self.backend, feed, data, self.ranks))
        return {
            "epoch": self.epoch + 1,
            "loss": loss,
            "lr": lrs[-1],
            "seconds": self.ranks.first(time.perf_counter() - began),
        }

    def _marked(self, loop: Loop) -> Loop:
        """Wrap ``loop``: until its new state is stored, the state of the trainer counts as partly updated."""

        def marked(state: Tree, data: Tree, items: Tree) -> tuple[Tree, Tree]:
            self.is_partly_updated = True
            return loop(state, data, items)

        return marked

    def _moment(self) -> Moment:
        """The position of the run at the start of the current epoch."""
        assert self.plan is not None
        before = self.updates - self.position
        steps = epochs.step_count(self.plan.rows, self.plan.batch_size)
        total = before + steps * (self.plan.max_epochs - self.epoch)
        return Moment(before, total, self.epoch, self.samples, self.monitored[1])

    def finish_epoch(self, record: Record, rule: EarlyStopping | None, rows: int) -> None:
        """Add the epoch to the history and prepare the next one."""
        assert self.plan is not None
        monitor, losses = self.monitored
        self.records.append(record)
        if monitor in record:
            losses.append(record[monitor])
        else:
            self.monitored = monitored(self.records)
        self.rng = self.drawn
        self.position, self.losses = 0, []
        self.samples += rows
        if rule is not None:
            self.best = best_epoch(rule, self.best, record, lambda: self.copy((self.state.params, self.state.layers)))
            self.stopped = is_over(rule, self.best, self.epoch)

    def end(self, rule: EarlyStopping | None, interrupted: bool) -> None:
        """Restore the best network if the run is over."""
        self.interrupted = interrupted
        self.continues = interrupted and not self.is_done(rule)
        best = self.best
        if rule is not None and best is not None and not self.continues:
            params, layers = self.copy((best.params, best.layers))
            self.state = self.state._replace(params=params, layers=layers)

    def check_finite(self) -> None:
        """Raise `TrainingDivergedError` if a parameter is infinite or NaN."""
        if not all(np.all(np.isfinite(a)) for a in leaves(to_host(self.backend, self.state.params))):
            raise diverged(f"the parameters after epoch {self.epoch} contain infinities or NaN")

    def copy(self, tree: Tree) -> Tree:
        """Copies of arrays on the device."""
        with memory_guard(self.backend.device, self.backend.memory):
            return tree_map(lambda a: self.backend.xp.asarray(a, copy=True), tree)

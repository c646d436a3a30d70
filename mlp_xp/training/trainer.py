"""The trainer: epochs of compiled steps on any device, validation, early stopping, checkpoints."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np  # noqa: TID251  initial weights and batch orders are drawn on the host

from mlp_xp.data.checks import check_inputs, check_targets, check_weights, first_not_finite
from mlp_xp.data.class_weights import check_class_weight, weigh_classes
from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.files.checkpoints import read_snapshot, write_snapshot
from mlp_xp.files.snapshot import Best, Plan, Snapshot
from mlp_xp.model import Evaluation, Model, as_backend
from mlp_xp.nn.layers import Chain, Layer, StatefulLayer
from mlp_xp.nn.losses import Loss, SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam, Optimizer
from mlp_xp.nn.schedules import Moment, as_schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training import epoch as epochs
from mlp_xp.training._interrupts import Interrupt
from mlp_xp.training.callbacks import Callback, as_callbacks, ends_training
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp.training.history import History, Record
from mlp_xp.training.options import FitOptions, check_dtype, check_network, generator, generator_in
from mlp_xp_backends import Backend
from mlp_xp_backends.errors import memory_guard
from mlp_xp_backends.transfer import to_device, to_host
from mlp_xp_backends.trees import leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Tree


class TrainingDivergedError(ArithmeticError):
    """The loss or the parameters became infinite or NaN; the message says where and what to try."""


class EpochProgress(NamedTuple):
    """Where a run is, for callbacks."""

    epoch: int
    """The number of the epoch under way, from 1."""
    max_epochs: int
    step: int
    """Steps done of that epoch."""
    steps: int
    """Steps of an epoch."""
    losses: tuple[Array, ...]
    """The losses of the steps done, a device array for each chunk of steps."""


class Trainer:
    """Trains a network on a device.

    Parameters
    ----------
    network
        The layers, for instance ``mlp(784, 300, 10)``.
    loss, optimizer
        What to minimize and how; a learning rate may be a schedule.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``torch:cpu``, ``jax`` ... as `get_backend` takes it, or a backend;
        ``None`` means ``auto``.
    dtype
        ``float32`` or ``float64``.
    seed
        A number or a NumPy generator: initial weights, dropout and the order of batches come from it alone.
    l2, clip_norm, max_norm
        See `TrainStep`.
    class_weight
        ``"balanced"``, a weight for each class in order, or ``{class: weight}``: factors of the sample weights.

    >>> import numpy as np
    >>> from mlp_xp import Trainer, mlp
    >>> x = np.random.default_rng(0).standard_normal((100, 2))
    >>> y = (x[:, 0] > x[:, 1]).astype(int)
    >>> trainer = Trainer(mlp(2, 8, 2), device="cpu")
    >>> history = trainer.fit(x, y, max_epochs=20, batch_size=10)
    >>> trainer.evaluate(x, y)["accuracy"] > 0.9
    True
    """

    def __init__(
        self,
        network: Chain,
        loss: Loss = SoftmaxCrossEntropy(),
        optimizer: Optimizer = Adam(),
        *,
        device: str | Backend | None = None,
        dtype: str = "float32",
        seed: int | np.random.Generator = 0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        max_norm: float | None = None,
        class_weight: str | Mapping[int, float] | Sequence[float] | None = None,
    ) -> None:
        check_network(network, loss, optimizer)
        step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm)
        rng = generator(seed)
        drawn = network.init(rng), network.init_state(rng)
        self._restore(first_snapshot(step, check_dtype(dtype), *drawn, rng, class_weight), as_backend(device))

    @classmethod
    def from_model(
        cls,
        model: Model,
        optimizer: Optimizer = Adam(),
        *,
        loss: Loss | None = None,
        head: Layer | StatefulLayer | None = None,
        freeze: Sequence[int] = (),
        device: str | Backend | None = None,
        dtype: str | None = None,
        seed: int | np.random.Generator = 0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        max_norm: float | None = None,
        class_weight: str | Mapping[int, float] | Sequence[float] | None = None,
    ) -> Self:
        """A trainer that starts from the parameters of ``model``, for fine-tuning.

        Parameters
        ----------
        head
            A layer with new parameters in place of the model's last one.
        freeze
            Positions of layers whose parameters do not change; no gradient is computed for them.
        loss, device, dtype
            By default those of the model.

        The others are those of `Trainer`.

        >>> from mlp_xp import Dense, Trainer, mlp
        >>> model = Trainer(mlp(4, 8, 3), device="cpu").model
        >>> trainer = Trainer.from_model(model, head=Dense(8, 2), freeze=[0])
        """
        network = model.network if head is None else Chain(*model.network.layers[:-1], head)
        loss = model.loss if loss is None else loss
        check_network(network, loss, optimizer)
        step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm, frozen=tuple(freeze))
        rng = generator(seed)
        params, layers = to_host(model.backend, (model.params, model.state))
        if head is not None:
            params = (*params[:-1], network.init(rng)[-1])
            layers = (*layers[:-1], network.init_state(rng)[-1])
        trainer = cls.__new__(cls)
        first = first_snapshot(step, check_dtype(dtype or model.dtype), params, layers, rng, class_weight)
        trainer._restore(first, model.backend if device is None else as_backend(device))
        return trainer

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, device: str | Backend | None = None) -> Self:
        """The trainer that `snapshot` was taken of, on any device."""
        trainer = cls.__new__(cls)
        trainer._restore(snapshot, as_backend(device))
        return trainer

    @classmethod
    def resume(cls, path: str | Path, device: str | Backend | None = None, known: Iterable[type] = ()) -> Self:
        """The trainer of a checkpoint, on any device; the next call of `fit` continues its run.

        ``known`` are the classes of your own layers, losses, optimizers and schedules. Raises `FileError`.
        """
        return cls.from_snapshot(read_snapshot(path, known), device)

    def _restore(self, snapshot: Snapshot, backend: Backend) -> None:
        """Set all attributes."""
        self.step, self.dtype, self.backend = snapshot.step, snapshot.dtype, backend
        with memory_guard(backend.device, backend.memory):
            self.state: TrainState = to_device(backend, snapshot.state)
            best = snapshot.best
            trees = None if best is None else to_device(backend, (best.params, best.layers))
        self._best = None if best is None or trees is None else best._replace(params=trees[0], layers=trees[1])
        self.interrupted = False
        """Whether Ctrl-C or a callback ended the last `fit` early."""
        self._class_weight = snapshot.class_weight
        self._rng = generator_in(snapshot.generator)
        self._records = [dict(record) for record in snapshot.history]
        self._monitor, self._monitored = monitored(self._records)
        self._plan, self._position = snapshot.plan, snapshot.position
        self._losses: list[Array] = [backend.asarray(np.array(snapshot.losses))] if snapshot.position else []
        self._updates, self._samples, self._stopped = snapshot.updates, snapshot.samples, snapshot.stopped
        self._continues = True  # the next fit continues the run of the snapshot

    def snapshot(self) -> Snapshot:
        """Everything that the rest of the run depends on, copied to the host. Waits for the device."""
        kept = () if self._best is None else (self._best.params, self._best.layers)
        state, kept, losses = to_host(self.backend, (self.state, kept, tuple(self._losses)))
        return Snapshot(
            step=self.step,
            dtype=self.dtype,
            state=state,
            history=list(self.history),
            generator=dict(self._rng.bit_generator.state),
            plan=self._plan,
            position=self._position,
            losses=np.concatenate(losses) if losses else np.empty(0, self.dtype),
            updates=self._updates,
            samples=self._samples,
            best=None if self._best is None else self._best._replace(params=kept[0], layers=kept[1]),
            stopped=self._stopped,
            class_weight=self._class_weight,
        )

    def save_checkpoint(self, path: str | Path) -> None:
        """Write a checkpoint: everything that the rest of the run depends on. See `Trainer.resume`."""
        write_snapshot(path, self.snapshot())

    def __str__(self) -> str:
        frozen = getattr(self.step, "frozen", ())
        lines = [str(self.step.network), f"loss {self.step.loss}", f"optimizer {self.step.optimizer}"]
        if frozen:
            lines.append(f"frozen layers {', '.join(map(str, frozen))}")
        return "\n".join(
            [*lines, f"{self.epoch} epochs done, {self.dtype}, {self.backend.name} on {self.backend.device}"]
        )

    def __repr__(self) -> str:
        return f"<Trainer of {len(self.step.network.layers)} layers, {self.epoch} epochs done>"

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self._records)

    @property
    def history(self) -> History:
        """The records of all epochs so far."""
        return History(self._records)

    @property
    def progress(self) -> EpochProgress:
        """Where the run is, for callbacks."""
        plan = self._plan
        steps = 0 if plan is None else epochs.step_count(plan.rows, plan.batch_size)
        most = self.epoch if plan is None else plan.max_epochs
        return EpochProgress(self.epoch + 1, most, self._position, steps, tuple(self._losses))

    @property
    def model(self) -> Model:
        """A copy of the network as it is now, which further training does not change."""
        return self._model(*self._copy((self.state.params, self.state.layers)))

    def evaluate(
        self, x: Array, y: Array, sample_weight: Array | None = None, batch_size: int = 1024
    ) -> dict[str, float]:
        """See `Model.evaluate`."""
        return self._model(self.state.params, self.state.layers).evaluate(x, y, sample_weight, batch_size)

    def predict(self, x: Array, batch_size: int = 1024) -> HostArray:
        """See `Model.predict`."""
        return self._model(self.state.params, self.state.layers).predict(x, batch_size)

    def predict_proba(self, x: Array, batch_size: int = 1024) -> HostArray:
        """See `Model.predict_proba`."""
        return self._model(self.state.params, self.state.layers).predict_proba(x, batch_size)

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        max_epochs: int,
        batch_size: int | None = 128,
        sample_weight: Array | None = None,
        validation_data: tuple[Array, ...] | Mapping[str, tuple[Array, ...]] | None = None,
        shuffle: bool = True,
        early_stopping: EarlyStopping | None = None,
        callbacks: Iterable[Callback | Callable[[Trainer, Record], Any]] = (),
        resident: bool | None = None,
    ) -> History:
        """Train until ``max_epochs`` epochs are done in all, including those of earlier calls; return the history.

        Parameters
        ----------
        x, y, sample_weight
            (rows, n_in) numbers or ids, targets as the loss takes them, and one weight per row. Arrays of the host,
            memory-mapped ones too, or of the device's library.
        batch_size
            Rows of a step; the last, smaller batch of an epoch is trained on too. ``None`` for all rows.
        validation_data
            ``(x, y)`` or ``(x, y, sample_weight)``, measured after each epoch as ``valid_loss``, ``valid_accuracy``
            ...; or several by name: ``{"valid": (xv, yv), "train": (x, y)}``.
        shuffle
            Whether each epoch has an order of its own.
        early_stopping
            When to stop; the best weights are then restored. The best epoch is chosen among those of this call; a call
            that continues a resumed or interrupted run counts as the same one.
        callbacks
            See `mlp_xp.training.callbacks`; a function is called after each epoch with the trainer and the epoch's
            record, and stops the training by returning True.
        resident
            Whether the data move to the device once (True) or window by window (False); by default, once if they fit.

        Raises
        ------
        ValueError, TypeError
            If the data do not fit the network or the loss, or a run interrupted inside an epoch is continued with
            other options.
        TrainingDivergedError
            If the loss of an epoch or the parameters at the end are not finite.
        """
        options = FitOptions.checked(
            max_epochs, batch_size, validation_data, shuffle, early_stopping, resident, self.step.loss
        )
        hooks = as_callbacks(callbacks)
        data = self._checked_data(x, y, sample_weight)
        rows = int(data.x.shape[0])
        plan = Plan(options.max_epochs, min(options.batch_size or rows, rows), options.shuffle, rows)
        self._check_plan(plan)
        sets = {
            name: Evaluation(self.step.network, self.step.loss, self.backend, self.dtype, *arrays)
            for name, arrays in options.validation_sets.items()
        }
        feed = make_feed(self.backend, self.step.network, data, self.dtype, options.resident)
        self._begin(plan, early_stopping)
        with Interrupt() as interrupt:
            for hook in hooks:
                hook.start(self)
            asked = False
            while not (self._is_done(early_stopping) or asked or interrupt.requested):
                record = self._run_epoch(feed, data, hooks, interrupt)
                if record is None:
                    asked = True
                    break
                for name, evaluation in sets.items():
                    values = evaluation(self.state.params, self.state.layers)
                    record |= {f"{name}_{key}": value for key, value in values.items()}
                self._finish_epoch(record, early_stopping)
                asked = ends_training([hook.epoch(self, record) for hook in hooks])
            self._end(early_stopping, interrupt.requested or self._position > 0)
            for hook in hooks:
                hook.end(self)
            self.interrupted |= interrupt.requested
        if not (self.interrupted or all(map(_is_finite, leaves(to_host(self.backend, self.state.params))))):
            raise self._diverged(f"the parameters after epoch {self.epoch} contain infinities or NaN")
        return self.history

    def _checked_data(self, x: Any, y: Any, sample_weight: Any) -> Batch:
        """The data set, with the class weights folded into the sample weights."""
        x = check_inputs(self.backend, self.step.network, x)
        rows, n_out = int(x.shape[0]), self.step.network.width(x.shape[1])
        y = check_targets(self.backend, self.step.loss, n_out, y, rows)
        w = check_weights(self.backend, sample_weight, rows, self.dtype)
        if self._class_weight is not None:
            weighted = weigh_classes(self._class_weight, y, n_out or 0, w)
            w = check_weights(self.backend, weighted, rows, self.dtype)
        return Batch(x, y, w)

    def _check_plan(self, plan: Plan) -> None:
        """Raise `ValueError` if an epoch under way was begun with other options."""
        if self._position and self._plan is not None and plan != self._plan:
            changed = [
                f"{name}={before!r}, not {now!r}"
                for name, before, now in zip(Plan._fields, self._plan, plan, strict=True)
                if before != now
            ]
            raise ValueError(
                f"this run was interrupted inside epoch {self.epoch + 1}: to finish it, fit with the same data and "
                f"options; it had {', '.join(changed)}"
            )

    def _begin(self, plan: Plan, rule: EarlyStopping | None) -> None:
        """Set what belongs to a call of `fit`."""
        if not self._continues:
            self._best, self._stopped = None, False
        if self._best is not None and rule is not None and not rule.matches(self._best):
            self._best, self._stopped = None, False
        self._plan, self._continues, self.interrupted = plan, True, False
        if self._is_done(rule):
            if self.epoch >= plan.max_epochs:
                why = f"{self.epoch} epochs are done and max_epochs, which counts all of them, is {plan.max_epochs}"
                how = f"max_epochs={self.epoch + plan.max_epochs} trains {plan.max_epochs} more"
            else:
                why, how = f"early stopping ended this run after epoch {self.epoch}", "a longer patience continues it"
            warnings.warn(f"{why}: nothing is left to train; {how}", stacklevel=3)

    def _is_done(self, rule: EarlyStopping | None) -> bool:
        """Whether nothing is left to train."""
        assert self._plan is not None
        if rule is None or self._best is None:
            return self.epoch >= self._plan.max_epochs
        stopped = self._stopped and self.epoch - self._best.epoch >= rule.patience
        return stopped or self.epoch >= self._plan.max_epochs

    def _run_epoch(self, feed: Feed, data: Batch, hooks: list[Callback], interrupt: Interrupt) -> Record | None:
        """One epoch, or the rest of it; its record, or ``None`` if it was interrupted."""
        assert self._plan is not None
        began, plan = time.perf_counter(), self._plan
        self._drawn = copy.deepcopy(self._rng)  # becomes the generator when the epoch is finished
        order = row_order(self._drawn, plan)
        moment = self._moment()
        steps = epochs.step_count(plan.rows, plan.batch_size)
        lrs = epochs.learning_rates(as_schedule(self.step.optimizer.lr), moment, steps)
        rates = epochs.rates_of(self.step.optimizer, lrs, moment.step)
        loop = epochs.epoch_loop(self.backend, self.step)
        for chunk in epochs.run_epoch(loop, feed, self.state, order, plan.batch_size, rates, start=self._position):
            self.state = chunk.state
            self._losses.append(chunk.losses)
            self._updates += chunk.end - chunk.start
            self._position = chunk.end
            if ends_training([hook.chunk(self) for hook in hooks]) or interrupt.requested:
                return None
        losses = epochs.losses_on_host(self.backend, self._losses)
        weights = epochs.batch_weights(order, plan.batch_size, data.w)
        loss = epochs.mean_loss(losses, weights, self.step.loss.reduction)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss of epoch {self.epoch + 1} is {loss} at rate {lrs[-1]:g}", data.x)
        return {"epoch": self.epoch + 1, "loss": loss, "lr": lrs[-1], "seconds": time.perf_counter() - began}

    def _moment(self) -> Moment:
        """Where the run was at the start of the epoch under way."""
        assert self._plan is not None
        before = self._updates - self._position
        steps = epochs.step_count(self._plan.rows, self._plan.batch_size)
        total = before + steps * (self._plan.max_epochs - self.epoch)
        return Moment(before, total, self.epoch, self._samples, self._monitored)

    def _finish_epoch(self, record: Record, rule: EarlyStopping | None) -> None:
        """Add the epoch to the history and prepare the next one."""
        assert self._plan is not None
        score = math.nan if rule is None else record[rule.monitor]
        self._records.append(record)
        if self._monitor in record:
            self._monitored.append(record[self._monitor])
        else:
            self._monitor, self._monitored = monitored(self._records)
        self._rng = self._drawn
        self._position, self._losses = 0, []
        self._samples += self._plan.rows
        if rule is not None:
            if self._best is None or rule.improves(score, self._best):
                params, layers = self._copy((self.state.params, self.state.layers))
                self._best = Best(self.epoch, score, rule.monitor, rule.mode, params, layers)
            self._stopped = self.epoch - self._best.epoch >= rule.patience

    def _end(self, rule: EarlyStopping | None, interrupted: bool) -> None:
        """Restore the best network if the run is over."""
        self.interrupted = interrupted
        self._continues = interrupted and not self._is_done(rule)
        if rule is not None and self._best is not None and not self._continues:
            params, layers = self._copy((self._best.params, self._best.layers))
            self.state = self.state._replace(params=params, layers=layers)

    def _diverged(self, what: str, x: Array | None = None) -> TrainingDivergedError:
        row = None if x is None else first_not_finite(self.backend, x)
        advice = (
            "try a rate ten times smaller, clip_norm=1.0, or look for very large numbers in x"
            if row is None
            else f"x holds NaN or infinity, the first in row {row}: drop these rows or fill them in"
        )
        return TrainingDivergedError(f"{what}: {advice}")

    def _model(self, params: Tree, layers: Tree) -> Model:
        return Model(self.step.network, self.step.loss, params, layers, self.backend)

    def _copy(self, tree: Tree) -> Tree:
        with memory_guard(self.backend.device, self.backend.memory):
            return tree_map(lambda a: self.backend.xp.asarray(a, copy=True), tree)


def _is_finite(a: HostArray) -> bool:
    return bool(np.all(np.isfinite(a)))


def row_order(rng: np.random.Generator, plan: Plan) -> HostArray:
    """The order of the rows in an epoch; 32-bit row numbers where they suffice."""
    order = np.arange(plan.rows, dtype=np.int32 if plan.rows <= 2**31 else np.int64)
    if plan.shuffle:
        rng.shuffle(order)
    return order


def first_snapshot(
    step: TrainStep, dtype: str, params: Tree, layers: Tree, rng: np.random.Generator, class_weight: Any
) -> Snapshot:
    """A run before its first step."""
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


def monitored(records: list[Record]) -> tuple[str, list[float]]:
    """The loss that schedules monitor, and its values: that of the validation set if every epoch has one."""
    name = "valid_loss" if records and all("valid_loss" in record for record in records) else "loss"
    return name, [record[name] for record in records]

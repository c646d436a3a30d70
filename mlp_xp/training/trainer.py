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

from mlp_xp._checks import check_count, shown
from mlp_xp.data.checks import check_inputs, check_targets, check_weights, first_not_finite
from mlp_xp.data.class_weights import weigh_classes
from mlp_xp.data.feed import Batch, Feed, make_feed
from mlp_xp.data.sources import as_source, is_source
from mlp_xp.data.stream import Stream
from mlp_xp.files.checkpoints import read_snapshot, write_snapshot
from mlp_xp.files.snapshot import Plan, Snapshot
from mlp_xp.model import Evaluation, Model
from mlp_xp.nn.layers import Chain, Layer, StatefulLayer
from mlp_xp.nn.losses import Loss, SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam, Optimizer
from mlp_xp.nn.schedules import Moment, as_schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training import epoch as epochs
from mlp_xp.training._interrupts import Interrupt
from mlp_xp.training.callbacks import Callback, as_callbacks, ends_training
from mlp_xp.training.early_stopping import BestEpoch, EarlyStopping
from mlp_xp.training.history import History, Record, monitored
from mlp_xp.training.lr_finder import RateSearch, rate_ramp, search
from mlp_xp.training.options import FitOptions, check_dtype, check_fine_tuning, check_network, generator, generator_in
from mlp_xp.training.ranks import Division, Ranks
from mlp_xp.training.start import first_snapshot
from mlp_xp_backends import Backend
from mlp_xp_backends.errors import memory_guard
from mlp_xp_backends.groups import Group
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.transfer import to_device, to_host
from mlp_xp_backends.trees import leaves, tree_map
from mlp_xp_backends.typing import Array, HostArray, Tree


class TrainingDivergedError(ArithmeticError):
    """The loss or the parameters became infinite or NaN; the message says where and what to try.

    >>> trainer = Trainer(mlp(1, 1), SquaredError(), SGD(1e9), device="cpu")
    >>> trainer.fit(np.ones((4, 1)), np.zeros((4, 1)), max_epochs=10)
    Traceback (most recent call last):
    mlp_xp.training.trainer.TrainingDivergedError: ...
    """


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
    group
        ``"mpi"``, ``"nccl"``, ``"torch"`` or a `Group`: the processes that train this network together, each on its
        part of every batch. All make the same calls with the same arguments, and have the same parameters after every
        step. See ``docs/many_processes.md``.
    dtype
        ``float32`` or ``float64``.
    seed
        A number or a NumPy generator: initial weights, dropout and the order of batches come from it alone.
    l2, clip_norm, max_norm
        See `TrainStep`.
    class_weight
        ``"balanced"``, a weight for each class in order, or ``{class: weight}``: factors of the sample weights.

    Examples
    --------
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
        group: str | Group | None = None,
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
        self._restore(first_snapshot(step, check_dtype(dtype), *drawn, rng, class_weight), device, Ranks(group))

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
        group: str | Group | None = None,
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

        Examples
        --------
        >>> from mlp_xp import Dense, Trainer, mlp
        >>> model = Trainer(mlp(4, 8, 3), device="cpu").model
        >>> trainer = Trainer.from_model(model, head=Dense(8, 2), freeze=[0])
        """
        frozen = check_fine_tuning(model, freeze)
        network = model.network if head is None else Chain(*model.network.layers[:-1], head)
        loss = model.loss if loss is None else loss
        check_network(network, loss, optimizer)
        step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm, frozen=frozen)
        rng = generator(seed)
        params, layers = to_host(model.backend, (model.params, model.state))
        if head is not None:
            params = (*params[:-1], network.init(rng)[-1])
            layers = (*layers[:-1], network.init_state(rng)[-1])
        trainer = cls.__new__(cls)
        first = first_snapshot(step, check_dtype(dtype or model.dtype), params, layers, rng, class_weight)
        trainer._restore(first, model.backend if device is None else device, Ranks(group))
        return trainer

    @classmethod
    def from_snapshot(
        cls, snapshot: Snapshot, device: str | Backend | None = None, group: str | Group | None = None
    ) -> Self:
        """The trainer that `snapshot` was taken of, on any device and any number of processes."""
        trainer = cls.__new__(cls)
        trainer._restore(snapshot, device, Ranks(group))
        return trainer

    @classmethod
    def resume(
        cls,
        path: str | Path,
        device: str | Backend | None = None,
        known: Iterable[type] = (),
        group: str | Group | None = None,
    ) -> Self:
        """The trainer of a checkpoint, on any device and any number of processes; `fit` continues its run.

        ``known`` are the classes of your own layers, losses, optimizers and schedules. Raises `FileError`.
        """
        return cls.from_snapshot(read_snapshot(path, known), device, group)

    def _restore(self, snapshot: Snapshot, device: str | Backend | None, ranks: Ranks) -> None:
        """Set all attributes."""
        self._ranks, self.backend = ranks, ranks.backend(device)
        self.step, self.dtype, backend = snapshot.step, snapshot.dtype, self.backend
        with memory_guard(backend.device, backend.memory):
            self.state: TrainState = to_device(backend, snapshot.state)
            best = snapshot.best
            trees = None if best is None else to_device(backend, (best.params, best.layers))
        if best is not None and trees is not None:
            best = best._replace(params=trees[0], layers=trees[1])
        self._best = BestEpoch(best, snapshot.stopped)
        self.interrupted = False
        """Whether Ctrl-C or a callback ended the last `fit` early."""
        self._class_weight = snapshot.class_weight
        self._rng = generator_in(snapshot.generator)
        self._records = [dict(record) for record in snapshot.history]
        self._monitor, self._monitored = monitored(self._records)
        self._plan, self._position = snapshot.plan, snapshot.position
        self._losses: list[Array] = [backend.asarray(np.array(snapshot.losses))] if snapshot.position else []
        self._updates, self._samples = snapshot.updates, snapshot.samples
        self._continues = True  # the next fit continues the run of the snapshot
        self._is_partly_updated = False

    def snapshot(self) -> Snapshot:
        """Everything that the rest of the run depends on, copied to the host. Waits for the device."""
        self._check_whole()
        best = self._best.best
        kept = () if best is None else (best.params, best.layers)
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
            best=None if best is None else best._replace(params=kept[0], layers=kept[1]),
            stopped=self._best.stopped,
            class_weight=self._class_weight,
        )

    def save_checkpoint(self, path: str | Path) -> None:
        """Write a checkpoint: everything that the rest of the run depends on. See `Trainer.resume`.

        With a group, rank 0 writes it.
        """
        if self.group.rank == 0:
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
    def group(self) -> Group:
        """The processes that train this network; without others, a group of one."""
        return self._ranks.group

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
        y: Array | None = None,
        *,
        max_epochs: int,
        batch_size: int | None = 128,
        sample_weight: Array | None = None,
        validation_data: tuple[Array, ...] | Mapping[str, tuple[Array, ...]] | None = None,
        shuffle: bool = True,
        early_stopping: EarlyStopping | None = None,
        callbacks: Iterable[Callback | Callable[[Trainer, Record], Any]] = (),
        resident: bool | None = None,
        sharded: bool = False,
    ) -> History:
        """Train until ``max_epochs`` epochs are done in all, including those of earlier calls; return the history.

        Parameters
        ----------
        x, y, sample_weight
            (rows, n_in) numbers or ids, targets as the loss takes them, and one weight per row. Arrays of the host,
            memory-mapped ones too, of the device's library, or data frames. Without ``y``, ``x`` is a source of
            batches: a function that returns an iterator, a PyTorch ``DataLoader``, a `BatchSource`. Its batches are
            trained on as they come; ``batch_size``, ``shuffle`` and ``resident`` have no effect on them.
        batch_size
            Rows of a step; the last, smaller batch of an epoch is trained on too. ``None`` for all rows.
        validation_data
            ``(x, y)``, ``(x, y, sample_weight)`` or a source of batches, measured after each epoch as ``valid_loss``,
            ``valid_accuracy`` ...; or several by name: ``{"valid": (xv, yv), "train": (x, y)}``.
        shuffle
            Whether each epoch has an order of its own.
        early_stopping
            When to stop; the best weights are then restored. The best epoch is chosen among those of this call; a call
            that continues a resumed or interrupted run counts as the same one.
        callbacks
            See `Callback`; a function is called after each epoch with the trainer and the epoch's record, and stops
            the training by returning True. With a group, rank 0 alone calls them.
        resident
            Whether the data move to the device once (True) or window by window (False); by default, once if they fit.
            With a group, memory-mapped data are then read for the rank's own rows only.
        sharded
            Whether each rank of the group has data of its own: every row, of validation sets too, is on one rank only.
            A batch then has rows of all ranks, in proportion to what they have, and the order of the rows depends on
            how they are divided. Otherwise all ranks are given the same data, and each takes its part of every batch.

        Raises
        ------
        ValueError, TypeError
            If the data do not fit the network or the loss, a run interrupted inside an epoch is continued with
            other options, or the ranks of a group differ in options or parameters.
        TrainingDivergedError
            If the loss of an epoch or the parameters at the end are not finite.
        RuntimeError
            If an exception inside a step, such as a second Ctrl-C or an exhausted memory, ended an earlier call.
        """
        options = FitOptions.checked(
            max_epochs, batch_size, validation_data, shuffle, early_stopping, resident, sharded, self.step.loss
        )
        self._check_whole()
        ranks, hooks = self._ranks, as_callbacks(callbacks)
        if ranks.rank > 0:
            hooks = []
        sharded = options.sharded and ranks.size > 1
        stream = self._stream(x, y, sample_weight) if is_source(x) else None
        if stream is None and y is None:
            raise TypeError("fit needs y, the targets of the rows of x; a source of batches yields both")
        data = self._checked_data(x, y, sample_weight, sharded) if stream is None else stream.data
        division = Division.of(ranks, int(data.x.shape[0]), sharded)
        rows = division.rows
        plan = Plan(options.max_epochs, min(options.batch_size or rows, rows), options.shuffle, rows)
        if stream is not None:
            plan = plan._replace(batch_size=1, shuffle=False)
        self._check_plan(plan)
        ranks.check_equal(
            options=(plan, early_stopping, tuple(options.validation_sets)),
            progress=(self._updates, self._position, self._rng.bit_generator.state),
            parameters=to_host(self.backend, self.state) if ranks.size > 1 else (),
        )
        sets = {name: self._evaluation(arrays, sharded) for name, arrays in options.validation_sets.items()}
        feed = stream or ranks.feed(self.backend, self.step.network, data, self.dtype, options.resident)
        self._begin(plan, early_stopping)
        with Interrupt() as interrupt:
            for hook in hooks:
                hook.start(self)
            asked = False
            while not (self._is_done(early_stopping) or asked or ranks.any(interrupt.requested)):
                record = self._run_epoch(feed, data, division, hooks, interrupt)
                if record is None:
                    asked = True
                    break
                for name, evaluation in sets.items():
                    values = evaluation(self.state.params, self.state.layers)
                    record |= {f"{name}_{key}": value for key, value in values.items()}
                self._finish_epoch(record, early_stopping, rows if stream is None else stream.rows)
                asked = ranks.any(ends_training([hook.epoch(self, record) for hook in hooks]))
            self._end(early_stopping, ranks.any(interrupt.requested) or self._position > 0)
            for hook in hooks:
                hook.end(self)
            self.interrupted |= ranks.any(interrupt.requested)
        if not (self.interrupted or all(map(_is_finite, leaves(to_host(self.backend, self.state.params))))):
            raise self._diverged(f"the parameters after epoch {self.epoch} contain infinities or NaN")
        return self.history

    def find_lr(
        self,
        x: Array,
        y: Array,
        *,
        batch_size: int = 128,
        sample_weight: Array | None = None,
        low: float = 1e-6,
        high: float = 10.0,
        steps: int = 100,
    ) -> RateSearch:
        """Train a copy for some steps at rates that grow exponentially from ``low`` to ``high``; suggest a rate.

        The learning-rate range test (Smith 2017, sec. 3.3). It ends early when the loss explodes. The trainer, its
        random numbers included, stays as it is. See `RateSearch`.

        >>> import numpy as np
        >>> from mlp_xp import Trainer, mlp
        >>> x = np.random.default_rng(0).standard_normal((500, 4))
        >>> found = Trainer(mlp(4, 16, 2), device="cpu").find_lr(x, (x[:, 0] > 0.0).astype(int))
        >>> 1e-4 < found.suggestion < 1.0
        True
        """
        if self.group.size > 1:
            raise ValueError("find_lr trains in one process: call it on a trainer without a group")
        rates = rate_ramp(low, high, steps)
        data = self._checked_data(x, y, sample_weight, False)
        size = min(check_count("batch_size", batch_size), int(data.x.shape[0]))
        feed = make_feed(self.backend, self.step.network, data, self.dtype, None)
        state, rng = self._copy(self.state), copy.deepcopy(self._rng)
        return search(feed, self.step, state, size, rates, rng, self._updates)

    def _stream(self, source: Any, y: Any, sample_weight: Any) -> Stream:
        """The batches of a source as a feed."""
        if y is not None or sample_weight is not None:
            raise TypeError(
                f"x must be an array of shape (rows, features), not {shown(source)}: stack its rows first; or leave y "
                "and sample_weight out, for a source of batches (x, y) or (x, y, sample_weight)"
            )
        if self.group.size > 1:
            raise ValueError("a source of batches trains in one process: with a group pass arrays, or shards of them")
        if self._class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all labels at once: for a source pass a weight per class")
        network = self.step.network

        def weigh(y: HostArray, w: Any) -> Any:
            n_out = network.width(None)
            return weigh_classes(self._class_weight, y, n_out or 0, w)

        return Stream(self.backend, network, self.step.loss, as_source(source), self.dtype, weigh)

    def _checked_data(self, x: Any, y: Any, sample_weight: Any, sharded: bool) -> Batch:
        """The data set, with the class weights folded into the sample weights."""
        x = check_inputs(self.backend, self.step.network, x)
        rows, n_out = int(x.shape[0]), self.step.network.width(x.shape[1])
        y = check_targets(self.backend, self.step.loss, n_out, y, rows)
        w = check_weights(self.backend, sample_weight, rows, self.dtype)
        if self._class_weight is not None:
            total = self._ranks.total if sharded else np.asarray
            weighted = weigh_classes(self._class_weight, y, n_out or 0, w, total)
            w = check_weights(self.backend, weighted, rows, self.dtype)
        return Batch(x, y, w)

    def _evaluation(self, arrays: Sequence[Array], sharded: bool) -> Evaluation:
        """A validation set, of which each rank measures its share."""
        x, y, w = (*arrays, None, None)[:3]
        own = slice if sharded else self._ranks.own
        step, total = self.step, self._ranks.total
        return Evaluation(step.network, step.loss, self.backend, self.dtype, x, y, w, own=own, total=total)

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
        self._best.begin(rule, self._continues)
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
        return self.epoch >= self._plan.max_epochs or self._best.ends(rule, self.epoch)

    def _run_epoch(
        self, feed: Feed | Stream, data: Batch, division: Division, hooks: list[Callback], interrupt: Interrupt
    ) -> Record | None:
        """One epoch, or the rest of it; its record, or ``None`` if it was interrupted."""
        assert self._plan is not None
        began, plan = time.perf_counter(), self._plan
        self._drawn = copy.deepcopy(self._rng)  # becomes the generator when the epoch is finished
        order = division.order(self._drawn, plan)
        moment = self._moment()
        steps = epochs.step_count(plan.rows, plan.batch_size)
        lrs = epochs.learning_rates(as_schedule(self.step.optimizer.lr), moment, steps)
        rates = epochs.rates_of(self.step.optimizer, lrs, moment.step)
        loop = self._marked(epochs.epoch_loop(self._ranks.bound(self.backend), self.step))
        chunks = epochs.run_epoch(
            loop, feed, self.state, order, plan.batch_size, rates, start=self._position, cut=division.cut
        )
        for chunk in chunks:
            self.state = chunk.state
            self._losses.append(chunk.losses)
            self._updates += chunk.end - chunk.start
            self._position = chunk.end
            self._is_partly_updated = False
            if self._ranks.any(ends_training([hook.chunk(self) for hook in hooks]) or interrupt.requested):
                return None
        losses = epochs.losses_on_host(self.backend, self._losses)
        weights = division.weights(order, plan.batch_size, data.w)
        loss = epochs.mean_loss(losses, weights, self.step.loss.reduction)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss of epoch {self.epoch + 1} is {loss} at rate {lrs[-1]:g}", data.x)
        return {
            "epoch": self.epoch + 1,
            "loss": loss,
            "lr": lrs[-1],
            "seconds": self._ranks.first(time.perf_counter() - began),
        }

    def _marked(self, loop: Loop) -> Loop:
        """``loop``; until its new state is stored, the state of the trainer counts as partly updated."""

        def marked(state: Tree, data: Tree, items: Tree) -> tuple[Tree, Tree]:
            self._is_partly_updated = True
            return loop(state, data, items)

        return marked

    def _check_whole(self) -> None:
        """Raise `RuntimeError` if an exception inside a step left parameters that are partly updated."""
        if self._is_partly_updated:
            raise RuntimeError(
                "an exception inside a step left this trainer with parameters that are partly updated: continue from "
                "a checkpoint with Trainer.resume(path), or train a new trainer"
            )

    def _moment(self) -> Moment:
        """Where the run was at the start of the epoch under way."""
        assert self._plan is not None
        before = self._updates - self._position
        steps = epochs.step_count(self._plan.rows, self._plan.batch_size)
        total = before + steps * (self._plan.max_epochs - self.epoch)
        return Moment(before, total, self.epoch, self._samples, self._monitored)

    def _finish_epoch(self, record: Record, rule: EarlyStopping | None, rows: int) -> None:
        """Add the epoch to the history and prepare the next one."""
        assert self._plan is not None
        self._records.append(record)
        if self._monitor in record:
            self._monitored.append(record[self._monitor])
        else:
            self._monitor, self._monitored = monitored(self._records)
        self._rng = self._drawn
        self._position, self._losses = 0, []
        self._samples += rows
        if rule is not None:
            self._best.observe(rule, record, lambda: self._copy((self.state.params, self.state.layers)))

    def _end(self, rule: EarlyStopping | None, interrupted: bool) -> None:
        """Restore the best network if the run is over."""
        self.interrupted = interrupted
        self._continues = interrupted and not self._is_done(rule)
        best = self._best.best
        if rule is not None and best is not None and not self._continues:
            params, layers = self._copy((best.params, best.layers))
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
        self._check_whole()
        return Model(self.step.network, self.step.loss, params, layers, self.backend)

    def _copy(self, tree: Tree) -> Tree:
        with memory_guard(self.backend.device, self.backend.memory):
            return tree_map(lambda a: self.backend.xp.asarray(a, copy=True), tree)


def _is_finite(a: HostArray) -> bool:
    return bool(np.all(np.isfinite(a)))

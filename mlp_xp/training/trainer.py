"""The trainer: epochs of compiled steps on any device, validation, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np  # noqa: TID251  initial weights and batch orders are drawn on the host

from mlp_xp._checks import check_count, check_kind, check_set, shown
from mlp_xp.data.feed import (
    Batch,
    Feed,
    check_inputs,
    check_targets,
    check_weights,
    first_not_finite,
    gather,
    make_feed,
)
from mlp_xp.model import Evaluation, Model, as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss, SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam, Optimizer, Rates
from mlp_xp.nn.schedules import Moment, Schedule, as_schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training._interrupts import Interrupt
from mlp_xp.training.callbacks import Callback, as_callbacks
from mlp_xp.training.early_stopping import Best, EarlyStopping
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import leaves, tree_map

Array = Any
Tree = Any
HostArray = np.ndarray[Any, Any]
Record = dict[str, float]

CHUNK_WORK = 1e10  # multiply-adds between two looks at Ctrl-C: a quarter of a second on two cores


class TrainingDivergedError(ArithmeticError):
    """The loss became infinite or NaN; the message says where and what to try."""


class Run(NamedTuple):
    """What a run was asked to do; a resumed run must be asked the same."""

    epochs: int
    batch_size: int
    shuffle: bool
    rows: int


class Trainer:
    """Trains a network on a device.

    Parameters
    ----------
    network
        The layers, for instance ``mlp(784, 300, 10)``.
    loss, optimizer
        What to minimize and how; a learning rate may be a schedule.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``torch:cpu``, ``jax`` ... as `get_backend` takes it, or a backend.
    dtype
        ``float32`` or ``float64``.
    seed
        A number or a NumPy generator: initial weights, dropout and the order of batches come from it alone.
    l2, clip_norm, max_norm
        See `TrainStep`.
    """

    def __init__(
        self,
        network: Chain,
        loss: Loss = SoftmaxCrossEntropy(),
        optimizer: Optimizer = Adam(),
        *,
        device: str | Backend = "auto",
        dtype: str = "float32",
        seed: int | np.random.Generator = 0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be the string 'float32' or 'float64', not {shown(dtype)}")
        if not isinstance(network, Chain):
            raise TypeError(f"network must be a Chain of layers, such as mlp(784, 300, 10), not {shown(network)}")
        check_kind("loss", loss, ("rows", "slope"), "SoftmaxCrossEntropy()")
        check_kind("optimizer", optimizer, ("init", "rates", "update"), "Adam(0.001)")
        self.step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm)
        self.backend = as_backend(device)
        self.dtype = dtype
        try:
            self.rng = np.random.default_rng(seed)
        except (TypeError, ValueError):
            raise ValueError(f"seed must be an integer from 0 or a NumPy generator, not {shown(seed)}") from None
        host = tree_map(self._cast, (network.init(self.rng), network.init_state(self.rng)))
        self.state: TrainState = tree_map(self.backend.asarray, self.step.init(np, *host))
        self.history: list[Record] = []
        self.best: Best | None = None
        self.updates = 0
        self.samples = 0
        self.position = 0
        """Steps done of the epoch that is under way."""
        self.losses: list[Array] = []
        """Their losses, a device array for each chunk of steps."""
        self.run: Run | None = None
        self.interrupted = False
        self.epoch_generator = self.rng.bit_generator.state

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def model(self) -> Model:
        """The network as it is now; further training leaves this copy alone."""
        params, layers = self._copy((self.state.params, self.state.layers))
        return self._model(params, layers)

    def evaluate(self, x: Array, y: Array, sample_weight: Array | None = None) -> dict[str, float]:
        """As `Model.evaluate`."""
        return self._model(self.state.params, self.state.layers).evaluate(x, y, sample_weight)

    def predict(self, x: Array) -> HostArray:
        """As `Model.predict`."""
        return self._model(self.state.params, self.state.layers).predict(x)

    def predict_proba(self, x: Array) -> HostArray:
        """As `Model.predict_proba`."""
        return self._model(self.state.params, self.state.layers).predict_proba(x)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint: all that the rest of the run depends on. See `mlp_xp.files.checkpoints`."""
        from mlp_xp.files.checkpoints import save_checkpoint

        save_checkpoint(path, self)

    @classmethod
    def resume(cls, path: str | Path, device: str | Backend = "auto") -> Self:
        """The trainer of a checkpoint, on any device; call `fit` as before and the run goes on where it was."""
        from mlp_xp.files.checkpoints import load_checkpoint

        trainer: Self = load_checkpoint(cls, path, device)
        return trainer

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        epochs: int,
        batch_size: int | None = 128,
        sample_weight: Array | None = None,
        validation: tuple[Array, ...] | Mapping[str, tuple[Array, ...]] | None = None,
        shuffle: bool = True,
        early_stopping: EarlyStopping | None = None,
        callbacks: Iterable[Callback | Callable[[Trainer, Record], Any]] = (),
        resident: bool | None = None,
    ) -> list[Record]:
        """Train until ``epochs`` epochs are done in all, those of earlier calls counted in; return the history.

        Parameters
        ----------
        x, y, sample_weight
            (rows, n_in) numbers or ids, targets as the loss takes them, and one weight per row. Arrays of the host,
            memory-mapped ones too, or of the device's library.
        batch_size
            Rows of a step; the last, smaller batch of an epoch is trained on too. ``None`` for all rows.
        validation
            ``(x, y)`` or ``(x, y, sample_weight)``, measured after each epoch as ``valid_loss``, ``valid_accuracy``
            ...; or several by name: ``{"valid": (xv, yv), "train": (x, y)}``.
        shuffle
            Whether each epoch has an order of its own.
        early_stopping
            When to stop; the best weights are then restored.
        callbacks
            See `mlp_xp.training.callbacks`; a function is called after each epoch with the trainer and the epoch's
            record, and stops the training by returning True.
        resident
            Whether the data move to the device once (True) or window by window (False); by default as they fit.

        Raises
        ------
        ValueError
            If the data do not fit the network or the loss, or a resumed run is asked for something else.
        TrainingDivergedError
            If the loss of an epoch is not finite.
        """
        network, loss = self.step.network, self.step.loss
        epochs = check_count("epochs", epochs)
        batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        if early_stopping is not None:
            check_kind("early_stopping", early_stopping, ("score",), "EarlyStopping(patience=10)")
        given = _named_sets(validation)
        hooks = as_callbacks(callbacks)
        x = check_inputs(self.backend, network, x)
        rows = int(x.shape[0])
        data = Batch(
            x,
            check_targets(self.backend, loss, network.width(x.shape[1]), y, rows),
            check_weights(self.backend, sample_weight, rows),
        )
        self._begin(Run(epochs, min(batch_size or rows, rows), shuffle, rows))
        feed = make_feed(self.backend, network, data, self.dtype, resident)
        sets = {name: Evaluation(network, loss, self.backend, self.dtype, *arrays) for name, arrays in given.items()}
        if self.epoch >= epochs:
            warnings.warn(
                f"{self.epoch} epochs are done and {epochs} were asked for in all: nothing is left to train; "
                f"fit(..., epochs={self.epoch + epochs}) trains {epochs} more",
                stacklevel=2,
            )
        stopped = False
        with Interrupt() as interrupt:
            for hook in hooks:
                hook.start(self)
            while self.epoch < epochs and not stopped:
                record = self._epoch(feed, data, hooks, interrupt)
                if record is None:
                    self.interrupted = True
                    break
                for name, evaluation in sets.items():
                    values = evaluation(self.state.params, self.state.layers)
                    record |= {f"{name}_{key}": value for key, value in values.items()}
                self.history.append(record)
                stopped = self._is_over(early_stopping)
                stopped |= True in [hook.epoch(self, record) for hook in hooks]
            if early_stopping is not None and self.best is not None and not self.interrupted:
                params, layers = self._copy((self.best.params, self.best.layers))
                self.state = self.state._replace(params=params, layers=layers)
            for hook in hooks:
                hook.end(self)
        return self.history

    def _begin(self, run: Run) -> None:
        """Refuse what cannot be, and take note of what is asked."""
        if self.position and self.run is not None and run != self.run:
            raise ValueError(
                f"this run was stopped in the middle of an epoch with {self.run}, and is now asked for {run}: "
                "ask for the same to finish it"
            )
        self.run = run
        self.interrupted = False

    def _epoch(self, feed: Feed, data: Batch, hooks: list[Callback], interrupt: Interrupt) -> Record | None:
        """One epoch, or what is left of it; its record, or ``None`` if it was interrupted."""
        assert self.run is not None
        began = time.perf_counter()
        self.epoch_generator = self.rng.bit_generator.state
        rows, batch_size = self.run.rows, self.run.batch_size
        order = self.rng.permutation(rows) if self.run.shuffle else np.arange(rows)
        order = order.astype(np.int32)
        rates = self._rates(-(-rows // batch_size))
        most = max(1, int(CHUNK_WORK / (3 * batch_size * sum(math.prod(p.shape) for p in leaves(self.state.params)))))
        loop = epoch_loop(self.backend, self.step)
        for window, local, end in feed.windows(order, batch_size, most, self.position):
            part = tree_map(lambda r, a=self.position, b=end: r[a:b], rates)
            self.state, losses = loop(self.state, window, (local, part))
            self.losses.append(losses)
            self.updates += end - self.position
            self.position = end
            for hook in hooks:
                hook.chunk(self)
            if interrupt.requested:
                self.rng.bit_generator.state = self.epoch_generator
                return None
        loss = self._mean_loss(order, data.w)
        lr = float(self._schedule.rate(self._moment(self.position - 1)))
        if not math.isfinite(loss):
            row = first_not_finite(self.backend, data.x)
            advice = (
                "try a rate ten times smaller, clip_norm=1.0, or look for very large numbers in x"
                if row is None
                else f"x holds NaN or infinity, the first in row {row}: drop these rows or fill them in"
            )
            raise TrainingDivergedError(f"the loss of epoch {self.epoch + 1} is {loss} at rate {lr:g}: {advice}")
        self.position, self.losses = 0, []
        self.samples += rows
        return {"epoch": self.epoch + 1, "loss": loss, "lr": lr, "seconds": time.perf_counter() - began}

    @property
    def _schedule(self) -> Schedule:
        return as_schedule(self.step.optimizer.lr)

    def _moment(self, i: int) -> Moment:
        """The moment of step ``i`` of the epoch that is under way."""
        assert self.run is not None
        before = self.updates - self.position
        steps = -(-self.run.rows // self.run.batch_size)
        key = "valid_loss" if self.history and "valid_loss" in self.history[0] else "loss"
        return Moment(
            step=before + i,
            steps=before + steps * (self.run.epochs - self.epoch),
            epoch=self.epoch,
            samples=self.samples,
            losses=[record[key] for record in self.history],
        )

    def _rates(self, steps: int) -> Rates:
        """The optimizer's numbers for all steps of the epoch, (steps,) each, in float64 until they are sent."""
        moment, schedule = self._moment(0), self._schedule
        times = range(moment.step, moment.step + steps)
        if getattr(schedule, "by_epoch", False):  # a schedule of your own may be without it
            lrs = [schedule.rate(moment)] * steps
        else:
            lrs = [schedule.rate(moment._replace(step=t)) for t in times]
        table = [self.step.optimizer.rates(lr, t + 1) for lr, t in zip(lrs, times, strict=True)]
        columns = tree_map(lambda *column: np.array(column), table[0], *table[1:])
        return Rates(*tree_map(lambda column: self.backend.asarray(column, self.dtype), columns))

    def _mean_loss(self, order: HostArray, w: Any) -> float:
        """The epoch's loss per row: the mean of the losses of all batches, each by its weight. Waits for the device."""
        assert self.run is not None
        losses = np.concatenate([self.backend.to_numpy(part) for part in self.losses]).astype(np.float64)
        weights = np.ones(len(order)) if isinstance(w, tuple) else w[order].astype(np.float64)
        sums = np.add.reduceat(weights, np.arange(0, len(order), self.run.batch_size))
        if self.step.loss.reduction == "mean":
            losses *= sums
        return float(losses.sum() / sums.sum())

    def _is_over(self, rule: EarlyStopping | None) -> bool:
        """Keep the network if this epoch is the best; whether the patience is at its end."""
        if rule is None:
            return False
        score = rule.score(self.history[-1])
        if self.best is None or score > self.best.score + rule.min_delta:
            self.best = Best(self.epoch, score, *self._copy((self.state.params, self.state.layers)))
        return self.epoch - self.best.epoch >= rule.patience

    def _model(self, params: Tree, layers: Tree) -> Model:
        return Model(self.step.network, self.step.loss, params, layers, self.backend)

    def _copy(self, tree: Tree) -> Tree:
        return tree_map(lambda a: self.backend.xp.asarray(a, copy=True), tree)

    def _cast(self, a: HostArray) -> HostArray:
        return a.astype(self.dtype) if a.dtype.kind == "f" else a


def _named_sets(validation: Any) -> Mapping[str, tuple[Array, ...]]:
    """Validation sets by name; `TypeError` for what is none."""
    if validation is None:
        return {}
    sets: Mapping[str, Any] = validation if isinstance(validation, Mapping) else {"valid": validation}
    for arrays in sets.values():
        check_set(arrays, "validation must be (x, y) or (x, y, sample_weight), or several of these by name")
    return sets


@lru_cache(maxsize=8)
def epoch_loop(backend: Backend, step: TrainStep) -> Any:
    """The compiled epoch: gather a batch and take a step on it, for all items; the same for all trainers alike."""

    def body(xp: Any, state: TrainState, data: Batch, item: tuple[Array, Rates]) -> tuple[TrainState, Array]:
        rows, rates = item
        return step(xp, state, *gather(xp, data, rows), rates)

    return backend.compile(body)

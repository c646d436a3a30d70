"""The trainer: epochs of compiled steps on any device, validation, early stopping, checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np  # noqa: TID251  initial weights and batch orders are drawn on the host

from mlp_xp._checks import DTYPE, check_count, shown
from mlp_xp.data.checks import is_source
from mlp_xp.data.class_weights import check_class_weight
from mlp_xp.files.checkpoints import read_snapshot, write_snapshot
from mlp_xp.files.snapshot import Snapshot
from mlp_xp.forward import BATCH
from mlp_xp.model import Model, as_backend
from mlp_xp.nn.layers import Chain, Layer, StatefulLayer
from mlp_xp.nn.losses import Loss, SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam, Optimizer
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.training import inputs
from mlp_xp.training.callbacks import Callback, Interrupt, as_callbacks, ends_training
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp.training.group_ranks import ranks_of
from mlp_xp.training.history import History, Record
from mlp_xp.training.lr_finder import RateSearch, rate_ramp, search
from mlp_xp.training.ranks import ALONE, Ranks
from mlp_xp.training.run import EpochProgress as EpochProgress
from mlp_xp.training.run import Run, first_snapshot, generator
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import Group
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.typing import Array, HostArray, Tree


class Trainer:
    """Trains a network on a device.

    Parameters
    ----------
    network
        The layers, for instance ``mlp(784, 300, 10)``.
    loss, optimizer
        The loss to minimize and the update rule, whose learning rate may be a schedule.
    device
        A name that `get_backend` accepts, such as ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``torch:cpu`` or ``jax``, or
        a backend; ``None`` means ``auto``.
    group
        ``"mpi"``, ``"nccl"``, ``"torch"`` or a `Group`: the processes that train this network together, each on its
        part of every batch. All make the same calls with the same arguments, and have the same parameters after every
        step. See ``docs/many_processes.md``.
    dtype
        ``float32`` or ``float64``.
    seed
        A non-negative integer or a NumPy generator, which determines initial weights, dropout and the order of rows.
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
        step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm)
        rng, dtype, class_weight = generator(seed), DTYPE("dtype", dtype), _class_weight(class_weight)
        drawn = network.init(rng), network.init_state(rng)
        self._run = Run(first_snapshot(step, dtype, *drawn, rng, class_weight), *_placed(device, group))

    @classmethod
    def from_model(
        cls,
        model: Model,
        optimizer: Optimizer = Adam(),
        *,
        loss: Loss | None = None,
        head: Layer | StatefulLayer | None = None,
        frozen: Sequence[int] = (),
        device: str | Backend | None = None,
        group: str | Group | None = None,
        dtype: str | None = None,
        seed: int | np.random.Generator = 0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        max_norm: float | None = None,
        class_weight: str | Mapping[int, float] | Sequence[float] | None = None,
    ) -> Self:
        """Return a trainer that starts from the parameters of ``model``, for fine-tuning.

        Parameters
        ----------
        head
            A layer with new parameters in place of the model's last layer.
        frozen
            Positions of layers whose parameters do not change; no gradient is computed for them.
        loss, device, dtype
            By default those of the model.

        The other parameters are those of `Trainer`.

        Examples
        --------
        >>> from mlp_xp import Dense, Trainer, mlp
        >>> model = Trainer(mlp(4, 8, 3), device="cpu").model
        >>> trainer = Trainer.from_model(model, head=Dense(8, 2), frozen=[0])
        """
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, such as trainer.model, not {shown(model)}")
        network = model.network if head is None else model.network.with_head(head)
        loss = model.loss if loss is None else loss
        positions = cast("tuple[int, ...]", frozen)  # `TrainStep` checks and converts them
        step = TrainStep(network, loss, optimizer, l2=l2, clip_norm=clip_norm, max_norm=max_norm, frozen=positions)
        rng = generator(seed)
        params, layers = to_host(model.backend, (model.params, model.state))
        if head is not None:
            params = (*params[:-1], network.init(rng)[-1])
            layers = (*layers[:-1], network.init_state(rng)[-1])
        dtype, class_weight = DTYPE("dtype", dtype or model.dtype), _class_weight(class_weight)
        first = first_snapshot(step, dtype, params, layers, rng, class_weight)
        return cls.from_snapshot(first, device=model.backend if device is None else device, group=group)

    @classmethod
    def from_snapshot(
        cls, snapshot: Snapshot, *, device: str | Backend | None = None, group: str | Group | None = None
    ) -> Self:
        """Return the trainer of which `snapshot` was taken, on any device and for any number of processes."""
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"snapshot must be a Snapshot, such as trainer.snapshot(), not {shown(snapshot)}")
        trainer = cls.__new__(cls)
        trainer._run = Run(snapshot, *_placed(device, group))
        return trainer

    @classmethod
    def resume(
        cls,
        path: str | Path,
        *,
        device: str | Backend | None = None,
        known: Iterable[type] = (),
        group: str | Group | None = None,
    ) -> Self:
        """Return the trainer of a checkpoint, on any device and for any number of processes; `fit` continues its run.

        ``known`` lists the classes of your own layers, losses, optimizers and schedules. Raises `FileError` if the file
        cannot be read, is damaged, or is not a checkpoint.
        """
        return cls.from_snapshot(read_snapshot(path, known), device=device, group=group)

    @property
    def step(self) -> TrainStep:
        """The network, its loss and optimizer, and the limits on its parameters."""
        return self._run.step

    @property
    def state(self) -> TrainState:
        """The arrays of the run on the device, which training changes in place."""
        return self._run.state

    @property
    def dtype(self) -> str:
        """``float32`` or ``float64``."""
        return self._run.dtype

    @property
    def backend(self) -> Backend:
        """The backend that trains."""
        return self._run.backend

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or a callback ended the last `fit` early."""
        return self._run.interrupted

    def snapshot(self) -> Snapshot:
        """Return a copy, on the host, of everything on which the rest of the run depends. Waits for the device."""
        return self._run.snapshot()

    @property
    def progress(self) -> EpochProgress:
        """The position of the run, for callbacks."""
        return self._run.progress

    def save_checkpoint(self, path: str | Path) -> None:
        """Write a checkpoint: everything on which the rest of the run depends. See `Trainer.resume`.

        With a group, rank 0 writes it.
        """
        if self.group.rank == 0:
            write_snapshot(path, self.snapshot())

    def __str__(self) -> str:
        frozen = self.step.frozen
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
        """The processes that train this network; in a single process, a group of one."""
        return self._run.ranks.group

    @property
    def epoch(self) -> int:
        """The number of epochs done."""
        return self._run.epoch

    @property
    def history(self) -> History:
        """The records of all epochs so far."""
        return History(self._run.records)

    @property
    def model(self) -> Model:
        """A copy of the current network, which further training does not change."""
        return self._model(*self._run.copy((self.state.params, self.state.layers)))

    def evaluate(
        self, x: Array, y: Array | None = None, sample_weight: Array | None = None, *, batch_size: int = BATCH
    ) -> dict[str, float]:
        """See `Model.evaluate`."""
        model = self._model(self.state.params, self.state.layers)
        return model.evaluate(x, y, sample_weight, batch_size=batch_size)

    def predict(self, x: Array, *, batch_size: int = BATCH) -> HostArray:
        """See `Model.predict`."""
        return self._model(self.state.params, self.state.layers).predict(x, batch_size=batch_size)

    def predict_proba(self, x: Array, *, batch_size: int = BATCH) -> HostArray:
        """See `Model.predict_proba`."""
        return self._model(self.state.params, self.state.layers).predict_proba(x, batch_size=batch_size)

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
            Numbers or ids of shape (rows, n_in), targets in the form that the loss takes, and one weight per row: host
            arrays (even memory-mapped ones), arrays of the device's library, or data frames. Without ``y``, ``x`` is a
            source of batches: a function that returns an iterator, a PyTorch ``DataLoader``, or a `BatchSource`. Its
            batches are used as they come; ``batch_size``, ``shuffle`` and ``resident`` have no effect on them.
        batch_size
            The number of rows per step, or ``None`` for all rows. The last batch of an epoch may be smaller.
        validation_data
            ``(x, y)``, ``(x, y, sample_weight)`` or a source of batches, evaluated after each epoch as ``valid_loss``,
            ``valid_accuracy`` ...; or several by name: ``{"valid": (xv, yv), "train": (x, y)}``.
        shuffle
            Whether the rows are shuffled in each epoch.
        early_stopping
            An `EarlyStopping` rule; the best weights are then restored. The best epoch is chosen among those of this
            call; a call that continues a resumed or interrupted run counts as the same call.
        callbacks
            See `Callback`; a function is called after each epoch with the trainer and the epoch's record, and stops
            the training by returning True. With a group, only rank 0 calls them.
        resident
            Whether the data are sent to the device once (True) or window by window (False); by default, once if they
            fit. With a group, each rank by default reads only its own rows of memory-mapped data.
        sharded
            Whether each rank of the group has its own data: every row, including those of validation sets, is on
            exactly one rank. A batch then has rows of all ranks, in proportion to their numbers of rows, and the order
            of the rows depends on how they are divided. Otherwise, all ranks pass the same data, and each takes its
            part of every batch.

        Raises
        ------
        ValueError, TypeError
            If the data do not fit the network or the loss, a run interrupted inside an epoch is continued with
            other options, or the ranks of a group differ in options or parameters.
        TrainingDivergedError
            If the loss of an epoch or the parameters at the end are not finite.
        RankError
            If another rank of the group raised an error, for instance about its input or in a callback. Only an error
            inside the steps ends the processes of all ranks.
        RuntimeError
            If an exception inside a step, such as a second Ctrl-C or exhausted memory, ended an earlier call.
        """
        run, ranks = self._run, self._run.ranks
        with ranks.together():
            options = inputs.FitOptions.checked(
                max_epochs, batch_size, validation_data, shuffle, early_stopping, resident, sharded, self.step.loss
            )
            hooks = as_callbacks(callbacks)
            run.check_whole()
            if ranks.rank > 0:
                hooks = []
            given = inputs.prepare(run, x, y, sample_weight, options)
            run.begin(given.plan, early_stopping)
            with Interrupt() as interrupt:

                def stops() -> bool:
                    return ends_training([hook.chunk(self) for hook in hooks]) or interrupt.requested

                for hook in hooks:
                    hook.start(self)
                while not (run.is_done(early_stopping) or ranks.any(interrupt.requested)):
                    record = run.run_epoch(given.feed, given.data, given.division, stops)
                    if record is None:
                        break
                    for name, evaluation in given.evaluations.items():
                        values = evaluation(self.state.params, self.state.layers)
                        record |= {f"{name}_{key}": value for key, value in values.items()}
                    run.finish_epoch(record, early_stopping, given.rows)
                    if ranks.any(ends_training([hook.epoch(self, record) for hook in hooks])):
                        break
                run.end(early_stopping, ranks.any(interrupt.requested) or run.position > 0)
                for hook in hooks:
                    hook.end(self)
                run.interrupted |= ranks.any(interrupt.requested)
            if not run.interrupted:
                run.check_finite()
            return self.history

    def find_lr(
        self,
        x: Array,
        y: Array | None = None,
        *,
        batch_size: int = 128,
        sample_weight: Array | None = None,
        low: float = 1e-6,
        high: float = 10.0,
        steps: int = 100,
    ) -> RateSearch:
        """Train a copy for some steps at rates that grow exponentially from ``low`` to ``high``, and suggest a rate.

        This is the learning-rate range test (Smith 2017, sec. 3.3). It ends early when the loss explodes. The trainer,
        including its random generator, does not change. Without ``y``, ``x`` is a source of batches as in `fit`, of
        which the rows of the first ``steps`` batches are used, in batches of the size of the first. See `RateSearch`.

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
        if is_source(x):
            data, size = inputs.stream(self._run, x, y, sample_weight).head(steps)
        else:
            data = inputs.checked_data(self._run, x, y, sample_weight, False)
            size = min(check_count("batch_size", batch_size), int(data.x.shape[0]))
        feed = self._run.ranks.feed(self.backend, self.step.network, data, self.dtype, None)
        run = self._run
        state, rng = run.copy(self.state), copy.deepcopy(run.rng)
        return search(feed, self.step, state, size, rates, rng, run.updates)

    def _model(self, params: Tree, layers: Tree) -> Model:
        self._run.check_whole()
        return Model(self.step.network, self.step.loss, params, layers, self.backend)


def _placed(device: str | Backend | None, group: str | Group | None) -> tuple[Backend, Ranks]:
    """Return the backend and the ranks of a run."""
    if group is None:
        return as_backend(device), ALONE
    ranks = ranks_of(group)
    return ranks.backend(device), ranks


def _class_weight(class_weight: Any) -> Any:
    return None if class_weight is None else check_class_weight(class_weight)

"""`Sweep`: many training settings in a few batched runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlp_xp._checks import DTYPE, check_count
from mlp_xp.data.checks import check_inputs, on_host
from mlp_xp.model import as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss, SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam, Optimizer
from mlp_xp.sweep.driver import train
from mlp_xp.sweep.folds import as_folds
from mlp_xp.sweep.grouping import Fitting, named_sets
from mlp_xp.sweep.halving import Halving
from mlp_xp.sweep.result import SweepResult
from mlp_xp.sweep.run import Candidate, Run
from mlp_xp.sweep.settings import STEP, Base, from_distributions, from_grid, from_list
from mlp_xp.sweep.storage import Storage
from mlp_xp.sweep.tasks import divided, processes, run_tasks
from mlp_xp.training.early_stopping import EarlyStopping
from mlp_xp_backends import Backend
from mlp_xp_backends.typing import Array


class Sweep:
    """Trains a network with many settings. Settings that differ only in numbers train together.

    Parameters
    ----------
    network
        A `Chain`, or a function that returns one: its arguments are parameters of the settings, as in
        ``lambda width, activation: mlp(784, width, 10, activation=activation)``.
    loss, optimizer, device, dtype, seed, l2, clip_norm, max_norm, class_weight
        As in `Trainer`; a setting can override them.
    grid
        ``{parameter: values}``, of which all combinations are trained, or a list of such dicts.
    settings
        A list of settings, ``{parameter: value}`` each.
    distributions, n
        ``{parameter: distribution}``, from which ``n`` settings are drawn with ``seed``. A distribution is a list of
        values, or an object with a method ``rvs`` such as ``scipy.stats.loguniform(1e-4, 1e-1)``.

    Notes
    -----
    A parameter is a field of the optimizer (``lr``, a number or a schedule, ``momentum``, ``b1`` ...), ``l2``,
    ``clip_norm``, ``max_norm``, ``dropout`` (the rate of the network's Dropout layers), ``class_weight``, ``seed``,
    ``batch_size``, ``max_epochs``, ``sample_weight``, ``optimizer``, ``loss``, ``network``, or an argument of
    ``network``.

    Raises
    ------
    ValueError, TypeError
        If a parameter is unknown, there are no settings, or a setting is impossible. Nothing has been trained then.

    Examples
    --------
    >>> import numpy as np
    >>> from mlp_xp import SGD, mlp
    >>> x = np.random.default_rng(0).standard_normal((200, 2))
    >>> y = (x[:, 0] > x[:, 1]).astype(int)
    >>> sweep = Sweep(mlp(2, 8, 2), optimizer=SGD(), grid={"lr": [0.001, 0.1], "seed": [0, 1, 2]}, device="cpu")
    >>> result = sweep.fit(x[:150], y[:150], max_epochs=20, batch_size=10, validation_data=(x[150:], y[150:]))
    >>> len(result.records), result.best["lr"]
    (6, 0.1)
    """

    def __init__(
        self,
        network: Chain | Callable[..., Chain],
        loss: Loss = SoftmaxCrossEntropy(),
        optimizer: Optimizer = Adam(),
        *,
        grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]] | None = None,
        settings: Sequence[Mapping[str, Any]] | None = None,
        distributions: Mapping[str, Any] | None = None,
        n: int | None = None,
        device: str | Backend | None = None,
        dtype: str = "float32",
        seed: int = 0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        max_norm: float | None = None,
        class_weight: str | Mapping[int, float] | Sequence[float] | None = None,
    ) -> None:
        given = [name for name, value in locals().items() if name in SOURCES and value is not None]
        if len(given) != 1:
            raise TypeError(f"Sweep needs one of {', '.join(SOURCES)}, and {' and '.join(given) or 'none'} is given")
        if n is not None and distributions is None:
            raise TypeError("n is the number of settings drawn from distributions: a grid or a list is trained whole")
        if grid is not None:
            self.settings = from_grid(grid)
        elif settings is not None:
            self.settings = from_list(settings)
        else:
            self.settings = from_distributions(distributions, n, seed)
        step = dict(zip(STEP, (l2, clip_norm, max_norm), strict=True))
        self.base = Base(network, loss, optimizer, step, class_weight, seed)
        self.device, self.dtype = device, DTYPE("dtype", dtype)
        for setting in self.settings:
            self.base.candidate(setting, 1, 1, None)

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(name for setting in self.settings for name in setting))
        count = len(self.settings)
        return f"<Sweep of {count} setting{'s' * (count > 1)}{names and ' of '}{names}>"

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        max_epochs: int,
        batch_size: int | None = 128,
        sample_weight: Array | None = None,
        validation_data: tuple[Array, ...] | Mapping[str, tuple[Array, ...]] | None = None,
        folds: Any = None,
        shuffle: bool = True,
        early_stopping: EarlyStopping | None = None,
        halving: Halving | None = None,
        n_jobs: int | None = None,
        together: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
        resident: bool | None = None,
    ) -> SweepResult:
        """Train all settings, each with the same result as `Trainer.fit`.

        Parameters
        ----------
        x, y, max_epochs, batch_size, sample_weight, validation_data, shuffle, early_stopping, resident
            As in `Trainer.fit`; the rule of early stopping is applied to each model separately.
        folds
            A number of folds, a splitter of scikit-learn, or pairs ``(training rows, held-out rows)``: each setting is
            trained once for each fold and evaluated on its held-out rows as ``valid``.
        halving
            Drop the weakest settings after a few epochs; the others continue where they are.
        n_jobs
            Processes, as joblib counts them; ``joblib.parallel_config`` sets it too, and the backend (loky, dask, ray).
        together
            Models that train together; by default by the device and the size of the network.
        checkpoint
            A folder. Every model is written there as a checkpoint of a trainer, once a minute and when its task is
            done; processes on other machines write to it if they see it. A call with the same data and options
            continues from what it finds.
        progress
            Whether to report to stderr how many models are done.

        Raises `ValueError` or `TypeError` for data and options that do not fit, before anything is trained.
        """
        backend = as_backend(self.device)
        check_count("batch_size", 1 if batch_size is None else batch_size)
        check_count("max_epochs", max_epochs)
        x = check_inputs(backend, self.base.candidate(self.settings[0], None, 1, None).step.network, x)
        rows = int(x.shape[0])
        split = as_folds(folds, x, on_host(backend, y, "y"))
        sets = named_sets(validation_data, split)
        fitting = Fitting(backend, self.device, self.dtype, split, sets, early_stopping, halving, shuffle, resident)
        candidates = [
            fitting.clipped(self.base.candidate(setting, batch_size, max_epochs, fold), rows)
            for setting in self.settings
            for fold in (range(len(split)) if split else [None])
        ]
        groups = fitting.groups(candidates, x, y, sample_weight, together)
        identity = () if checkpoint is None else fitting.identity(groups[0][0], candidates, sample_weight)
        storage = Storage(checkpoint, candidates, (shuffle, early_stopping, halving, *identity))
        runs = [
            Run(i, one, self.dtype, fitting.rows_of(one, rows), shuffle, early_stopping, storage.read(i))
            for i, one in enumerate(candidates)
        ]
        reporter = Reporter(runs, progress)
        save = None if checkpoint is None else storage.write_if_seen
        for until, chosen in _rungs(halving, runs, candidates, len(split) or 1):
            reporter.begin(chosen)
            jobs = [
                (group, part, until, save)
                for group, members in groups
                for part in divided(
                    [runs[i] for i in members if i in chosen and not runs[i].is_over(until)],
                    group.size,
                    processes(n_jobs),
                )
            ]
            for done in run_tasks(train, jobs, n_jobs):
                for run in done:
                    runs[run.index] = run
                    storage.write(run)
                    reporter.note(run)
        reporter.close()
        per_setting = len(split) or 1
        named = [(self.settings[i // per_setting], run) for i, run in enumerate(runs)]
        return SweepResult(named, split, backend, x, early_stopping)


SOURCES = ("grid", "settings", "distributions")


def _rungs(halving: Halving | None, runs: list[Run], candidates: list[Candidate], folds: int) -> Any:
    """Pairs of a number of epochs and the runs that train so long."""
    everyone = set(range(len(runs)))
    if halving is None:
        yield None, everyone
        return
    chosen = everyone
    longest = max(candidate.max_epochs for candidate in candidates)
    for until in halving.rungs(longest, len(runs) // folds):
        yield until, chosen
        chosen = halving.survivors(runs, chosen, folds, until)
    yield None, chosen


class Reporter:
    """Reports to stderr how many models are done or dropped; if stderr is not a terminal, only at the end."""

    def __init__(self, runs: Sequence[Run], on: bool) -> None:
        self.runs, self.on, self.left = runs, on, len(runs)

    def begin(self, chosen: Collection[int]) -> None:
        """Count the models to be trained; all others are done, now or in an earlier call, or dropped."""
        self.left = sum(not self.runs[i].is_done for i in chosen)

    def note(self, run: Run) -> None:
        """Count a model that is done or paused."""
        self.left -= run.is_done
        if self.on and sys.stderr.isatty():
            self._print(end="")

    def close(self) -> None:
        """End the line."""
        if self.on:
            self._print(end="\n")

    def _print(self, end: str) -> None:
        total = len(self.runs)
        print(f"\r{total - self.left} of {total} models", end=end, file=sys.stderr, flush=not end)

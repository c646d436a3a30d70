"""Training by the stochastic solvers: epochs until the loss, or the validation score, gets no better."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mlp_xp.data.feed import Batch, make_feed
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp.nn.schedules import Moment
from mlp_xp.nn.step import TrainState
from mlp_xp.sklearn.arrays import SparseRows
from mlp_xp.sklearn.epochs import Epochs, Objective
from mlp_xp.sklearn.network import draw_state, lists, tree
from mlp_xp.sklearn.solver import Solver, make_solver
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.sklearn.validation import Validation, note_loss, note_score, params_on_host
from mlp_xp.training._interrupts import Interrupt
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import tree_map

HostArray = np.ndarray[Any, Any]

SMALL = 2**22
"""Bytes of ``X`` up to which the compiled epoch is kept for the next fit of the same kind."""


class Setting(NamedTuple):
    """What is trained, and where."""

    backend: Backend
    network: Chain
    loss: Loss
    dtype: str


def fit_stochastic(
    e: Any, setting: Setting, data: Batch, validation: Validation | None, tasks: Tasks, incremental: bool
) -> bool:
    """Fit the estimator ``e`` to ``data``, for one epoch if ``incremental``; whether it has come to its end."""
    if not incremental or not hasattr(e, "_optimizer"):
        e._optimizer = make_solver(e)
    solver: Solver = e._optimizer
    epochs = _epochs(e, setting, data, solver)
    e.n_iter_, stopped = 0, False
    with Interrupt() as interrupt:
        for order in _orders(e, epochs.rows, 1 if incremental else e.max_iter):
            tasks.begin(f"epoch {e.n_iter_}")
            loss = epochs.run(order, solver.rates(_moment(e, epochs.steps), epochs.steps), interrupt)
            if loss is None:
                warnings.warn("Training interrupted by user.", stacklevel=4)
                break
            _note(e, epochs, loss, validation)
            wants_stop = tasks.end(lambda: _fitted(setting, epochs.state))
            stopped = _is_over(e, solver) or wants_stop
            if stopped:
                break
        else:
            if not incremental:
                _warn_of_the_end(e)
    params, *memory = params_on_host(setting.backend, epochs.state)
    e.coefs_, e.intercepts_ = lists(params)
    solver.memory = tuple(memory)
    if e.early_stopping and (stopped or not incremental):
        e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
    return stopped


def _orders(e: Any, rows: int, at_most: int) -> Iterator[HostArray]:
    """The order of the rows in each epoch, shuffled anew from that of the epoch before."""
    order = np.arange(rows)
    for _ in range(at_most):
        if e.shuffle:
            order = order[e._random_state.permutation(rows)]
        yield order


def _moment(e: Any, steps: int) -> Moment:
    """Where the solver is, for schedules; ``steps`` are those of an epoch."""
    curve = getattr(e, "validation_loss_curve_", None)
    moment: Moment = e._optimizer.moment(steps * e.max_iter, e.t_, e.loss_curve_ if curve is None else curve)
    return moment


def _warn_of_the_end(e: Any) -> None:
    warnings.warn(
        f"Stochastic Optimizer: Maximum iterations ({e.max_iter}) reached and the optimization hasn't converged yet.",
        ConvergenceWarning,
        stacklevel=5,
    )


def _epochs(e: Any, setting: Setting, data: Batch, solver: Solver) -> Epochs:
    backend, network, loss, dtype = setting
    alpha = 0.0 if e.solver == "adamw" else float(e.alpha)
    objective = Objective(network, loss, solver.optimizer, alpha, e.l2_mode)
    loop = _kept_loop(backend, objective) if data.x.nbytes <= SMALL else backend.compile(objective.body)
    rows = len(data.x)
    if e.batch_size != "auto" and e.batch_size > rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=5
        )
    batch_size = min(200 if e.batch_size == "auto" else int(e.batch_size), rows)
    feed = make_feed(backend, network, data, dtype, False if isinstance(data.x, SparseRows) else None)
    weights = None if isinstance(data.w, tuple) else data.w
    if e.l2_mode == "constant":
        weights = None
    return Epochs(feed, weights, batch_size, loop, _state(e, setting, objective, solver))


@lru_cache(maxsize=8)
def _kept_loop(backend: Backend, objective: Objective) -> Any:
    """For fits that are short beside a compilation. A loop may keep the data that it has run on."""
    return backend.compile(objective.body)


def _state(e: Any, setting: Setting, objective: Objective, solver: Solver) -> TrainState:
    """The state to go on from, on the device; the estimator's own arrays are left alone."""
    backend, network, _, dtype = setting
    params = tree(network, e.coefs_, e.intercepts_, lambda a: np.array(a, dtype))
    if solver.memory is None:
        state = objective.init(np, params, draw_state(network, e._random_state))
    else:
        state = TrainState(params, *solver.memory)
    return tree_map(  # type: ignore[no-any-return]
        lambda a: backend.asarray(np.array(a), dtype if a.dtype.kind == "f" else None), state
    )


def _note(e: Any, epochs: Epochs, loss: float, validation: Validation | None) -> None:
    """Write down what the epoch has brought."""
    e.n_iter_ += 1
    e.loss_ = loss
    e.t_ += epochs.rows
    e.loss_curve_.append(loss)
    if e.verbose:
        print(f"Iteration {e.n_iter_}, loss = {loss:.8f}")
    if validation is not None:
        score, valid_loss = validation(epochs.state.params, epochs.state.layers)
        e.validation_loss_curve_.append(valid_loss)
        if e.verbose:
            print(f"Validation score: {score:f}")
        if note_score(e, score) and e.early_stopping:
            e._best_coefs, e._best_intercepts = lists(params_on_host(validation.backend, epochs.state.params))
    if not e.early_stopping:
        note_loss(e, loss)
    solver: Solver = e._optimizer
    solver.steps += epochs.steps
    solver.epochs += 1
    solver.epoch_ends(_moment(e, epochs.steps))


def _is_over(e: Any, solver: Solver) -> bool:
    """Whether the epochs have brought nothing for too long, and the solver knows no better than to stop."""
    if e._no_improvement_count <= e.n_iter_no_change:
        return False
    what = "Validation score" if e.early_stopping else "Training loss"
    end = solver.stalls()
    if e.verbose:
        says = end or f"Setting learning rate to {solver.learning_rate:f}"
        print(f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs. {says}")
    if not end:
        e._no_improvement_count = 0
    return bool(end)


def _fitted(setting: Setting, state: TrainState) -> dict[str, list[HostArray]]:
    coefs, intercepts = lists(params_on_host(setting.backend, state.params))
    return {"coefs_": coefs, "intercepts_": intercepts}

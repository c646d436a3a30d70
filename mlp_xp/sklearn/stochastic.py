"""Training by the stochastic solvers: epochs until the loss, or the validation score, stops improving."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mlp_xp.data.feed import Batch
from mlp_xp.nn.schedules import ConstantRate
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sklearn.arrays import SparseRows
from mlp_xp.sklearn.network import draw_state, lists, tree
from mlp_xp.sklearn.solver import Course, Solver, make_solver
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.sklearn.validation import Held, Setting, Validation
from mlp_xp.sklearn.weights import scaled
from mlp_xp.training.callbacks import Interrupt
from mlp_xp.training.epoch import batch_weights, epoch_loop, losses_on_host, mean_loss, run_epoch
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends import get_backend
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import HostArray

SMALLEST_RATE = 1e-6
"""The rate at which ``learning_rate="adaptive"`` stops."""
PLAIN_WORK = 10**7
"""Up to so many multiply-adds of a forward pass, `partial_fit` runs NumPy's loop uncompiled, which is then faster."""


def fit_stochastic(
    e: Any, setting: Setting, data: Batch, held: Held | None, tasks: Tasks, incremental: bool, ranks: Ranks
) -> bool:
    """Fit the estimator ``e`` to ``data``, for one epoch if ``incremental``; return whether training has ended."""
    if not incremental or not hasattr(e, "_optimizer"):
        e._optimizer = make_solver(e)
    weights = sum(W.size for W in e.coefs_)
    if incremental and setting.backend.name == "numpy" and weights * len(data.x) < PLAIN_WORK:
        setting = setting._replace(backend=get_backend("numpy:plain"))
    validation = None if held is None else Validation(e, setting, held)
    epochs, prints = Epochs(e, setting, data, ranks), ranks.rank == 0
    e.n_iter_, stopped = 0, False
    with Interrupt() as interrupt:
        for order in orders(e, epochs.rows, 1 if incremental else e.max_iter):
            tasks.begin(f"epoch {e.n_iter_}")
            loss = epochs.run(order, interrupt)
            if loss is None:
                warnings.warn("Training interrupted by user.", stacklevel=5)
                break
            scored = None
            if validation is not None:
                score, cost = validation(epochs.state.params, epochs.state.layers)
                scored = ranks.first(score), ranks.first(cost)
            if note(e, epochs, loss, scored, prints):
                e._best_coefs, e._best_intercepts = epochs.fitted().values()
            wants_stop = ranks.any(tasks.end(epochs.fitted))
            stopped = is_over(e, prints) or wants_stop
            if stopped:
                break
        else:
            if not incremental:
                warn_of_the_end(e)
    adopt(e, to_host(setting.backend, epochs.state))
    if e.early_stopping and (stopped or not incremental):
        e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
    return stopped


class Epochs(Course):
    """A data set on its device, and the training state that epochs change."""

    def __init__(self, e: Any, setting: Setting, data: Batch, ranks: Ranks) -> None:
        super().__init__(e, len(data.x), data.w)
        self.backend, network, loss, dtype = setting
        step = TrainStep(network, loss, e._optimizer.optimizer)
        self.loop = epoch_loop(ranks.bound(self.backend), step)
        self.ranks, self.cut = ranks, ranks.division(self.rows, sharded=False).cut
        resident = False if isinstance(data.x, SparseRows) else None
        self.feed = ranks.feed(self.backend, network, data._replace(w=scaled(data.w)), dtype, resident)
        state = first_state(e, setting, step)
        self.state = tree_map(lambda a: self.backend.asarray(a, dtype if a.dtype.kind == "f" else None), state)

    def run(self, order: HostArray, interrupt: Interrupt) -> float | None:
        """Train on all rows in that order; return the mean loss of a row, or ``None`` after Ctrl-C."""
        losses, l2 = [], self.penalties(order)
        chunks = run_epoch(self.loop, self.feed, self.state, order, self.batch_size, self.rates(), l2=l2, cut=self.cut)
        for chunk in self.ranks.steps(chunks):
            self.state = chunk.state
            losses.append(chunk.losses)
            if self.ranks.any(interrupt.requested):
                return None
        return float(mean_loss(losses_on_host(self.backend, losses), batch_weights(order, self.batch_size)))

    def fitted(self) -> dict[str, list[HostArray]]:
        """The current learned attributes."""
        coefs, intercepts = lists(to_host(self.backend, self.state.params))
        return {"coefs_": coefs, "intercepts_": intercepts}


def orders(e: Any, rows: int, at_most: int) -> Iterator[HostArray]:
    """The order of the rows in each epoch: that of the epoch before, shuffled again."""
    order = np.arange(rows)
    for _ in range(at_most):
        if e.shuffle:
            order = order[e._random_state.permutation(rows)]
        yield order


def warn_of_the_end(e: Any) -> None:
    """Issue scikit-learn's warning about a fit that ended at ``max_iter``."""
    warnings.warn(
        f"Stochastic Optimizer: Maximum iterations ({e.max_iter}) reached and the optimization hasn't converged yet.",
        ConvergenceWarning,
        stacklevel=6,
    )


def first_state(e: Any, setting: Setting, step: TrainStep) -> TrainState:
    """The state to continue from, a copy on the host."""
    _, network, _, dtype = setting
    params = tree(network, e.coefs_, e.intercepts_, lambda a: np.array(a, dtype))
    memory = e._optimizer.memory
    if memory is None:
        state = step.init(np, params, draw_state(network, e._random_state))
    else:
        state = TrainState(params, *memory)
    return tree_map(np.array, state)  # type: ignore[no-any-return]


def adopt(e: Any, state: TrainState) -> None:
    """Set the learned attributes from a state on the host."""
    params, *memory = state
    e.coefs_, e.intercepts_ = lists(params)
    e._optimizer.memory = tuple(memory)


def note(e: Any, course: Course, loss: float, scored: tuple[float, float] | None, prints: bool = True) -> bool:
    """Record the results of an epoch; return whether its weights are the best so far, for early stopping."""
    e.n_iter_ += 1
    e.loss_ = loss
    e.t_ += course.rows
    e.loss_curve_.append(loss)
    verbose, is_best, no_better = e.verbose and prints, False, False
    if verbose:
        print(f"Iteration {e.n_iter_}, loss = {loss:.8f}")
    if scored is not None:
        score, cost = scored
        e.validation_scores_.append(score)
        e.validation_loss_curve_.append(cost)
        if verbose:
            print(f"Validation score: {score:f}")
        is_best, no_better = score > e.best_validation_score_, score < e.best_validation_score_ + e.tol
        e.best_validation_score_ = max(e.best_validation_score_, score)
    if not e.early_stopping:
        is_best, no_better = False, loss > e.best_loss_ - e.tol
        e.best_loss_ = min(e.best_loss_, loss)
    e._no_improvement_count = e._no_improvement_count + 1 if no_better else 0
    solver: Solver = e._optimizer
    solver.steps += course.steps
    solver.epochs += 1
    if not isinstance(solver.schedule, ConstantRate):  # which only `is_over` changes
        solver.learning_rate = solver.schedule.rate(course.moment())
    return is_best


def is_over(e: Any, prints: bool = True) -> bool:
    """Whether too many epochs have passed without an improvement, and the solver does not lower its rate instead."""
    if e._no_improvement_count <= e.n_iter_no_change:
        return False
    solver: Solver = e._optimizer
    lowers = solver.adaptive and solver.learning_rate > SMALLEST_RATE
    if lowers:
        solver.learning_rate /= 5.0
        e._no_improvement_count = 0
    if e.verbose and prints:
        what = "Validation score" if e.early_stopping else "Training loss"
        says = "Learning rate too small. Stopping." if solver.adaptive else "Stopping."
        says = f"Setting learning rate to {solver.learning_rate:f}" if lowers else says
        print(f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs. {says}")
    return not lowers

"""Training by the stochastic solvers: epochs until the loss, or the validation score, stops improving."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mlp_xp.data.feed import Batch, Feed
from mlp_xp.nn.optimizers import Rates
from mlp_xp.nn.schedules import Moment
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp.sklearn.arrays import SparseRows
from mlp_xp.sklearn.network import draw_state, lists, tree
from mlp_xp.sklearn.solver import Solver, make_solver
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.sklearn.validation import Setting, Validation, note_loss, note_score, on_host
from mlp_xp.sklearn.weights import scaled
from mlp_xp.training._interrupts import Interrupt
from mlp_xp.training.epoch import batch_weights, epoch_loop, losses_on_host, mean_loss, run_epoch, step_count
from mlp_xp.training.ranks import Division, Ranks
from mlp_xp_backends import get_backend
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import HostArray

SMALL = 2**22
"""Bytes of ``X`` up to which the compiled epoch is kept for the next fit: a loop may keep its data alive."""
PLAIN_WORK = 10**7
"""Multiply-adds of a forward pass up to which `partial_fit` runs NumPy's loop uncompiled: binding would take longer."""


def fit_stochastic(
    e: Any,
    setting: Setting,
    data: Batch,
    validation: Validation | None,
    tasks: Tasks,
    incremental: bool,
    ranks: Ranks,
) -> bool:
    """Fit the estimator ``e`` to ``data``, for one epoch if ``incremental``; return whether training has ended."""
    if not incremental or not hasattr(e, "_optimizer"):
        e._optimizer = make_solver(e)
    weights = sum(W.size for W in e.coefs_)
    if incremental and setting.backend.name == "numpy" and weights * len(data.x) < PLAIN_WORK:
        setting = setting._replace(backend=get_backend("numpy:plain"))
    epochs = Epochs(e, setting, data, ranks)
    e.n_iter_, stopped = 0, False
    with Interrupt() as interrupt:
        for order in orders(e, epochs.rows, 1 if incremental else e.max_iter):
            tasks.begin(f"epoch {e.n_iter_}")
            loss = epochs.run(order, interrupt)
            if loss is None:
                warnings.warn("Training interrupted by user.", stacklevel=4)
                break
            scored = None
            if validation is not None:
                score, cost = validation(epochs.state.params, epochs.state.layers)
                scored = ranks.first(score), ranks.first(cost)
            if note(e, epochs, loss, scored, ranks.rank == 0):
                e._best_coefs, e._best_intercepts = epochs.fitted().values()
            wants_stop = ranks.any(tasks.end(epochs.fitted))
            stopped = is_over(e, ranks.rank == 0) or wants_stop
            if stopped:
                break
        else:
            if not incremental:
                warn_of_the_end(e)
    adopt(e, on_host(setting.backend, epochs.state))
    if e.early_stopping and (stopped or not incremental):
        e.coefs_, e.intercepts_ = e._best_coefs, e._best_intercepts
    return stopped


class Course:
    """The epochs of an estimator on ``rows`` rows with the weights ``w``, as far as the host plans them.

    An epoch minimizes ``(sum_i w_i l_i + alpha |W|^2 / 2) / sum_i w_i`` over the rows of each batch, so that the
    penalty is stronger the smaller the batch. With ``l2_mode="constant"`` it is ``alpha |W|^2 / 2`` plus the mean loss.
    """

    def __init__(self, e: Any, rows: int, w: Any) -> None:
        if e.batch_size != "auto" and e.batch_size > rows:
            clipped = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            warnings.warn(clipped, stacklevel=6)
        self.e, self.w, self.rows = e, w, rows
        self.batch_size = min(200 if e.batch_size == "auto" else int(e.batch_size), rows)
        self.steps = step_count(rows, self.batch_size)

    def moment(self) -> Moment:
        """The present moment, for schedules."""
        e = self.e
        curve = getattr(e, "validation_loss_curve_", None)
        moment: Moment = e._optimizer.moment(self.steps * e.max_iter, e.t_, e.loss_curve_ if curve is None else curve)
        return moment

    def rates(self) -> Rates:
        """The optimizer's numbers for the next epoch, (steps,) each."""
        rates: Rates = self.e._optimizer.rates(self.moment(), self.steps)
        return rates

    def penalties(self, order: HostArray) -> Any:
        """The penalty of each batch, (steps,)."""
        alpha = float(self.e.alpha)
        if alpha == 0.0 or self.e.solver == "adamw":
            return ABSENT
        if self.e.l2_mode == "constant":
            return np.full(self.steps, alpha)
        sums = batch_weights(order, self.batch_size, self.w)
        return np.divide(alpha, sums, out=np.zeros_like(sums), where=sums > 0.0)  # without weight, no change


class Epochs(Course):
    """A data set on its device, and the state of training that epochs change."""

    def __init__(self, e: Any, setting: Setting, data: Batch, ranks: Ranks) -> None:
        super().__init__(e, len(data.x), data.w)
        self.setting = setting
        backend, network, loss, dtype = setting
        step = TrainStep(network, loss, e._optimizer.optimizer)
        compiled = epoch_loop if data.x.nbytes <= SMALL else epoch_loop.__wrapped__
        self.loop: Loop = compiled(ranks.bound(backend), step)
        self.ranks, self.cut = ranks, Division.of(ranks, self.rows, sharded=False).cut
        resident = False if isinstance(data.x, SparseRows) else None
        self.feed: Feed = ranks.feed(backend, network, data._replace(w=scaled(data.w)), dtype, resident)
        state = first_state(e, setting, step)
        self.state = tree_map(lambda a: backend.asarray(a, dtype if a.dtype.kind == "f" else None), state)

    def run(self, order: HostArray, interrupt: Interrupt) -> float | None:
        """Train on all rows in that order; return the mean loss of a row, or ``None`` after Ctrl-C."""
        losses = []
        rates, l2 = self.rates(), self.penalties(order)
        chunks = run_epoch(self.loop, self.feed, self.state, order, self.batch_size, rates, l2=l2, cut=self.cut)
        for chunk in self.ranks.messages.steps(chunks):
            self.state = chunk.state
            losses.append(chunk.losses)
            if self.ranks.any(interrupt.requested):
                return None
        sizes = batch_weights(order, self.batch_size)
        return float(mean_loss(losses_on_host(self.setting.backend, losses), sizes))

    def fitted(self) -> dict[str, list[HostArray]]:
        """The learned attributes as they are now."""
        coefs, intercepts = lists(on_host(self.setting.backend, self.state.params))
        return {"coefs_": coefs, "intercepts_": intercepts}


def orders(e: Any, rows: int, at_most: int) -> Iterator[HostArray]:
    """The order of the rows in each epoch: that of the epoch before, shuffled again."""
    order = np.arange(rows)
    for _ in range(at_most):
        if e.shuffle:
            order = order[e._random_state.permutation(rows)]
        yield order


def warn_of_the_end(e: Any) -> None:
    """scikit-learn's warning of a fit that ended at ``max_iter``."""
    warnings.warn(
        f"Stochastic Optimizer: Maximum iterations ({e.max_iter}) reached and the optimization hasn't converged yet.",
        ConvergenceWarning,
        stacklevel=5,
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
    verbose = e.verbose and prints
    if verbose:
        print(f"Iteration {e.n_iter_}, loss = {loss:.8f}")
    is_best = False
    if scored is not None:
        score, valid_loss = scored
        e.validation_loss_curve_.append(valid_loss)
        if verbose:
            print(f"Validation score: {score:f}")
        is_best = note_score(e, score) and e.early_stopping
    if not e.early_stopping:
        note_loss(e, loss)
    solver: Solver = e._optimizer
    solver.steps += course.steps
    solver.epochs += 1
    solver.epoch_ends(course.moment())
    return is_best


def is_over(e: Any, prints: bool = True) -> bool:
    """Whether too many epochs have brought no improvement, and the solver does not lower its rate instead."""
    if e._no_improvement_count <= e.n_iter_no_change:
        return False
    what = "Validation score" if e.early_stopping else "Training loss"
    end = e._optimizer.stalls()
    if e.verbose and prints:
        says = end or f"Setting learning rate to {e._optimizer.learning_rate:f}"
        print(f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs. {says}")
    if not end:
        e._no_improvement_count = 0
    return bool(end)

"""L-BFGS: SciPy's optimizer on the host, loss and gradient on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from mlp_xp.data.feed import WINDOW_BYTES, Batch
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp.sklearn.arrays import SparseRows
from mlp_xp.sklearn.network import lists, tree
from mlp_xp.sklearn.stochastic import SMALL, Setting
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import leaves, unflatten

Array = Any
Tree = Any
HostArray = np.ndarray[Any, Any]


def fit_lbfgs(e: Any, setting: Setting, data: Batch, tasks: Tasks) -> None:
    """Minimize the objective over all rows at once, from the estimator's weights on."""
    problem = Problem(e, setting, data)

    def value_and_gradient(theta: HostArray) -> tuple[float, HostArray]:
        tasks.begin("lbfgs iteration")
        return problem(theta)

    def iteration_ends(intermediate_result: Any) -> None:
        if tasks.end(lambda: problem.fitted(intermediate_result.x)):
            raise StopIteration

    result = scipy.optimize.minimize(
        value_and_gradient,
        np.concatenate([a.reshape(-1) for a in (*e.coefs_, *e.intercepts_)]),
        method="L-BFGS-B",
        jac=True,
        callback=iteration_ends,
        options={"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol},
    )
    e.n_iter_ = _check_optimize_result("lbfgs", result, e.max_iter)
    e.loss_ = float(result.fun)
    if e.verbose:
        print(f"L-BFGS: {result.nit} iterations, {result.nfev} evaluations, loss = {e.loss_:.8f}")
    learned = problem.fitted(result.x)
    e.coefs_, e.intercepts_ = learned["coefs_"], learned["intercepts_"]


class Problem:
    """``(sum_i w_i l_i + alpha |W|^2 / 2) / sum_i w_i`` over all rows, as a function of one long vector.

    The vector holds the weights of all layers, then their biases, as scikit-learn packs it.
    """

    def __init__(self, e: Any, setting: Setting, data: Batch) -> None:
        self.backend, self.network, loss, self.dtype = setting
        compiled = _kept if data.x.nbytes <= SMALL else _compiled
        self.loop = compiled(self.backend, self.network, loss)
        self.shapes = [a.shape for a in (*e.coefs_, *e.intercepts_)]
        self.penalized = sum(a.size for a in e.coefs_)
        self.total = float(data.x.shape[0] if isinstance(data.w, tuple) else data.w.sum(dtype=np.float64))
        self.l2 = e.alpha if e.l2_mode == "constant" else e.alpha / self.total
        self.data = data
        self.resident = None if isinstance(data.x, SparseRows) else [self._send(data)]

    def __call__(self, theta: HostArray) -> tuple[float, HostArray]:
        """The objective and its gradient, float64. Waits for the device."""
        params = self._tree(theta, lambda a: self.backend.asarray(a, self.dtype))
        value, gradient = 0.0, np.zeros_like(theta)
        for part in self.resident or self._parts():
            _, (cost, grads) = self.loop((), (params, part), self.backend.asarray(np.zeros(1)))
            value += float(self.backend.to_numpy(cost)[0])
            coefs, intercepts = lists(unflatten(params, (self.backend.to_numpy(g)[0] for g in leaves(grads))))
            gradient += np.concatenate([g.reshape(-1) for g in (*coefs, *intercepts)])
        W = theta[: self.penalized]
        gradient /= self.total
        gradient[: self.penalized] += self.l2 * W
        return value / self.total + 0.5 * self.l2 * float(W @ W), gradient

    def fitted(self, theta: HostArray) -> dict[str, list[HostArray]]:
        """The attributes of an estimator with this vector."""
        coefs, intercepts = lists(self._tree(theta, lambda a: np.array(a, self.dtype)))
        return {"coefs_": coefs, "intercepts_": intercepts}

    def _tree(self, theta: HostArray, of: Any) -> Tree:
        """The vector as the network's parameters."""
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in self.shapes])
        parts = [part.reshape(shape) for part, shape in zip(np.split(theta, ends[:-1]), self.shapes, strict=True)]
        half = len(parts) // 2
        return tree(self.network, parts[:half], parts[half:], of)

    def _parts(self) -> Iterator[Batch]:
        """A sparse data set piece by piece."""
        most = max(1, WINDOW_BYTES // (self.data.x.shape[1] * self.data.x.dtype.itemsize))
        for start in range(0, len(self.data.x), most):
            rows = slice(start, start + most)
            yield self._send(Batch(*(leaf if isinstance(leaf, tuple) else leaf[rows] for leaf in self.data)))

    def _send(self, data: Batch) -> Batch:
        x, y, w = data
        return Batch(
            self.backend.asarray(x, self.dtype),
            self.backend.asarray(y, None if y.dtype.kind == "b" else self.dtype),
            w if isinstance(w, tuple) else self.backend.asarray(w, self.dtype),
        )


def _compiled(backend: Backend, network: Chain, loss: Loss) -> Any:
    """The loop whose one step gives the sums of cost and gradient over a batch."""
    states = ((),) * len(network.layers)

    def body(xp: Any, carry: Tree, consts: Tree, item: Array) -> tuple[Tree, tuple[Array, Tree]]:
        params, (x, y, w) = consts
        z, caches, _ = network.forward(xp, params, states, x, True)
        cost, rows = loss.rows(xp, z, y)
        dz = loss.slope(xp, rows)
        if not isinstance(w, tuple):
            cost, dz = cost * w, dz * xp.expand_dims(w, axis=-1)
        return carry, (xp.sum(cost, axis=-1), network.gradient(xp, params, caches, dz))

    return backend.compile(body)


_kept: Any = lru_cache(maxsize=8)(_compiled)
"""The same for data sets up to `SMALL`: a loop may keep the data that it has run on."""

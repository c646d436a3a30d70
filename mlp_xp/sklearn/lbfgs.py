"""L-BFGS: SciPy's optimizer on the host, loss and gradient on the device."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from mlp_xp.data.feed import WINDOW_BYTES, Batch
from mlp_xp.forward import blocks, over_steps
from mlp_xp.nn.layers import Chain
from mlp_xp.nn.losses import Loss
from mlp_xp.sklearn.arrays import SparseRows
from mlp_xp.sklearn.network import lists, no_state, tree
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.sklearn.validation import Setting
from mlp_xp.sklearn.weights import scaled
from mlp_xp_backends import Backend
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree


def fit_lbfgs(e: Any, setting: Setting, data: Batch, tasks: Tasks) -> None:
    """Minimize the objective over all rows at once, starting from the estimator's weights."""
    problem = Problem(e, setting, data)

    def value_and_gradient(theta: HostArray) -> tuple[float, HostArray]:
        tasks.begin("lbfgs iteration")
        return problem(theta)

    def iteration_ends(intermediate_result: Any) -> None:
        if tasks.end(lambda: problem.fitted(intermediate_result.x)):
            raise StopIteration

    result = scipy.optimize.minimize(
        value_and_gradient,
        _packed(e.coefs_, e.intercepts_),
        method="L-BFGS-B",
        jac=True,
        callback=iteration_ends,
        options={"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol},
    )
    e.n_iter_ = _check_optimize_result("lbfgs", result, e.max_iter)
    e.loss_ = float(result.fun)
    if e.verbose:
        print(f"L-BFGS: {result.nit} iterations, {result.nfev} evaluations, loss = {e.loss_:.8f}")
    vars(e).update(problem.fitted(result.x))


class Problem:
    """``(sum_i w_i l_i + alpha |W|^2 / 2) / sum_i w_i`` over all rows, as a function of one vector.

    The vector contains the weights of all layers, then their biases, in scikit-learn's order.
    """

    def __init__(self, e: Any, setting: Setting, data: Batch) -> None:
        self.backend, self.network, loss, self.dtype = setting
        self.shapes = [a.shape for a in (*e.coefs_, *e.intercepts_)]
        self.penalized = sum(a.size for a in e.coefs_)
        rows = len(data.x)
        total = rows if data.w is ABSENT else data.w.sum(dtype=np.float64)
        self.l2 = e.alpha / total if e.l2_mode == "batch" else e.alpha
        data = data._replace(w=scaled(data.w))
        self.total = float(rows if data.w is ABSENT else data.w.sum(dtype=np.float64))
        summed: Any = replace(loss, reduction="sum")  # type: ignore[type-var]  # losses are dataclasses
        self.loop = gradient_loop(self.backend, self.network, summed)
        streams = isinstance(data.x, SparseRows)
        size = max(1, WINDOW_BYTES * rows // data.x.nbytes) if streams else rows
        self.blocks = partial(blocks, self.backend, self.network, data, self.dtype, size)
        self.resident = None if streams else list(self.blocks())

    def __call__(self, theta: HostArray) -> tuple[float, HostArray]:
        """The objective and its gradient, float64. Waits for the device."""
        params = self._tree(theta, lambda a: self.backend.asarray(a, self.dtype))
        value, gradient = 0.0, np.zeros_like(theta)
        for block in self.resident or self.blocks():
            _, sums = self.loop((), params, block)
            cost, grads = tree_map(lambda a: over_steps(self.backend.to_numpy(a)), sums)
            value += float(cost)
            gradient += _packed(*lists(grads))
        W = theta[: self.penalized]
        gradient /= self.total
        gradient[: self.penalized] += self.l2 * W
        return value / self.total + 0.5 * self.l2 * float(W @ W), gradient

    def fitted(self, theta: HostArray) -> dict[str, list[HostArray]]:
        """Set the learned attributes of the estimator from this vector."""
        coefs, intercepts = lists(self._tree(theta, lambda a: np.array(a, self.dtype)))
        return {"coefs_": coefs, "intercepts_": intercepts}

    def _tree(self, theta: HostArray, of: Any) -> Tree:
        """The vector as the network's parameters."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = [part.reshape(shape) for part, shape in zip(np.split(theta, ends[:-1]), self.shapes, strict=True)]
        half = len(parts) // 2
        return tree(self.network, parts[:half], parts[half:], of)


def _packed(coefs: list[HostArray], intercepts: list[HostArray]) -> HostArray:
    return np.concatenate([a.reshape(-1) for a in (*coefs, *intercepts)])


@lru_cache(maxsize=8)
def gradient_loop(backend: Backend, network: Chain, loss: Loss) -> Loop:
    """The loop over batches whose steps give the cost and the gradient."""

    def body(xp: Namespace, carry: Tree, params: Tree, batch: Batch) -> tuple[Tree, tuple[Array, Tree]]:
        z, caches, _ = network.forward(xp, params, no_state(network), batch.x, True)
        cost, cache = loss.forward(xp, z, batch.y, batch.w)
        return carry, (cost, network.gradient(xp, params, caches, loss.backward(xp, cache)))

    return backend.compile(body)

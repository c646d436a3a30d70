"""L-BFGS: SciPy's optimizer on the host, loss and gradient on the device."""

from __future__ import annotations

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
from mlp_xp.sklearn.arrays import SparseRows, scaled
from mlp_xp.sklearn.network import Setting, Weights, layer_states, lists, tree
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.training.epoch import batch_weights
from mlp_xp_backends import Backend
from mlp_xp_backends.protocol import Loop
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree


def fit_lbfgs(e: Any, setting: Setting, data: Batch, tasks: Tasks) -> None:
    """Minimize the objective over all rows at once, starting from the estimator's weights."""
    problem = Problem(e, setting, data, tasks)
    start = np.concatenate([a.ravel() for a in (*e.coefs_, *e.intercepts_)])
    ends, options = problem.iteration_ends, {"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol}
    result = scipy.optimize.minimize(problem, start, method="L-BFGS-B", jac=True, callback=ends, options=options)
    e.n_iter_ = _check_optimize_result("lbfgs", result, e.max_iter)
    e.loss_ = float(result.fun)
    if e.verbose:
        print(f"L-BFGS: {result.nit} iterations, {result.nfev} evaluations, loss = {e.loss_:.8f}")
    e.coefs_, e.intercepts_ = problem.weights(result.x)


class Problem:
    """``(sum_i w_i l_i + alpha |W|^2 / 2) / sum_i w_i`` over all rows, as a function of one vector.

    The vector contains the weights of all layers, then their biases, in scikit-learn's order.
    """

    def __init__(self, e: Any, setting: Setting, data: Batch, tasks: Tasks) -> None:
        self.tasks = tasks
        self.backend, self.network, loss, self.dtype = setting
        self.shapes = [a.shape for a in (*e.coefs_, *e.intercepts_)]
        self.ends = np.cumsum([a.size for a in (*e.coefs_, *e.intercepts_)])
        self.penalized = self.ends[len(e.coefs_) - 1]
        rows, w = len(data.x), scaled(data.w)
        total, self.total = (batch_weights(np.arange(rows), rows, v)[0] for v in (data.w, w))
        self.l2 = e.alpha / total if e.l2_mode == "batch" else e.alpha
        summed: Any = replace(loss, reduction="sum")  # type: ignore[type-var]  # losses are dataclasses
        self.loop = gradient_loop(self.backend, self.network, summed)
        streams = isinstance(data.x, SparseRows)
        size = max(1, WINDOW_BYTES * rows // data.x.nbytes) if streams else rows
        self.blocks = partial(blocks, self.backend, self.network, data._replace(w=w), self.dtype, size)
        self.resident = None if streams else list(self.blocks())

    def __call__(self, theta: HostArray) -> tuple[float, HostArray]:
        """The objective and its gradient, float64. Waits for the device."""
        self.tasks.begin("lbfgs iteration")
        params = tree(self.network, *self.weights(theta), self.backend.asarray)
        value, gradient = 0.0, np.zeros_like(theta)
        for block in self.resident or self.blocks():
            _, sums = self.loop((), params, block)
            cost, grads = tree_map(lambda a: over_steps(self.backend.to_numpy(a)), sums)
            value += float(cost)
            gradient += np.concatenate([a.ravel() for arrays in lists(grads) for a in arrays])
        W = theta[: self.penalized]
        gradient /= self.total
        gradient[: self.penalized] += self.l2 * W
        return value / self.total + 0.5 * self.l2 * float(W @ W), gradient

    def iteration_ends(self, intermediate_result: Any) -> None:
        """Call the callbacks; raise `StopIteration`, which SciPy expects, if one requests to stop."""
        if self.tasks.end(lambda: self.weights(np.array(intermediate_result.x))._asdict()):
            raise StopIteration

    def weights(self, theta: HostArray) -> Weights:
        """The weights and biases in the vector, in the dtype of the network: views if that is float64."""
        parts = zip(np.split(theta, self.ends[:-1]), self.shapes, strict=True)
        arrays = [part.reshape(shape).astype(self.dtype, copy=False) for part, shape in parts]
        return Weights(arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :])


@lru_cache(maxsize=8)
def gradient_loop(backend: Backend, network: Chain, loss: Loss) -> Loop:
    """The loop over batches whose steps give the cost and the gradient."""

    def body(xp: Namespace, carry: Tree, params: Tree, batch: Batch) -> tuple[Tree, tuple[Array, Tree]]:
        z, caches, _ = network.forward(xp, params, layer_states(network), batch.x, True)
        cost, cache = loss.forward(xp, z, batch.y, batch.w)
        return carry, (cost, network.gradient(xp, params, caches, loss.backward(xp, cache)))

    return backend.compile(body)

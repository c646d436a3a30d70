"""Gradient check: compare the hand-written backward pass with central differences, in float64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np  # noqa: TID251  the reference is NumPy in float64

from mlp_xp._checks import NOT_NEGATIVE, Like, Maybe, check_count
from mlp_xp.nn.layers import Chain, Layer, StatefulLayer
from mlp_xp.nn.losses import Loss
from mlp_xp.nn.step import check_loss, check_network
from mlp_xp_backends.numpy_namespace import xp
from mlp_xp_backends.trees import ABSENT, leaves, named_leaves, tree_map, unflatten
from mlp_xp_backends.typing import HostArray, Tree


@dataclass(frozen=True)
class GradientReport:
    """The relative error of each parameter's gradient, ``|g - d| / max(|g|, |d|)`` in the Euclidean norm.

    ``g`` is the gradient and ``d`` the vector of central differences ``(L(w + h) - L(w - h)) / 2h`` at the sampled
    entries. If a gradient is far smaller than the others (that of a bias before batch normalization is 0), its error is
    relative to a thousandth of the largest gradient, because the differences cannot resolve more.

    >>> x, y = np.asarray([[0.5, -1.0]]), np.asarray([1])
    >>> sorted(check_gradients(mlp(2, 3), SoftmaxCrossEntropy(), x, y).errors)
    ['0.W', '0.b', 'x']
    """

    errors: dict[str, float]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(error <= self.tolerance for error in self.errors.values())

    def __str__(self) -> str:
        rows = [
            f"{name:<20} {error:9.2e}  {'ok' if error <= self.tolerance else 'WRONG'}"
            for name, error in self.errors.items()
        ]
        return "\n".join([f"{'parameter':<20} {'error':>9}  (tolerance {self.tolerance:g})", *rows])


def check_gradients(
    network: Chain,
    loss: Loss,
    x: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    params: Tree = None,
    rng: np.random.Generator | None = None,
    entries: int = 30,
    tolerance: float = 1e-7,
) -> GradientReport:
    """Compare the gradient of ``loss(network(x), y)`` with central differences, in training mode and float64.

    Parameters
    ----------
    network, loss
        Any chain of layers and any loss, including your own.
    x, y, sample_weight
        A few rows of data.
    params
        The parameters at which to check. By default the initial parameters plus 0.1 N(0, 1), drawn from ``rng``, so
        that biases are not all zero.
    rng
        A `numpy.random.Generator`, by default ``np.random.default_rng(0)``.
    entries
        How many random entries of each parameter to check.
    tolerance
        The largest relative error that counts as correct. (Rounding alone gives about 1e-10.)

    Returns
    -------
    GradientReport
        ``report.ok``; ``report.errors`` by parameter (``0.W``, ``0.b``, ...; ``x`` for the input, if it has a
        derivative). Printing the report shows a table.

    Raises
    ------
    ValueError
        The data do not fit the network or the loss, a layer writes to its arguments, or no entry has a derivative.

    Notes
    -----
    If the input of a ReLU changes sign between ``w - h`` and ``w + h``, the difference quotient is not a derivative.
    At such a kink, the second difference is of order h instead of h^2: if it exceeds h^1.5, the entry is skipped and
    another one is sampled.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((6, 4)), rng.integers(0, 3, 6)
    >>> check_gradients(mlp(4, 5, 3), SoftmaxCrossEntropy(), x, y).ok
    True
    """
    check_network(network)
    check_loss(loss)
    rng = Maybe(Like("np.random.default_rng(0)", ("permutation", "standard_normal")))("rng", rng)
    rng = np.random.default_rng(0) if rng is None else rng
    entries, tolerance = check_count("entries", entries), NOT_NEGATIVE("tolerance", tolerance)
    x, y, w = _checked(network, loss, x, y, sample_weight)
    if params is None:
        params = tree_map(lambda p: p + 0.1 * rng.standard_normal(p.shape), network.init(rng))
    else:
        check_params(network, params)
    params = tree_map(lambda p: np.array(p, dtype=np.float64), params)
    state = network.init_state(rng)
    guarded = _guarded(network)

    def cost(params: Tree, x: HostArray) -> float:
        z, _, _ = guarded.forward(xp, params, state, x, True)
        return float(loss.forward(xp, z, y, w)[0])

    z, caches, _ = guarded.forward(xp, params, state, x, True)
    _, cache = loss.forward(xp, z, y, w)
    dx, grads = guarded.backward(xp, params, caches, loss.backward(xp, cache))
    flat, names = leaves(params), list(named_leaves(params))
    pairs = {}
    for i, (name, p, g) in enumerate(zip(names, flat, leaves(grads), strict=True)):

        def at(p: HostArray, i: int = i) -> float:
            return cost(unflatten(params, iter([*flat[:i], p, *flat[i + 1 :]])), x)

        pairs[name] = _pairs(at, p, g, rng, entries)
    if x.dtype == np.float64 and dx is not None:
        pairs["x"] = _pairs(lambda x: cost(params, x), x, dx, rng, entries)
    scales = {name: max(np.linalg.norm(pair, axis=1)) for name, pair in pairs.items()}
    floor = 1e-3 * max(scales.values())
    errors = {
        name: float(np.linalg.norm(analytic - numeric) / max(scales[name], floor))
        for name, (analytic, numeric) in pairs.items()
    }
    return GradientReport(errors, tolerance)


def _checked(network: Chain, loss: Loss, x: Any, y: Any, w: Any) -> tuple[HostArray, HostArray, Any]:
    """Copies of the data, floats in float64. Raises `ValueError` if they do not fit each other or the network."""
    x, y, w = np.array(x), np.array(y), ABSENT if w is None else np.array(w)
    for name, a in (("x", x), ("y", y), ("sample_weight", w)):
        if a is not ABSENT and a.dtype.kind not in "buif":
            raise ValueError(f"{name} must be an array of real numbers, but its dtype is {a.dtype}")
    w = w if w is ABSENT else w.astype(np.float64)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must have two axes, rows and features, and at least one row, but its shape is {x.shape}")
    for name, a, shape in (("y", y, y.shape[:1]), ("sample_weight", w, np.shape(w))):
        if a is not ABSENT and shape != (len(x),):
            raise ValueError(f"{name} has shape {a.shape}, but x has {len(x)} rows: pass one entry for each row")
    n_out = cast(int, network.width(x.shape[1]))
    if loss.target == "class" and y.dtype.kind in "iu":
        if not 0 <= y.min() <= y.max() < n_out:
            raise ValueError(f"y must contain classes from 0 to {n_out - 1}, but contains {y.min()} to {y.max()}")
    elif y.shape != (len(x), n_out):
        raise ValueError(f"y must have one column for each of the {n_out} outputs, but its shape is {y.shape}")
    return (x.astype(np.float64) if network.first.takes == "floats" else x), y, w


def check_params(network: Chain, params: Tree) -> None:
    """Raise `ValueError` unless ``params`` have the names and shapes of the parameters of ``network``."""
    initial = network.init(np.random.default_rng(0))
    given, wanted = ({name: np.shape(p) for name, p in named_leaves(tree).items()} for tree in (params, initial))
    if given != wanted:
        raise ValueError(f"params must have the shapes {wanted}, as Chain.init returns them, not {given}")


class _Guarded:
    """A layer whose arguments are read-only."""

    def __init__(self, layer: Layer | StatefulLayer) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def forward(self, *args: Any) -> Any:
        """Call the layer's ``forward`` on read-only arrays."""
        return self._call(self.layer.forward, args)

    def backward(self, *args: Any) -> Any:
        """Call the layer's ``backward`` on read-only arrays."""
        return self._call(self.layer.backward, args)

    def _call(self, f: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        for a in leaves(args):
            if isinstance(a, np.ndarray):
                a.flags.writeable = False
        try:
            return f(*args)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise ValueError(
                f"{type(self.layer).__name__}.{f.__name__} writes to its arguments: "
                "compute a new array, such as y = 2.0 * x, instead of x *= 2.0"
            ) from error


def _guarded(network: Chain) -> Chain:
    """``network`` with read-only arguments for every layer."""
    layers = (_guarded(layer) if isinstance(layer, Chain) else _Guarded(layer) for layer in network.layers)
    return Chain(*cast("Iterator[Layer]", layers))


def _pairs(f: Any, p: HostArray, g: HostArray, rng: np.random.Generator, entries: int) -> HostArray:
    """Some entries of ``g`` and the differences of ``f`` around ``p`` there, (2, entries)."""
    centre = f(p)
    pairs: list[tuple[float, float]] = []
    for k in rng.permutation(p.size):
        h = 1e-5 * max(1.0, abs(float(p.flat[k])))
        up, down = (f(_moved(p, k, step)) for step in (h, -h))
        if abs(up - 2.0 * centre + down) <= h**1.5 * max(1.0, abs(centre)):
            pairs.append((float(g.flat[k]), (up - down) / (2.0 * h)))
        if len(pairs) == entries:
            break
    if not pairs:
        raise ValueError(
            "the loss has no derivative at any entry that was tried, or differs from call to call: choose other params "
            "or x, and check that no layer draws random numbers"
        )
    return np.array(pairs).T


def _moved(p: HostArray, k: int, step: float) -> HostArray:
    """``p`` with ``step`` added to entry ``k``."""
    moved = p.copy()
    moved.flat[k] += step
    return moved

"""The contract of a layer: a frozen formula whose parameters and state are stored outside it, in trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree

Generator = Any
"""A `numpy.random.Generator`, or a `numpy.random.RandomState` for layers that draw nothing but weights."""

Input = Literal["floats", "ids", "numbers"]
"""The input of a first layer: floats of the network's dtype, integer ids, or numbers of any dtype."""


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of one array of parameters or state, without axes for several models.

    >>> Dense(3, 2).specs().W
    Spec(rows=3, columns=2, dtype='float')
    """

    rows: int
    columns: int
    dtype: Literal["float", "int32"] = "float"


class Affine(NamedTuple):
    """The parameters of a dense layer and, leaf for leaf, their gradient.

    >>> params = Dense(3, 2).init(np.random.default_rng(0))
    >>> params.W.shape, params.b.shape
    ((3, 2), (1, 2))
    """

    W: Array
    """(..., n_in, n_out)"""
    b: Array
    """(..., 1, n_out), or ``ABSENT`` without a bias"""


class Layer(Protocol):
    """A formula and its derivative, without memory between calls.

    Every formula acts on the last two axes, the rows of a batch and their features; axes before them are independent
    models. A layer without parameters has ``ABSENT`` in place of parameters and gradients. Write a layer of your own
    as a frozen dataclass that inherits from this class and defines ``forward`` and ``backward``:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Sine(Layer):
    ...     def forward(self, xp, params, x):
    ...         return xp.sin(x), x
    ...     def backward(self, xp, params, x, dy):
    ...         return dy * xp.cos(x), ABSENT
    >>> x, y = np.linspace(-1, 1, 5)[:, None], np.zeros((5, 1))
    >>> check_gradients(mlp(1, 4, 1, activation=Sine()), SquaredError(), x, y).ok
    True
    """

    stateful: ClassVar[bool] = False
    takes: ClassVar[Input] = "floats"

    def width(self, n_in: int | None) -> int | None:
        """Return the number of output features for ``n_in`` input features; ``None`` means any number.

        Raises `ValueError` if the layer does not accept ``n_in`` features.
        """
        return n_in

    def specs(self) -> Tree:
        """A `Spec` for every parameter, as the tree that `init` returns."""
        return ABSENT

    def init(self, rng: Generator) -> Tree:
        """Initial parameters on the host, drawn from ``rng`` in float64."""
        return ABSENT

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Tree]:
        """Return ``(y, cache)``: the output for ``x``, (..., rows, n_in), and everything that `backward` reads."""
        ...

    def backward(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> tuple[Array, Tree]:
        """Return ``(dx, grads)``: from ``dy``, the gradients with respect to ``x`` and to the parameters."""
        ...

    def gradient(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> Tree:
        """Return only the ``grads`` of `backward`, for the first layer of a network, whose ``dx`` is not needed."""
        return self.backward(xp, params, cache, dy)[1]

    def input_gradient(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> Array:
        """Return only the ``dx`` of `backward`, for a layer whose parameters are frozen."""
        return self.backward(xp, params, cache, dy)[0]


class StatefulLayer(Protocol):
    """A layer with arrays that change from step to step but are not trained, such as running means.

    It may compute different formulas in training and in prediction. To write a stateful layer of your own, inherit from
    this class instead of `Layer`.

    >>> BatchNorm(8).stateful, Dense(8, 8).stateful
    (True, False)
    """

    stateful: ClassVar[bool] = True
    takes: ClassVar[Input] = "floats"

    def width(self, n_in: int | None) -> int | None:
        """As `Layer.width`."""
        return n_in

    def specs(self) -> Tree:
        """As `Layer.specs`."""
        return ABSENT

    def state_specs(self) -> Tree:
        """A `Spec` for every array of state, as the tree that `init_state` returns."""
        ...

    def init(self, rng: Generator) -> Tree:
        """As `Layer.init`."""
        return ABSENT

    def init_state(self, rng: Generator) -> Tree:
        """The state before the first step, on the host. The trainer casts floats to the network's dtype."""
        ...

    def forward(self, xp: Namespace, params: Tree, state: Tree, x: Array, train: bool) -> tuple[Array, Tree, Tree]:
        """Return ``(y, cache, state)``; `backward` accepts only a cache from a forward pass with ``train=True``."""
        ...

    def backward(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> tuple[Array, Tree]:
        """As `Layer.backward`."""
        ...

    def gradient(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> Tree:
        """As `Layer.gradient`."""
        return self.backward(xp, params, cache, dy)[1]

    def input_gradient(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> Array:
        """As `Layer.input_gradient`."""
        return self.backward(xp, params, cache, dy)[0]


def check_width(layer: object, expected: int, n_in: int | None) -> None:
    """Raise `ValueError` unless ``n_in``, the number of features that arrive, is None or the ``expected`` one.

    >>> check_width(Dense(3, 2), 3, 4)
    Traceback (most recent call last):
    ValueError: Dense takes 3 features but 4 arrive: make the layer before it 3 wide or build it for 4
    """
    if n_in is not None and n_in != expected:
        name = type(layer).__name__
        raise ValueError(
            f"{name} takes {expected} features but {n_in} arrive: make the layer before it {expected} wide "
            f"or build it for {n_in}"
        )

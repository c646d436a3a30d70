"""What a layer is: a frozen choice of formula whose numbers live outside, in trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

Array = Any
Tree = Any
Namespace = Any
Generator = Any


Input = Literal["floats", "ids", "numbers"]
"""What a first layer is fed: floats of the network's dtype, integer ids, or numbers of any dtype."""


@dataclass(frozen=True)
class Spec:
    """What a leaf of parameters or state has to be, axes of models apart."""

    rows: int
    columns: int
    dtype: Literal["float", "int32"] = "float"


class Affine(NamedTuple):
    """What a dense layer learns and, leaf for leaf, the gradient of it."""

    W: Array  # (..., n_in, n_out)
    b: Array  # (..., 1, n_out)


class Layer(Protocol):
    """A formula and its derivative, without memory.

    Every formula acts on the last two axes, rows of a batch and features; axes before them are independent models.
    A layer that learns nothing keeps ``()`` as its parameters and gradients.
    """

    stateful: ClassVar[bool] = False
    takes: ClassVar[Input] = "floats"

    def width(self, n_in: int | None) -> int | None:
        """Features that come out when ``n_in`` go in, ``None`` standing for any; `ValueError` if they do not fit."""
        return n_in

    def specs(self) -> Tree:
        """A `Spec` for every parameter, as the tree that `init` fills."""
        return ()

    def init(self, rng: Generator) -> Tree:
        """Initial parameters on the host, drawn from ``rng`` in float64."""
        return ()

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Tree]:
        """The output and what `backward` needs of it: ``(y, cache)``."""
        ...

    def backward(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> tuple[Array, Tree]:
        """From the loss's derivative by ``y``, those by ``x`` and by the parameters: ``(dx, grads)``."""
        ...

    def gradient(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> Tree:
        """The ``grads`` of `backward` alone: nobody needs the ``dx`` of a network's first layer."""
        return self.backward(xp, params, cache, dy)[1]


class StatefulLayer(Protocol):
    """A layer that carries numbers from step to step besides those it learns, and trains otherwise than it predicts."""

    stateful: ClassVar[bool] = True
    takes: ClassVar[Input] = "floats"

    def width(self, n_in: int | None) -> int | None:
        """As `Layer.width`."""
        return n_in

    def specs(self) -> Tree:
        """As `Layer.specs`."""
        return ()

    def state_specs(self) -> Tree:
        """A `Spec` for everything carried, as the tree that `init_state` fills."""
        ...

    def init(self, rng: Generator) -> Tree:
        """As `Layer.init`."""
        return ()

    def init_state(self, rng: Generator) -> Tree:
        """What the first step finds, on the host; floats are cast to the dtype of the parameters, integers stay."""
        ...

    def forward(self, xp: Namespace, params: Tree, state: Tree, x: Array, train: bool) -> tuple[Array, Tree, Tree]:
        """``(y, cache, state)``; the cache serves `backward` after a forward pass in training only."""
        ...

    def backward(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> tuple[Array, Tree]:
        """As `Layer.backward`."""
        ...

    def gradient(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> Tree:
        """As `Layer.gradient`."""
        return self.backward(xp, params, cache, dy)[1]


def check_width(layer: object, expected: int, n_in: int | None) -> None:
    """Raise `ValueError` unless ``n_in`` features are what ``layer`` takes."""
    if n_in is not None and n_in != expected:
        raise ValueError(
            f"{layer!r} takes {expected} features but {n_in} arrive: make the layer before it {expected} wide "
            f"or build it for {n_in}"
        )


def check_positive(layer: object, **sizes: int) -> None:
    """Raise `ValueError` unless every size is an integer above zero."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{type(layer).__name__}: {name} must be a positive integer, not {size!r}")


def check_range(layer: object, low: float, high: float, **numbers: float) -> None:
    """Raise `ValueError` unless every number lies in ``[low, high)``."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number < high:
            raise ValueError(f"{type(layer).__name__}: {name} must lie in [{low:g}, {high:g}), not {number!r}")

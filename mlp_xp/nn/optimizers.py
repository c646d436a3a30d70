"""Optimizers: the update of one array, written once and lifted to all parameters by the training step.

``update`` consumes the parameter ``w`` and its slots (the optimizer's state for this parameter, such as a velocity) by
augmented assignment, which works in place in NumPy, CuPy and torch and rebinds the name in JAX, and returns the new
ones. ``rates`` computes the coefficients that change from step to step, such as the learning rate, on the host in
float64; they reach ``update`` as 0-d arrays.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from mlp_xp._checks import NOT_NEGATIVE, SHARE, Flag, conform
from mlp_xp.nn.schedules import Schedule, rate_or_schedule
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree


class Rates(NamedTuple):
    """The coefficients of one step: Python numbers on the host, 0-d arrays in `Optimizer.update`.

    >>> SGD(0.1).rates(0.1, 1)
    Rates(scaled=(0.1,), fixed=())
    """

    scaled: tuple[Any, ...]
    """Coefficients proportional to the learning rate, which `LossRatio` scales."""
    fixed: tuple[Any, ...] = ()
    """The others."""


class Optimizer(Protocol):
    """An update rule for one array, which the training step applies to every parameter.

    Write an optimizer of your own as a frozen dataclass that inherits from this class:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class SignDescent(Optimizer):
    ...     lr: float = 0.01
    ...     def rates(self, lr, t):
    ...         return Rates((lr,))
    ...     def init(self, xp, w):
    ...         return ABSENT
    ...     def update(self, xp, w, slots, g, rates):
    ...         w -= rates.scaled[0] * xp.sign(g)
    ...         return w, slots
    >>> rule = SignDescent(0.5)
    >>> rule.update(xp, np.asarray([1.0, 1.0]), ABSENT, np.asarray([3.0, -2.0]), rule.rates(0.5, 1))[0]
    array([0.5, 1.5])
    """

    @property
    def lr(self) -> float | Schedule:
        """The learning rate, a number or a schedule."""
        ...

    def rates(self, lr: float, t: int) -> Rates:
        """Return the coefficients for `update` at step ``t`` = 1, 2, ... and learning rate ``lr``."""
        ...

    def init(self, xp: Namespace, w: Array) -> Tree:
        """Return the slots of the parameter ``w`` before the first step."""
        ...

    def update(self, xp: Namespace, w: Array, slots: Tree, g: Array, rates: Rates) -> tuple[Array, Tree]:
        """Return ``w`` and its slots after a step with the gradient ``g``; consumes ``w`` and its slots."""
        ...


@dataclass(frozen=True)
class SGD(Optimizer):
    """``w <- w - lr g``; with momentum ``v <- mu v - lr g`` and ``w <- w + v``; Nesterov's ``w <- w + mu v - lr g``.

    The velocity includes the learning rate, as in Polyak 1964 and Sutskever et al. 2013, eqs. 1 to 4. (PyTorch
    multiplies by the rate afterwards; at a constant rate both are the same.)

    >>> rule, w = SGD(0.1, momentum=0.9), np.asarray([1.0])
    >>> w, v = rule.update(xp, w, rule.init(xp, w), np.asarray([2.0]), rule.rates(0.1, 1))
    >>> w, v
    (array([0.8]), array([-0.2]))
    """

    lr: float | Schedule = 0.01
    _: KW_ONLY
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        conform(self, lr=rate_or_schedule, momentum=SHARE, nesterov=Flag())
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("SGD: nesterov needs a momentum above 0, such as SGD(lr, momentum=0.9, nesterov=True)")

    def rates(self, lr: float, t: int) -> Rates:
        """``lr``."""
        return Rates((lr,))

    def init(self, xp: Namespace, w: Array) -> Tree:
        """The velocity, or ``ABSENT`` without momentum."""
        return xp.zeros_like(w) if self.momentum else ABSENT

    def update(self, xp: Namespace, w: Array, v: Tree, g: Array, rates: Rates) -> tuple[Array, Tree]:
        """``v <- mu v - lr g`` and ``w <- w + v``, or the forms without momentum or with Nesterov's."""
        (lr,) = rates.scaled
        if v is ABSENT:
            w -= lr * g
            return w, v
        v *= self.momentum
        if self.nesterov:
            step = lr * g
            v -= step
            w += self.momentum * v
            w -= step
        else:
            v -= lr * g
            w += v
        return w, v


class AdamSlots(NamedTuple):
    """Running means of the gradient and of its square."""

    m: Array
    v: Array


@dataclass(frozen=True)
class Adam(Optimizer):
    """``w <- w - lr m^ / (sqrt(v^) + eps)`` (Kingma and Ba 2015, algorithm 1).

    ``m <- b1 m + (1 - b1) g`` and ``v <- b2 v + (1 - b2) g^2``; the hats divide by ``1 - b1^t`` and ``1 - b2^t``.
    With ``eps_hat``, the epsilon is added to ``sqrt(v)`` before that division (end of their section 2), as in
    scikit-learn.

    >>> rule, w = Adam(0.1), np.asarray([1.0, 1.0])
    >>> w, slots = rule.update(xp, w, rule.init(xp, w), np.asarray([5.0, -0.01]), rule.rates(0.1, 1))
    >>> w.round(3)  # the first step has the size of the rate
    array([0.9, 1.1])
    """

    lr: float | Schedule = 0.001
    _: KW_ONLY
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_hat: bool = False

    def __post_init__(self) -> None:
        conform(self, lr=rate_or_schedule, b1=SHARE, b2=SHARE, eps=NOT_NEGATIVE, eps_hat=Flag())

    @cached_property
    def c1(self) -> float:
        """``1 - b1``."""
        return 1.0 - self.b1

    @cached_property
    def c2(self) -> float:
        """``1 - b2``."""
        return 1.0 - self.b2

    def rates(self, lr: float, t: int) -> Rates:
        """``lr sqrt(1 - b2^t) / (1 - b1^t)`` and the epsilon to add to ``sqrt(v)``."""
        root = math.sqrt(1.0 - self.b2**t)
        return Rates((lr * root / (1.0 - self.b1**t),), (self.eps if self.eps_hat else self.eps * root,))

    def init(self, xp: Namespace, w: Array) -> AdamSlots:
        """Zeros."""
        return AdamSlots(xp.zeros_like(w), xp.zeros_like(w))

    def update(self, xp: Namespace, w: Array, slots: AdamSlots, g: Array, rates: Rates) -> tuple[Array, AdamSlots]:
        """``w <- w - lr_t m / (sqrt(v) + eps_t)``, where ``lr_t`` and ``eps_t`` include both bias corrections."""
        m, v = slots
        lr, eps = rates.scaled[0], rates.fixed[0]
        m *= self.b1
        m += self.c1 * g
        v *= self.b2
        v += self.c2 * (g * g)
        w -= lr * m / (xp.sqrt(v) + eps)
        return w, AdamSlots(m, v)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """``w <- w - lr weight_decay w``, then `Adam`, on every parameter (Loshchilov and Hutter 2019, algorithm 2).

    >>> rule, w = AdamW(0.1, weight_decay=0.5), np.asarray([1.0])
    >>> rule.update(xp, w, rule.init(xp, w), np.asarray([0.0]), rule.rates(0.1, 1))[0]
    array([0.95])
    """

    lr: float | Schedule = 0.001
    _: KW_ONLY
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        conform(self, lr=rate_or_schedule, b1=SHARE, b2=SHARE, eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE)

    @cached_property
    def adam(self) -> Adam:
        """The rule without the decay."""
        return Adam(self.lr, b1=self.b1, b2=self.b2, eps=self.eps)

    def rates(self, lr: float, t: int) -> Rates:
        """The coefficients of `Adam`, and ``lr weight_decay``."""
        adam = self.adam.rates(lr, t)
        return Rates((*adam.scaled, lr * self.weight_decay), adam.fixed)

    def init(self, xp: Namespace, w: Array) -> AdamSlots:
        """Zeros."""
        return self.adam.init(xp, w)

    def update(self, xp: Namespace, w: Array, slots: AdamSlots, g: Array, rates: Rates) -> tuple[Array, AdamSlots]:
        """``w <- w - lr weight_decay w``, then the update of `Adam`."""
        w -= rates.scaled[1] * w
        return self.adam.update(xp, w, slots, g, rates)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """``w <- w - lr g / (sqrt(v) + eps)`` with ``v <- decay v + (1 - decay) g^2`` (Hinton 2012, lecture 6e).

    >>> rule, w = RMSprop(0.1, decay=0.75), np.asarray([1.0])
    >>> rule.update(xp, w, rule.init(xp, w), np.asarray([4.0]), rule.rates(0.1, 1))[0].round(6)  # 4 / sqrt(4)
    array([0.8])
    """

    lr: float | Schedule = 0.001
    _: KW_ONLY
    decay: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        conform(self, lr=rate_or_schedule, decay=SHARE, eps=NOT_NEGATIVE)

    @cached_property
    def c(self) -> float:
        """``1 - decay``."""
        return 1.0 - self.decay

    def rates(self, lr: float, t: int) -> Rates:
        """``lr``."""
        return Rates((lr,))

    def init(self, xp: Namespace, w: Array) -> Array:
        """Zeros."""
        return xp.zeros_like(w)

    def update(self, xp: Namespace, w: Array, v: Array, g: Array, rates: Rates) -> tuple[Array, Array]:
        """``v <- decay v + (1 - decay) g^2`` and ``w <- w - lr g / (sqrt(v) + eps)``."""
        v *= self.decay
        v += self.c * (g * g)
        w -= rates.scaled[0] * g / (xp.sqrt(v) + self.eps)
        return w, v

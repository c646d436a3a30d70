"""Checks of arguments at the public entry points, with one clear sentence for each mistake.

`conform` checks the fields of frozen dataclasses, each by a rule, and stores NumPy scalars as Python numbers, because
an ``np.float64`` hyperparameter would promote float32 arrays.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, NamedTuple, Protocol

MOST = 80  # the number of characters of an argument that a message shows


def shown(x: object) -> str:
    """The text for ``x`` in a message: the name of a class, otherwise the repr on one line, truncated."""
    if isinstance(x, type):
        return f"the class {x.__name__}"
    text = " ".join(repr(x).split())
    return text if len(text) <= MOST else f"{text[:MOST]}... ({type(x).__name__})"


def instead(x: object) -> str:
    """The text for ``x`` in a message that expects an instance; a class gets the advice to call it."""
    return f"{shown(x)}: call it, {x.__name__}(...)" if isinstance(x, type) else shown(x)


class Rule(Protocol):
    """A condition on an argument."""

    def __call__(self, name: str, value: Any, /) -> Any:
        """Return ``value``, NumPy scalars as Python numbers. Raises an error about the argument ``name`` otherwise."""
        ...


class Number(NamedTuple):
    """A finite real number from ``low`` to ``high``; ``ends`` says which of the two belong to the interval."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "()"

    def __call__(self, name: str, value: Any) -> float:
        """Return ``value`` as a Python float."""
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be {self.wanted}, not {shown(value)}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        above = self.low <= number if self.ends[0] == "[" else self.low < number
        below = number <= self.high if self.ends[1] == "]" else number < self.high
        if not (above and below):
            raise ValueError(f"{name} must be {self.wanted}, not {shown(value)}")
        return number

    @property
    def wanted(self) -> str:
        """A description of the interval."""
        if self.high < math.inf:
            return f"a number in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"
        if self.low == -math.inf:
            return "a finite number"
        number = "a number" if self.ends[1] == "]" else "a finite number"
        return f"{number} {'of at least' if self.ends[0] == '[' else 'above'} {self.low:g}"


FINITE = Number()
NOT_NEGATIVE = Number(0.0, ends="[)")
POSITIVE = Number(0.0)
SHARE = Number(0.0, 1.0, "[)")
"""[0, 1): rates of decay and of dropout."""
FACTOR = Number(0.0, 1.0, "(]")
"""(0, 1]: factors that reduce a learning rate."""


class Count(NamedTuple):
    """An integer of at least ``least``."""

    least: int = 1

    def __call__(self, name: str, value: Any) -> int:
        """Return ``value`` as a Python integer."""
        wanted = "a positive integer" if self.least == 1 else f"an integer of at least {self.least}"
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be {wanted}, not {shown(value)}")
        if value < self.least:
            raise ValueError(f"{name} must be {wanted}, not {value}")
        return int(value)


check_count = Count()
"""The rule for sizes and numbers of things."""


class Flag:
    """``True`` or ``False``."""

    def __call__(self, name: str, value: Any) -> bool:
        """Return ``value`` as a Python bool."""
        if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
            raise TypeError(f"{name} must be True or False, not {shown(value)}")
        return bool(value)


class OneOf:
    """One of several words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, name: str, value: Any) -> str:
        """``value``."""
        if not isinstance(value, str) or value not in self.words:
            *most, last = map(repr, self.words)
            raise ValueError(f"{name} must be {', '.join(most)} or {last}, not {shown(value)}")
        return str(value)


DTYPE = OneOf("float32", "float64")
"""The dtypes that networks can have."""


class Like(NamedTuple):
    """An instance of a class with these methods; ``such_as`` is an example for the message."""

    such_as: str
    methods: tuple[str, ...]

    def __call__(self, name: str, value: Any) -> Any:
        """``value``."""
        check_kind(name, value, self.methods, self.such_as)
        return value


class Maybe(NamedTuple):
    """A value that ``rule`` accepts, or ``None``."""

    rule: Rule

    def __call__(self, name: str, value: Any) -> Any:
        """``value``."""
        return None if value is None else self.rule(name, value)


def conform(owner: object, **rules: Rule) -> None:
    """Check the fields of a frozen dataclass, each by its rule, and store the values that the rules return."""
    for name, rule in rules.items():
        value = rule(f"{type(owner).__name__}: {name}", getattr(owner, name))
        object.__setattr__(owner, name, value)


def check_kind(name: str, x: object, methods: tuple[str, ...], such_as: str) -> None:
    """Raise `TypeError` unless ``x`` is an instance of a class with these methods; ``such_as`` is an example."""
    if isinstance(x, type) or not all(callable(getattr(x, method, None)) for method in methods):
        raise TypeError(f"{name} must be an object such as {such_as}, not {instead(x)}")


def check_set(arrays: Any, wanted: str) -> None:
    """Raise `TypeError` with ``wanted`` unless ``arrays`` are two or three: rows, targets and perhaps weights."""
    if not isinstance(arrays, (tuple, list)) or len(arrays) not in (2, 3):
        raise TypeError(f"{wanted}, not {shown(arrays)}")

"""Sample weights and class weights: checks, products, and scaling to the range of every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight

from mlp_xp._checks import shown
from mlp_xp.sklearn.arrays import to_host
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray


def row_weights(sample_weight: Any, x: Any, factors: HostArray | None = None) -> Any:
    """The weight of each row of ``x`` times its factor, (rows,) float64, or `ABSENT` without either."""
    if sample_weight is None and factors is None:
        return ABSENT
    w = _check_sample_weight(to_host(sample_weight), x, dtype=np.float64, ensure_non_negative=True)
    w = w if factors is None else w * factors
    if not (np.all(np.isfinite(w)) and np.any(w > 0.0)):
        raise ValueError(
            "sample_weight, times class_weight if given, must be finite and not all zero, but ranges from "
            f"{w.min():g} to {w.max():g}"
        )
    return w


def scaled(w: Any) -> Any:
    """Divide ``w`` by a power of two, so that the largest is in [0.5, 1) and sums stay in the range of the dtype.

    Only ratios of weights enter the gradient of a mean.
    """
    return ABSENT if w is ABSENT else np.ldexp(w, -np.frexp(w.max())[1])


def class_factors(class_weight: Any, classes: HostArray, y: HostArray) -> HostArray:
    """The weight of each row's class, (rows,); for several outputs, the product."""
    if y.ndim == 1 and not isinstance(class_weight, str):
        _check(class_weight, classes)
        each = np.array([float(class_weight.get(label, 1.0)) for label in classes.tolist()])
        return each[np.searchsorted(classes, y)]
    for weights in class_weight if isinstance(class_weight, list) else ():
        _check(weights, np.arange(2))
    return compute_sample_weight(class_weight, y)  # type: ignore[no-any-return]


def _check(weights: Any, classes: HostArray) -> None:
    """Raise unless ``weights`` are non-negative numbers for some of ``classes``."""
    if not isinstance(weights, dict):
        raise ValueError(
            "class_weight must be 'balanced', a dictionary {label: weight}, or for several outputs a list of "
            f"dictionaries, not {shown(weights)}"
        )
    unknown = [label for label in weights if label not in classes.tolist()]
    if unknown:
        raise ValueError(f"class_weight names the label {unknown[0]!r}, but the classes are {classes.tolist()}")
    for label, weight in weights.items():
        if not (np.isreal(weight) and 0.0 <= weight < np.inf):
            raise ValueError(f"class_weight must hold non-negative numbers, but that of {label!r} is {weight!r}")

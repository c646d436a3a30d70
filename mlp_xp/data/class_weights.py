"""Conversion of class weights to weights of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np  # noqa: TID251  labels are host arrays

from mlp_xp._checks import shown
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray

EXPECTED = "class_weight must be 'balanced', a weight for each class in order, or {class: weight}"


def check_class_weight(class_weight: Any) -> Any:
    """Return ``class_weight`` as ``None``, ``"balanced"``, a list of floats, or a dict of floats by class."""
    if class_weight is None or (isinstance(class_weight, str) and class_weight == "balanced"):
        return class_weight
    if isinstance(class_weight, Mapping):
        return {_class(k): _weight(v) for k, v in class_weight.items()}
    if isinstance(class_weight, (Sequence, np.ndarray)) and not isinstance(class_weight, str):
        return [_weight(v) for v in class_weight]
    raise TypeError(f"{EXPECTED}, not {shown(class_weight)}")


def weigh_classes(
    class_weight: Any,
    y: HostArray,
    n_out: int,
    w: Any = ABSENT,
    total: Callable[[HostArray], HostArray] = np.asarray,
) -> Any:
    """Multiply the sample weights ``w`` by the weight of each row's class, (rows,) float64.

    ``"balanced"`` gives class c the weight ``rows / (k rows_c)`` for the ``k`` classes that occur (King and Zeng 2001);
    classes missing in a mapping have the weight 1. ``total`` sums counts over the ranks that have other rows.
    """
    if class_weight is None:
        return w
    if y.ndim != 1:
        raise ValueError(f"class_weight needs integer class labels of shape (rows,), but y has shape {y.shape}")
    if isinstance(class_weight, str):
        counts = total(np.bincount(y, minlength=n_out))
        table = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    elif isinstance(class_weight, dict):
        if unknown := [c for c in class_weight if not 0 <= c < n_out]:
            raise ValueError(f"class_weight names class {unknown[0]}, but the classes are 0 ... {n_out - 1}")
        table = np.array([class_weight.get(c, 1.0) for c in range(n_out)])
    else:
        table = np.array(class_weight)
        if table.shape != (n_out,):
            raise ValueError(f"class_weight must hold {n_out} weights, one for each class, not {table.size}")
    weights = table[y]
    return weights if w is ABSENT else weights * np.asarray(w, np.float64)


def _class(c: Any) -> int:
    if isinstance(c, bool) or not isinstance(c, (int, np.integer)):
        raise TypeError(f"{EXPECTED}; a class is an integer, not {shown(c)}")
    return int(c)


def _weight(v: Any) -> float:
    if isinstance(v, bool) or not isinstance(v, (int, float, np.number)) or not 0.0 < float(v) < math.inf:
        raise ValueError(f"a class weight must be a finite number above 0, not {shown(v)}")
    return float(v)

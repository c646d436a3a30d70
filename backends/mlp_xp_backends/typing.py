"""Names for types that Python cannot express: arrays of any library, trees of them, and namespaces."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
"""An array of any library that follows the Array API standard."""
HostArray = np.ndarray[Any, Any]
"""A NumPy array, in the memory of the host."""
Namespace = Any
"""The functions of an array library: the ``xp`` of the Array API standard."""
Tree = Any
"""Tuples and named tuples of arrays, nested to any depth: see `mlp_xp_backends.trees`."""

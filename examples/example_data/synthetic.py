"""Synthetic data: the ellipse of the 2-3-2 network and the two moons."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError, Dataset, Split

__all__ = ["ELLIPSE_LEVEL", "ELLIPSE_Q", "ellipse", "ellipse_form", "load_moons"]

ELLIPSE_Q = ((1.0, -0.05), (1.0, 0.4))
ELLIPSE_LEVEL = 0.6


def ellipse_form(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """``x Q xᵀ`` (n,) of the rows of ``x`` (n, 2): below `ELLIPSE_LEVEL` inside the ellipse."""
    values: npt.NDArray[np.float64] = np.einsum("ni,ij,nj->n", x, np.asarray(ELLIPSE_Q), x)
    return values


def ellipse(n: int, rng: np.random.Generator) -> Split:
    """Draw ``n`` points from N(0, I) in two dimensions, with class 1 outside the ellipse ``x Q xᵀ = 0.6``.

    Returns
    -------
    ``x`` (n, 2) ``float64`` and ``y`` (n,) ``int32`` 0 or 1.
    """
    x = rng.standard_normal((n, 2))
    return Split(x, (ellipse_form(x) > ELLIPSE_LEVEL).astype(np.int32))


def load_moons(n: int = 5000, noise: float = 0.1, seed: int = 42) -> Dataset:
    """Draw two interleaving half circles with scikit-learn's ``make_moons``; 30 % of the points are the test part.

    The defaults give the published data set and split: ``make_moons(5000, noise=0.1, random_state=42)``
    and ``train_test_split(test_size=0.3, random_state=42)``.

    Returns
    -------
    ``train`` and ``test`` with ``x`` (n, 2) ``float64`` and ``y`` (n,) ``int32`` 0 (upper) or 1 (lower); no
    ``valid``.

    Raises
    ------
    DataError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import make_moons
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError("the moons need scikit-learn: pip install 'mlp-xp[examples]'") from error
    x, y = make_moons(n, noise=noise, random_state=seed)
    train_x, test_x, train_y, test_y = train_test_split(x, y.astype(np.int32), test_size=0.3, random_state=seed)
    source = f"two moons of scikit-learn ({len(train_x):,} + {len(test_x):,} points, noise {noise:g}, seed {seed})"
    return Dataset(
        "moons",
        source,
        Split(train_x, train_y),
        None,
        Split(test_x, test_y),
        ("upper moon", "lower moon"),
        (2,),
    )

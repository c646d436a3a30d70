"""The 1,797 digits of 8 x 8 pixels that scikit-learn includes, which replace MNIST if it cannot be downloaded."""

from __future__ import annotations

import numpy as np

from .dataset import DataError, Dataset, Split, split

__all__ = ["load_digits"]


def load_digits(rng: np.random.Generator) -> Dataset:
    """Return scikit-learn's digits, with a fifth of them, drawn by ``rng``, as the test part.

    Returns
    -------
    ``train`` and ``test`` with ``x`` (n, 64) ``uint8`` (0-16 scaled to 0-255, as in MNIST) and ``y``
    (n,) ``int32`` 0-9; no ``valid``.

    Raises
    ------
    DataError
        scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError("the digits need scikit-learn: pip install 'mlp-xp[examples]'") from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    whole = Split(np.rint(pixels * (255 / 16)).astype(np.uint8), labels.astype(np.int32))
    train, test = split(whole, (4, 1), rng)
    source = f"the digits of scikit-learn ({len(train.x):,} + {len(test.x):,} images of 8 x 8)"
    return Dataset("digits", source, train, None, test, tuple("0123456789"), (8, 8))

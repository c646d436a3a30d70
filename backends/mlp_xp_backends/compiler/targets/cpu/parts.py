"""Parts of a large product, each for one thread: they depend on its shape only, and so do the bits.

If OpenBLAS divides a product, they may depend on the number of threads: with several of them it cuts long sums at other
places, and some of its kernels round differently at the edges of a block.
"""

from __future__ import annotations

from mlp_xp_backends.typing import Array, HostArray

Product = tuple[HostArray, HostArray, HostArray]
"""The arrays of ``c = a b``."""

LEAST = 1_900_000
"""The fewest multiplications of a part."""
MOST = 4
"""The largest number of parts."""
TILE = 8
"""The rows or columns of all parts but the last are multiples of this."""


def parts(c: HostArray, a: HostArray, b: HostArray, most: int) -> list[Product]:
    """Split ``c = a b`` into at most as many products of blocks along the longer side of ``c``."""
    (rows, columns), n = c.shape, max(1, min(most, multiplications(a, b) // LEAST))
    by_row, tiles = rows >= columns, -(-max(rows, columns) // TILE)
    cuts = [slice(k * tiles // n * TILE, (k + 1) * tiles // n * TILE) for k in range(n)]
    return [(c[cut], a[cut], b) if by_row else (c[:, cut], a, b[:, cut]) for cut in cuts if cut.start < cut.stop]


def multiplications(a: Array, b: Array) -> int:
    """Those of the product ``a b`` of two matrices, or of one product of two stacks."""
    return int(a.shape[-2] * a.shape[-1] * b.shape[-1])

"""Dropout, with masks that are equal on all backends, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mlp_xp._checks import SHARE, conform
from mlp_xp.nn.layers.base import Generator, Spec, StatefulLayer
from mlp_xp.nn.parts import row_numbers
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree


class Counter(NamedTuple):
    """The state of a counter-based random number generator."""

    key: Array  # (..., 1, 1) int32
    step: Array  # (..., 1, 1) int32


def hash32(x: Array) -> Array:
    """A bijection of 32-bit integers under which every input bit flips every output bit about half of the time.

    Two rounds of multiply and xor-shift, with the constants of C. Wellons' ``lowbias32`` (2018). The arithmetic is that
    of int32, the only 32-bit integer type that all libraries can multiply and shift; products wrap around modulo 2^32.
    """
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)


@dataclass(frozen=True)
class Dropout(StatefulLayer):
    """``y = x m / (1 - rate)`` with ``m`` 0 or 1, P(m = 0) = rate, in training; ``y = x`` in prediction.

    Inverted dropout (Srivastava et al. 2014, sec. 10). The mask of an entry is a hash of the layer's key, the step and
    the position in the batch, so the same seed drops the same units on every device and for any number of ranks.

    >>> layer = Dropout(0.5)
    >>> state = layer.init_state(np.random.default_rng(0))
    >>> y, _, state = layer.forward(xp, ABSENT, state, np.ones((4, 1000)), True)
    >>> sorted(set(y.ravel().tolist())), 0.95 < float(y.mean()) < 1.05
    ([0.0, 2.0], True)
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        conform(self, rate=SHARE)

    @cached_property
    def scale(self) -> float:
        """``1 / (1 - rate)``."""
        return 1.0 / (1.0 - self.rate)

    @cached_property
    def threshold(self) -> int:
        """The threshold below which an int32 is with probability ``rate``."""
        return int(self.rate * 2.0**32) - 2**31

    def state_specs(self) -> Counter:
        """One key and one count."""
        return Counter(Spec(1, 1, "int32"), Spec(1, 1, "int32"))

    def init_state(self, rng: Generator) -> Counter:
        """A random key per layer, so that no two layers drop the same units."""
        return Counter(rng.integers(2**31, size=(1, 1), dtype="int32"), rng.integers(1, size=(1, 1), dtype="int32"))

    def forward(
        self, xp: Namespace, params: Tree, state: Counter, x: Array, train: bool
    ) -> tuple[Array, Array, Counter]:
        """The output; the cache is the mask, already divided by ``1 - rate``."""
        if not train or self.rate == 0.0:
            return x, ABSENT, state
        m = xp.astype(self.keep(xp, state, x.shape[-2:]), x.dtype) * self.scale
        return x * m, m, Counter(state.key, state.step + 1)

    def backward(self, xp: Namespace, params: Tree, m: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy m / (1 - rate)``."""
        return (dy if self.rate == 0.0 else dy * m), ABSENT

    def keep(self, xp: Namespace, state: Counter, shape: tuple[int, int]) -> Array:
        """The mask of the entries that are kept: bool (..., rows, features)."""
        rows, features = shape
        row = xp.reshape(row_numbers(xp, rows), (rows, 1))
        column = xp.arange(features, dtype=xp.int32)
        stream = hash32(state.key ^ hash32(state.step))  # (..., 1, 1)
        bits = hash32(hash32(row ^ stream) ^ column)
        return bits >= self.threshold

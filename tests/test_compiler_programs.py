"""Random programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler_cases import assert_same, compiled, copied, f, frozen, stepwise


@pytest.mark.parametrize(("seed", "size"), [*((seed, 3) for seed in range(150)), *((seed, 300) for seed in range(25))])
def test_programs_drawn_at_random(seed: int, size: int) -> None:
    """Bodies of random operations, in-place ones among them; 300 x 300 is large enough for blocks."""

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        rng = np.random.default_rng(seed)
        carry, pool = list(carry), [*carry, consts, item[0]]
        for _ in range(rng.integers(3, 25)):
            x, y = (pool[k] for k in rng.integers(len(pool), size=2))
            match rng.integers(9):
                case 0:
                    pool.append(x * 0.5 + y * 0.25)
                case 1:
                    pool.append(xp.matmul(x, y) * (0.5 / size) + xp.sum(y, axis=0, keepdims=True) / size)
                case 2:
                    pool.append(xp.matmul(xp.matrix_transpose(x), y) / size)
                case 3:
                    pool.append(xp.tanh(x) - xp.astype(y > 0, x.dtype))
                case 4 | 5:
                    k = int(rng.integers(len(carry)))
                    pool = [p for p in pool if p is not carry[k]]
                    g = pool[int(rng.integers(len(pool)))] * 1.0
                    if rng.integers(2):
                        carry[k] *= 0.5
                    carry[k] -= item[1] * (xp.matmul(g.mT, g) / size if rng.integers(2) else g)
                    pool.append(carry[k])
                case 6:
                    pool.append(x - xp.max(x, axis=-1, keepdims=True) * 0.1)
                case 7:
                    pool.append(xp.where(x > y, x, y * 0.5))
                case 8:
                    carry[int(rng.integers(len(carry)))] = x * 0.5
                    pool = [p for p in pool if any(p is c for c in carry)] + [x * 0.1]
        return tuple(carry), xp.sum(pool[-1]) / size**2

    items = (f((3, size, size), seed, "float64"), np.array([0.1, 0.2, 0.3]))
    loop, plain = compiled(body), stepwise(body)
    carry = tuple(f((size, size), k, "float64") for k in range(3))
    mine, theirs = copied(carry), copied(carry)
    assert loop.compiled(mine, f((size, size), 9, "float64"), items) is not None
    consts = frozen(f((size, size), 9, "float64"))
    for _ in range(2):
        mine, got = loop(mine, consts, items)
        theirs, expected = plain(theirs, consts, items)
        assert_same((mine, got), (theirs, expected))

"""Random programs: the compiled loop equals the plain loop, or falls back to it."""

from __future__ import annotations

import numpy as np
import pytest

from mlp_xp_backends.compiler.program import Unrecordable
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.trees import leaves
from tests.compiler_cases import LIBRARIES, Library, compiled, copied, stepwise, verified
from tests.programs import draw


def agrees(seed: int, library: Library) -> bool:
    """Whether program ``seed`` is recorded; asserts that both loops return the same arrays or raise the same error."""
    body, carry, consts, items = draw(seed)
    loop, plain = compiled(body, library), stepwise(body)
    with np.errstate(all="ignore"):
        try:
            expected = plain(copied(carry), consts, items)
        except Exception as error:
            with pytest.raises(type(error)):
                loop(copied(carry), consts, items)
            return False
        try:
            verified(record(body, carry, consts, items))
        except (Unrecordable, Exception):
            assert loop.compiled(carry, consts, items) is None
        mine = copied(carry)
        got = loop(mine, consts, items)
        again, third = loop(copied(got[0]), consts, items), plain(copied(expected[0]), consts, items)
    for a, b in zip(leaves((got, again)), leaves((expected, third)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b, err_msg=f"program {seed}")
    return loop.compiled(carry, consts, items) is not None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("block", range(3))
def test_programs_drawn_at_random(block: int, library: Library) -> None:
    recorded = [agrees(seed, library) for seed in range(100 * block, 100 * (block + 1))]
    assert sum(recorded) > 50


@pytest.mark.slow
@pytest.mark.parametrize("block", range(100))
def test_ten_thousand_programs_drawn_at_random(block: int) -> None:
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        agrees(seed, LIBRARIES[1].values[0])

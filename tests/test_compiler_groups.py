"""Sums over ranks in recorded loops: none is executed during recording, shared, removed or moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp_backends import get_backend
from mlp_xp_backends.compiler.passes import rewritten
from mlp_xp_backends.compiler.program import Kind, Unrecordable
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cpu.run import Runner
from mlp_xp_backends.compiler.verify import verify
from mlp_xp_backends.groups import Solo, with_group


class Doubling(Solo):
    """A group of two ranks with equal arrays."""

    size = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def sum(self, x: Any, out: Any = None) -> Any:
        self.sizes.append(x.size)
        self.recorded = out is not None
        return super().sum(2 * x, out)


def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
    w, b = carry
    xp.all_sum(item[0, :])  # whose result has no use
    y = xp.matmul(item, w) + b
    means = xp.all_sum(xp.sum(y, axis=-2, keepdims=True)), xp.all_sum(xp.sum(y, axis=-2, keepdims=True))
    flat = xp.all_sum(xp.concat([xp.reshape(y, (-1,)), xp.reshape(means[0] + means[1], (-1,))]))
    w -= 0.01 * xp.reshape(flat[: w.size], w.shape)
    b -= 0.01 * xp.matrix_transpose(xp.all_sum(xp.matrix_transpose(y)))[:1, :]
    return (w, b), xp.sum(flat)


SIZES = [4, 5, 5, 20 + 5, 20]
rng = np.random.default_rng(0)
items = rng.normal(size=(3, 4, 4))


def carry() -> Any:
    return np.ones((4, 5)), np.full((1, 5), 0.5)


def test_a_recorded_loop_sums_as_the_plain_one_does() -> None:
    found = []
    for name in ("numpy:plain", "numpy"):
        group = Doubling()
        (w, b), outs = with_group(get_backend(name), group).compile(body)(carry(), (), items)
        assert group.sizes == 3 * SIZES
        assert group.recorded == (name == "numpy")
        found.append((w, b, outs))
    for plain, recorded in zip(*found, strict=True):
        np.testing.assert_allclose(recorded, plain, rtol=1e-13)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_sums_are_recorded_once_each_and_stay_in_order(rows: int) -> None:
    def refused(x: Any, out: Any) -> None:
        raise AssertionError("called while recording")

    def some(xp: Any, w: Any, consts: Any, x: Any) -> Any:
        xp.all_sum(x)
        once, again = (xp.all_sum(xp.matmul(xp.matrix_transpose(x), x)) for _ in range(2))
        w -= once + again
        xp.all_sum(w)
        return w, xp.sum(w)

    program = record(some, np.ones((3, 3)), (), np.ones((2, rows, 3)), refused)
    after = rewritten(program)
    verify(after)
    for p in (program, after):
        assert [op.inputs[0].shape for op in p.ops if op.kind is Kind.ALL_SUM] == [(rows, 3), *3 * [(3, 3)]]
    assert Runner(program, None).plan


def test_without_a_group_there_is_nothing_to_record() -> None:
    with pytest.raises(Unrecordable, match="all_sum"):
        record(lambda xp, carry, consts, item: (carry, xp.all_sum(item)), (), (), np.ones((2, 3)))

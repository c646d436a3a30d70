"""Products on several cores: the same bits on any number of them, and no harm to others."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from mlp_xp import SGD, Adam, Trainer, mlp
from mlp_xp_backends.compiler.targets.cpu.blas import OpenBlas, mkl, openblas
from mlp_xp_backends.compiler.targets.cpu.team import MOST, SPLIT, TEAM, parts
from mlp_xp_backends.trees import leaves
from tests.compiler_cases import Library, compiled, f

needs_openblas = pytest.mark.skipif(openblas() is None, reason="NumPy has no OpenBLAS")


@pytest.mark.parametrize(
    ("shape", "number"),
    [((512, 784, 1000), 8), ((128, 1000, 1000), 8), ((1000, 128, 10), 1), ((3, 30_000, 700), 4), ((200, 200, 200), 2)],
)
def test_parts_cover_the_product_once(shape: tuple[int, int, int], number: int) -> None:
    rows, shared, columns = shape
    c, a, b = np.zeros((rows, columns)), np.ones((rows, shared)), np.ones((shared, columns))
    pieces = parts(c, a, b)
    assert (len(pieces) > 1) == (rows * shared * columns >= SPLIT)
    assert len(pieces) == number <= MOST
    axis = int(columns > rows)
    assert all(z.shape[axis] % 16 == 0 for z, _, _ in pieces[:-1])
    for z, x, y in pieces:
        assert np.may_share_memory(z, c)
        z += x @ y
    np.testing.assert_array_equal(c, shared)


@needs_openblas
@pytest.mark.parametrize("rule", [SGD(0.1, momentum=0.9), Adam(0.001)], ids=["momentum", "adam"])
def test_the_same_bits_on_any_number_of_threads(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = f((300, 300)), np.arange(300) % 10
    weights = []
    for threads in (1, 2, 4, 3):
        monkeypatch.setattr(OpenBlas, "threads", threads)
        trainer = Trainer(mlp(300, 400, 400, 10), optimizer=rule, seed=1)
        trainer.fit(x, y, max_epochs=3, batch_size=100)
        weights.append([w.copy() for w in leaves(trainer.state.params)])
    assert TEAM.workers
    for others in weights[1:]:
        for a, b in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


@needs_openblas
def test_loops_of_several_threads_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenBlas, "threads", 2)
    k, x = f((300, 300)), f((5, 300, 300), 1)
    found: list[np.ndarray] = []

    def train() -> None:
        found.extend(compiled(lambda xp, c, k, x: (c, xp.matmul(x, k)))((), k, x)[1] for _ in range(3))

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 12
    for y in found:
        np.testing.assert_array_equal(y, found[0])


@pytest.mark.parametrize(
    "find", [openblas, pytest.param(mkl, marks=pytest.mark.skipif(mkl() is None, reason="no MKL"))]
)
def test_a_step_leaves_the_number_of_threads_as_it_was(find: Library) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    if find() is None:
        pytest.skip("NumPy has no OpenBLAS")

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(2):
        before = threads()
        loop = compiled(lambda xp, c, k, x: (c, xp.matmul(x, k) * 2.0), find)
        loop((), f((20, 20)), f((5, 20, 20)))
        assert threads() == before


def test_mkl_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp_backends.compiler.targets.cpu.blas import blas

    monkeypatch.delenv("MLP_XP_BLAS", raising=False)
    assert blas.__wrapped__() is openblas()
    monkeypatch.setenv("MLP_XP_BLAS", "accelerate")
    with pytest.raises(ValueError, match="MLP_XP_BLAS is 'accelerate': it can be openblas, openblas-parts or mkl"):
        blas.__wrapped__()

"""A model of a stack is trained like the same model alone, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp.nn.layers import Chain, Dense, LayerNorm, ReLU
from mlp_xp.nn.losses import SoftmaxCrossEntropy
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, Rates
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends.compiler.passes import rewritten
from mlp_xp_backends.compiler.program import Kind
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.trees import ABSENT, leaves, tree_map
from mlp_xp_backends.typing import HostArray
from tests.compiler_cases import compiled, copied

MODELS, STEPS = 3, 20
RULES: dict[str, Optimizer] = {"momentum": SGD(0.1, momentum=0.9), "adam": Adam(0.01), "adamw": AdamW(0.01)}
NETWORKS = {
    "small": mlp(16, 32, 32, 3),
    "many classes": mlp(16, 32, 600),
    "layer norm": Chain(Dense(16, 70), LayerNorm(70), ReLU(), Dense(70, 3)),
}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "l2": 0.01}, {"max_norm": 1.0}], ids=["", "clip", "max"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_of_a_stack_has_the_bits_of_the_model_alone(
    network: str, rule: str, dtype: str, options: dict[str, Any]
) -> None:
    chain, optimizer, rng = NETWORKS[network], RULES[rule], np.random.default_rng(0)
    step = TrainStep(chain, SoftmaxCrossEntropy(), optimizer, **options)
    alone = [tree_map(lambda a: a.astype(dtype), chain.init(rng)) for _ in range(MODELS)]
    stacked = tree_map(lambda *a: np.stack(a), *alone)
    X, y = rng.standard_normal((200, 16)).astype(dtype), rng.integers(0, 3, 200)
    rows = rng.integers(0, 200, (STEPS, 64))
    columns = zip(*(leaves(optimizer.rates(0.01, t + 1)) for t in range(STEPS)), strict=True)
    flat = iter([np.asarray(column, dtype) for column in columns])
    rates = tree_map(lambda _: next(flat), optimizer.rates(0.01, 1))

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        rows, rates = item
        x, y = (xp.take(a, rows, axis=0) for a in consts)
        return step(xp, carry, x, y, ABSENT, Rates(*rates))

    def trained(params: Any) -> Any:
        loop, state = compiled(body), step.init(np, copied(params), chain.init_state(rng))
        assert loop.compiled(state, (X, y), (rows, rates)) is not None
        return loop(state, (X, y), (rows, rates))

    states, losses = trained(stacked)
    for k, params in enumerate(alone):
        state, loss = trained(params)
        np.testing.assert_array_equal(losses[:, k], loss)
        for together, single in zip(leaves(states), leaves(state), strict=True):
            np.testing.assert_array_equal(together[k], single)


def test_numbers_of_models_are_packed_with_their_arrays() -> None:
    """Each operation of the update is one for all weights and biases, whose numbers are repeated for every element."""

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        return tuple(consts[0] * p - item * g for p, g in zip(carry, consts[1], strict=True)), ()

    def arrays(seed: int) -> tuple[HostArray, ...]:
        rng = np.random.default_rng(seed)
        return tuple(rng.standard_normal((MODELS, *shape), np.float32) for shape in ((16, 8), (1, 8), (8, 1)))

    carry, gradients = arrays(0), arrays(1)
    momenta, rates = (np.random.default_rng(2).random((n, MODELS, 1, 1), np.float32) for n in (1, STEPS))
    loop, consts = compiled(body), (momenta[0], gradients)
    ops = rewritten(record(body, carry, consts, rates)).ops
    updates = [(op.name, len(op.out.shape)) for op in ops if op.kind is Kind.ELEMENTWISE]
    assert sorted(updates) == [("multiply", 1), ("multiply", 1), ("subtract", 1)]
    after, _ = loop(copied(carry), consts, rates)
    for k in range(MODELS):
        alone = tuple(p[k] for p in carry)
        for rate in rates[:, k, 0, 0]:
            alone = tuple(momenta[0, k, 0, 0] * p - rate * g[k] for p, g in zip(alone, gradients, strict=True))
        for together, single in zip(after, alone, strict=True):
            np.testing.assert_array_equal(together[k], single)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(64, 16, 32), (7, 128, 5), (200, 3, 90), (16, 128, 128), (17, 129, 8), (1, 40, 9)])
def test_a_product_and_a_sum_have_the_bits_of_the_product_alone(size: tuple[int, int, int], dtype: str) -> None:
    def body(xp: Any, carry: Any, consts: Any, x: Any) -> Any:
        w, b = consts
        return carry, xp.matmul(x, w) + b

    (rows, inner, columns), rng = size, np.random.default_rng(0)
    shapes = ((MODELS, inner, columns), (MODELS, 1, columns), (STEPS, MODELS, rows, inner))
    w, b, x = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    _, together = compiled(body)((), (w, b), x)
    for k in range(MODELS):
        _, alone = compiled(body)((), (w[k], b[k]), x[:, k])
        np.testing.assert_array_equal(together[:, k], alone)

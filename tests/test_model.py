"""Models: their predictions, and evaluation and prediction batch by batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import mlp_xp.forward
from mlp_xp import (
    BatchNorm,
    BinaryCrossEntropy,
    Chain,
    Dense,
    Dropout,
    Identity,
    Model,
    SoftmaxCrossEntropy,
    SquaredError,
    Trainer,
    mlp,
)
from mlp_xp.data.feed import Batch
from mlp_xp.forward import blocks, over_steps, padded_rows
from mlp_xp.model import Evaluation, _likeliest, _positive, as_backend
from mlp_xp_backends import get_backend
from mlp_xp_backends.protocol import Memory
from mlp_xp_backends.trees import ABSENT

CPU = get_backend("cpu")
rng = np.random.default_rng(0)
X, Y, W = rng.standard_normal((60, 4)), rng.integers(0, 3, 60), rng.uniform(0.5, 2.0, 60)


def passing(loss: Any, n: int) -> Model:
    """A model whose outputs are its inputs."""
    trainer = Trainer(Chain(Dense(n, n), Identity()), loss, device="cpu", dtype="float64")
    trainer.state.params[0].W[...] = np.eye(n)
    trainer.state.params[0].b[...] = 0.0
    return trainer.model


# Predictions


def test_the_class_is_that_of_the_largest_output_and_the_first_of_equal_ones() -> None:
    z = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, -1.0], [-1.0, -3.0, -0.5]])
    model = passing(SoftmaxCrossEntropy(), 3)
    assert model.predict(z).tolist() == [1, 0, 2] and model.predict(z).dtype == np.int64
    np.testing.assert_array_equal(model.outputs(z), z)
    np.testing.assert_allclose(model.predict_proba(z), np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))


def test_the_class_of_each_model_of_a_stack_is_that_of_its_outputs() -> None:
    """Leading axes are models."""
    z = np.random.default_rng(0).normal(size=(2, 5, 3))
    z[1, 4, 0] = np.nan
    expected = z.argmax(axis=2)
    expected[1, 4] = -1
    np.testing.assert_array_equal(_likeliest(CPU.xp, z), expected)
    np.testing.assert_array_equal(_positive(CPU.xp, z), np.where(np.isnan(z), -1, z > 0.0))


def test_an_output_above_0_is_class_1_of_a_binary_loss() -> None:
    z = np.array([[0.0, 1e-9], [-1e-9, 5.0]])
    model = passing(BinaryCrossEntropy(), 2)
    assert model.predict(z).tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(model.predict_proba(z), 1.0 / (1.0 + np.exp(-z)))


def test_values_of_a_regression_are_its_outputs() -> None:
    np.testing.assert_array_equal(passing(SquaredError(), 3).predict(np.eye(3)), np.eye(3))


@pytest.mark.parametrize(("loss", "n"), [(SoftmaxCrossEntropy(), 3), (BinaryCrossEntropy(), 2)])
def test_the_first_row_without_a_class_is_named(loss: Any, n: int) -> None:
    z = np.zeros((5, n))
    z[2, 1] = z[4, 0] = np.nan
    with pytest.raises(ValueError, match="the outputs of row 2 are NaN, so it has no class: x holds NaN"):
        passing(loss, n).predict(z)


# Evaluation


def test_evaluation_is_the_weighted_mean_over_rows() -> None:
    model = passing(SoftmaxCrossEntropy(), 3)
    z, y, w = X[:, :3], Y, W
    costs = np.log(np.exp(z).sum(axis=1)) - z[np.arange(60), y]
    hits = z.argmax(axis=1) == y
    for weights in (None, w):
        for batch_size in (1, 7, 60, 1024):
            found = model.evaluate(z, y, sample_weight=weights, batch_size=batch_size)
            expected = {"loss": np.average(costs, weights=weights), "accuracy": np.average(hits, weights=weights)}
            assert found == pytest.approx(expected)
            assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize("free", [10**12, 0])
def test_processes_that_measure_parts_have_the_mean_of_all_rows(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts, one without rows; the data are stored on the device or sent again for each evaluation."""
    model, z = passing(SoftmaxCrossEntropy(), 3), X[:, :3].astype(np.float32)
    expected, weights = model.evaluate(z, Y, sample_weight=W), []
    monkeypatch.setattr(type(CPU), "memory", lambda self: Memory(free, free))

    def total(numbers: Any) -> Any:
        """The weight of all rows; sums of losses and metrics are added up below."""
        return weights.append(float(numbers)) or np.asarray(W.sum()) if numbers.ndim == 0 else numbers

    parts = [
        Evaluation(model.network, model.loss, CPU, "float64", z, Y, W, own=lambda n, own=own: own, total=total)
        for own in (slice(0, 20), slice(20, 20), slice(20, 60))
    ]
    np.testing.assert_allclose(weights, [W[:20].sum(), 0.0, W[20:].sum()])
    for _ in range(2):
        found = [part(model.params, model.state) for part in parts]
        assert {name: sum(values[name] for values in found) for name in expected} == pytest.approx(expected)


# Batch by batch


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 30, 64])
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("limits", [{}, {"STEPS": 2}, {"WINDOW_BYTES": 8 * 16 * 3}, {"WINDOW_BYTES": 1}])
def test_blocks_are_all_rows_in_their_order(
    rows: int, pad: bool, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has 16 bytes here. Only the last batch is smaller than 8 rows, and alone."""
    for name, limit in limits.items():
        monkeypatch.setattr(mlp_xp.forward, name, limit)
    x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    stacks = [block.x for block in blocks(CPU, mlp(4, 2), Batch(x, ABSENT, ABSENT), "float32", 8, pad=pad)]
    most = {"STEPS": 2, "WINDOW_BYTES": 3 if limits.get("WINDOW_BYTES", 0) > 1 else 1}.get(next(iter(limits), ""), 256)
    assert all(0 < stack.shape[0] <= most for stack in stacks)
    assert len(stacks) == len({stack.shape for stack in stacks}) or limits, "one stack for each shape"
    for i, stack in enumerate(stacks):
        last = i == len(stacks) - 1 and rows % 8
        assert stack.shape[1:] == ((padded_rows(rows % 8) if pad else rows % 8) if last else 8, 4)
    flat = np.concatenate([stack.reshape(-1, 4) for stack in stacks])
    np.testing.assert_array_equal(flat[:rows], x)
    assert not flat[rows:].any()


def test_padding_adds_less_than_a_quarter_and_leaves_few_sizes() -> None:
    """Numbers of three binary digits and zeros: 4 sizes from each power of two to the next."""
    for rows in range(1, 1025):
        padded = padded_rows(rows)
        assert 0 <= padded - rows < max(rows / 4, 1)
        assert padded.bit_length() <= 3 or padded % 2 ** (padded.bit_length() - 3) == 0
    assert len({padded_rows(rows) for rows in range(1, 1025)}) <= 4 * 10


@pytest.mark.parametrize("rows", [1, 5, 1023, 1024, 1025, 3000])
def test_outputs_do_not_depend_on_batches(rows: int) -> None:
    """Up to a batch NumPy computes directly, of more rows in a compiled loop."""
    net = Chain(Dense(4, 8), BatchNorm(8), Dropout(0.5), Dense(8, 3))
    model, x = Trainer(net, device="cpu", dtype="float64").model, np.random.default_rng(0).normal(size=(rows, 4))
    (W, b), _, _, (V, c) = model.params
    mean, var = model.state[1] if len(model.state[1]) == 2 else (0.0, 1.0)
    expected = ((x @ W + b - mean) / np.sqrt(var + net.layers[1].eps)) @ V + c
    for batch_size in (1024, 100, rows):
        np.testing.assert_allclose(model.outputs(x, batch_size=batch_size), expected, rtol=1e-9, atol=1e-12)


def test_small_predictions_bind_no_loop_and_large_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loops = passing(SquaredError(), 3), []
    make = mlp_xp.forward.forward_loop
    monkeypatch.setattr(mlp_xp.forward, "forward_loop", lambda *args: loops.append(1) or make(*args))
    for rows, batch_size, bound in ((1024, 1024, 0), (1025, 1024, 1), (100, 99, 1), (100, 100, 0), (2000, 2000, 1)):
        loops.clear()
        model.outputs(np.zeros((rows, 3)), batch_size=batch_size)
        assert len(loops) == bound, (rows, batch_size)


def test_sums_over_steps_do_not_depend_on_the_other_axes() -> None:
    """To the last bit, and in float64 whatever the dtype."""
    a = np.random.default_rng(0).uniform(size=(1000, 5)).astype(np.float32)
    sums = over_steps(a)
    assert sums.dtype == np.float64
    for i in range(5):
        assert sums[i] == over_steps(np.ascontiguousarray(a[:, i]))
        assert sums[i] == pytest.approx(math.fsum(a[:, i].tolist()), rel=1e-14)


def test_a_device_is_a_name_or_a_backend() -> None:
    assert as_backend(CPU) is CPU and as_backend("cpu") is get_backend("cpu")
    assert as_backend(None) is get_backend("auto")
    for wrong in (0, np, type(CPU)):
        with pytest.raises(TypeError, match="device must be an object such as 'cpu', 'cuda' or a backend, not"):
            as_backend(wrong)

"""Parity: every operation on every backend is within its bound, and wrong formulas exceed the bounds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Variant
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.__main__ import main
from mlp_xp.nn.layers import GELU, BatchNorm, Dense, Dropout, LayerNorm, LeakyReLU, Sigmoid, Softplus
from mlp_xp.nn.layers.base import Affine
from mlp_xp.nn.losses import Poisson, SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, RMSprop
from mlp_xp.parity import Bounds, cases, judge
from mlp_xp.parity import report as report_module
from mlp_xp.parity.cases import OPTIMIZERS, layer_case, loss_case, optimizer_case
from mlp_xp.parity.judge import computed, expected, verdicts
from mlp_xp_backends import get_backend
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.numpy_namespace import xp as XP
from mlp_xp_backends.trees import ABSENT, leaves, tree_map

NUMPY = get_backend("numpy")
CASES = {case.rows[0]: case for case in cases()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_backend_computes_what_numpy_computes(backend, case, dtype):
    failed = [v for v in judge(case, backend, dtype) if not v.ok]
    assert not failed


@pytest.mark.parametrize("case", [case for case in cases() if not case.run], ids=lambda case: case.rows[0])
def test_the_value_beside_the_bound_is_float64_numpy(case):
    inputs = tree_map(np.array, (case.carry, case.consts, case.items))
    result = case.result(*plain_loop(XP, case.body, np.stack)(*inputs))
    for a, e in zip(leaves(result), leaves(expected(case, "float64")), strict=True):
        np.testing.assert_allclose(np.asarray(a, e.value.dtype), e.value, rtol=1e-15, atol=0.0)


def test_every_bound_is_finite_and_says_something():
    for case in cases():
        for e in leaves(expected(case, "float32")):
            if e.dtype == np.float32:
                assert np.all(np.isfinite(e.error))
                assert np.linalg.norm(e.error) <= 1e-2 * max(np.linalg.norm(e.value), 1.0), case.rows


# Bounds


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bounds_hold_against_exact_sums(dtype):
    xp = Bounds(np.dtype(dtype).name)
    rng = np.random.default_rng(0)
    for terms in (1, 2, 7, 16):
        x, y = rng.standard_normal((2, terms)).astype(dtype)
        exact = sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True)), Fraction(0))
        in_order = dtype(0.0)
        for a, b in zip(x, y, strict=True):
            in_order = dtype(in_order + dtype(a * b))
        bound = xp.matmul(xp.bounded(x[None]), xp.bounded(y[:, None])).error.item()
        assert abs(Fraction(float(in_order)) - exact) <= Fraction(bound)


UNARY = {
    "exp": lambda xp, x: xp.exp(0.1 * x),
    "tanh": lambda xp, x: xp.tanh(x),
    "log": lambda xp, x: xp.log(1.5 + xp.abs(x)),
    "log1p": lambda xp, x: xp.log1p(xp.abs(x)),
    "sqrt": lambda xp, x: xp.sqrt(x * x + 0.1),
    "square": lambda xp, x: x * x * 0.3,
    "centre": lambda xp, x: x - xp.mean(x, axis=-1, keepdims=True),
    "share": lambda xp, x: x / (1.0 + xp.sum(xp.abs(x), axis=-2, keepdims=True)),
    "product": lambda xp, x: xp.matmul(x, xp.matrix_transpose(x)) / 7.0,
    "step": lambda xp, x: xp.where(x > 0.5, x, 0.1 * x),
    "rectify": lambda xp, x: xp.maximum(x - xp.max(x, axis=-1, keepdims=True), -1.0),
}


@given(st.lists(st.sampled_from(sorted(UNARY)), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_bounds_hold_for_any_formula(names, seed):
    """Random compositions in float32: the bound covers the error, jumps at comparisons included."""
    bounds = Bounds("float32")
    narrow = np.random.default_rng(seed).standard_normal((6, 6)).astype(np.float32)
    wide = bounds.bounded(narrow)
    with np.errstate(over="ignore", invalid="ignore"):
        for name in names:
            narrow, wide = UNARY[name](np, narrow), UNARY[name](bounds, wide)
    assert narrow.dtype == np.float32
    finite = np.isfinite(narrow)
    assert np.all(np.abs(narrow - wide.value)[finite] <= wide.error[finite])


def test_growth_is_the_worst_case_for_short_sums_and_four_deviations_for_long_ones():
    xp = Bounds("float32")
    u = 2.0**-24
    assert xp.growth(10) == pytest.approx(10 * u / (1 - 10 * u), rel=1e-15)
    assert xp.growth(784) == pytest.approx(4 * 28 * u / (1 - 4 * 28 * u), rel=1e-15)


def test_numbers_that_the_dtype_cannot_hold_have_an_error():
    xp = Bounds("float32")
    assert xp.bounded(0.5).error == 0.0
    assert xp.bounded(0.1).error == abs(0.1 - float(np.float32(0.1)))


def test_a_comparison_in_doubt_may_go_either_way():
    xp = Bounds("float32")
    x = xp.bounded(np.array([1.0, 1.0 + 1e-9, 2.0])) * (1.0 / 3.0)
    mask = xp.astype(x > 1.0 / 3.0, xp.dtype)
    np.testing.assert_array_equal(mask.error, [1.0, 1.0, 0.0])


def test_a_function_without_a_rule_is_named():
    with pytest.raises(AttributeError, match=r"xp\.fft has no error bound: add its rule"):
        Bounds("float32").fft  # noqa: B018


# Wrong formulas


class NoBias(Dense):
    def forward(self, xp, params, x):
        return xp.matmul(x, params.W), x


class BiasOfMean(Dense):
    def gradient(self, xp, params, x, dy):
        right = super().gradient(xp, params, x, dy)
        return Affine(right.W, xp.mean(dy, axis=-2, keepdims=True))


class GELUWithoutCubeInSlope(GELU):
    def backward(self, xp, params, cache, dy):
        x, t = cache
        return dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * math.sqrt(2.0 / math.pi)), ABSENT


class SigmoidWithoutSquare(Sigmoid):
    def backward(self, xp, params, y, dy):
        return dy * y, ABSENT


class SoftplusWithoutGuard(Softplus):
    def forward(self, xp, params, x):
        return xp.log(1.0 + xp.exp(x)), x


class LayerNormWithoutMeanOfSlope(LayerNorm):
    def backward(self, xp, params, cache, dy):
        z, r = cache
        dz = dy * params.gamma
        return r * (dz - z * xp.mean(dz * z, axis=-1, keepdims=True)), self.gradient(xp, params, cache, dy)


class BatchNormOfBiasedVariance(BatchNorm):
    def forward(self, xp, params, state, x, train):
        y, cache, after = super().forward(xp, params, state, x, train)
        if train:
            rows = x.shape[-2]
            var = state.var + (after.var - state.var) * ((rows - 1) / rows)
            after = after._replace(var=var)
        return y, cache, after


class DropoutUnscaled(Dropout):
    def forward(self, xp, params, state, x, train):
        y, m, state = super().forward(xp, params, state, x, train)
        return (y * (1.0 - self.rate) if train else y), m, state


WRONG_LAYERS = [
    (Dense(32, 10), NoBias(32, 10)),
    (Dense(32, 10), BiasOfMean(32, 10)),
    (GELU(), GELUWithoutCubeInSlope()),
    (Sigmoid(), SigmoidWithoutSquare()),
    (Softplus(), SoftplusWithoutGuard()),
    (LayerNorm(32), LayerNormWithoutMeanOfSlope(32)),
    (LayerNorm(32), LayerNorm(32, eps=2e-5)),
    (BatchNorm(32), BatchNormOfBiasedVariance(32)),
    (BatchNorm(32), BatchNorm(32, momentum=0.1001)),
    (Dropout(0.4), DropoutUnscaled(0.4)),
    (LeakyReLU(0.01), LeakyReLU(0.010001)),
]


@pytest.mark.parametrize(("right", "wrong"), WRONG_LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_layer_fails(right, wrong, dtype):
    x = np.random.default_rng(0).standard_normal((12, 32))
    x[0, 0], x[1, 1] = -40.0, 40.0
    right, wrong = (layer_case("layer", layer, x, np.random.default_rng(1)) for layer in (right, wrong))
    assert all(v.ok for v in judge(right, NUMPY, dtype))
    assert not all(v.ok for v in verdicts(right, dtype, computed(wrong, NUMPY, dtype)))


class UnshiftedSoftmax(SoftmaxCrossEntropy):
    def rows(self, xp, z, y):
        cost, (_, hot) = super().rows(xp, z, y)
        e = xp.exp(z)
        return cost, (e / xp.sum(e, axis=-1, keepdims=True), hot)


class PoissonWithoutCounts(Poisson):
    def slope(self, xp, cache):
        return cache[0]


class UnweightedMean(SoftmaxCrossEntropy):
    def forward(self, xp, z, y, w):
        cost, (cache, share) = super().forward(xp, z, y, w)
        if w is not ABSENT and self.reduction == "mean":
            share = share * xp.sum(w, axis=-1) / w.shape[-1]
        return cost, (cache, share)


@pytest.mark.parametrize(
    ("right", "wrong", "scale"),
    [
        (SoftmaxCrossEntropy, UnshiftedSoftmax, 1e4),
        (SoftmaxCrossEntropy, UnweightedMean, 1.0),
        (Poisson, PoissonWithoutCounts, 1.0),
    ],
    ids=lambda c: getattr(c, "__name__", ""),
)
def test_a_wrong_loss_fails(right, wrong, scale):
    rng = np.random.default_rng(0)
    z, w = scale * rng.standard_normal((12, 10)), rng.uniform(0.1, 1.0, 12)
    y = rng.integers(0, 10, 12, dtype=np.int32) if right is SoftmaxCrossEntropy else rng.poisson(2.0, (12, 10)) * 1.0
    right, wrong = (loss_case("loss", loss, z, y, w) for loss in (right, wrong))
    assert all(v.ok for v in judge(right, NUMPY, "float32"))
    with np.errstate(over="ignore", invalid="ignore"):
        assert not all(v.ok for v in verdicts(right, "float32", computed(wrong, NUMPY, "float32")))


class AdamWithoutCorrection(Adam):
    def rates(self, lr, t):
        return super().rates(lr, t)._replace(scaled=(lr,))


class AdamOfGradientSum(Adam):
    def update(self, xp, w, slots, g, rates):
        return super().update(xp, w, slots._replace(m=slots.m + 1e-4 * g), g, rates)


class RMSpropEpsInside(RMSprop):
    def update(self, xp, w, v, g, rates):
        v *= self.decay
        v += (1.0 - self.decay) * (g * g)
        w -= rates.scaled[0] * g / xp.sqrt(v + self.eps)
        return w, v


class AdamWAfterwards(AdamW):
    def update(self, xp, w, slots, g, rates):
        w, slots = self.adam.update(xp, w, slots, g, rates)
        w -= rates.scaled[1] * w
        return w, slots


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("SGD momentum", SGD(0.1, momentum=0.9, nesterov=True)),
        ("SGD", SGD(0.100001)),
        ("Adam", AdamWithoutCorrection(0.01)),
        ("Adam", AdamOfGradientSum(0.01)),
        ("Adam", Adam(0.01, eps_hat=True)),
        ("AdamW", AdamWAfterwards(0.01, weight_decay=0.1)),
        ("RMSprop", RMSpropEpsInside(0.01)),
    ],
    ids=lambda o: o if isinstance(o, str) else type(o).__name__,
)
def test_a_wrong_optimizer_fails(name, wrong):
    right = optimizer_case(name, OPTIMIZERS[name])
    wrong = replace(right, body=optimizer_case(name, wrong).body, items=optimizer_case(name, wrong).items)
    assert not all(v.ok for v in verdicts(right, "float32", computed(wrong, NUMPY, "float32")))


def rounded(x, bits):
    """``x`` with a significand of so many bits."""
    m, e = np.frexp(x)
    return np.ldexp(np.round(m * 2.0**bits) / 2.0**bits, e).astype(x.dtype)


def numpy_with(matmul):
    """NumPy with another product."""
    xp = SimpleNamespace(**{**vars(XP), "matmul": matmul})
    return Variant(NUMPY, xp=xp, compile=lambda body: plain_loop(xp, body, np.stack))


TF32 = numpy_with(lambda a, b: np.matmul(rounded(a, 11), rounded(b, 11)))
SINGLE = numpy_with(lambda a, b: np.matmul(a.astype("float32"), b.astype("float32")).astype(a.dtype))


@pytest.mark.parametrize(
    "name", ["Dense forward", "Dense 784 forward", "step, SGD", "run, 30 steps of 784-128-10, Adam"]
)
@pytest.mark.parametrize(("backend", "dtype"), [(TF32, "float32"), (SINGLE, "float64")], ids=["TF32", "float32"])
def test_a_product_of_less_precision_fails(name, backend, dtype):
    assert not all(v.ok for v in judge(CASES[name], backend, dtype))


def test_a_wrong_dtype_shape_or_an_error_is_told():
    case = CASES["Sigmoid forward"]
    y, dx = computed(case, NUMPY, "float32")
    wide = verdicts(case, "float32", tree_map(lambda a: a.astype(np.float64), (y, dx)))
    assert [v.reason for v in wide] == ["expected dtype float32, got float64"] * 2
    short = verdicts(case, "float32", tree_map(lambda a: a[:, :1], (y, dx)))
    assert all(v.reason.startswith("expected shape ") and not v.ok for v in short)

    def fail(body):
        raise NotImplementedError("no loops here\nat all")

    assert judge(case, Variant(NUMPY, compile=fail), "float32")[0].reason == "NotImplementedError: no loops here"


def test_nan_is_no_pass():
    case = CASES["Sigmoid forward"]
    result = tree_map(lambda a: np.where(a > 0.5, np.nan, a), computed(case, NUMPY, "float32"))
    assert [v.error for v in verdicts(case, "float32", result)] == [np.inf, np.inf]


# The command


def test_command_reports_every_operation_and_writes_json(tmp_path, capsys):
    path = tmp_path / "parity.json"
    assert main(["parity", "--backends", "numpy", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    data = json.loads(path.read_text())
    rows = [row for case in cases() for row in case.rows]
    assert data["ok"] is True
    assert data["backends"]["numpy"] == {"library": "numpy", "version": np.__version__, "device": "cpu"}
    assert [r["operation"] for r in data["results"]] == [row for case in cases() for _ in range(2) for row in case.rows]
    assert all(row in out for row in rows)
    assert "FAIL" not in out


def test_command_fails_where_a_backend_computes_wrongly(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report_module, "get_backend", lambda name: TF32)
    few = [CASES[name] for name in ("Dense forward", "step, SGD", "ReLU forward")]
    monkeypatch.setattr(report_module, "cases", lambda: few)
    path = tmp_path / "parity.json"
    assert main(["parity", "--backends", "numpy", "--json", str(path)]) == 1
    assert "FAIL" in capsys.readouterr().out
    data = json.loads(path.read_text())
    assert data["ok"] is False
    assert {r["operation"] for r in data["results"] if not r["ok"]} == {"Dense forward", "Dense backward", "step, SGD"}


@pytest.mark.parametrize("arguments", [[], ["bla"], ["parity", "--backends", ","], ["info", "--backends", "numpy"]])
def test_command_that_makes_no_sense_is_refused_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.startswith("usage: python -m mlp_xp")


def test_command_names_a_backend_that_it_does_not_know(capsys):
    assert main(["parity", "--backends", "numpi"]) == 2
    assert "Did you mean 'numpy'?" in capsys.readouterr().err


def test_command_finds_out_early_that_it_cannot_write(tmp_path, capsys):
    assert main(["parity", "--backends", "numpy", "--json", str(tmp_path / "no" / "such.json")]) == 2
    assert "no" in capsys.readouterr().err


def test_info_names_every_backend(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("numpy", "cupy", "torch:cpu", "jax:cpu", "array_api_strict"))

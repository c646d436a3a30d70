"""ONNX files compute what the library computes: in onnxruntime, and in onnx's reference evaluator."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest

import mlp_xp
from mlp_xp import nn
from mlp_xp.interop.onnx_files import IR_VERSION, OPSET, write_onnx
from mlp_xp.model import Model
from mlp_xp.parity.bounds import Bounds
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import ABSENT, tree_map

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402  it needs onnx

CPU = get_backend("cpu")
ROWS = 7


def drawn(network, loss=None, dtype="float32", seed=0):
    """A model with parameters and a state that are not at their initial values."""
    rng = np.random.default_rng(seed)
    params, state = network.init(rng), network.init_state(rng)
    params = tree_map(lambda p: (p + 0.3 * rng.standard_normal(p.shape)).astype(dtype), params)
    moved = [
        tree_map(lambda s: (s + rng.uniform(0.0, 0.5, s.shape)).astype(dtype), s)
        if isinstance(layer, mlp_xp.BatchNorm)
        else tree_map(lambda s: s.astype(dtype) if s.dtype.kind == "f" else s, s)
        for layer, s in zip(network.layers, state, strict=True)
    ]
    return Model(network, loss or mlp_xp.SquaredError(), params, tuple(moved), CPU)


def by_reference(path, x):
    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, {"X": x}), strict=True))


def by_runtime(path, x):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"X": x}), strict=True))


EVALUATORS = pytest.mark.parametrize("evaluate", [by_reference, by_runtime])


def inputs(first, rng, rows=ROWS, width=6):
    if first == "ids":
        return rng.integers(0, 9, (rows, 3))
    return (
        rng.integers(0, 256, (rows, width), dtype=np.uint8)
        if first == "numbers"
        else rng.standard_normal((rows, width))
    )


ACTIVATIONS = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.GELU)
LAYERS = {
    "Dense": mlp_xp.Dense(6, 6),
    "Dense without bias": mlp_xp.Dense(6, 6, bias=False),
    **{kind.__name__: kind() for kind in ACTIVATIONS},
    "LayerNorm": mlp_xp.LayerNorm(6),
    "BatchNorm": mlp_xp.BatchNorm(6),
    "Dropout": mlp_xp.Dropout(0.4),
    "Chain": mlp_xp.Chain(mlp_xp.Dense(6, 6), mlp_xp.Tanh()),
}
FIRST = {
    "Rescale": mlp_xp.Chain(mlp_xp.Rescale(shift=3.0, scale=1 / 255), mlp_xp.Dense(6, 2)),
    "Embedding concat": mlp_xp.Chain(mlp_xp.Embedding(9, 4, ids_per_row=3), mlp_xp.Dense(12, 2)),
    "Embedding sum": mlp_xp.Chain(mlp_xp.Embedding(9, 4, ids_per_row=3, combine="sum"), mlp_xp.Dense(4, 2)),
}
NETWORKS = {**{name: mlp_xp.Chain(mlp_xp.Dense(6, 6), layer) for name, layer in LAYERS.items()}, **FIRST}


@EVALUATORS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_within_the_bounds_of_parity(name, dtype, evaluate, tmp_path, rng):
    network = NETWORKS[name]
    model, x = drawn(network, dtype=dtype), inputs(network.first.takes, rng)
    x = x.astype({"floats": dtype, "ids": "int64", "numbers": "uint8"}[network.first.takes])
    model.to_onnx(tmp_path / "m.onnx", input_dtype="uint8" if network.first.takes == "numbers" else None)
    bounds = Bounds(dtype)
    exact = [
        tree_map(lambda a: bounds.bounded(a) if a.dtype.kind == "f" else a, t) for t in (model.params, model.state)
    ]
    z, _, _ = network.forward(bounds, *exact, bounds.bounded(x) if x.dtype.kind == "f" else x, False)
    found = evaluate(tmp_path / "m.onnx", x)["values"]
    assert found.dtype == dtype
    assert np.all(np.abs(found - z.value) <= 2.0 * z.error)


TARGETS = {
    mlp_xp.SoftmaxCrossEntropy(): 3,
    mlp_xp.BinaryCrossEntropy(): 2,
    mlp_xp.SquaredError(): 2,
    mlp_xp.Poisson(): 2,
    mlp_xp.AbsoluteError(): 1,
    mlp_xp.Huber(delta=2.0): 1,
    mlp_xp.Quantile(q=0.9): 1,
}


@EVALUATORS
@pytest.mark.parametrize("loss", TARGETS, ids=lambda loss: type(loss).__name__)
def test_every_loss_as_the_model_predicts(loss, evaluate, tmp_path, rng):
    model = drawn(mlp_xp.mlp(6, 5, TARGETS[loss]), loss)
    x = rng.standard_normal((ROWS, 6)).astype("float32")
    model.to_onnx(tmp_path / "m.onnx")
    found = evaluate(tmp_path / "m.onnx", x)
    if loss.target in ("class", "binary"):
        assert list(found) == ["label", "probabilities"]
        assert found["label"].dtype == np.int64
        np.testing.assert_array_equal(found["label"], model.predict(x))
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(x), rtol=2e-6, atol=1e-7)
    else:
        assert list(found) == ["values"]
        np.testing.assert_allclose(found["values"], model.predict(x), rtol=2e-6, atol=1e-6)


def test_the_versions_that_runtimes_understand_and_names(tmp_path):
    drawn(mlp_xp.mlp(6, 2)).to_onnx(tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    assert (proto.ir_version, proto.opset_import[0].version) == (IR_VERSION, OPSET) == (10, 20)
    assert [i.name for i in proto.graph.input] == ["X"]
    assert proto.producer_name == "mlp_xp"
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"


@dataclass(frozen=True)
class Sine(mlp_xp.Layer):
    def forward(self, xp, params, x):
        return xp.sin(x), x


@dataclass(frozen=True)
class Sorted(mlp_xp.Layer):
    def forward(self, xp, params, x):
        return xp.sort(x), x


@dataclass(frozen=True)
class Branching(mlp_xp.Layer):
    def forward(self, xp, params, x):
        return (x if xp.max(x) > 0.0 else -x), ABSENT


@EVALUATORS
def test_a_layer_of_your_own(evaluate, tmp_path, rng):
    model, x = drawn(mlp_xp.mlp(6, 4, 1, activation=Sine())), rng.standard_normal((ROWS, 6)).astype("float32")
    model.to_onnx(tmp_path / "m.onnx")
    np.testing.assert_allclose(evaluate(tmp_path / "m.onnx", x)["values"], model.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "why"), [(Sorted(), "xp.sort"), (Branching(), "xp.where")])
def test_an_unsupported_layer_is_named(layer, why, tmp_path):
    model = drawn(mlp_xp.mlp(6, 4, 1, activation=layer))
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}\(\) cannot be exported to ONNX: .*{why}"):
        model.to_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class TestEnsembles:
    @EVALUATORS
    @pytest.mark.parametrize("loss", TARGETS, ids=lambda loss: type(loss).__name__)
    def test_one_graph_averages(self, loss, evaluate, tmp_path, rng):
        n = TARGETS[loss]
        members = [drawn(mlp_xp.mlp(6, width, n), loss, seed=width) for width in (3, 4, 5)]
        x = rng.standard_normal((ROWS, 6)).astype("float32")
        write_onnx(tmp_path / "m.onnx", members)
        mean = np.mean([m.predict_proba(x) for m in members], axis=0)
        found = evaluate(tmp_path / "m.onnx", x)
        np.testing.assert_allclose(list(found.values())[-1], mean, rtol=1e-5, atol=1e-6)
        if loss.target == "class":
            np.testing.assert_array_equal(found["label"], mean.argmax(axis=1))

    def test_members_that_do_not_fit(self, tmp_path):
        with pytest.raises(ValueError, match="same kind of target, inputs, outputs and dtype"):
            write_onnx(tmp_path / "m.onnx", [drawn(mlp_xp.mlp(6, 2)), drawn(mlp_xp.mlp(5, 2))])
        with pytest.raises(ValueError, match="at least one model"):
            write_onnx(tmp_path / "m.onnx", [])


class TestErrors:
    def test_a_stack_of_models(self, tmp_path):
        model = drawn(mlp_xp.mlp(6, 2))
        stacked = Model(model.network, model.loss, tree_map(lambda p: p[None], model.params), model.state, CPU)
        with pytest.raises(ValueError, match="axis of models"):
            stacked.to_onnx(tmp_path / "m.onnx")

    def test_a_wrong_input_dtype(self, tmp_path):
        with pytest.raises(ValueError, match="input_dtype must be 'float32'"):
            drawn(mlp_xp.mlp(6, 2)).to_onnx(tmp_path / "m.onnx", input_dtype="complex64")

    def test_classes_that_do_not_fit(self, tmp_path):
        model = drawn(mlp_xp.mlp(6, 3), mlp_xp.SoftmaxCrossEntropy())
        with pytest.raises(ValueError, match="expected 3 classes"):
            write_onnx(tmp_path / "m.onnx", [model], classes=["a", "b"])
        with pytest.raises(ValueError, match="numbers or strings"):
            write_onnx(tmp_path / "m.onnx", [model], classes=np.array(["a", 1, None], object))

    def test_a_network_of_any_width(self, tmp_path):
        network = mlp_xp.Chain(mlp_xp.ReLU())
        with pytest.raises(ValueError, match="any number of features"):
            Model(network, mlp_xp.SquaredError(), (ABSENT,), (ABSENT,), CPU).to_onnx(tmp_path / "m.onnx")

    def test_without_onnx_the_extra_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ImportError, match=r"pip install 'mlp-xp\[onnx\]'"):
            drawn(mlp_xp.mlp(6, 2)).to_onnx(tmp_path / "m.onnx")


class TestEstimators:
    @pytest.fixture
    def data(self, rng):
        X = rng.standard_normal((60, 6))
        return X, X[:, :3].argmax(axis=1)

    def fitted(self, kind, X, y, **options):
        sklearn = pytest.importorskip("mlp_xp.sklearn")
        return getattr(sklearn, kind)(
            hidden_layer_sizes=(5,), solver="lbfgs", max_iter=1000, max_fun=10**5, tol=0.1, random_state=0, **options
        ).fit(X, y)

    @EVALUATORS
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("labels", [["b", "a", "c"], [10, 20, 30], ["no", "yes", "yes"], [0, 1, 1]])
    def test_classifier(self, labels, dtype, evaluate, data, tmp_path):
        X, y = data
        X = X.astype(dtype)
        estimator = self.fitted("MLPClassifier", X, np.array(labels)[y])
        estimator.to_onnx(tmp_path / "m.onnx")
        found = evaluate(tmp_path / "m.onnx", X)
        assert found["label"].tolist() == estimator.predict(X).tolist()
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(X), rtol=tolerance, atol=tolerance)

    @EVALUATORS
    def test_multilabel(self, evaluate, data, tmp_path):
        X, _ = data
        estimator = self.fitted("MLPClassifier", X, (X[:, :3] > 0.0).astype(int))
        estimator.to_onnx(tmp_path / "m.onnx")
        np.testing.assert_array_equal(evaluate(tmp_path / "m.onnx", X)["label"], estimator.predict(X))

    @EVALUATORS
    @pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber"])
    def test_regressor(self, loss, evaluate, data, tmp_path):
        X, y = data
        estimator = self.fitted("MLPRegressor", X, y.astype(float), loss=loss)
        estimator.to_onnx(tmp_path / "m.onnx")
        found = evaluate(tmp_path / "m.onnx", X)["values"]
        np.testing.assert_allclose(found[:, 0], estimator.predict(X), rtol=1e-12)

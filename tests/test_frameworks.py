"""Networks as modules of PyTorch and models of Keras, and back: equal outputs, equal weights."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import mlp_xp
from mlp_xp import Model, nn
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import ABSENT, leaves, tree_map

CPU = get_backend("cpu")
CE = mlp_xp.SoftmaxCrossEntropy()


def drawn(network, loss=CE, dtype="float32"):
    """A model with parameters and running moments that are not at their initial values."""
    rng = np.random.default_rng(0)
    params = tree_map(lambda p: (p + 0.3 * rng.standard_normal(p.shape)).astype(dtype), network.init(rng))
    state = tuple(
        tree_map(lambda a: (a + rng.uniform(0.0, 0.5, a.shape)).astype(dtype), s)
        if isinstance(layer, nn.BatchNorm)
        else s
        for layer, s in zip(network.layers, network.init_state(rng), strict=True)
    )
    return Model(network, loss, params, state, CPU)


def chain(*layers):
    return mlp_xp.Chain(mlp_xp.Dense(6, 4), *layers, mlp_xp.Dense(4, 3))


NETWORKS = {
    **{kind.__name__: chain(kind()) for kind in (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus)},
    "GELU": chain(nn.GELU()),
    "no bias": mlp_xp.Chain(mlp_xp.Dense(6, 3, bias=False)),
    "BatchNorm": chain(mlp_xp.BatchNorm(4, momentum=0.2, eps=1e-3)),
    "LayerNorm": chain(mlp_xp.LayerNorm(4, eps=1e-4)),
    "Dropout": chain(mlp_xp.Dropout(0.3)),
    "nested": chain(mlp_xp.Chain(mlp_xp.Dense(4, 4), nn.ReLU())),
    "Embedding concat": mlp_xp.Chain(mlp_xp.Embedding(9, 4, ids_per_row=3), mlp_xp.Dense(12, 3)),
    "Embedding sum": mlp_xp.Chain(mlp_xp.Embedding(9, 4, ids_per_row=3, combine="sum"), mlp_xp.Dense(4, 3)),
}
RESCALED = mlp_xp.mlp(6, 4, 3, first=mlp_xp.Rescale(shift=2.0, scale=0.5))


def inputs(network, dtype="float32"):
    rng = np.random.default_rng(1)
    if network.first.takes == "ids":
        return rng.integers(0, 9, (7, 3))
    return rng.standard_normal((7, 6)).astype(dtype)


def same(a, b):
    """Whether two trees hold equal numbers."""
    return all(np.array_equal(p, q) for p, q in zip(leaves(a), leaves(b), strict=True))


@dataclass(frozen=True)
class Sine(mlp_xp.Layer):
    def forward(self, xp, params, x):
        return xp.sin(x), x

    def backward(self, xp, params, x, dy):
        return dy * xp.cos(x), ABSENT


class TestTorch:
    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_round_trip(self, name, dtype, torch):
        model, x = drawn(NETWORKS[name], dtype=dtype), inputs(NETWORKS[name], dtype)
        module = model.to_torch()
        rtol, atol = (1e-5, 1e-6) if dtype == "float32" else (1e-12, 1e-12)
        with torch.no_grad():
            np.testing.assert_allclose(module(torch.asarray(x)).numpy(), model.outputs(x), rtol=rtol, atol=atol)
        back = Model.from_torch(module, CE, ids_per_row=3, device="cpu")
        assert back.dtype == dtype
        assert same(back.params, model.params) if name != "nested" else True
        np.testing.assert_array_equal(back.outputs(x), model.outputs(x))

    def test_names_and_layouts_are_those_of_pytorch(self):
        state = drawn(NETWORKS["BatchNorm"]).to_torch().state_dict()
        assert {name: tuple(a.shape) for name, a in state.items()} == {
            "0.weight": (4, 6),
            "0.bias": (4,),
            "1.weight": (4,),
            "1.bias": (4,),
            "1.running_mean": (4,),
            "1.running_var": (4,),
            "1.num_batches_tracked": (),
            "2.weight": (3, 4),
            "2.bias": (3,),
        }

    def test_weights_are_copies(self, torch):
        model = drawn(NETWORKS["BatchNorm"])
        before = tree_map(np.copy, (model.params, model.state))
        module = model.to_torch()
        with torch.no_grad():
            for p in module.parameters():
                p.zero_()
        assert same(before, (model.params, model.state))

    def test_batch_norm_trains_to_the_same_running_moments(self, torch):
        network = NETWORKS["BatchNorm"]
        model, x = drawn(network, dtype="float64"), inputs(network, "float64")
        module = model.to_torch().train()
        module(torch.asarray(x))
        _, _, state = network.forward(CPU.xp, model.params, model.state, x, True)
        found = Model.from_torch(module, CE, device="cpu").state
        for a, b in zip(leaves(found), leaves(state), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)

    def test_rescaling_is_multiplied_into_the_next_layer(self, torch):
        model, x = drawn(RESCALED, dtype="float64"), inputs(RESCALED, "float64")
        with torch.no_grad():
            z = model.to_torch()(torch.asarray(x)).numpy()
        np.testing.assert_allclose(z, model.outputs(x), rtol=1e-12, atol=1e-12)

    def test_a_state_dict_of_other_names(self, torch):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1, self.fc2 = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)

            def forward(self, x):
                return self.fc2(torch.relu(self.fc1(x)))

        net, x = Net(), torch.randn(5, 6)
        model = Model.from_torch(net.state_dict(), CE, network=mlp_xp.mlp(6, 4, 3), device="cpu")
        np.testing.assert_allclose(model.outputs(x.numpy()), net(x).detach().numpy(), rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match="does not fit the network"):
            Model.from_torch(net.state_dict(), CE, network=mlp_xp.mlp(6, 5, 3))
        with pytest.raises(ValueError, match="pass the network, such as network="):
            Model.from_torch(net.state_dict(), CE)

    def test_the_loss_of_the_last_activation(self, torch):
        layers = torch.nn.Linear(6, 3)
        x = torch.randn(5, 6)
        for last in (torch.nn.Softmax(dim=1), torch.nn.Sigmoid()):
            module = torch.nn.Sequential(layers, last)
            p = Model.from_torch(module, device="cpu").predict_proba(x.numpy())
            np.testing.assert_allclose(p, module(x).detach().numpy(), rtol=1e-5, atol=1e-7)
        with pytest.raises(ValueError, match="expected a loss"):
            Model.from_torch(torch.nn.Sequential(layers))
        with pytest.raises(ValueError, match="ends with a softmax"):
            Model.from_torch(torch.nn.Sequential(layers, torch.nn.Softmax(dim=1)), mlp_xp.SquaredError())

    def test_half_precision_becomes_float32(self, torch):
        assert Model.from_torch(torch.nn.Sequential(torch.nn.Linear(6, 3)).bfloat16(), CE).dtype == "float32"

    @pytest.mark.parametrize("layer", [Sine(), mlp_xp.Rescale(scale=2.0)])
    def test_an_unsupported_layer_is_named(self, layer):
        model = drawn(mlp_xp.Chain(mlp_xp.Dense(6, 4), layer, nn.ReLU()))
        with pytest.raises(ValueError, match=rf"{type(layer).__name__}.* cannot be converted to PyTorch"):
            model.to_torch()

    @pytest.mark.parametrize(
        "module",
        ["GELU()", "PReLU()", "BatchNorm1d(6, affine=False)", "BatchNorm1d(6, momentum=None)", "Softplus(beta=2)"],
    )
    def test_an_unsupported_module_is_named(self, module, torch):
        made = eval(f"nn.{module}", {"nn": torch.nn})
        with pytest.raises(ValueError, match=rf"{module.partition('(')[0]}.* cannot be converted from PyTorch"):
            Model.from_torch(torch.nn.Sequential(torch.nn.Linear(6, 6), made), CE)

    def test_something_else(self, torch):
        with pytest.raises(TypeError, match=r"expected an nn.Sequential or a state dict, got Linear"):
            Model.from_torch(torch.nn.Linear(2, 2), CE)
        with pytest.raises(ValueError, match="pass it as ids_per_row"):
            Model.from_torch(torch.nn.Sequential(torch.nn.EmbeddingBag(3, 2, mode="sum"), torch.nn.Linear(2, 2)), CE)


class TestKeras:
    @pytest.fixture(autouse=True)
    def keras(self):
        os.environ.setdefault("KERAS_BACKEND", "numpy")  # read at the first import
        return pytest.importorskip("keras")

    @pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("GELU", "Embedding sum")])
    def test_round_trip_through_a_file(self, name, tmp_path, keras):
        model, x = drawn(NETWORKS[name]), inputs(NETWORKS[name])
        built = model.to_keras()
        np.testing.assert_allclose(keras.ops.convert_to_numpy(built(x)), model.outputs(x), rtol=1e-5, atol=1e-6)
        built.save(tmp_path / "model.keras")
        back = Model.from_keras(tmp_path / "model.keras", CE, device="cpu")
        assert same(back.params, model.params)
        np.testing.assert_allclose(back.outputs(x), model.outputs(x), rtol=1e-6, atol=1e-6)

    def test_float64(self):
        model = drawn(NETWORKS["BatchNorm"], dtype="float64")
        back = Model.from_keras(model.to_keras(), CE)
        assert back.dtype == "float64"
        assert same((back.params, back.state), (model.params, model.state))

    def test_rescaling(self, keras):
        model, x = drawn(RESCALED), inputs(RESCALED)
        built = model.to_keras()
        np.testing.assert_allclose(keras.ops.convert_to_numpy(built(x)), model.outputs(x), rtol=1e-5, atol=1e-6)
        back = Model.from_keras(built, CE, device="cpu")
        np.testing.assert_allclose(back.outputs(x), model.outputs(x), rtol=1e-5, atol=1e-6)

    def test_the_defaults_of_keras(self, keras):
        layers = keras.layers
        for last, loss in (("softmax", CE), ("sigmoid", mlp_xp.BinaryCrossEntropy())):
            built = keras.Sequential(
                [
                    keras.Input((6,)),
                    layers.Dense(5, activation="relu"),
                    layers.BatchNormalization(),
                    layers.LayerNormalization(),
                    layers.LeakyReLU(),
                    layers.Dense(3, activation=last),
                ]
            )
            x = inputs(NETWORKS["ReLU"])
            model = Model.from_keras(built, device="cpu")
            assert model.loss == loss
            np.testing.assert_allclose(
                model.predict_proba(x), keras.ops.convert_to_numpy(built(x)), rtol=1e-5, atol=1e-6
            )

    @pytest.mark.parametrize("layer", [Sine(), nn.GELU()])
    def test_an_unsupported_layer_is_named(self, layer):
        with pytest.raises(ValueError, match=rf"{type(layer).__name__}\(\) cannot be converted to Keras"):
            drawn(chain(layer)).to_keras()

    def test_an_unsupported_keras_layer_is_named(self, keras):
        for layer, name in ((keras.layers.PReLU(), "PReLU"), (keras.layers.Activation("gelu"), "'gelu'")):
            built = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), layer])
            with pytest.raises(ValueError, match=rf"{name}.* cannot be converted from Keras"):
                Model.from_keras(built, CE)

    def test_something_else(self):
        with pytest.raises(TypeError, match=r"expected a keras\.Sequential"):
            Model.from_keras(3, CE)


@pytest.mark.parametrize("library", ["torch", "keras"])
def test_without_the_library_the_extra_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install 'mlp-xp\[{library}\]'"):
        getattr(drawn(NETWORKS["ReLU"]), f"to_{library}")()


def test_without_the_backend_of_keras_the_error_says_how_to_choose_another(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr("mlp_xp._optional.import_module", fail)
    with pytest.raises(ImportError, match=r"cannot import its backend tensorflow: .*KERAS_BACKEND"):
        drawn(NETWORKS["ReLU"]).to_keras()


@pytest.mark.parametrize("loss", [mlp_xp.SquaredError, "mse"])
def test_a_loss_of_the_wrong_kind(loss):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"loss must be an object such as SoftmaxCrossEntropy\(\), not"):
        Model.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 2)), loss)

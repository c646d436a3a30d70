"""Configurations are values: immutable, hashable, equal to their copies, with the defaults of the literature."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import pytest
from golden import make

from mlp_xp.files.config import KNOWN
from mlp_xp.nn import initializers, layers, losses, optimizers, schedules
from mlp_xp.nn.layers.base import Spec

CASES = {
    **make.LAYERS, **make.INITIALIZERS, **make.LOSSES, **make.OPTIMIZERS, **make.SCHEDULES,
    "TrainStep": make.step(optimizers.SGD(0.1)), "Spec": Spec(3, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_is_a_value(name):
    config = CASES[name]
    again = copy.deepcopy(config)
    assert again == config and hash(again) == hash(config) and {config: 1}[again] == 1
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))


def test_every_configuration_is_a_case():
    assert CASES.keys() == {*KNOWN, "Spec"}


@pytest.mark.parametrize("name", CASES)
def test_options_are_given_by_name(name):
    """Positions are for sizes, the learning rate, or a single option; several options have no natural order."""
    cls = type(CASES[name])
    many = [field.name for field in dataclasses.fields(cls) if field.init and field.default is not dataclasses.MISSING]
    if len(many) > 1:
        given = [getattr(CASES[name], field.name) for field in dataclasses.fields(cls)]
        with pytest.raises(TypeError, match="positional"):
            cls(*given)


def of_torch(name, **renamed):
    """The defaults of a class of PyTorch under our names."""
    torch = pytest.importorskip("torch")
    cls = next(getattr(m, name) for m in (torch.optim, torch.optim.lr_scheduler, torch.nn) if hasattr(m, name))
    parameters = inspect.signature(cls).parameters
    return {ours: parameters[theirs].default for ours, theirs in renamed.items()}


@pytest.mark.parametrize(
    ("ours", "name", "renamed"),
    [
        (layers.BatchNorm(3), "BatchNorm1d", {"momentum": "momentum", "eps": "eps"}),
        (layers.LayerNorm(3), "LayerNorm", {"eps": "eps"}),
        (layers.LeakyReLU(), "LeakyReLU", {"slope": "negative_slope"}),
        (layers.Dense(3, 2), "Linear", {"bias": "bias"}),
        (losses.Huber(), "HuberLoss", {"delta": "delta", "reduction": "reduction"}),
        (losses.SoftmaxCrossEntropy(), "CrossEntropyLoss", {"reduction": "reduction"}),
        (optimizers.Adam(), "Adam", {"lr": "lr", "eps": "eps"}),
        (optimizers.AdamW(), "AdamW", {"lr": "lr", "eps": "eps", "weight_decay": "weight_decay"}),
        (optimizers.SGD(), "SGD", {"momentum": "momentum", "nesterov": "nesterov"}),
        (optimizers.RMSprop(), "RMSprop", {"decay": "alpha", "eps": "eps"}),
        (schedules.StepDecay(0.1, every=2), "StepLR", {"factor": "gamma"}),
        (schedules.Cosine(0.1), "CosineAnnealingLR", {"end": "eta_min"}),
        (schedules.OneCycle(0.1), "OneCycleLR",
         {"warmup": "pct_start", "start": "div_factor", "end": "final_div_factor"}),
        (schedules.ReduceOnPlateau(0.1), "ReduceLROnPlateau",
         {"factor": "factor", "patience": "patience", "threshold": "threshold"}),
    ],
)  # fmt: skip
def test_defaults_are_those_of_torch(ours, name, renamed):
    expected = of_torch(name, **renamed)
    assert {field: getattr(ours, field) for field in expected} == expected


@pytest.mark.parametrize("make", [optimizers.Adam, optimizers.AdamW])
def test_the_rates_of_means_are_those_of_the_paper(make):
    assert (make().b1, make().b2, make().eps) == (0.9, 0.999, 1e-8)  # Kingma and Ba 2015, algorithm 1


def test_defaults_are_those_of_scikit_learn():
    MLPClassifier = pytest.importorskip("sklearn.neural_network").MLPClassifier
    assert schedules.InverseScaling(0.1).power == MLPClassifier().power_t


def test_other_defaults_stay_as_long_as_the_format():
    """A field that is missing in a file takes its default, so defaults are part of the format."""
    assert initializers.Normal() == initializers.Normal(std=1.0, mean=0.0)
    assert initializers.Uniform() == initializers.Uniform(low=-1.0, high=1.0)
    assert initializers.Constant() == initializers.Constant(0.0)
    assert layers.Rescale() == layers.Rescale(shift=0.0, scale=1.0)
    assert layers.Embedding(5, 3) == layers.Embedding(
        5, 3, ids_per_row=1, combine="concat", init_E=initializers.Normal(std=1.0)
    )
    assert losses.Quantile().q == 0.5  # the median
    assert (optimizers.RMSprop().lr, optimizers.SGD().lr) == (0.001, 0.01)
    assert schedules.ExponentialDecay(0.1).decay == 0.95
    assert schedules.LossRatio(0.1).window == 100
    assert not optimizers.Adam().eps_hat

"""scikit-learn's own tests of its multilayer perceptrons, run against ours from the installed scikit-learn."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
from sklearn import neural_network

import mlp_xp.sklearn as mlp_xp_sklearn

PRIVATE = {"test_gradient"}
"""Tests of routines that are no part of the interface."""

LONG = {"test_partial_fit_classification", "test_warm_start"}
"""Tests that take seconds."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


def module_with_our_classes() -> ModuleType:
    """``test_mlp.py`` as it is where ``sklearn.neural_network`` has our classes, parametrizations included."""
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    assert spec is not None and spec.origin is not None
    ours = importlib.util.spec_from_file_location("mlp_xp_runs_test_mlp", spec.origin)
    assert ours is not None and ours.loader is not None
    module = importlib.util.module_from_spec(ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neural_network, "MLPClassifier", mlp_xp_sklearn.MLPClassifier)
        patch.setattr(neural_network, "MLPRegressor", mlp_xp_sklearn.MLPRegressor)
        ours.loader.exec_module(module)
    return module


module = module_with_our_classes()
tests = {name: f for name, f in vars(module).items() if name.startswith("test_") and name not in PRIVATE}
globals().update({name: pytest.mark.slow(f) if name in LONG else f for name, f in tests.items()})


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Some of the tests draw from NumPy's global generator."""
    np.random.seed(0)


@pytest.fixture
def global_random_seed() -> int:
    """The fixture that scikit-learn's own pytest configuration provides."""
    return 42


def test_all_but_the_private_ones_are_here() -> None:
    assert len(tests) >= 41  # as many as scikit-learn 1.7 has
    assert module.MLPClassifier is mlp_xp_sklearn.MLPClassifier

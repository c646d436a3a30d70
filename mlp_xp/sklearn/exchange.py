"""Fitted estimators of scikit-learn as those of this library, and back."""

from __future__ import annotations

import copy
from typing import Any

from sklearn import neural_network
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

SOLVER = "_optimizer"
"""The memory of the solver, which each library keeps in its own way: a warm start begins with a new one."""


def adopt(kind: type, estimator: Any) -> Any:
    """A fitted ``kind`` with the parameters, weights and labels of an estimator of scikit-learn."""
    theirs = getattr(neural_network, kind.__name__)
    if not isinstance(estimator, theirs):
        raise TypeError(f"expected a scikit-learn {kind.__name__}, got {type(estimator).__name__}")
    check_is_fitted(estimator)
    return _filled(kind(**estimator.get_params()), estimator)


def export(estimator: Any) -> Any:
    """A fitted estimator of scikit-learn with the parameters, weights and labels of ours."""
    check_is_fitted(estimator)
    kind = getattr(neural_network, "MLPClassifier" if is_classifier(estimator) else "MLPRegressor")
    known = kind().get_params()
    parameters = {name: value for name, value in estimator.get_params().items() if name in known}
    parameters["activation"] = _activation(parameters["activation"])
    if parameters.get("loss") not in (None, "squared_error", "poisson"):
        raise ValueError(f"scikit-learn has no loss={parameters['loss']!r}")
    return _filled(kind(**parameters), estimator)


def _activation(activation: Any) -> str:
    """The name of the hidden layers' activation in scikit-learn; `ValueError` naming one that it lacks."""
    names = {activation} if isinstance(activation, str) else set(activation)
    names = {"logistic" if name == "sigmoid" else name for name in names}
    if len(names) != 1 or not names <= {"identity", "logistic", "tanh", "relu"}:
        raise ValueError(f"scikit-learn has one of identity, logistic, tanh, relu for all layers, not {activation!r}")
    return str(names.pop())


def _filled(estimator: Any, source: Any) -> Any:
    """``estimator`` with copies of the fitted attributes of ``source``."""
    parameters = estimator.get_params()
    for name, value in vars(source).items():
        if name != SOLVER and name not in parameters and name not in source.get_params():
            setattr(estimator, name, copy.deepcopy(value))
    return estimator

"""Conversions of fitted estimators: to and from a `Model`, ONNX files, and the estimators of scikit-learn."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from mlp_xp.model import Model, as_backend
from mlp_xp.nn.layers import Affine, Dense, Dropout
from mlp_xp.sklearn.losses import PORTABLE
from mlp_xp.sklearn.network import NAMES, draw_state, tree
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import HostArray

SOLVER = "_optimizer"
"""The state of the solver, which the libraries store differently: a warm start begins with a new solver."""


class Exchange(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The conversions of the classifier and the regressor."""

    def to_model(self, device: str | Backend | None = None) -> Model:
        """The fitted network as a `Model` with the same weights, which can be saved, on ``device``.

        Its `Model.predict_proba` returns the same probabilities or values. For two classes, it returns the probability
        of the second class, (rows, 1). ``model.extra["classes"]`` contains the ``classes_``.
        """
        check_is_fitted(self)
        backend = as_backend(device or self.device or "cpu")
        network = self._network()
        params = tree(network, self.coefs_, self.intercepts_, np.copy)
        state = draw_state(network, np.random.RandomState(0))  # the state of dropout, which predictions do not use
        params, state = tree_map(backend.asarray, (params, state))
        extra = {"classes": self.classes_.tolist()} if is_classifier(self) else {}
        return Model(network, PORTABLE.get(self._loss(), self._loss()), params, state, backend, extra)

    def to_onnx(self, path: str | Path) -> None:
        """Write the fitted network to ``path`` as an ONNX file of opset 20; needs the extra ``onnx``.

        The input ``X`` is (rows, features) in the dtype of the weights. A classifier has the outputs ``label`` and
        ``probabilities``, a regressor ``values``, (rows, outputs).
        """
        from mlp_xp.interop.onnx_files import write_onnx

        model = replace(self.to_model("cpu"), loss=self._loss())
        write_onnx(path, [model], classes=getattr(self, "classes_", None))

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Any:
        """The fitted estimator with the parameters, weights and labels of one of `sklearn.neural_network`."""
        if not isinstance(estimator, getattr(neural_network, cls.__name__)):
            raise TypeError(f"expected a scikit-learn {cls.__name__}, got {type(estimator).__name__}")
        check_is_fitted(estimator)
        return _filled(cls(**estimator.get_params()), estimator)

    def to_sklearn(self) -> Any:
        """A fitted estimator of `sklearn.neural_network` with the same parameters, weights and labels.

        Raises `ValueError` that names an activation or a loss that scikit-learn does not have.
        """
        check_is_fitted(self)
        theirs = neural_network.MLPClassifier() if is_classifier(self) else neural_network.MLPRegressor()
        shared = {name: value for name, value in self.get_params().items() if name in theirs.get_params()}
        given = [self.activation] if isinstance(self.activation, str) else self.activation
        names = {"logistic" if name == "sigmoid" else name for name in given}
        if len(names) != 1 or not names <= {"identity", "logistic", "tanh", "relu"}:
            expected = "scikit-learn has one of identity, logistic, tanh, relu for all layers"
            raise ValueError(f"{expected}, not {self.activation!r}")
        if shared.get("loss") not in (None, "squared_error", "poisson"):
            raise ValueError(f"scikit-learn has no loss={shared['loss']!r}")
        return _filled(theirs.set_params(**shared | {"activation": names.pop()}), self)

    def _adopt(self, coefs: list[HostArray], intercepts: list[HostArray]) -> Any:
        """Set all attributes as after a fit that ended with these weights."""
        self._validate_params()
        self.n_features_in_ = coefs[0].shape[0]
        self._random_state = check_random_state(self.random_state)
        self._initialize(coefs, intercepts)
        return self


def _filled(estimator: Any, source: Any) -> Any:
    """``estimator`` with copies of the fitted attributes of ``source``."""
    parameters = estimator.get_params() | source.get_params()
    for name, value in vars(source).items():
        if name != SOLVER and name not in parameters:
            setattr(estimator, name, copy.deepcopy(value))
    return estimator


def read(model: Model) -> tuple[dict[str, Any], list[HostArray], list[HostArray]]:
    """Constructor parameters, ``coefs_`` and ``intercepts_`` for the network of a model.

    Raises `ValueError` that names the first layer that the network of an estimator cannot have.
    """
    layers = [layer for layer in model.network.layers if not isinstance(layer, Dropout)]
    for i, layer in enumerate(layers):
        is_activation = not layer.stateful and layer.specs() == ()
        if is_activation != bool(i % 2) or not (is_activation or isinstance(layer, Dense)):
            raise ValueError(
                f"the network of an estimator alternates Dense layers and activations, but this has {layer}"
            )
    if not isinstance(layers[-1], Dense):
        raise ValueError(f"the network of an estimator ends with a Dense layer, but this ends with {layers[-1]}")
    coefs, intercepts = [], []
    for W, b in (p for p in model.params if isinstance(p, Affine)):
        coefs.append(np.array(model.backend.to_numpy(W)))
        intercepts.append(np.zeros_like(coefs[-1][0]) if b is ABSENT else np.array(model.backend.to_numpy(b))[0])
    names: dict[Any, str] = {layer: name for name, layer in NAMES.items()}
    parameters = {
        "hidden_layer_sizes": tuple(W.shape[1] for W in coefs[:-1]),
        "activation": [names.get(layer, layer) for layer in layers[1::2]],
        "dropout": next((layer.rate for layer in model.network.layers if isinstance(layer, Dropout)), 0.0),
    }
    return parameters, coefs, intercepts

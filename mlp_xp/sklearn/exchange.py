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
from mlp_xp.sklearn.network import NAMES, Weights, build_network, layer_states, tree
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import to_device, to_host
from mlp_xp_backends.trees import ABSENT


class Exchange(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The conversions of the classifier and the regressor."""

    def to_model(self, device: str | Backend | None = None) -> Model:
        """The fitted network as a `Model` with the same weights, which can be saved, on ``device``.

        Its `Model.predict_proba` returns the same probabilities or values. For two classes, it returns the probability
        of the second class, (rows, 1). ``model.extra["classes"]`` contains the ``classes_``.
        """
        check_is_fitted(self)
        backend = as_backend(device or self.device or "cpu")
        network = build_network(self._units(), self.activation, self.dropout)
        state = layer_states(network, np.random.RandomState(0))  # the state of dropout, which predictions do not use
        params, state = to_device(backend, (tree(network, self.coefs_, self.intercepts_, np.asarray), state))
        extra = {"classes": self.classes_.tolist()} if is_classifier(self) else {}
        return Model(network, PORTABLE.get(self._loss(), self._loss()), params, state, backend, extra=extra)

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
        return _converted(estimator, cls, {})

    def to_sklearn(self) -> Any:
        """A fitted estimator of `sklearn.neural_network` with the same parameters, weights and labels.

        Raises `ValueError` that names an activation or a loss that scikit-learn does not have.
        """
        given = [self.activation] if isinstance(self.activation, str) else self.activation
        names = {"logistic" if name == "sigmoid" else name for name in given}
        if len(names) != 1 or not names <= {"identity", "logistic", "tanh", "relu"}:
            expected = "scikit-learn has one of identity, logistic, tanh, relu for all layers"
            raise ValueError(f"{expected}, not {self.activation!r}")
        if self.loss not in ("log_loss", "squared_error", "poisson"):
            raise ValueError(f"scikit-learn has no loss={self.loss!r}")
        kind = neural_network.MLPClassifier if is_classifier(self) else neural_network.MLPRegressor
        return _converted(self, kind, {"activation": names.pop()})

    def _adopt(self, weights: Weights) -> Any:
        """Set all attributes as after a fit that ended with these weights."""
        self._validate_params()
        self.n_features_in_ = weights.coefs_[0].shape[0]
        self._random_state = check_random_state(self.random_state)
        self._initialize(weights)
        return self


def _converted(source: Any, kind: type, changes: dict[str, Any]) -> Any:
    """An estimator of class ``kind`` with the parameters and attributes of ``source``, copied, but a new solver."""
    check_is_fitted(source)
    given, known = source.get_params(), kind().get_params()
    target = kind(**{name: value for name, value in (given | changes).items() if name in known})
    fitted = {name: value for name, value in vars(source).items() if name not in given and name != "_optimizer"}
    vars(target).update(copy.deepcopy(fitted))
    return target


def read(model: Model) -> tuple[dict[str, Any], Weights]:
    """Constructor parameters and weights for the network of a model.

    Raises `ValueError` that names the first layer that the network of an estimator cannot have.
    """
    layers = [layer for layer in model.network.layers if not isinstance(layer, Dropout)]
    fits = [isinstance(a, Dense) if i % 2 == 0 else not a.stateful and a.specs() == () for i, a in enumerate(layers)]
    if not all(fits) or len(layers) % 2 == 0:
        what = f"ends with {layers[-1]}" if all(fits) else f"has {layers[fits.index(False)]}"
        raise ValueError(f"the network of an estimator alternates Dense layers and activations, but this {what}")
    dense = [p for p in to_host(model.backend, model.params) if isinstance(p, Affine)]
    weights = Weights([W for W, _ in dense], [np.zeros_like(W[0]) if b is ABSENT else b[0] for W, b in dense])
    names: dict[Any, str] = {layer: name for name, layer in NAMES.items()}
    parameters = {
        "hidden_layer_sizes": tuple(W.shape[1] for W in weights.coefs_[:-1]),
        "activation": [names.get(layer, layer) for layer in layers[1::2]],
        "dropout": next((layer.rate for layer in model.network.layers if isinstance(layer, Dropout)), 0.0),
    }
    return parameters, weights

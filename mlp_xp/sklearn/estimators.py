"""The classifier and the regressor: their labels or values, losses and scores."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from mlp_xp._checks import instead
from mlp_xp.model import Model
from mlp_xp.nn.losses import Loss
from mlp_xp.sklearn.arrays import is_foreign, like, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.exchange import read
from mlp_xp.sklearn.losses import PORTABLE, REGRESSION, BinaryLogLoss, LogLoss
from mlp_xp.sklearn.parameters import described
from mlp_xp_backends.typing import Array, HostArray


@described
@dataclass(eq=False, repr=False)
class MLPClassifier(BaseMLP, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """scikit-learn's ``MLPClassifier`` on any device.

    All parameters and attributes of ``sklearn.neural_network.MLPClassifier`` keep their meaning and defaults, and the
    same ``random_state`` gives the same model.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier((16,), learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
    >>> classifier.predict(X[:3])
    array([0, 0, 0])
    >>> classifier.score(X, y) > 0.95
    True
    """

    loss: ClassVar[str] = "log_loss"  # type: ignore[misc]  # no parameter of a classifier
    class_weight: Any = field(default=None, kw_only=True)  # type: ignore[misc]  # no parameter of a regressor
    _metric = staticmethod(accuracy_score)

    @classmethod
    def from_model(cls, model: Model, *, classes: Any = None, **parameters: Any) -> MLPClassifier:
        """Return a fitted classifier with the weights of ``model``, a chain of `Dense` layers and activations.

        ``classes`` are the labels of the outputs, by default ``model.extra["classes"]`` or 0, 1, 2 ...; ``parameters``
        are those of the constructor. Two outputs of a softmax become one logistic output with equal probabilities.
        """
        known, weights = read(model)
        n, target = weights.coefs_[-1].shape[1], model.loss.target
        if target not in ("class", "binary") or (target == "class" and n == 1):
            raise ValueError(
                f"a classifier needs a model with SoftmaxCrossEntropy or BinaryCrossEntropy, not {model.loss} on "
                f"{n} outputs: see MLPRegressor.from_model"
            )
        several = target == "binary" and n > 1
        labels = np.asarray(model.extra.get("classes", range(max(n, 2))) if classes is None else classes)
        if labels.shape != (max(n, 2),):
            raise ValueError(f"classes must be {max(n, 2)} labels, one for each output, not {labels.tolist()}")
        order = np.argsort(labels)
        for arrays in weights:  # the last of them belongs to the outputs
            if target == "class":
                arrays[-1] = arrays[-1][..., order]
                arrays[-1] = arrays[-1] if n > 2 else arrays[-1][..., 1:] - arrays[-1][..., :1]
            elif not several and order[0] == 1:
                arrays[-1] = -arrays[-1]
        estimator = cls(**{**known, **parameters})
        estimator._learn_labels(np.eye(n, dtype=int) if several else labels, incremental=False)
        return estimator._adopt(weights)  # type: ignore[no-any-return]

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, validation_data: Any = None
    ) -> MLPClassifier:
        """Train for one epoch on ``X`` and ``y``; the parameters are those of `fit`.

        The first call needs ``classes``, the labels of all calls. With ``early_stopping``, each call needs
        ``validation_data``; see ``stopped_``.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' needs all labels at once: for partial_fit pass a dictionary, such as "
                "sklearn.utils.compute_class_weight('balanced', classes=classes, y=y)"
            )
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(to_host(y)).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(to_host(y) if several else classes)
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the ``classes_``, (rows, classes), in the library and on the device of ``X``."""
        p = self._predictions(X)
        return like(X, np.concatenate([1.0 - p, p], axis=1) if self.n_outputs_ == 1 else p)

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`."""
        with nullcontext() if not is_foreign(X) else np.errstate(divide="ignore"):
            return like(X, np.log(to_host(self.predict_proba(X))))

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        elif self.warm_start and set(found := unique_labels(y)) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {found}"
            )

    def _encode(self, y: HostArray) -> HostArray:
        """One truth value for each output, (rows, outputs)."""
        if y.ndim == 2:
            marked = self._label_binarizer.transform(y).astype(bool)
            return marked.toarray() if sparse.issparse(marked) else marked  # type: ignore[no-any-return]
        target: HostArray = y[:, None] == self.classes_
        if not np.all(np.any(target, axis=1)):
            raise ValueError(
                "`y` has classes not in `self.classes_`, labels that were not in the training data. "
                f"`self.classes_` has {self.classes_}. 'y' has {np.unique(y)}."
            )
        return target if len(self.classes_) > 2 else ~target[:, :1]

    def _decide(self, p: HostArray) -> HostArray:
        """The labels of the largest probabilities."""
        if self.out_activation_ == "softmax":
            return self.classes_[np.argmax(p, axis=1)]  # type: ignore[no-any-return]
        return self._label_binarizer.inverse_transform(p.ravel() if self.n_outputs_ == 1 else p)  # type: ignore[no-any-return]

    def _loss(self) -> Loss:
        return LogLoss() if self._label_binarizer.y_type_ == "multiclass" else BinaryLogLoss()


@described
@dataclass(eq=False, repr=False)
class MLPRegressor(BaseMLP, RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """scikit-learn's ``MLPRegressor`` on any device.

    All parameters and attributes of ``sklearn.neural_network.MLPRegressor`` keep their meaning and defaults, and the
    same ``random_state`` gives the same model.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(200, 5, random_state=0)
    >>> regressor = MLPRegressor(solver="lbfgs", tol=0.01, max_iter=1000, random_state=0).fit(X, y)
    >>> regressor.predict(X[:3]).shape
    (3,)
    >>> regressor.score(X, y) > 0.99
    True
    """

    _metric = staticmethod(r2_score)

    @classmethod
    def from_model(cls, model: Model, **parameters: Any) -> MLPRegressor:
        """Return a fitted regressor with the weights of ``model``, a chain of `Dense` layers and activations.

        ``parameters`` are those of the constructor.
        """
        known, weights = read(model)
        names = {PORTABLE[REGRESSION[name]]: name for name in ("squared_error", "poisson")}
        estimator = cls(**{"loss": names.get(model.loss, model.loss), **known, **parameters})
        return estimator._adopt(weights)  # type: ignore[no-any-return]

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train for one epoch on ``X`` and ``y``; the parameters are those of `fit`.

        With ``early_stopping``, each call needs ``validation_data``; see ``stopped_``.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def _encode(self, y: HostArray) -> HostArray:
        """Numbers, (rows, outputs)."""
        if self._loss().target == "count" and np.any(y < 0):
            raise ValueError(f"loss={self.loss!r} is for y that is not negative, but y holds {y.min()}")
        return y.reshape(len(y), -1)

    def _decide(self, p: HostArray) -> HostArray:
        return p.ravel() if self.n_outputs_ == 1 else p

    def _loss(self) -> Loss:
        loss: Loss = REGRESSION[self.loss] if isinstance(self.loss, str) else self.loss
        if isinstance(loss, type) or loss.target not in ("real", "count"):
            raise ValueError(f"loss must be one for real numbers, such as Huber(delta=2.0), not {instead(loss)}")
        return loss

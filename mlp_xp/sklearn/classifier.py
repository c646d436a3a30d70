"""The classifier."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from mlp_xp.model import Model
from mlp_xp.nn.losses import Loss
from mlp_xp.sklearn.arrays import is_foreign, like, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.exchange import read
from mlp_xp.sklearn.losses import BinaryLogLoss, LogLoss
from mlp_xp.sklearn.parameters import described
from mlp_xp.sklearn.weights import class_factors, row_weights
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

    class_weight: Any = field(default=None, kw_only=True)

    loss = "log_loss"
    _metric = staticmethod(accuracy_score)

    @classmethod
    def from_model(cls, model: Model, *, classes: Any = None, **parameters: Any) -> MLPClassifier:
        """Return a fitted classifier with the weights of ``model``, a chain of `Dense` layers and activations.

        ``classes`` are the labels of the outputs, by default ``model.extra["classes"]`` or 0, 1, 2 ...; ``parameters``
        are those of the constructor. Two outputs of a softmax become one logistic output with equal probabilities.
        """
        known, coefs, intercepts = read(model)
        n, target = coefs[-1].shape[1], model.loss.target
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
        if target == "class":
            coefs[-1], intercepts[-1] = (a[..., order] for a in (coefs[-1], intercepts[-1]))
            if n == 2:
                coefs[-1], intercepts[-1] = (a[..., 1:] - a[..., :1] for a in (coefs[-1], intercepts[-1]))
        elif not several and order[0] == 1:
            coefs[-1], intercepts[-1] = -coefs[-1], -intercepts[-1]
        estimator = cls(**{**known, **parameters})
        estimator._learn_labels(np.eye(n, dtype=int) if several else labels, incremental=False)
        return estimator._adopt(coefs, intercepts)  # type: ignore[no-any-return]

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, validation_data: Any = None
    ) -> MLPClassifier:
        """Train for one epoch on ``X`` and ``y``; the parameters are those of `fit`.

        The first call needs ``classes``, the labels of all calls. With ``early_stopping``, each call needs
        ``validation_data``; see ``stopped_``.
        """
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
            return
        found = unique_labels(y)
        if self.warm_start and set(found) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {found}"
            )
        if len(np.setdiff1d(found, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {found}."
            )

    def _encode(self, y: HostArray) -> HostArray:
        """One truth value for each output, (rows, outputs)."""
        if y.ndim == 2:
            marked = self._label_binarizer.transform(y).astype(bool)
            return marked.toarray() if sparse.issparse(marked) else marked  # type: ignore[no-any-return]
        index = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if not np.array_equal(self.classes_[index], y):
            raise ValueError(f"y holds labels that were not in the training data: {np.setdiff1d(y, self.classes_)}")
        outputs = np.arange(len(self.classes_)) if len(self.classes_) > 2 else np.ones(1, int)
        target: HostArray = index[:, None] == outputs
        return target

    def _decode(self, target: HostArray) -> HostArray:
        return self._label_binarizer.inverse_transform(target)  # type: ignore[no-any-return]

    def _decide(self, p: HostArray) -> HostArray:
        """The labels of the largest probabilities."""
        if self.out_activation_ == "softmax":
            return self.classes_[np.argmax(p, axis=1)]  # type: ignore[no-any-return]
        return self._decode(p.ravel() if self.n_outputs_ == 1 else p)

    def _weights(self, sample_weight: Any, y: HostArray, x: Any, incremental: bool) -> Any:
        """The weights of the rows times those of their classes."""
        if self.class_weight is None:
            return row_weights(sample_weight, x)
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once: for partial_fit pass a dictionary, such as "
                "sklearn.utils.compute_class_weight('balanced', classes=classes, y=y)"
            )
        return row_weights(sample_weight, x, class_factors(self.class_weight, self.classes_, y))

    def _loss(self) -> Loss:
        return LogLoss() if self._label_binarizer.y_type_ == "multiclass" else BinaryLogLoss()

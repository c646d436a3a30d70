"""The classifier."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from mlp_xp.model import Model
from mlp_xp.nn.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from mlp_xp.nn.schedules import Schedule
from mlp_xp.sklearn.arrays import is_foreign, like, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.losses import BinaryLogLoss, LogLoss
from mlp_xp.sklearn.network import Activation, read
from mlp_xp.sklearn.parameters import CLASSIFIER, assign, described
from mlp_xp.sklearn.weights import class_factors, row_weights
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import Group
from mlp_xp_backends.typing import Array, HostArray


@described
class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """scikit-learn's ``MLPClassifier`` on any device.

    All parameters and attributes of ``sklearn.neural_network.MLPClassifier`` keep their meaning and defaults, and the
    same ``random_state`` gives the same model.

    Parameters
    ----------
    class_weight : dict, list of dict, 'balanced' or None, default=None
        Factors of ``sample_weight``: ``{label: weight}``, for several outputs a list of these, or ``balanced``.

    Attributes
    ----------

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CLASSIFIER
    _numeric: ClassVar[bool] = False
    loss: ClassVar[str] = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Activation = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str | Backend | None = None,
        dtype: str | None = None,
        dropout: float = 0.0,
        class_weight: Any = None,
        scoring: Any = None,
        l2_mode: str = "batch",
        group: str | Group | None = None,
    ) -> None:
        assign(self, locals())

    @classmethod
    def from_model(cls, model: Model, *, classes: Any = None, **parameters: Any) -> MLPClassifier:
        """A fitted classifier with the weights of ``model``, a chain of `Dense` layers and activations.

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
        """Train for one epoch on ``X`` and ``y``; parameters as for `fit`.

        The first call needs ``classes``, the labels of all calls. With ``early_stopping`` each call needs
        ``validation_data``; see ``stopped_``.
        """
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(to_host(y)).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(to_host(y) if several else classes)
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """Labels, (rows,), or 0 and 1 for each label, (rows, labels), in the library and on the device of ``X``."""
        return like(X, self._decide(self._predictions(X)))

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the ``classes_``, (rows, classes), in the library and on the device of ``X``."""
        p = self._predictions(X)
        return like(X, np.concatenate([1.0 - p, p], axis=1) if self.n_outputs_ == 1 else p)

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`."""
        p = to_host(self.predict_proba(X))
        if not is_foreign(X):
            return np.log(p)
        with np.errstate(divide="ignore"):
            return like(X, np.log(p))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy of `predict`."""
        return self._measure(to_host(y), to_host(self.predict(X)), to_host(sample_weight))

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        y = _flat(y)
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
        y = _flat(y)
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

    def _measure(self, y: HostArray, predicted: HostArray, w: HostArray | None) -> float:
        return float(accuracy_score(y, predicted, sample_weight=w))

    def _weights(self, sample_weight: Any, y: HostArray, x: Any, incremental: bool) -> Any:
        """Those of the rows times those of their classes."""
        if self.class_weight is None:
            return row_weights(sample_weight, x)
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once: for partial_fit pass a dictionary, such as "
                "sklearn.utils.compute_class_weight('balanced', classes=classes, y=y)"
            )
        return row_weights(sample_weight, x, class_factors(self.class_weight, self.classes_, _flat(y)))

    def _loss(self) -> Loss:
        return LogLoss() if self._out_activation() == "softmax" else BinaryLogLoss()

    def _portable_loss(self) -> Loss:
        return SoftmaxCrossEntropy() if self._out_activation() == "softmax" else BinaryCrossEntropy()

    def _out_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _extra(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist()}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _flat(y: HostArray) -> HostArray:
    """A single column as a vector, with scikit-learn's warning."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

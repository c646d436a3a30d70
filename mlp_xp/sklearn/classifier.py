"""The classifier."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from mlp_xp.nn.losses import Loss
from mlp_xp.nn.schedules import Schedule
from mlp_xp.sklearn.arrays import origin, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.losses import BinaryLogLoss, LogLoss
from mlp_xp.sklearn.network import Activation
from mlp_xp.sklearn.parameters import CLASSIFIER
from mlp_xp_backends import Backend

Array = Any
HostArray = np.ndarray[Any, Any]


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """scikit-learn's ``MLPClassifier`` on any device.

    All parameters and attributes of ``sklearn.neural_network.MLPClassifier`` 1.9 keep their meaning and defaults, and
    the same ``random_state`` gives the same model. The parameters below are new or take more than scikit-learn's.

    Parameters
    ----------
    activation
        identity, logistic, tanh, relu, leaky_relu, gelu, softplus, sigmoid or a layer of `mlp_xp`; or a sequence of
        these, one for each hidden layer.
    solver
        lbfgs, sgd, adam, adamw (``alpha`` is then the decoupled weight decay), or an optimizer of `mlp_xp` such as
        ``RMSprop(0.001)``, whose own rate or schedule holds.
    learning_rate
        constant, invscaling, adaptive (both for sgd), or a schedule such as ``mlp_xp.nn.schedules.Cosine(0.01)``.
    device
        Where to train and predict, as `mlp_xp.get_backend` takes it: ``cpu``, ``cuda``, ``cuda:1``, ``torch:cuda`` ...
        By default where ``X`` lies: on a GPU with the library of ``X``, else on the CPU with NumPy.
    dtype
        ``float32`` or ``float64``; by default that of ``X``, float64 where ``X`` holds something else.
    dropout
        Share of the units of each hidden layer that are dropped in training.
    class_weight
        ``{label: weight}``, a list of these for several outputs, or ``"balanced"``: factors of ``sample_weight``.
    scoring
        What is measured on the validation set: ``None`` for the accuracy, ``"loss"`` for the negative loss, or a scorer
        of scikit-learn by name or as a callable.
    l2_mode
        ``"batch"``: as in scikit-learn, ``alpha |W|^2 / 2`` is divided by the rows (or weights) of the batch.
        ``"constant"``: it is added to the mean loss, so that it does not depend on the size of the batch.

    Attributes
    ----------
    validation_loss_curve_
        The loss on the validation set after each epoch, ``None`` without one.
    stopped_
        Whether training ended before ``max_iter`` epochs. A `partial_fit` with ``early_stopping`` that has stopped
        holds the best weights, and does nothing from then on.
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
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.device = device
        self.dtype = dtype
        self.dropout = dropout
        self.class_weight = class_weight
        self.scoring = scoring
        self.l2_mode = l2_mode

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, validation_data: Any = None
    ) -> MLPClassifier:
        """Train for one epoch on ``X`` and ``y``; parameters as `fit`.

        The first call needs ``classes``, all labels that will ever come. With ``early_stopping`` each call needs
        ``validation_data``; see ``stopped_``.
        """
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(to_host(y)).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(to_host(y) if several else classes)
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """Labels, (rows,), or 0 and 1 for each label, (rows, labels); of the library and on the device of ``X``."""
        labels = self._decide(self._predictions(X))
        there = origin(X)
        return labels if there is None else there.bring(labels)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the ``classes_``, (rows, classes); of the library and on the device of ``X``."""
        p = self._predictions(X)
        if self.n_outputs_ == 1:
            p = np.concatenate([1.0 - p, p], axis=1)
        there = origin(X)
        return p if there is None else there.bring(p)

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`."""
        there = origin(X)
        return np.log(self.predict_proba(X)) if there is None else there.xp.log(self.predict_proba(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy of `predict`."""
        return self._measure(to_host(y), to_host(self.predict(X)), to_host(sample_weight))

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        """Set ``classes_``, or check that ``y`` holds no others where they are to stay."""
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
            raise ValueError(f"y holds labels that training did not see: {np.setdiff1d(y, self.classes_)}")
        outputs = np.arange(len(self.classes_)) if len(self.classes_) > 2 else np.ones(1, int)
        target: HostArray = index[:, None] == outputs
        return target

    def _decode(self, target: HostArray) -> HostArray:
        return self._label_binarizer.inverse_transform(target)  # type: ignore[no-any-return]

    def _decide(self, p: HostArray) -> HostArray:
        """The likeliest labels."""
        return self._decode(p.ravel() if self.n_outputs_ == 1 else p)

    def _measure(self, y: HostArray, predicted: HostArray, w: HostArray | None) -> float:
        return float(accuracy_score(y, predicted, sample_weight=w))

    def _weights(self, sample_weight: Any, y: HostArray, x: Any, incremental: bool) -> Any:
        """Those of the rows times those of their classes."""
        weights = super()._weights(sample_weight, y, x, incremental)
        if self.class_weight is None:
            return weights
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once: for partial_fit give a dictionary, for instance by "
                "sklearn.utils.compute_class_weight('balanced', classes=classes, y=y)"
            )
        by_class = compute_sample_weight(self.class_weight, y).astype(x.dtype)
        return by_class if isinstance(weights, tuple) else weights * by_class

    def _loss(self) -> Loss:
        return LogLoss() if self._out_activation() == "softmax" else BinaryLogLoss()

    def _out_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _flat(y: HostArray) -> HostArray:
    """A single column as a vector, with scikit-learn's warning."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

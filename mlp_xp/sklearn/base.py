"""The common part of the classifier and the regressor: from the user's data to a solver and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from mlp_xp._checks import Count, check_set
from mlp_xp.data.feed import Batch
from mlp_xp.forward import predictions
from mlp_xp.model import as_backend
from mlp_xp.sklearn.arrays import as_rows, class_factors, home, like, row_weights, to_host
from mlp_xp.sklearn.exchange import Exchange
from mlp_xp.sklearn.lbfgs import fit_lbfgs
from mlp_xp.sklearn.losses import OUT_ACTIVATIONS
from mlp_xp.sklearn.network import Setting, Weights, build_network, layer_states, lists, tree
from mlp_xp.sklearn.parameters import Parameters
from mlp_xp.sklearn.stochastic import Held, fit_stochastic
from mlp_xp.sklearn.tasks import CallbackSupportMixin, Tasks
from mlp_xp.training.group_ranks import ranks_of
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import Array, HostArray


class Scores:
    """The scores and the tags of estimators and ensembles; subclasses define ``_metric``."""

    _metric: Callable[..., Any]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy of `predict`, or of a regressor the coefficient of determination (R2)."""
        return float(self._metric(to_host(y), to_host(self.predict(X)), sample_weight=to_host(sample_weight)))  # type: ignore[attr-defined]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.sparse = True
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False)
class BaseMLP(Parameters, Scores, CallbackSupportMixin, Exchange):  # type: ignore[misc]  # scikit-learn has no types
    """The common base of `MLPClassifier` and `MLPRegressor`.

    They define ``_encode`` (labels or values to targets of the loss), ``_decide`` (outputs of the
    loss, or targets, to labels or values), ``_loss`` and ``_metric`` (the score).
    """

    class_weight: ClassVar[Any] = None
    _doc_link_module = "mlp_xp"
    _doc_link_template = (
        "https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.{estimator_name}.html"
    )

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        """The names of the parameters; scikit-learn inspects the signature each time."""
        return super()._get_param_names()  # type: ignore[no-any-return]

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> Any:
        """Fit the network to ``X`` and ``y``.

        Parameters
        ----------
        X
            (rows, features): NumPy, pandas, a sparse matrix, or an array of any Array API library.
        y
            (rows,) or (rows, outputs): class labels or numbers.
        sample_weight
            (rows,), one non-negative weight per row.
        validation_data
            ``(X, y)`` or ``(X, y, sample_weight)``, scored after each epoch. With ``early_stopping`` it replaces the
            ``validation_fraction``. Not for ``solver="lbfgs"``.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    def predict(self, X: Any) -> Array:
        """Labels or values, (rows,) or (rows, outputs), in the library and on the device of ``X``."""
        return like(X, self._decide(self._predictions(X)))

    def _check_solver(self) -> bool:
        """Raise `AttributeError` if the solver does not train in epochs."""
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic solvers, which lbfgs is not")
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool) -> Any:
        if incremental and self.early_stopping:
            if validation_data is None:
                raise ValueError("partial_fit does not support early_stopping=True without validation_data")
            if getattr(self, "stopped_", False):
                return self
        ranks = ranks_of(self.group)
        with ranks.together():
            has = {"dropout": self.dropout, "validation_data": validation_data is not None, "group": ranks.size > 1}
            if self.solver == "lbfgs" and (refused := [name for name in has if has[name]]):
                raise ValueError(f"{refused[0]} needs a solver that trains in epochs, such as 'adam', not 'lbfgs'")
            first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
            given, labels = to_host(X), to_host(y)
            data = self._learn(given, labels, sample_weight, incremental, first)
            setting = self._begin(X, data, ranks, first)
            with Tasks(self, given, labels, sample_weight, on=not incremental and ranks.rank == 0) as tasks:
                if self.solver == "lbfgs":
                    fit_lbfgs(self, setting, _part(data), tasks)
                else:
                    data, held = self._split(given, data, validation_data)
                    self.stopped_ = fit_stochastic(self, setting, data, held, tasks, incremental, ranks)
            return self._checked()

    def _learn(self, given: Any, labels: Any, sample_weight: Any, incremental: bool, first: bool) -> Batch:
        """Check the data and set the attributes that describe features and labels."""
        x, y = self._check(given, labels, reset=first)
        self._learn_labels(y, incremental)
        target = self._encode(y)
        factors = 1.0 if self.class_weight is None else class_factors(self.class_weight, self.classes_, y)
        return Batch(x, target, row_weights(sample_weight, x, factors))

    def _begin(self, X: Any, data: Batch, ranks: Ranks, first: bool) -> Setting:
        """Set the attributes that training starts from."""
        x, target, _ = data
        sizes = self.hidden_layer_sizes if isinstance(self.hidden_layer_sizes, Iterable) else [self.hidden_layer_sizes]
        hidden = [Count()("each of hidden_layer_sizes", n) for n in sizes]
        units = [x.shape[1], *hidden, target.shape[1]]
        network = build_network(units, self.activation, self.dropout)
        self._random_state = ranks.random_state(check_random_state(self.random_state))
        if first:
            dtype = self.dtype or str(x.dtype)
            drawn = network.init(self._random_state)
            self._initialize(lists(tree_map(lambda a: a.astype(dtype, copy=False), drawn)))
        elif units != self._units():
            raise ValueError(
                f"this estimator was fitted with layers of {self._units()} units, and now has {units}: to continue "
                "with warm_start or partial_fit, keep hidden_layer_sizes and the outputs; to start over, fit a clone"
            )
        ranks.check_equal(parameters=(*self.coefs_, *self.intercepts_), data=(x.shape, target.shape))
        backend = ranks.backend(self.device or home(X))
        return Setting(backend, network, self._loss(), str(self.coefs_[0].dtype))

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        """Do nothing: only classes have labels."""

    def _checked(self) -> Any:
        """Return the estimator after its training. Raises `ValueError` if it has diverged."""
        if not all(np.all(np.isfinite(w)) for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _check(self, x: Any, y: Any, reset: bool) -> tuple[Any, HostArray]:
        """Return rows and labels or values, checked by scikit-learn's own rules."""
        numeric = isinstance(self, RegressorMixin)
        if numeric and (given := np.asarray(y)).dtype.kind in "OSU":
            words = [v for v in given.ravel().tolist() if isinstance(v, (str, bytes))]
            if words:
                raise ValueError(f"y must hold numbers, but holds {words[0]!r}: use MLPClassifier for class labels")
        options = {"accept_sparse": ["csr", "csc"], "multi_output": True, "dtype": (np.float64, np.float32)}
        x, y = validate_data(self, x, y, y_numeric=numeric, reset=reset, **options)
        return x, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _units(self) -> list[int]:
        """The number of units of each layer of the fitted network, from input to output."""
        return [*(W.shape[0] for W in self.coefs_), self.coefs_[-1].shape[1]]

    def _initialize(self, weights: Weights) -> None:
        """Set the attributes from which a first fit starts."""
        self.coefs_, self.intercepts_ = weights
        self._best_coefs, self._best_intercepts = ([a.copy() for a in arrays] for arrays in weights)
        self.n_iter_ = self.t_ = 0
        self.n_layers_, self.n_outputs_ = len(self.coefs_) + 1, self.coefs_[-1].shape[1]
        self.out_activation_ = OUT_ACTIVATIONS[self._loss().target]
        if self.solver != "lbfgs":
            self._start_records()

    def _start_records(self) -> None:
        """Set the attributes that record epochs."""
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else math.inf
        self.validation_scores_ = self.best_validation_score_ = self.validation_loss_curve_ = None

    def _split(self, given: Any, data: Batch, validation_data: Any) -> tuple[Batch, Held | None]:
        """The training rows and the held-out rows."""
        if validation_data is not None:
            check_set(validation_data, "validation_data must be (X, y) or (X, y, sample_weight)")
            X, y, sample_weight = (*validation_data, None)[:3]
            given, train = to_host(X), None
            x, y = self._check(given, to_host(y), reset=False)
            held = _part(Batch(x, self._encode(y), row_weights(sample_weight, x)))
        elif self.early_stopping:
            train, valid = train_test_split(
                np.arange(data.x.shape[0]),
                random_state=self._random_state,
                test_size=self.validation_fraction,
                stratify=data.y if is_classifier(self) and self.n_outputs_ == 1 else None,
            )
            if len(valid) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
                )
            given, held = _safe_indexing(given, valid), _part(data, valid)
        else:
            return _part(data), None
        return _part(data, train), Held(given, held, self._decide(held.y))

    def _predictions(self, X: Any) -> HostArray:
        """The output of the loss, such as probabilities, (rows, outputs), on the host."""
        check_is_fitted(self)
        backend, W = as_backend(self.device or home(X)), self.coefs_[0]
        plain = type(X) is np.ndarray and X.ndim == 2 and X.dtype == W.dtype and X.shape[1] == len(W) and len(X)
        with np.errstate(all="ignore"):  # skips checks that would take longer than the products
            if not plain or not math.isfinite(X.sum()) or hasattr(self, "feature_names_in_"):
                X = validate_data(self, to_host(X), accept_sparse=["csr", "csc"], reset=False)
        x, dtype, network = as_rows(X), str(W.dtype), build_network(self._units(), self.activation, self.dropout)
        params = tree(network, self.coefs_, self.intercepts_, lambda a: backend.asarray(a, dtype))
        z = predictions(backend, network, params, layer_states(network), x, dtype)
        return self._loss().output(np, z)  # type: ignore[no-any-return]


def _part(data: Batch, rows: HostArray | None = None) -> Batch:
    """The data set, or these rows of it, with contiguous rows."""
    if rows is not None:
        data = Batch(_safe_indexing(data.x, rows), data.y[rows], tree_map(lambda w: w[rows], data.w))
    return data._replace(x=as_rows(data.x))

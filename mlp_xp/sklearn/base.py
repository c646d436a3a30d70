"""The common part of the classifier and the regressor: from the user's data to a solver and back."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mlp_xp._checks import check_set, shown
from mlp_xp.data.feed import Batch
from mlp_xp.forward import predictions
from mlp_xp.model import Model, as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.sklearn.arrays import as_rows, home, to_host
from mlp_xp.sklearn.exchange import adopt, export
from mlp_xp.sklearn.lbfgs import fit_lbfgs
from mlp_xp.sklearn.network import build_network, draw, draw_state, no_state, tree
from mlp_xp.sklearn.stochastic import fit_stochastic
from mlp_xp.sklearn.tasks import CallbackSupportMixin, Tasks
from mlp_xp.sklearn.validation import Held, Setting, Validation
from mlp_xp.sklearn.weights import row_weights
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import HostArray


class BaseMLP(CallbackSupportMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The common part of `MLPClassifier` and `MLPRegressor`.

    They define ``_learn_labels``, ``_encode`` (labels or values to targets of the loss), ``_decode`` (back),
    ``_decide`` (outputs of the loss to labels or values), ``_measure`` (the score), ``_loss``, ``_portable_loss`` (the
    loss of `mlp_xp` with the same gradient) and ``_out_activation``.
    """

    _doc_link_module = "mlp_xp"
    _doc_link_template = (
        "https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.{estimator_name}.html"
    )
    _numeric: ClassVar[bool]

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

    def to_model(self, device: str | Backend | None = None) -> Model:
        """The fitted network as a `Model` with the same weights, which can be saved, on ``device``.

        Its `Model.predict_proba` returns the same numbers. For two classes that is the probability of the second one,
        (rows, 1). ``model.extra["classes"]`` holds the ``classes_``.
        """
        check_is_fitted(self)
        backend = as_backend(device or self.device or "cpu")
        network = self._network()
        params = tree(network, self.coefs_, self.intercepts_, np.copy)
        state = draw_state(network, np.random.RandomState(0))  # dropout's, which predictions do not use
        params, state = tree_map(backend.asarray, (params, state))
        return Model(network, self._portable_loss(), params, state, backend, self._extra())

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
        return adopt(cls, estimator)

    def to_sklearn(self) -> Any:
        """A fitted estimator of `sklearn.neural_network` with the same parameters, weights and labels.

        Raises `ValueError` naming an activation or a loss that scikit-learn does not have.
        """
        return export(self)

    def _adopt(self, coefs: list[HostArray], intercepts: list[HostArray]) -> Any:
        """Set all attributes as after a fit that ended with these weights."""
        self._validate_params()
        self.n_features_in_ = coefs[0].shape[0]
        self._random_state = check_random_state(self.random_state)
        self._initialize(coefs, intercepts)
        return self

    def _check_solver(self) -> bool:
        """Raise `AttributeError` if the solver does not train in epochs."""
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic solvers, which lbfgs is not")
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool) -> Any:
        if incremental and self.early_stopping and self._has_stopped(validation_data):
            return self
        ranks = Ranks(self.group)
        with ranks.messages.together():
            given, labels = to_host(X), to_host(y)
            setting, data = self._prepare(X, given, labels, sample_weight, incremental, ranks)
            with Tasks(self, given, labels, sample_weight, on=not incremental and ranks.rank == 0) as tasks:
                if self.solver == "lbfgs":
                    self._refuse_what_needs_epochs(validation_data)
                    if ranks.size > 1:
                        raise ValueError("solver='lbfgs' runs in one process: group needs 'sgd', 'adam' or 'adamw'")
                    fit_lbfgs(self, setting, data._replace(x=as_rows(data.x)), tasks)
                else:
                    data, held = self._split(given, data, validation_data)
                    validation = None if held is None else self._validation(setting, held)
                    self.stopped_ = fit_stochastic(self, setting, data, validation, tasks, incremental, ranks)
            return self._checked()

    def _prepare(
        self, X: Any, given: Any, labels: Any, sample_weight: Any, incremental: bool, ranks: Ranks
    ) -> tuple[Setting, Batch]:
        """Check the data and set the attributes that training starts from."""
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        x, y = self._check(given, labels, reset=first)
        self._learn_labels(y, incremental)
        data = Batch(x, self._encode(y), self._weights(sample_weight, y, x, incremental))
        units = [x.shape[1], *self._hidden(), data.y.shape[1]]
        network = build_network(units, self.activation, self.dropout)
        self._random_state = ranks.random_state(check_random_state(self.random_state))
        if first:
            self._initialize(*draw(network, self._random_state, self.dtype or str(x.dtype)))
        elif units != self._units():
            raise ValueError(
                f"this estimator was fitted with layers of {self._units()} units, and now has {units}: to go on with "
                "warm_start or partial_fit keep hidden_layer_sizes and the outputs; to start anew, fit a clone"
            )
        ranks.check_equal(parameters=(*self.coefs_, *self.intercepts_), data=(x.shape, data.y.shape))
        setting = Setting(ranks.backend(self._backend(X)), network, self._loss(), str(self.coefs_[0].dtype))
        return setting, data

    def _checked(self) -> Any:
        """The estimator after its training; `ValueError` if it has diverged."""
        if not all(np.all(np.isfinite(w)) for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _has_stopped(self, validation_data: Any) -> bool:
        """Whether a `partial_fit` with early stopping has ended."""
        if validation_data is None:
            raise ValueError("partial_fit does not support early_stopping=True without validation_data")
        return bool(getattr(self, "stopped_", False))

    def _check(self, x: Any, y: Any, reset: bool) -> tuple[Any, HostArray]:
        """Rows and labels or values, checked by scikit-learn's own rules."""
        return validate_data(  # type: ignore[no-any-return]
            self,
            x,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=self._numeric,
            dtype=(np.float64, np.float32),
            reset=reset,
        )

    def _hidden(self) -> list[int]:
        """Units of each hidden layer."""
        sizes = self.hidden_layer_sizes
        try:
            hidden = [operator.index(n) for n in (sizes if isinstance(sizes, Iterable) else [sizes])]
        except TypeError:
            raise TypeError(f"hidden_layer_sizes must be integers, such as (64, 32), not {shown(sizes)}") from None
        if any(n <= 0 for n in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        return hidden

    def _units(self) -> list[int]:
        """Units of each layer of the fitted network, from input to output."""
        return [*(W.shape[0] for W in self.coefs_), self.coefs_[-1].shape[1]]

    def _network(self) -> Chain:
        """The fitted network."""
        return build_network(self._units(), self.activation, self.dropout)

    def _backend(self, x: Any) -> Backend:
        """Where to compute with ``x``."""
        return as_backend(home(x) if self.device is None else self.device)

    def _initialize(self, coefs: list[HostArray], intercepts: list[HostArray]) -> None:
        """Set the attributes that a first fit starts from."""
        self.coefs_, self.intercepts_ = coefs, intercepts
        self.n_iter_ = self.t_ = 0
        self.n_layers_, self.n_outputs_ = len(coefs) + 1, coefs[-1].shape[1]
        self.out_activation_ = self._out_activation()
        self._best_coefs = [W.copy() for W in coefs]
        self._best_intercepts = [b.copy() for b in intercepts]
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.best_loss_ = None if self.early_stopping else math.inf
            self.validation_scores_: list[float] | None = None
            self.best_validation_score_: float | None = None
            self.validation_loss_curve_: list[float] | None = None

    def _refuse_what_needs_epochs(self, validation_data: Any) -> None:
        if validation_data is not None or self.dropout:
            what = "dropout" if self.dropout else "validation_data"
            raise ValueError(f"{what} needs a solver that trains in epochs, such as 'adam', not 'lbfgs'")

    def _split(self, given: Any, data: Batch, validation_data: Any) -> tuple[Batch, Held | None]:
        """The rows to train on, and those to hold out."""
        if validation_data is not None:
            check_set(validation_data, "validation_data must be (X, y) or (X, y, sample_weight)")
            return data._replace(x=as_rows(data.x)), self._held(*validation_data)
        if not self.early_stopping:
            return data._replace(x=as_rows(data.x)), None
        train, valid = train_test_split(
            np.arange(data.x.shape[0]),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=data.y if not self._numeric and self.n_outputs_ == 1 else None,
        )
        if len(valid) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        held = _rows(data, valid)
        return _rows(data, train), Held(_safe_indexing(given, valid), *held[:2], self._decode(held.y), _or_none(held.w))

    def _held(self, X: Any, y: Any, sample_weight: Any = None) -> Held:
        """A validation set of the user's own."""
        given = to_host(X)
        x, y = self._check(given, to_host(y), reset=False)
        target = self._encode(y)
        return Held(given, as_rows(x), target, self._decode(target), _or_none(row_weights(sample_weight, x)))

    def _validation(self, setting: Setting, held: Held) -> Validation:
        if getattr(self, "validation_scores_", None) is None:
            self.validation_scores_, self.best_validation_score_ = [], -math.inf
            self.validation_loss_curve_ = []
        return Validation(self, setting, held)

    def _rows(self, X: Any) -> Any:
        """``X`` as scikit-learn checks it; skips checks that would take longer than the products."""
        W = self.coefs_[0]
        if type(X) is np.ndarray and X.ndim == 2 and X.dtype == W.dtype and X.shape[1] == len(W) and len(X):
            with np.errstate(all="ignore"):
                if math.isfinite(X.sum()) and not hasattr(self, "feature_names_in_"):
                    return np.ascontiguousarray(X)
        return as_rows(validate_data(self, to_host(X), accept_sparse=["csr", "csc"], reset=False))

    def _predictions(self, X: Any) -> HostArray:
        """The output of the loss, such as probabilities, (rows, outputs), on the host."""
        check_is_fitted(self)
        x, network, backend, dtype = self._rows(X), self._network(), self._backend(X), str(self.coefs_[0].dtype)
        params = tree(network, self.coefs_, self.intercepts_, lambda a: backend.asarray(a, dtype))
        z = predictions(backend, network, params, no_state(network), x, dtype)
        return self._loss().output(np, z)  # type: ignore[no-any-return]

    def _weights(self, sample_weight: Any, y: HostArray, x: Any, incremental: bool) -> Any:
        """One weight per row, or `ABSENT`."""
        return row_weights(sample_weight, x)

    def _extra(self) -> dict[str, Any]:
        """What a `Model` keeps of the estimator besides weights."""
        return {}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _rows(data: Batch, rows: HostArray) -> Batch:
    x, y, w = data
    return Batch(as_rows(_safe_indexing(x, rows)), y[rows], ABSENT if w is ABSENT else w[rows])


def _or_none(w: Any) -> Any:
    return None if w is ABSENT else w

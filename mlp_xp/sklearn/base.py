"""What the classifier and the regressor have in common: from the data of a user to a solver and back."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from mlp_xp._checks import check_set, shown
from mlp_xp.data.feed import Batch
from mlp_xp.model import as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.sklearn.arrays import as_rows, home, to_host
from mlp_xp.sklearn.forward import blocks, outputs
from mlp_xp.sklearn.lbfgs import fit_lbfgs
from mlp_xp.sklearn.network import build_network, draw, tree
from mlp_xp.sklearn.stochastic import Setting, fit_stochastic
from mlp_xp.sklearn.tasks import Tasks
from mlp_xp.sklearn.validation import Held, Validation
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import ABSENT

HostArray = np.ndarray[Any, Any]


class BaseMLP(CallbackSupportMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The common part of `MLPClassifier` and `MLPRegressor`."""

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
            (rows,), one weight per row.
        validation_data
            ``(X, y)`` or ``(X, y, sample_weight)``, scored after each epoch; with ``early_stopping`` it takes the place
            of the ``validation_fraction``. Not for ``solver="lbfgs"``.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    def _check_solver(self) -> bool:
        """Raise `AttributeError` if the solver knows no single epochs."""
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic solvers, which lbfgs is not")
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool) -> Any:
        if incremental and self.early_stopping and self._has_stopped(validation_data):
            return self
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        given, labels = to_host(X), to_host(y)
        data = self._data(given, labels, sample_weight, incremental, first)
        self._random_state = check_random_state(self.random_state)
        self.n_outputs_ = data.y.shape[1]
        network = build_network([data.x.shape[1], *self._hidden(), self.n_outputs_], self.activation, self.dropout)
        if first:
            self._initialize(network, self.dtype or str(data.x.dtype))
        setting = Setting(self._backend(X), network, self._loss(), str(self.coefs_[0].dtype))
        with Tasks(self, given, labels, sample_weight, on=not incremental) as tasks:
            if self.solver == "lbfgs":
                self._refuse_what_needs_epochs(validation_data)
                fit_lbfgs(self, setting, data._replace(x=as_rows(data.x)), tasks)
            else:
                data, held = self._split(given, data, validation_data)
                validation = self._validation(setting, held)
                self.stopped_ = fit_stochastic(self, setting, data, validation, tasks, incremental)
        if not all(np.all(np.isfinite(w)) for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _has_stopped(self, validation_data: Any) -> bool:
        """Whether a `partial_fit` with early stopping is at its end."""
        if validation_data is None:
            raise ValueError("partial_fit does not support early_stopping=True without validation_data")
        return bool(getattr(self, "stopped_", False))

    def _data(self, x: Any, y: Any, sample_weight: Any, incremental: bool, first: bool) -> Batch:
        """Checked rows, targets as the loss takes them, and weights."""
        x, y = self._check(x, y, reset=first)
        self._learn_labels(y, incremental)
        return Batch(x, self._encode(y), self._weights(sample_weight, y, x, incremental))

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

    def _weights(self, sample_weight: Any, y: HostArray, x: Any, incremental: bool) -> Any:
        """One weight per row, or ``()`` for equal ones."""
        return ABSENT if sample_weight is None else _check_sample_weight(to_host(sample_weight), x, dtype=x.dtype)

    def _backend(self, x: Any) -> Backend:
        """Where to compute with ``x``."""
        return as_backend(home(x) if self.device is None else self.device)

    def _initialize(self, network: Chain, dtype: str) -> None:
        """What a first fit starts from."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(self._hidden()) + 2
        self.out_activation_ = self._out_activation()
        self.coefs_, self.intercepts_ = draw(network, self._random_state, dtype)
        self._best_coefs = [W.copy() for W in self.coefs_]
        self._best_intercepts = [b.copy() for b in self.intercepts_]
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
        """What to train on, and what to hold out."""
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
        w = None if isinstance(held.w, tuple) else held.w
        return _rows(data, train), Held(_safe_indexing(given, valid), held.x, held.y, self._decode(held.y), w)

    def _held(self, X: Any, y: Any, sample_weight: Any = None) -> Held:
        """A validation set of the user's own."""
        given = to_host(X)
        x, y = self._check(given, to_host(y), reset=False)
        w = None if sample_weight is None else _check_sample_weight(to_host(sample_weight), x, dtype=x.dtype)
        target = self._encode(y)
        return Held(given, as_rows(x), target, self._decode(target), w)

    def _validation(self, setting: Setting, held: Held | None) -> Validation | None:
        if held is None:
            return None
        if getattr(self, "validation_scores_", None) is None:
            self.validation_scores_, self.best_validation_score_ = [], -math.inf
            self.validation_loss_curve_ = []
        return Validation(self, setting.backend, setting.network, setting.loss, held, setting.dtype)

    def _predictions(self, X: Any) -> HostArray:
        """What the loss takes the network's outputs for, (rows, outputs), on the host."""
        check_is_fitted(self)
        x = as_rows(validate_data(self, to_host(X), accept_sparse=["csr", "csc"], reset=False))
        backend, dtype = self._backend(X), str(self.coefs_[0].dtype)
        units = [*(W.shape[0] for W in self.coefs_), self.coefs_[-1].shape[1]]
        network = build_network(units, self.activation, self.dropout)
        params = tree(network, self.coefs_, self.intercepts_, lambda a: backend.asarray(a, dtype))
        z = outputs(backend, network, params, ((),) * len(network.layers), blocks(backend, x, dtype))
        return self._loss().output(np, z)  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _rows(data: Batch, rows: HostArray) -> Batch:
    x, y, w = data
    return Batch(as_rows(_safe_indexing(x, rows)), y[rows], w if isinstance(w, tuple) else w[rows])

"""The regressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from mlp_xp._checks import instead
from mlp_xp.model import Model
from mlp_xp.nn.losses import Loss
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.exchange import read
from mlp_xp.sklearn.losses import PORTABLE, REGRESSION
from mlp_xp.sklearn.parameters import described
from mlp_xp_backends.typing import HostArray


@dataclass(eq=False, repr=False)
class _WithLoss:
    """``loss`` as the first argument, as in scikit-learn: the fields of the last base class come first."""

    loss: str | Loss = "squared_error"


@described
@dataclass(eq=False, repr=False)
class MLPRegressor(BaseMLP, RegressorMixin, BaseEstimator, _WithLoss):  # type: ignore[misc]  # scikit-learn has no types
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
        known, coefs, intercepts = read(model)
        names = {PORTABLE[REGRESSION[name]]: name for name in ("squared_error", "poisson")}
        estimator = cls(**{"loss": names.get(model.loss, model.loss), **known, **parameters})
        return estimator._adopt(coefs, intercepts)  # type: ignore[no-any-return]

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train for one epoch on ``X`` and ``y``; the parameters are those of `fit`.

        With ``early_stopping``, each call needs ``validation_data``; see ``stopped_``.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        """Do nothing: numbers have no labels."""

    def _check(self, x: Any, y: Any, reset: bool) -> tuple[Any, HostArray]:
        given = np.ravel(np.asarray(y))
        words = given.tolist() if given.dtype.kind in "OSU" else []
        found = next((v for v in words if isinstance(v, (str, bytes))), None)
        if found is not None:
            raise ValueError(f"y must hold numbers, but holds {found!r}: use MLPClassifier for class labels")
        return super()._check(x, y, reset)

    def _encode(self, y: HostArray) -> HostArray:
        """Numbers, (rows, outputs)."""
        if self._loss().target == "count" and np.any(y < 0):
            raise ValueError(f"loss={self.loss!r} is for y that is not negative, but y holds {y.min()}")
        return y.reshape(len(y), -1)

    def _decode(self, target: HostArray) -> HostArray:
        return target

    def _decide(self, p: HostArray) -> HostArray:
        return p.ravel() if self.n_outputs_ == 1 else p

    def _loss(self) -> Loss:
        loss: Loss = REGRESSION[self.loss] if isinstance(self.loss, str) else self.loss
        if isinstance(loss, type) or loss.target not in ("real", "count"):
            raise ValueError(f"loss must be one for real numbers, such as Huber(delta=2.0), not {instead(loss)}")
        return loss

"""The regressor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if

from mlp_xp._checks import instead
from mlp_xp.model import Model
from mlp_xp.nn.losses import Loss, Poisson, SquaredError
from mlp_xp.nn.schedules import Schedule
from mlp_xp.sklearn.arrays import like, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.losses import REGRESSION, HalfSquaredError, PoissonDeviance
from mlp_xp.sklearn.network import Activation, read
from mlp_xp.sklearn.parameters import REGRESSOR, assign, described
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import Group
from mlp_xp_backends.typing import Array, HostArray


@described
class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """scikit-learn's ``MLPRegressor`` on any device.

    All parameters and attributes of ``sklearn.neural_network.MLPRegressor`` keep their meaning and defaults, and the
    same ``random_state`` gives the same model.

    Parameters
    ----------
    loss : str or loss, default='squared_error'
        ``squared_error``, ``poisson``, ``absolute_error``, ``huber``, ``quantile`` (the median), or a loss of `mlp_xp`
        such as ``Quantile(q=0.9)`` or ``Huber(delta=2.0)``.

    Attributes
    ----------

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = REGRESSOR
    _numeric: ClassVar[bool] = True

    def __init__(
        self,
        loss: str | Loss = "squared_error",
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
        scoring: Any = None,
        l2_mode: str = "batch",
        group: str | Group | None = None,
    ) -> None:
        assign(self, locals())

    @classmethod
    def from_model(cls, model: Model, **parameters: Any) -> MLPRegressor:
        """A fitted regressor with the weights of ``model``, a chain of `Dense` layers and activations.

        ``parameters`` are those of the constructor.
        """
        known, coefs, intercepts = read(model)
        names = {SquaredError(): "squared_error", Poisson(): "poisson"}
        estimator = cls(**{"loss": names.get(model.loss, model.loss), **known, **parameters})
        return estimator._adopt(coefs, intercepts)  # type: ignore[no-any-return]

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train for one epoch on ``X`` and ``y``; parameters as for `fit`.

        With ``early_stopping`` each call needs ``validation_data``; see ``stopped_``.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """Values, (rows,) or (rows, outputs), in the library and on the device of ``X``."""
        return like(X, self._decide(self._predictions(X)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination (R2) of `predict`."""
        return self._measure(to_host(y), to_host(self.predict(X)), to_host(sample_weight))

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        """Do nothing: numbers have no labels."""

    def _check(self, x: Any, y: Any, reset: bool) -> tuple[Any, HostArray]:
        found = next((v for v in np.ravel(np.asarray(y)).tolist() if isinstance(v, (str, bytes))), None)
        if found is not None:
            raise ValueError(f"y must hold numbers, but holds {found!r}: use MLPClassifier for class labels")
        return super()._check(x, y, reset)

    def _encode(self, y: HostArray) -> HostArray:
        """Numbers, (rows, outputs)."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self._loss().target == "count" and np.any(y < 0):
            raise ValueError(f"loss={self.loss!r} is for y that is not negative, but y holds {y.min()}")
        return y.reshape(len(y), -1)

    def _decode(self, target: HostArray) -> HostArray:
        return target

    def _decide(self, p: HostArray) -> HostArray:
        return p.ravel() if self.n_outputs_ == 1 else p

    def _measure(self, y: HostArray, predicted: HostArray, w: HostArray | None) -> float:
        return float(r2_score(y, predicted, sample_weight=w))

    def _loss(self) -> Loss:
        loss: Loss = REGRESSION[self.loss] if isinstance(self.loss, str) else self.loss
        if isinstance(loss, type) or loss.target not in ("real", "count"):
            raise ValueError(f"loss must be one for real numbers, such as Huber(delta=2.0), not {instead(loss)}")
        return loss

    def _portable_loss(self) -> Loss:
        loss = self._loss()
        return {HalfSquaredError(): SquaredError(), PoissonDeviance(): Poisson()}.get(loss, loss)

    def _out_activation(self) -> str:
        return "exp" if isinstance(self._loss(), Poisson) else "identity"

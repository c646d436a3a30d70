"""The regressor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if

from mlp_xp.nn.losses import Loss, Poisson
from mlp_xp.nn.schedules import Schedule
from mlp_xp.sklearn.arrays import origin, to_host
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.losses import REGRESSION, PoissonDeviance
from mlp_xp.sklearn.network import Activation
from mlp_xp.sklearn.parameters import REGRESSOR
from mlp_xp_backends import Backend

Array = Any
HostArray = np.ndarray[Any, Any]


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """scikit-learn's ``MLPRegressor`` on any device.

    All parameters and attributes of ``sklearn.neural_network.MLPRegressor`` 1.9 keep their meaning and defaults, and
    the same ``random_state`` gives the same model. The parameters below are new or take more than scikit-learn's.

    Parameters
    ----------
    loss
        squared_error, poisson, absolute_error, huber, quantile (the median), or a loss of `mlp_xp` such as
        ``Quantile(q=0.9)`` or ``Huber(delta=2.0)``.
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
    scoring
        What is measured on the validation set: ``None`` for R2, ``"loss"`` for the negative loss, or a scorer of
        scikit-learn by name or as a callable.
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
    ) -> None:
        self.loss = loss
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
        self.scoring = scoring
        self.l2_mode = l2_mode

    @available_if(BaseMLP._check_solver)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train for one epoch on ``X`` and ``y``; parameters as `fit`.

        With ``early_stopping`` each call needs ``validation_data``; see ``stopped_``.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """Values, (rows,) or (rows, outputs); of the library and on the device of ``X``."""
        values = self._decide(self._predictions(X))
        there = origin(X)
        return values if there is None else there.bring(values)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 of `predict`."""
        return self._measure(to_host(y), to_host(self.predict(X)), to_host(sample_weight))

    def _learn_labels(self, y: HostArray, incremental: bool) -> None:
        """Nothing: numbers have no labels."""

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
        return REGRESSION[self.loss] if isinstance(self.loss, str) else self.loss

    def _out_activation(self) -> str:
        return "exp" if isinstance(self._loss(), (Poisson, PoissonDeviance)) else "identity"

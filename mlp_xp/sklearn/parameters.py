"""The parameters of the estimators: what each may be, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from sklearn import neural_network
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from mlp_xp.sklearn.losses import REGRESSION
from mlp_xp.sklearn.network import NAMES

COMMON: dict[str, list[Any]] = {
    **neural_network.MLPClassifier._parameter_constraints,
    "activation": [StrOptions(set(NAMES)), HasMethods(["forward", "backward"]), list, tuple],
    "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"}), HasMethods(["rates", "init", "update"])],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), HasMethods(["rate"])],
    "device": [str, HasMethods(["compile", "asarray"]), None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "scoring": [str, callable, None],
    "l2_mode": [StrOptions({"batch", "constant"})],
}
"""scikit-learn's own constraints, and those of the parameters that are new or take more."""
CLASSIFIER = {**COMMON, "class_weight": [StrOptions({"balanced"}), dict, list, None]}
REGRESSOR = {**COMMON, "loss": [StrOptions(set(REGRESSION)), HasMethods(["rows", "slope", "output"])]}

DESCRIPTIONS = """
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The number of units in each hidden layer.
    activation : str, layer, or sequence of these, default='relu'
        ``identity``, ``logistic``, ``tanh``, ``relu``, ``leaky_relu``, ``gelu``, ``softplus``, ``sigmoid`` or a layer
        of `mlp_xp`; a sequence has one entry for each hidden layer.
    solver : str or optimizer, default='adam'
        ``lbfgs``, ``sgd``, ``adam``, ``adamw``, or an optimizer of `mlp_xp` such as ``RMSprop(0.001)``, which brings
        its own learning rate or schedule.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases). For ``adamw`` it is the decoupled weight decay.
    batch_size : int or 'auto', default='auto'
        Rows of a batch; ``auto`` is ``min(200, rows)``. Ignored by ``lbfgs``, which uses all rows.
    learning_rate : str or schedule, default='constant'
        ``constant``; for ``sgd`` also ``invscaling`` (``learning_rate_init / t^power_t`` after t rows) and ``adaptive``
        (divided by 5 whenever the epochs stop improving); or a schedule such as ``mlp_xp.nn.schedules.Cosine(0.01)``.
    learning_rate_init : float, default=0.001
        The learning rate of the first step.
    power_t : float, default=0.5
        The exponent of ``invscaling``.
    max_iter : int, default=200
        The largest number of epochs, or of iterations of ``lbfgs``.
    shuffle : bool, default=True
        Whether the rows are shuffled before each epoch.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the validation split, dropout and the order of the rows.
    tol : float, default=0.0001
        An epoch counts as an improvement if the loss or the validation score improves by at least this much.
    verbose : bool or int, default=False
        Whether to print the loss of each epoch.
    warm_start : bool, default=False
        Whether `fit` continues from the weights of the previous call.
    momentum : float, default=0.9
        The momentum of ``sgd``, from 0 to 1.
    nesterovs_momentum : bool, default=True
        Whether ``sgd`` uses Nesterov's momentum.
    early_stopping : bool, default=False
        Whether to stop by the score on a validation set, whose best weights are then restored, and not by the loss.
    validation_fraction : float, default=0.1
        The share of the rows that early stopping sets aside, unless `fit` receives ``validation_data``.
    beta_1 : float, default=0.9
        Decay rate of the first moment of ``adam`` and ``adamw``.
    beta_2 : float, default=0.999
        Decay rate of the second moment of ``adam`` and ``adamw``.
    epsilon : float, default=1e-08
        Added to the denominator of ``adam`` and ``adamw``.
    n_iter_no_change : int or inf, default=10
        Training stops after more than this many epochs without improvement.
    max_fun : int, default=15000
        The largest number of evaluations of the loss by ``lbfgs``.
    device : str, backend or None, default=None
        Where to train and predict, as `mlp_xp.get_backend` takes it: ``cpu``, ``cuda``, ``cuda:1``, ``torch:cuda`` ...
        By default the device and library of ``X`` if it is on a GPU, otherwise NumPy on the CPU.
    dtype : {'float32', 'float64'} or None, default=None
        The dtype of the weights; by default that of ``X``, or float64 if ``X`` holds anything else.
    dropout : float, default=0.0
        The share of the units of each hidden layer that are dropped in training.
    scoring : str, callable or None, default=None
        The score of the validation set: ``None`` for that of `score`, ``'loss'`` for the negative loss, or a scorer of
        scikit-learn by name or as a callable.
    l2_mode : {'batch', 'constant'}, default='batch'
        ``batch`` divides ``alpha |W|^2 / 2`` by the rows (or the weight) of the batch, as scikit-learn does.
        ``constant`` adds it to the mean loss, so that the penalty does not depend on the size of the batch.
"""
ATTRIBUTES = """
    coefs_ : list of ndarray
        Weights of each layer, (inputs, outputs).
    intercepts_ : list of ndarray
        Biases of each layer, (outputs,).
    loss_, best_loss_ : float
        The loss of the last epoch, and the smallest one (``None`` with early stopping).
    loss_curve_ : list of float
        The loss of each epoch.
    validation_scores_, best_validation_score_ : list of float and float, or None
        The score on the validation set after each epoch, and the largest one.
    validation_loss_curve_ : list of float or None
        The loss on the validation set after each epoch.
    stopped_ : bool
        Whether training ended before ``max_iter`` epochs. A `partial_fit` with ``early_stopping`` that has stopped
        holds the best weights, and further calls change nothing.
    n_iter_, t_, n_layers_, n_outputs_, n_features_in_, feature_names_in_, out_activation_
        As in scikit-learn.
"""


def described(cls: type) -> type:
    """Insert the common parameters and attributes into the docstring of an estimator."""
    if cls.__doc__:
        cls.__doc__ = cls.__doc__.replace("\n    (parameters)\n", DESCRIPTIONS).replace(
            "\n    (attributes)\n", ATTRIBUTES
        )
    return cls


def assign(estimator: Any, given: Mapping[str, Any]) -> None:
    """Set the parameters among the local names of a constructor as attributes."""
    for name in estimator._get_param_names():
        setattr(estimator, name, given[name])

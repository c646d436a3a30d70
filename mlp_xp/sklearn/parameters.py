"""The parameters of the estimators: defaults, what each may be, and what it means."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, fields
from inspect import cleandoc
from numbers import Real
from typing import Any

from sklearn import neural_network
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from mlp_xp.nn.losses import Loss
from mlp_xp.nn.schedules import Schedule
from mlp_xp.sklearn.losses import REGRESSION
from mlp_xp.sklearn.network import NAMES, Activation
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import Group


@dataclass(eq=False, repr=False)
class Parameters:
    """The parameters that `MLPClassifier` and `MLPRegressor` have in common; a classifier has its own loss."""

    loss: str | Loss = "squared_error"
    hidden_layer_sizes: Any = (100,)
    activation: Activation = "relu"
    _: KW_ONLY
    solver: Any = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str | Schedule = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool | int = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    device: str | Backend | None = None
    dtype: str | None = None
    dropout: float = 0.0
    scoring: Any = None
    l2_mode: str = "batch"
    group: str | Group | None = None


CONSTRAINTS: dict[str, list[Any]] = {
    **neural_network.MLPClassifier._parameter_constraints,
    "activation": [StrOptions(set(NAMES)), HasMethods(["forward", "backward"]), list, tuple],
    "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"}), HasMethods(["rates", "init", "update"])],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), HasMethods(["rate"])],
    "device": [str, HasMethods(["compile", "asarray"]), None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "scoring": [str, callable, None],
    "l2_mode": [StrOptions({"batch", "constant"})],
    "group": [StrOptions({"mpi", "nccl", "torch"}), HasMethods(["sum", "broadcast", "barrier"]), None],
    "class_weight": [StrOptions({"balanced"}), dict, list, None],
    "loss": [StrOptions(set(REGRESSION)), HasMethods(["rows", "slope", "output"])],
}
"""scikit-learn's own constraints, and those of parameters that are new or accept more values."""

DESCRIPTIONS = """
loss : str or loss, default='squared_error'
    ``squared_error``, ``poisson``, ``absolute_error``, ``huber``, ``quantile`` (the median), or a loss of `mlp_xp`
    such as ``Quantile(q=0.9)`` or ``Huber(delta=2.0)``.
activation : str, layer, or sequence of these, default='relu'
    ``identity``, ``logistic``, ``tanh``, ``relu``, ``leaky_relu``, ``gelu``, ``softplus``, ``sigmoid`` or a layer of
    `mlp_xp`; a sequence has one entry for each hidden layer.
solver : str or optimizer, default='adam'
    ``lbfgs``, ``sgd``, ``adam``, ``adamw`` (``alpha`` is then the decoupled weight decay), or an optimizer of `mlp_xp`
    such as ``RMSprop(0.001)``, which brings its own learning rate or schedule.
learning_rate : str or schedule, default='constant'
    ``constant``; for ``sgd`` also ``invscaling`` (``learning_rate_init / t^power_t`` after t rows) and ``adaptive``
    (divided by 5 whenever the epochs stop improving); or a schedule such as ``mlp_xp.nn.schedules.Cosine(0.01)``.
device : str, backend or None, default=None
    Where to train and predict: a name that `mlp_xp.get_backend` accepts, such as ``cpu``, ``cuda``, ``cuda:1`` or
    ``torch:cuda``. By default the device and library of ``X`` if it is on a GPU, otherwise NumPy on the CPU.
dtype : {'float32', 'float64'} or None, default=None
    The dtype of the weights; by default that of ``X``, or float64 if ``X`` has any other dtype.
dropout : float, default=0.0
    The fraction of the units of each hidden layer that are dropped in training.
class_weight : dict, list of dict, 'balanced' or None, default=None
    Factors of ``sample_weight``: ``{label: weight}``, a list of such dicts for several outputs, or ``balanced``.
scoring : str, callable or None, default=None
    The score of the validation set: ``None`` for that of `score`, ``'loss'`` for the negative loss, or a scorer of
    scikit-learn by name or as a callable.
l2_mode : {'batch', 'constant'}, default='batch'
    ``batch`` divides ``alpha |W|^2 / 2`` by the rows (or the weight) of the batch, as scikit-learn does. ``constant``
    adds it to the mean loss, so that the penalty does not depend on the size of the batch.
group : {'mpi', 'nccl', 'torch'}, group or None, default=None
    The processes that train this estimator together, each on its part of every batch, as in `mlp_xp.Trainer`. All of
    them pass the same data to `fit`; rank 0 prints. Not for ``solver="lbfgs"``.
validation_loss_curve_ : list of float or None
    The loss on the validation set after each epoch.
stopped_ : bool
    Whether training ended before ``max_iter`` epochs. After `partial_fit` with ``early_stopping`` has stopped, the
    estimator has the best weights, and further calls do not change them.
"""
"""In the format of numpydoc; the names of attributes end with an underscore."""
ENTRY = re.compile(r"^(\w+) : .*\n(?:(?: .*)?\n)*", re.M)
"""A name and its description in such a text."""


def described(cls: type) -> type:
    """Set the constraints of an estimator, and describe its parameters and attributes in its docstring.

    The description of a parameter that scikit-learn has, too, is scikit-learn's, unless it accepts more values here.
    """
    names = {field.name for field in fields(cls)}
    cls._parameter_constraints = {name: allowed for name, allowed in CONSTRAINTS.items() if name in names}  # type: ignore[attr-defined]
    if cls.__doc__:  # not under python -OO
        theirs = cleandoc(getattr(neural_network, cls.__name__).__doc__)
        entries = {found[1]: found[0].strip() for found in ENTRY.finditer(f"{theirs}\n{DESCRIPTIONS}")}
        parameters = [text for name, text in entries.items() if name in names]
        attributes = [text for name, text in entries.items() if name.endswith("_")]
        head, heading, examples = cleandoc(cls.__doc__).partition("Examples\n")
        parts = ["Parameters\n----------", *parameters, "Attributes\n----------", *attributes, heading + examples]
        cls.__doc__ = head + "\n\n".join(parts)
    return cls

"""What each parameter of an estimator may be, in scikit-learn's terms."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions

from mlp_xp.sklearn.losses import REGRESSION
from mlp_xp.sklearn.network import NAMES

POSITIVE = Interval(Integral, 1, None, closed="left")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
ABOVE_ZERO = Interval(Real, 0, None, closed="neither")
SHARE = Interval(Real, 0, 1, closed="left")

COMMON: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", POSITIVE],
    "activation": [StrOptions(set(NAMES)), HasMethods(["forward", "backward"]), list, tuple],
    "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"}), HasMethods(["rates", "init", "update"])],
    "alpha": [NOT_NEGATIVE],
    "batch_size": [StrOptions({"auto"}), POSITIVE],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), HasMethods(["rate"])],
    "learning_rate_init": [ABOVE_ZERO],
    "power_t": [NOT_NEGATIVE],
    "max_iter": [POSITIVE],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [NOT_NEGATIVE],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [SHARE],
    "beta_1": [SHARE],
    "beta_2": [SHARE],
    "epsilon": [ABOVE_ZERO],
    "n_iter_no_change": [POSITIVE, Options(Real, {math.inf})],
    "max_fun": [POSITIVE],
    "device": [str, HasMethods(["compile", "asarray"]), None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "dropout": [SHARE],
    "scoring": [str, callable, None],
    "l2_mode": [StrOptions({"batch", "constant"})],
}
CLASSIFIER = {**COMMON, "class_weight": [StrOptions({"balanced"}), dict, list, None]}
REGRESSOR = {**COMMON, "loss": [StrOptions(set(REGRESSION)), HasMethods(["rows", "slope", "output"])]}

"""Every check that scikit-learn has for estimators, with the settings that it uses for its own perceptrons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("sklearn", "1.7")
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from mlp_xp.sklearn import EnsembleClassifier, EnsembleRegressor, MLPClassifier, MLPRegressor

SETTINGS: dict[tuple[type, str], dict[str, Any]] = {
    (MLPClassifier, "check_sample_weight_equivalence_on_dense_data"): {"solver": "lbfgs"},
    (MLPRegressor, "check_sample_weight_equivalence_on_dense_data"): {"solver": "sgd", "tol": 1e-2, "random_state": 42},
}
"""Those of ``sklearn.utils._test_common.instance_generator`` for its own classes."""

FEW_EPOCHS = {"check_estimator_sparse_array", "check_estimator_sparse_matrix", "check_estimators_dtypes"}
"""Checks that fit many times and demand nothing of the scores."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
    pytest.mark.filterwarnings("ignore:can't check dtype:UserWarning"),
]


ENSEMBLES = (
    EnsembleClassifier(MLPClassifier(max_iter=60, learning_rate_init=0.01), 2),
    EnsembleRegressor(MLPRegressor(max_iter=60, learning_rate_init=0.01), 2),
)


def checks() -> Iterator[Any]:
    for ensemble in ENSEMBLES:
        for estimator, check in estimator_checks_generator(ensemble):
            name = check.func.__name__
            settings = {"estimator__max_iter": 10} if name in FEW_EPOCHS else {}
            yield pytest.param(
                clone(estimator).set_params(**settings),
                check,
                id=f"{type(ensemble).__name__}-{name}",
                # all that ensembles do by themselves is in their common base
                marks=[pytest.mark.slow] if isinstance(ensemble, EnsembleRegressor) else [],
            )
    for cls in (MLPClassifier, MLPRegressor):
        for estimator, check in estimator_checks_generator(cls(max_iter=100)):
            name = check.func.__name__
            settings = SETTINGS.get((cls, name), {"max_iter": 10} if name in FEW_EPOCHS else {})
            yield pytest.param(clone(estimator).set_params(**settings), check, id=f"{cls.__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)

"""Ensembles of networks that differ in their seeds and, on request, in bootstrap samples, and train together."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, RegressorMixin, _fit_context, clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from mlp_xp._checks import shown
from mlp_xp.model import Model, load
from mlp_xp.sklearn.arrays import like, to_host
from mlp_xp.sklearn.base import BaseMLP, Scores
from mlp_xp.sklearn.estimators import MLPClassifier, MLPRegressor
from mlp_xp.sklearn.jobs import Job
from mlp_xp.sklearn.stacked import fit_all
from mlp_xp_backends import Backend
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import Array, HostArray


class BaseEnsemble(Scores, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The common part of `EnsembleClassifier` and `EnsembleRegressor`."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
    }
    _kind: ClassVar[type[BaseMLP]]

    def __init__(
        self,
        estimator: Any = None,
        n_members: int = 8,
        *,
        bootstrap: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator, self.n_members, self.bootstrap = estimator, n_members, bootstrap
        self.random_state, self.n_jobs = random_state, n_jobs

    @_fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit all members; the parameters are those of the estimator's ``fit``."""
        base = self._kind() if self.estimator is None else self.estimator
        if not isinstance(base, self._kind):
            raise TypeError(f"estimator must be an {self._kind.__name__}, not {shown(base)}")
        rng = check_random_state(self.random_state)
        seeds = rng.randint(2**31 - 1, size=(self.n_members, 2)).tolist()
        params = {} if sample_weight is None else {"sample_weight": sample_weight}
        jobs = [
            Job(clone(base).set_params(random_state=seed), X, y, params, sample if self.bootstrap else None)
            for seed, sample in seeds
        ]
        self._adopt(fit_all(jobs, self.n_jobs))
        return self

    def _adopt(self, members: list[Any]) -> None:
        """Set all attributes."""
        self.estimators_ = members
        for name in ("n_features_in_", "feature_names_in_", "classes_", "n_outputs_"):
            if hasattr(members[0], name):
                setattr(self, name, getattr(members[0], name))

    def _each(self, X: Any) -> HostArray:
        """The prediction of each member, (members, rows, ...), on the host."""
        check_is_fitted(self)
        validate_data(self, to_host(X), accept_sparse=["csr", "csc"], reset=False)
        return np.stack([np.asarray(to_host(self._one(member, X))) for member in self.estimators_])

    def _one(self, member: Any, X: Any) -> Any:
        return member.predict(X)

    def predict_spread(self, X: Any) -> Array:
        """The standard deviation between the members: of probabilities (rows, classes), or of values."""
        return like(X, self._each(X).std(axis=0))

    def to_model(self, device: str | Backend | None = None) -> Model:
        """All members as one `Model`, whose parameters have an axis of members in front; it can be saved."""
        check_is_fitted(self)
        models = [member.to_model(device) for member in self.estimators_]
        first, xp = models[0], models[0].backend.xp
        params, state = (
            tree_map(lambda *leaves: xp.stack(leaves), *trees)
            for trees in ([m.params for m in models], [m.state for m in models])
        )
        return Model(first.network, first.loss, params, state, first.backend, extra=first.extra)

    def save(self, path: str | Path) -> None:
        """Write all members to one file, which `load` reads."""
        self.to_model().save(path)

    @classmethod
    def load(cls, path: str | Path, *, device: str | Backend | None = None) -> Self:
        """Load the ensemble in a file, which makes the same predictions.

        Raises `ValueError` if the file holds a single model.
        """
        model = load(path, device=device)
        W = next(p.W for p in model.params if hasattr(p, "W"))
        if W.ndim < 3:
            raise ValueError(
                f"{path} holds a single model, not an ensemble: load it with mlp_xp.load and pass it to "
                f"{cls._kind.__name__}.from_model"
            )
        count = W.shape[0]
        members = []
        for i in range(count):
            params, state = (tree_map(lambda a, i=i: a[i], tree) for tree in (model.params, model.state))
            one = Model(model.network, model.loss, params, state, model.backend, extra=model.extra)
            members.append(cls._kind.from_model(one))
        ensemble = cls(members[0], count)
        ensemble._adopt(members)
        return ensemble


class EnsembleClassifier(BaseEnsemble, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Networks that differ in their seeds; the mean of their probabilities is the prediction.

    Deep ensembles (Lakshminarayanan et al. 2017). The members train together.

    Parameters
    ----------
    estimator : MLPClassifier or None, default=None
        The member; ``None`` for ``MLPClassifier()``.
    n_members : int, default=8
        The number of members.
    bootstrap : bool, default=False
        Whether each member trains on a bootstrap sample: as many rows, drawn with replacement (Breiman 1996).
    random_state : int, RandomState instance or None, default=None
        Determines the seeds of the members and their samples.
    n_jobs : int or None, default=None
        The number of processes, with joblib's conventions.

    Attributes
    ----------
    estimators_ : list of MLPClassifier
        The members.
    classes_, n_features_in_, feature_names_in_
        As in scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> member = MLPClassifier((8,), learning_rate_init=0.02)
    >>> ensemble = EnsembleClassifier(member, 4, random_state=0).fit(X, y)
    >>> ensemble.predict_proba(X[:2]).shape, ensemble.predict_spread(X[:2]).shape
    ((2, 3), (2, 3))
    >>> ensemble.score(X, y) > 0.95
    True
    """

    _kind, _metric = MLPClassifier, staticmethod(accuracy_score)

    def _one(self, member: Any, X: Any) -> Any:
        return member.predict_proba(X)

    def predict_proba(self, X: Any) -> Array:
        """The mean of the members' probabilities, (rows, classes)."""
        return like(X, self._each(X).mean(axis=0))

    def predict(self, X: Any) -> Array:
        """Labels, (rows,), or 0 and 1 for each label, (rows, labels)."""
        p = self._each(X).mean(axis=0)
        first = self.estimators_[0]
        return like(X, first._decide(p[:, 1:] if first.n_outputs_ == 1 else p))


class EnsembleRegressor(BaseEnsemble, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Networks that differ in their seeds; the mean of their values is the prediction.

    Deep ensembles (Lakshminarayanan et al. 2017). The members train together. Parameters and attributes are those of
    `EnsembleClassifier`, with an `MLPRegressor` as the estimator.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(100, 4, random_state=0)
    >>> ensemble = EnsembleRegressor(MLPRegressor((8,), solver="lbfgs"), 3, bootstrap=True, random_state=0).fit(X, y)
    >>> ensemble.predict(X[:2]).shape, ensemble.predict_spread(X[:2]).shape
    ((2,), (2,))
    """

    _kind, _metric = MLPRegressor, staticmethod(r2_score)

    def predict(self, X: Any) -> Array:
        """The mean of the members' values, (rows,) or (rows, outputs)."""
        return like(X, self._each(X).mean(axis=0))

"""Grid and random search in which all candidates and folds train at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

import joblib
import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import indexable
from sklearn.utils._param_validation import Interval
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _check_method_params

from mlp_xp._checks import shown
from mlp_xp.sklearn.base import BaseMLP
from mlp_xp.sklearn.jobs import Job, StackedFit, hashable
from mlp_xp.sklearn.stacked import start_all, train_all
from mlp_xp.sweep.halving import Halving
from mlp_xp.sweep.tasks import on_one_core


class BatchedSearchCV(BaseSearchCV):  # type: ignore[misc]  # scikit-learn has no types
    """``GridSearchCV``, or with ``n_iter`` ``RandomizedSearchCV``, in which candidates and folds train at once.

    For `MLPClassifier` and `MLPRegressor`, alone or as the last step of a pipeline: same scores, ranks and best model
    as scikit-learn's searches on the same estimator, grid and folds. Candidates that differ only in numbers (learning
    rate, momentum, penalty, dropout, seed ...) train together; transformers of a pipeline are fitted once for each
    fold and each of their own settings. Any other estimator or solver is fitted one by one.

    Parameters
    ----------
    estimator : estimator
        The estimator to fit.
    param_grid : dict or list of dict
        Lists of values by the names of the parameters or, with ``n_iter``, lists or distributions.
    n_iter : int or None, default=None
        The number of settings to draw from ``param_grid``; ``None`` for all combinations.
    random_state : int, RandomState instance or None, default=None
        Determines the settings that are drawn.
    scoring, cv, refit, error_score, return_train_score
        As in ``GridSearchCV``; ``scoring`` may name several scores, and ``refit`` be a function.
    halving : Halving or None, default=None
        Drop the weakest candidates after a few epochs, by their mean score; the others continue from where they are.
        ``cv_results_`` has the columns ``iter`` and ``n_resources`` (epochs).
    n_jobs : int or None, default=None
        The number of processes, with joblib's conventions; each has one BLAS thread.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        As in ``GridSearchCV``. The fit times are shares of those of a stack.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from mlp_xp.sklearn import BatchedSearchCV, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"learning_rate_init": [0.0001, 0.01], "alpha": [0.0001, 0.1]}
    >>> search = BatchedSearchCV(MLPClassifier((8,), max_iter=20, random_state=0), grid, cv=3)
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):  # 20 epochs are few
    ...     search = search.fit(X, y)
    >>> search.best_params_["learning_rate_init"]
    0.01
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "halving": [Halving, None],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        n_iter: int | None = None,
        random_state: Any = None,
        scoring: Any = None,
        cv: Any = None,
        refit: Any = True,
        halving: Halving | None = None,
        n_jobs: int | None = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.param_grid, self.n_iter, self.random_state, self.halving = param_grid, n_iter, random_state, halving

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit all candidates on all folds and, with ``refit``, the best one on all rows.

        ``params`` are passed to `fit` of the estimator (``sample_weight``) and to the splitter (``groups``).
        """
        self._validate_params()
        candidates = self._candidates()
        X, y = indexable(X, y)
        routed = self._get_routed_params_for_fit(_check_method_params(X, params=params))
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        splits = list(cv.split(X, y, **routed.splitter.split))
        if not splits:
            raise ValueError("cv yields no folds: nothing would be trained")
        search = copy.copy(self)  # scores, ranks and the refit are scikit-learn's
        search._jobs = jobs = Jobs(self.estimator, candidates, X, y, splits, routed.estimator.fit)
        search.cv, search.estimator = splits, Prefitted(jobs)
        with joblib.parallel_config(backend="sequential"):
            BaseSearchCV.fit(search, X, y, **params)
        for name, value in vars(search).items():
            if name.endswith("_"):
                setattr(self, name, value)
        scorers, _ = self._get_scorers()
        self.scorer_ = getattr(scorers, "_scorers", scorers)
        times = np.array(jobs.seconds).reshape(-1, len(splits))  # scikit-learn's are those of looking up finished fits
        self.cv_results_["mean_fit_time"], self.cv_results_["std_fit_time"] = times.mean(axis=1), times.std(axis=1)
        return self

    def _candidates(self) -> list[dict[str, Any]]:
        if self.n_iter is None:
            found = list(ParameterGrid(self.param_grid))
        else:
            found = list(ParameterSampler(self.param_grid, self.n_iter, random_state=self.random_state))
        if not found:
            raise ValueError(f"param_grid gives no candidates: {shown(self.param_grid)}")
        for candidate in found:
            clone(self.estimator).set_params(**clone(candidate, safe=False))  # names an unknown parameter
        return found

    def _run_search(self, evaluate_candidates: Any) -> None:
        jobs, chosen = self._jobs, list(range(len(self._jobs.candidates)))
        if self.halving is not None and isinstance(self.scoring, (list, tuple, set, dict)):
            self._metric({})  # before anything is trained
        started = [pair for candidate in jobs.candidates for pair in jobs.of(candidate)]
        fits = start_all([job for job, _ in started])
        if self.error_score == "raise":
            for fit in fits:
                fit.refuse()
        wholes = [whole for _, whole in started]
        epochs = max((fit.e.max_iter for fit in fits if isinstance(fit, StackedFit)), default=1)
        rungs = [] if self.halving is None else self.halving.rungs(epochs, len(chosen))
        for n, until in enumerate([*rungs, None]):
            k = len(jobs.splits)
            at = [i * k + fold for i in chosen for fold in range(k)]
            part = [fits[i] for i in at]
            with joblib.parallel_config(**jobs.parallel):
                train_all(part, self.n_jobs, until)
            jobs.seconds += [fit.seconds for fit in part]
            jobs.fitted = [(fit, wholes[i]) for i, fit in zip(at, part, strict=True)]
            more = {"iter": [n] * len(chosen), "n_resources": [until or epochs] * len(chosen)}
            candidates = [jobs.candidates[i] for i in chosen]
            if self.halving is None:
                on_one_core(evaluate_candidates, candidates)
            else:
                results = on_one_core(partial(evaluate_candidates, more_results=more), candidates)
                scores = np.asarray(results[self._metric(results)])[-len(chosen) :]
                order = np.argsort(np.where(np.isnan(scores), math.inf, -scores), kind="stable")
                chosen = sorted(chosen[i] for i in order[: math.ceil(len(chosen) / self.halving.factor)])
        jobs.fitted = None

    def _metric(self, results: dict[str, Any]) -> str:
        """The column by which candidates are dropped."""
        several = "mean_test_score" not in results
        if several and not isinstance(self.refit, str):
            raise ValueError("halving with several scores needs refit to name the one by which candidates are dropped")
        return f"mean_test_{self.refit if several else 'score'}"

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: str, results: Any) -> int:
        """Select like scikit-learn; with halving, among the candidates of the last rung."""
        if callable(refit) or "iter" not in results:
            return int(BaseSearchCV._select_best_index(refit, refit_metric, results))
        last = np.flatnonzero(np.asarray(results["iter"]) == np.max(results["iter"]))
        scores = np.asarray(results[f"mean_test_{refit_metric}"])[last]
        return int(last[0] if np.isnan(scores).all() else last[np.nanargmax(scores)])


class Jobs:
    """The fits of candidates on folds; a pipeline's transformers are fitted here, its last step in a stack."""

    def __init__(
        self,
        estimator: Any,
        candidates: list[dict[str, Any]],
        X: Any,
        y: Any,
        splits: Sequence[Any],
        fit_params: dict[str, Any],
    ) -> None:
        self.estimator, self.candidates, self.splits = estimator, candidates, splits
        self.X, self.y, self.fit_params = X, y, fit_params
        self.parallel = dict(zip(("backend", "n_jobs"), joblib.parallel.get_active_backend(), strict=True))
        self.fitted: Any = []  # fits to score, each with the pipeline around it; `None` when all are scored
        self.seconds: list[float] = []  # of each fit
        self.parts: dict[int, Any] = {}
        self.fronts: dict[Any, Any] = {}

    def of(self, candidate: dict[str, Any]) -> Iterator[tuple[Job, Any]]:
        """The job of each fold, and the pipeline around its estimator or ``None``."""
        for fold, (train, _) in enumerate(self.splits):
            whole = clone(self.estimator).set_params(**clone(candidate, safe=False))
            if fold not in self.parts:
                params = _check_method_params(self.X, params=self.fit_params, indices=train)
                self.parts[fold] = *_safe_split(whole, self.X, self.y, train), params
            job = self._last_step(fold, candidate, whole)
            yield (Job(whole, *self.parts[fold]), None) if job is None else (job, whole)

    def _last_step(self, fold: int, candidate: dict[str, Any], whole: Any) -> Job | None:
        """The job of a pipeline's last step; its other steps are fitted to the rows of a fold.

        ``None`` if the whole has to be fitted at once.
        """
        if not isinstance(whole, Pipeline) or not isinstance(whole.steps[-1][1], BaseMLP) or len(whole.steps) < 2:
            return None
        (_, y, params), (name, last) = self.parts[fold], whole.steps[-1]
        if any(not key.startswith(f"{name}__") for key in params):
            return None
        own = sorted((key, value) for key, value in candidate.items() if not key.startswith(f"{name}__"))
        key = fold, tuple((name, hashable(value)) for name, value in own)
        try:
            if key not in self.fronts:
                front = whole[:-1]
                own_rows, _ = _safe_split(whole, self.X, self.y, self.splits[fold][0])  # transformers may change them
                self.fronts[key] = front, front.fit_transform(own_rows, y)
        except Exception:  # raised again, and handled, when the whole pipeline is fitted
            return None
        front, rows = self.fronts[key]
        whole.steps = [*front.steps, (name, last)]
        return Job(last, rows, y, {key.removeprefix(f"{name}__"): value for key, value in params.items()})


class Prefitted:
    """A stand-in for an estimator in scikit-learn's search: `fit` takes the next fitted one and becomes it.

    So scorers can test its type and index a pipeline. When all are scored, clones are those of the estimator itself.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def __sklearn_clone__(self) -> Any:
        return clone(self.jobs.estimator) if self.jobs.fitted is None else Prefitted(self.jobs)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["jobs"].estimator, name)

    def set_params(self, **params: Any) -> Prefitted:
        """Do nothing: the next fitted estimator has these parameters."""
        return self

    def fit(self, X: Any, y: Any = None, **params: Any) -> Prefitted:
        """Become the next fitted estimator, or raise the exception of its fit."""
        fit, whole = self.jobs.fitted.pop(0)
        fitted = fit.result()
        if whole is not None:
            whole.steps[-1] = (whole.steps[-1][0], fitted)
            fitted = whole
        self.__class__, self.__dict__ = type(fitted), vars(fitted)
        return self

"""The batched search: the results of scikit-learn's own on the same estimator, grid and folds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid, RandomizedSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mlp_xp import Halving
from mlp_xp.sklearn import BatchedSearchCV, EnsembleClassifier, MLPClassifier, MLPRegressor
from mlp_xp.sklearn.jobs import Job
from mlp_xp.sklearn.stacked import fit_all, start_all, train_all

X, Y = make_classification(157, 6, n_informative=4, n_classes=3, random_state=0)
MLP = MLPClassifier((7,), solver="sgd", learning_rate_init=0.1, max_iter=12, random_state=0)
GRID: dict[str, list[Any]] = {"learning_rate_init": [0.01, 0.2], "momentum": [0.5, 0.9], "alpha": [1e-4, 0.1]}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def same(ours, theirs):
    """Assert that two searches have the same results."""
    a, b = ours.cv_results_, theirs.cv_results_
    assert set(a) == set(b)
    for name in a:
        if name == "params":
            assert a[name] == b[name]
        elif "time" not in name:
            np.testing.assert_array_equal(np.ma.filled(a[name], -1), np.ma.filled(b[name], -1), name)
    for name in ("best_params_", "best_score_", "best_index_", "n_splits_", "multimetric_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)


def both(estimator, grid, x=X, y=Y, fit=None, **options):
    ours = BatchedSearchCV(estimator, grid, **options).fit(x, y, **(fit or {}))
    theirs = GridSearchCV(estimator, grid, **options).fit(x, y, **(fit or {}))
    same(ours, theirs)
    if ours.refit:
        np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
        assert ours.score(x, y) == theirs.score(x, y)
    return ours, theirs


def test_a_grid_gives_the_scores_ranks_and_model_of_scikit_learns_search():
    ours, theirs = both(MLP, GRID, cv=StratifiedKFold(4, shuffle=True, random_state=0), return_train_score=True)
    for a, b in zip(ours.best_estimator_.coefs_, theirs.best_estimator_.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(ours.best_estimator_) is MLPClassifier
    assert ours.cv_results_["mean_fit_time"].min() > 0.0
    assert clone(ours).get_params().keys() == ours.get_params().keys()


@pytest.mark.parametrize(
    "grid",
    [
        {"hidden_layer_sizes": [(4,), (6, 5)], "activation": ["tanh", "relu"]},
        {"solver": ["adam", "adamw", "sgd"], "batch_size": [20, "auto"]},
        {"early_stopping": [True, False], "n_iter_no_change": [1, 3], "tol": [0.01, 0.1]},
        {"learning_rate": ["constant", "invscaling", "adaptive"], "n_iter_no_change": [1], "tol": [0.1]},
        {"dropout": [0.0, 0.2, 0.5], "class_weight": [None, "balanced"]},
        {"random_state": [1, 2], "shuffle": [True, False], "l2_mode": ["batch", "constant"]},
        {"random_state": [1, np.random.RandomState(1)], "early_stopping": [True, False], "alpha": [0.0, 0.1]},
        {"early_stopping": [True], "scoring": ["loss", "neg_log_loss", None]},
        [
            {"solver": ["lbfgs"], "alpha": [0.1, 1.0]},
            {"solver": ["adam"], "beta_1": [0.5, 0.9], "epsilon": [0.1]},
        ],
    ],
    ids=lambda grid: "+".join(grid if isinstance(grid, dict) else ("lists",)),
)
def test_every_kind_of_parameter(grid):
    both(MLP, grid, cv=3)


def test_candidates_with_and_without_shuffling_that_share_a_seed_train_together():
    grid = {"shuffle": [True, False], "learning_rate_init": [0.1, 0.2]}
    jobs = [Job(clone(MLP).set_params(**one, batch_size=20), X, Y, {}) for one in ParameterGrid(grid)]
    for one, job in zip(fit_all(jobs), jobs, strict=True):
        np.testing.assert_allclose(one.loss_curve_, clone(job.estimator).fit(X, Y).loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("last", [MLP, LogisticRegression()], ids=lambda last: type(last).__name__)
def test_a_transformer_may_change_its_rows_in_place(last):
    grid = {"scale__with_mean": [True, False], "scale__with_std": [True, False]}
    both(Pipeline([("scale", StandardScaler(copy=False)), ("last", last)]), grid, 3.0 * X + 1.0, cv=3, refit=False)


def only_small_penalties(estimator, X, y):
    if estimator.alpha > 0.01:
        raise RuntimeError("a scorer's own error")
    return estimator.score(X, y)


def test_the_error_of_a_scorer_is_that_of_its_candidate_alone():
    scored = clone(MLP).set_params(early_stopping=True, scoring=only_small_penalties)
    search = BatchedSearchCV(scored, {"alpha": [0.001, 0.1]}, cv=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One or more of the test scores")
        with pytest.warns(FitFailedWarning, match="a scorer's own error"):
            search.fit(X, Y)
    np.testing.assert_array_equal(np.isnan(search.cv_results_["mean_test_score"]), [False, True])


def test_regression_with_sample_weights_and_several_scores():
    x, y = make_regression(120, 5, noise=5.0, random_state=0)
    w = np.random.default_rng(0).uniform(0.1, 2.0, len(x))
    scoring = ["r2", "neg_mean_absolute_error"]
    estimator = MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=0.02, max_iter=15, random_state=0)
    grid = {"alpha": [0.001, 10.0], "loss": ["squared_error", "huber"]}
    y = (y - y.mean()) / y.std()
    both(estimator, grid, x, y, {"sample_weight": w}, cv=KFold(3), scoring=scoring, refit="r2")
    ours = BatchedSearchCV(estimator, grid, cv=3, scoring=scoring, refit=False).fit(x, y)
    assert not hasattr(ours, "best_estimator_")
    assert hasattr(ours, "cv_results_")


def the_type(estimator, X, y):
    return float(type(estimator) is MLPClassifier)


def the_loss_of_the_last_step(estimator, X, y):
    assert [name for name, _ in estimator[:-1].steps] == ["standardscaler"]
    return {"loss": estimator[-1].loss_, "steps": len(estimator)}


def test_scorers_see_the_estimators_of_the_user():
    ours, _ = both(MLP, GRID, cv=3, scoring=the_type)
    assert ours.best_score_ == 1.0
    grid = {"mlpclassifier__alpha": [0.1, 1.0]}
    both(make_pipeline(StandardScaler(), MLP), grid, cv=3, scoring=the_loss_of_the_last_step, refit="loss")


def test_a_function_chooses_the_best():
    def most_regular(results):
        return int(np.argmax([params["alpha"] for params in results["params"]]))

    ours, _ = both(MLP, GRID, cv=3, refit=most_regular)
    assert ours.best_params_["alpha"] == 0.1


def test_transformers_of_a_pipeline_are_fitted_once_per_fold_and_setting():
    fits = []

    class Counted(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            fits.append(len(X))
            return super().fit(X, y, sample_weight)

    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    pipeline = make_pipeline(Counted(), SelectKBest(), MLP)
    grid = {"selectkbest__k": [2, 4], "mlpclassifier__learning_rate_init": [0.01, 0.1, 0.3]}
    theirs = GridSearchCV(pipeline, grid, cv=3).fit(frame, Y)
    fits.clear()
    ours = BatchedSearchCV(pipeline, grid, cv=3).fit(frame, Y)
    assert len(fits) == 3 * 2 + 1  # and the refit
    same(ours, theirs)
    np.testing.assert_array_equal(ours.predict_proba(frame), theirs.predict_proba(frame))
    assert list(ours.feature_names_in_) == list("abcdef")


def test_data_are_checked_once_for_each_fold(monkeypatch):
    learn, learned = MLPClassifier._learn, []
    monkeypatch.setattr(MLPClassifier, "_learn", lambda e, *a, **k: learned.append(len(a[0])) or learn(e, *a, **k))
    grid = {"alpha": [0.0, 0.1], "hidden_layer_sizes": [(3,), (4,)], "class_weight": [None, {0: 2.0}]}
    BatchedSearchCV(MLP, grid, cv=KFold(4), refit=False).fit(X, Y)
    assert learned == 2 * [117, 118, 118, 118]  # the weights of classes depend on the setting


def test_draws_are_those_of_the_random_search():
    distributions = {"learning_rate_init": [0.001, 0.01, 0.1, 0.3], "alpha": [1e-4, 1e-2]}
    ours = BatchedSearchCV(MLP, distributions, n_iter=3, random_state=5, cv=3).fit(X, Y)
    same(ours, RandomizedSearchCV(MLP, distributions, n_iter=3, random_state=5, cv=3).fit(X, Y))


def test_fits_that_fail_follow_error_score(monkeypatch):
    grid = {"learning_rate_init": [0.1, -1.0, 1e300]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = (BatchedSearchCV, GridSearchCV)
        ours, theirs = (search(MLP, grid, cv=3, error_score=-7.0).fit(X, Y) for search in kinds)
    same(ours, theirs)
    assert list(ours.cv_results_["mean_test_score"][1:]) == [-7.0, -7.0]
    with pytest.warns(UserWarning, match="non-finite"), pytest.warns(FitFailedWarning, match="3 fits failed out of a"):
        BatchedSearchCV(MLP, {"learning_rate_init": [0.1, -1.0]}, cv=3).fit(X, Y)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="learning_rate_init"):
        patch.setattr("mlp_xp.sklearn.search.train_all", lambda *_: pytest.fail("something was trained"))
        BatchedSearchCV(MLP, grid, cv=3, error_score="raise").fit(X, Y)


@pytest.mark.parametrize("n_iter", [0, -1])
def test_a_number_of_draws_is_positive(n_iter):
    with pytest.raises(ValueError, match=r"'n_iter' parameter .* must be an int in the range \[1, inf\)"):
        BatchedSearchCV(MLP, GRID, n_iter=n_iter).fit(X, Y)


@pytest.mark.parametrize(
    ("grid", "says"),
    [({"rate": [0.1]}, "Invalid parameter 'rate'"), ({"alpha": []}, "alpha"), ({"alpha": 0.1}, "alpha")],
)
def test_bad_grids_are_refused_before_training(grid, says):
    with pytest.raises((ValueError, TypeError), match=says):
        BatchedSearchCV(MLP, grid).fit(X, Y)


def test_sparse_rows_that_do_not_fit_in_memory_as_dense_ones_train_one_by_one(monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr("mlp_xp.sklearn.arrays.DENSE_BYTES", 1000)
    for x in (sparse.csr_matrix(X), sparse.csr_matrix(10.0 * X).astype(np.int64)):
        both(MLP, {"alpha": [0.01, 1.0]}, x, cv=3)
    assert EnsembleClassifier(MLP, 2).fit(sparse.csr_matrix(X), Y).score(X, Y) > 0.3


def test_other_estimators_are_fitted_one_by_one():
    both(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=3)


def test_processes_find_the_same():
    same(*(BatchedSearchCV(MLP, GRID, cv=3, n_jobs=n).fit(X, Y) for n in (None, 2)))


def test_halving_drops_the_weakest_and_goes_on():
    halving = Halving(factor=2, min_epochs=3)
    ours = BatchedSearchCV(MLP, GRID, cv=3, halving=halving).fit(X, Y)
    results = ours.cv_results_
    assert list(np.unique(results["iter"], return_counts=True)[1]) == [8, 4, 2]
    assert sorted(set(results["n_resources"])) == [3, 6, 12]
    whole = GridSearchCV(MLP, GRID, cv=3).fit(X, Y)
    last = np.flatnonzero(results["iter"] == 2)
    for i in last:  # the survivors have the scores of a search without halving
        j = whole.cv_results_["params"].index(results["params"][i])
        assert results["mean_test_score"][i] == whole.cv_results_["mean_test_score"][j]
    assert ours.best_index_ in last


def two_scores(estimator, X, y):
    return {"accuracy": estimator.score(X, y), "size": -float(estimator.n_iter_)}


def test_halving_follows_the_score_that_refit_names(monkeypatch):
    options: dict[str, Any] = {"cv": 3, "halving": Halving(factor=2, min_epochs=3)}
    plain, named, several = (
        BatchedSearchCV(MLP, GRID, **options, scoring=scoring, refit=refit).fit(X, Y).cv_results_["params"]
        for scoring, refit in ((None, True), (two_scores, "accuracy"), (["accuracy", "f1_macro"], "accuracy"))
    )
    assert plain == named == several
    monkeypatch.setattr("mlp_xp.sklearn.search.train_all", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(ValueError, match="needs refit to name the one by which candidates are dropped"):
        BatchedSearchCV(MLP, GRID, **options, scoring=["accuracy", "f1_macro"], refit=False).fit(X, Y)


def test_fits_of_one_seed_that_share_a_stack_go_on_apart(monkeypatch):
    """They share their random numbers only as long as they are in one stack."""
    jobs = [[Job(clone(MLP).set_params(alpha=alpha), X, Y, {}) for alpha in (0.0, 0.1, 1.0)] for _ in range(2)]
    whole, fits = fit_all(jobs[0]), start_all(jobs[1])
    train_all(fits, None, until=4)
    monkeypatch.setattr("mlp_xp.sweep.tasks.STACKS", 1)
    monkeypatch.setattr("mlp_xp.sklearn.stacked.models_together", lambda *_: 1)
    train_all(fits, None)
    for a, b in zip(whole, fits, strict=True):
        np.testing.assert_array_equal(a.coefs_[0], b.result().coefs_[0])


def test_the_warnings_of_fits_that_did_not_converge_are_given():
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        BatchedSearchCV(MLP, {"alpha": [0.1]}, cv=2, refit=False).fit(X, Y)

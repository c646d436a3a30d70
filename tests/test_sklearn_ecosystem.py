"""Our estimators in scikit-learn's pipelines, searches, calibration, metadata routing and pickles."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
import joblib
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression
from sklearn.ensemble import BaggingClassifier, StackingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlp_xp.nn import schedules
from mlp_xp.nn.optimizers import RMSprop
from mlp_xp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
QUICK: dict[str, Any] = {"hidden_layer_sizes": (12,), "max_iter": 40, "learning_rate_init": 0.02, "random_state": 0}


def leaves(x: Any) -> list[Any]:
    """All objects in a pickled estimator."""
    if isinstance(x, dict):
        return [leaf for value in x.values() for leaf in leaves(value)]
    if isinstance(x, (list, tuple)):
        return [leaf for value in x for leaf in leaves(value)]
    return [x, *(leaves(vars(x)) if type(x).__module__.startswith("mlp_xp") else [])]


def test_pipeline_with_frames() -> None:
    frames = pytest.importorskip("pandas")
    table = frames.DataFrame(X, columns=list("abcd"))
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**QUICK)).set_output(transform="pandas")
    pipeline.fit(table, y)
    assert list(pipeline[-1].feature_names_in_) == list("abcd")
    assert pipeline.score(table, y) > 0.9
    with pytest.raises(ValueError, match="feature names"):
        pipeline[-1].predict(table.rename(columns={"a": "z"}))


def test_grid_search_in_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    grid = {
        "alpha": [1e-4, 100.0],
        "activation": ["tanh", "relu"],
        "learning_rate": ["constant", schedules.Cosine(0.02)],
    }
    search = GridSearchCV(MLPClassifier(**QUICK), grid, cv=2, n_jobs=2).fit(X, y)
    assert search.best_params_["alpha"] == 1e-4
    assert search.best_score_ > 0.9


def test_cross_validation() -> None:
    assert cross_val_score(make_pipeline(StandardScaler(), MLPClassifier(**QUICK)), X, y, cv=3).mean() > 0.9
    assert cross_val_predict(MLPClassifier(**QUICK), X, y, cv=2, method="predict_proba").shape == (150, 3)


def test_meta_estimators() -> None:
    model = MLPClassifier(**QUICK)
    assert CalibratedClassifierCV(model, cv=2).fit(X, y).score(X, y) > 0.9
    assert BaggingClassifier(model, 2, random_state=0).fit(X, y).score(X, y) > 0.8
    assert StackingClassifier([("mlp", model)], LogisticRegression(), cv=2).fit(X, y).score(X, y) > 0.9
    assert permutation_importance(model.fit(X, y), X, y, n_repeats=2).importances.shape == (4, 2)
    many = make_multilabel_classification(60, random_state=0)
    assert MultiOutputClassifier(model).fit(*many).predict(many[0]).shape == many[1].shape


def test_clone_keeps_what_was_asked_for() -> None:
    asked = MLPClassifier((3, 4), activation=["relu", "gelu"], solver=RMSprop(0.01), class_weight={0: 2.0}, dropout=0.1)
    copy = clone(asked.fit(X, y))
    assert copy.get_params() == asked.get_params()
    assert not hasattr(copy, "coefs_")


@pytest.mark.parametrize("settings", [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"dropout": 0.2}], ids=str)
@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "array_api_strict"])
def test_pickles_hold_arrays_of_the_host(device: str, settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip(device.partition(":")[0] if device != "cpu" else "numpy")
    model = MLPClassifier(**QUICK, device=device, **settings).fit(X, y)
    arrays = [leaf for leaf in leaves(vars(model)) if hasattr(leaf, "dtype")]
    assert arrays and all(isinstance(a, (np.ndarray, np.generic)) for a in arrays)
    joblib.dump(model, tmp_path / "model.joblib")
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


def test_pickled_on_a_gpu_it_loads_without_one() -> None:
    model = MLPClassifier(**QUICK).fit(X, y)
    expected = model.predict_proba(X)
    model.device = "cuda:7"
    again = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    assert np.array_equal(again.predict_proba(X), expected)


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw"])
def test_a_pickle_goes_on_training(solver: str) -> None:
    straight = MLPClassifier((8,), solver=solver, random_state=0, dropout=0.3)
    for _ in range(6):
        straight.partial_fit(X, y, classes=[0, 1, 2])
    broken = MLPClassifier((8,), solver=solver, random_state=0, dropout=0.3)
    for _ in range(6):
        broken = pickle.loads(pickle.dumps(broken.partial_fit(X, y, classes=[0, 1, 2])))
    assert np.array_equal(straight.predict_proba(X), broken.predict_proba(X))


def test_metadata_routing() -> None:
    w = np.where(y == 0, 10.0, 0.1)
    with config_context(enable_metadata_routing=True):
        model = MLPClassifier(**QUICK).set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        search = GridSearchCV(model, {"alpha": [1e-4]}, cv=2, error_score="raise").fit(X, y, sample_weight=w)
    expected = MLPClassifier(**QUICK, alpha=1e-4).fit(X, y, w)
    np.testing.assert_allclose(search.predict_proba(X), expected.predict_proba(X))


def test_validation_data_is_routed() -> None:
    with config_context(enable_metadata_routing=True):
        model = MLPRegressor(**QUICK, early_stopping=True).set_fit_request(validation_data=True)
        data = make_regression(80, 4, random_state=0)
        pipeline = make_pipeline(StandardScaler(), model).fit(*data, validation_data=data)
    assert len(pipeline[-1].validation_scores_) == pipeline[-1].n_iter_


def test_columns_of_labels_warn_as_theirs_do() -> None:
    from sklearn.exceptions import DataConversionWarning

    with pytest.warns(DataConversionWarning, match="column-vector"):
        MLPClassifier(**QUICK).fit(X, y[:, None])


def test_bad_parameters_are_refused() -> None:
    for name, value in {
        "alpha": -1.0,
        "dropout": 1.0,
        "l2_mode": "none",
        "dtype": "int8",
        "activation": "step",
    }.items():
        with pytest.raises(ValueError, match=f"The '{name}' parameter"):
            MLPClassifier(**{name: value}).fit(X, y)


def test_without_scikit_learn_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import mlp_xp.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert "ImportError: mlp_xp.sklearn needs scikit-learn 1.7 or newer" in done.stderr
    assert "pip install 'mlp-xp[sklearn]'" in done.stderr


def test_threads_do_not_disturb_each_other() -> None:
    models = [MLPClassifier(**QUICK | {"random_state": seed}) for seed in range(6)]
    alone = [clone(model).fit(X, y).coefs_[0] for model in models]
    with joblib.parallel_config("threading"):
        together = joblib.Parallel(n_jobs=3)(joblib.delayed(model.fit)(X, y) for model in models)
    assert all(np.array_equal(a, model.coefs_[0]) for a, model in zip(alone, together, strict=True))

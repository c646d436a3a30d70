"""scikit-learn's callbacks see every epoch of our estimators, and may stop them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.9")
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlp_xp.sklearn import BatchedSearchCV, MLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)


class Recorder:
    """A callback that records its calls and stops the fit after some tasks."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.stop_after = stop_after
        self.begun: list[str] = []
        self.scores: list[float] = []
        self.ends = 0
        self.events: list[str] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.events.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.begun.append(context.task_name)

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        self.ends += 1
        if fitted_estimator is not None:
            self.scores.append(fitted_estimator.score(X, y))
        return len(self.scores) >= self.stop_after


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_every_epoch_is_a_task(solver: str) -> None:
    recorder = Recorder()
    model = MLPClassifier((8,), solver=solver, max_iter=6, random_state=0).set_callbacks(recorder).fit(X, y)
    assert recorder.events == ["setup", "teardown"]
    assert recorder.begun[:2] == ["fit", "lbfgs iteration" if solver == "lbfgs" else "epoch 0"]
    assert len(recorder.begun) == recorder.ends >= model.n_iter_ + 1
    assert recorder.scores[-1] == model.score(X, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_callback_stops_the_fit(solver: str) -> None:
    model = MLPClassifier((8,), solver=solver, max_iter=50, random_state=0).set_callbacks(Recorder(stop_after=4))
    assert model.fit(X, y).n_iter_ == 4


def test_a_batched_search_has_callbacks_and_so_have_its_candidates() -> None:
    recorder, outer = Recorder(), Recorder()
    model = MLPClassifier((8,), max_iter=6, random_state=0).set_callbacks(recorder)
    search = BatchedSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2)
    if hasattr(search, "set_callbacks"):
        search.set_callbacks(outer)
    search.fit(X, y)
    assert recorder.begun.count("fit") == 2 * 2 + 1
    assert recorder.begun.count("epoch 5") == 2 * 2 + 1
    assert not hasattr(search, "set_callbacks") or outer.begun == ["fit", "refit-with-best-params"]


def test_callbacks_change_nothing() -> None:
    a, b = (MLPClassifier((8,), max_iter=6, random_state=0) for _ in range(2))
    assert np.array_equal(a.fit(X, y).coefs_[0], b.set_callbacks(Recorder()).fit(X, y).coefs_[0])


def test_hooks_are_torn_down_after_an_error() -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="must be one of"):
        MLPClassifier((8,), activation=["step"]).set_callbacks(recorder).fit(X, y)
    with pytest.raises(ValueError, match="non-finite"), np.errstate(all="ignore"):
        MLPClassifier((8,), solver="sgd", learning_rate_init=1e300).set_callbacks(recorder).fit(X, y)
    assert recorder.events == ["setup", "teardown"]


def test_scoring_monitor_sees_the_learning_curve() -> None:
    monitor = ScoringMonitor(scoring="accuracy")
    model = MLPClassifier((8,), max_iter=6, random_state=0).set_callbacks(monitor).fit(X, y)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"].startswith("epoch")]
    assert len(scores) == model.n_iter_ == 6
    assert scores[-1] == model.score(X, y)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    MLPClassifier((8,), max_iter=6, random_state=0).set_callbacks(ProgressBar()).fit(X, y)
    assert "MLPClassifier - fit" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:The estimator StandardScaler does not support callbacks")
def test_progress_of_a_search_reaches_the_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=3, random_state=0))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1]}, cv=2)
    if not hasattr(search, "set_callbacks"):
        pytest.skip("this scikit-learn's GridSearchCV has no callbacks")
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    assert "MLPClassifier" in capsys.readouterr().out

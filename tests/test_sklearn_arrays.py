"""Arrays of other libraries as input; predictions are arrays of the same library on the same device."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.7")
from scipy import sparse

from mlp_xp.sklearn import MLPClassifier, MLPRegressor
from mlp_xp.sklearn.arrays import SparseRows, home, is_foreign, to_host

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 5)).astype(np.float32)
y = (X[:, 0] > 0.0).astype(np.int64) + (X[:, 1] > 0.0)
QUICK: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


@pytest.fixture(params=["torch", "jax.numpy", "array_api_strict"])
def xp(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


def test_classifier(xp: Any) -> None:
    expected = MLPClassifier(**QUICK).fit(X, y)
    model = MLPClassifier(**QUICK).fit(xp.asarray(X), xp.asarray(y), xp.asarray(np.ones(120, np.float32)))
    rows = xp.asarray(X[:50])
    for method in ("predict", "predict_proba", "predict_log_proba"):
        found = getattr(model, method)(rows)
        assert type(found) is type(rows) and found.device == rows.device
        np.testing.assert_allclose(to_host(found), getattr(expected, method)(X[:50]), rtol=1e-4, atol=1e-6)
    assert model.score(rows, xp.asarray(y[:50])) == expected.score(X[:50], y[:50])
    assert isinstance(model.coefs_[0], np.ndarray)


def test_regressor(xp: Any) -> None:
    targets = X[:, :2] * 2.0
    expected = MLPRegressor(**QUICK).fit(X, targets)
    model = MLPRegressor(**QUICK).fit(xp.asarray(X), xp.asarray(targets))
    found = model.predict(xp.asarray(X))
    assert type(found) is type(xp.asarray(X)) and found.dtype == xp.float32
    np.testing.assert_allclose(to_host(found), expected.predict(X), rtol=1e-4, atol=1e-6)


def test_words_stay_on_the_host(xp: Any) -> None:
    words = np.array(["no", "maybe", "yes"])[y]
    model = MLPClassifier(**QUICK).fit(xp.asarray(X), words)
    assert isinstance(model.predict(xp.asarray(X)), np.ndarray)
    assert set(model.predict(xp.asarray(X))) <= {"no", "maybe", "yes"}


def test_validation_data_of_another_library(xp: Any) -> None:
    model = MLPClassifier(**QUICK, early_stopping=True)
    model.fit(xp.asarray(X), xp.asarray(y), validation_data=(xp.asarray(X), xp.asarray(y)))
    assert len(model.validation_scores_) == 5


def test_a_tensor_that_wants_gradients() -> None:
    torch = pytest.importorskip("torch")
    rows = torch.tensor(X, requires_grad=True)
    assert MLPClassifier(**QUICK).fit(rows, y).predict(rows).shape == (120,)


class OnGPU:
    """A fake array on the third GPU."""

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return pytest.importorskip("array_api_strict")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 2

    device = "cuda:2"


@pytest.mark.parametrize(
    ("module", "device"), [("cupy", "cupy:cuda:2"), ("torch", "torch:cuda:2"), ("jaxlib._jax", "jax:cuda:2")]
)
def test_rows_on_a_gpu_are_trained_on_there(module: str, device: str) -> None:
    array = type("Array", (OnGPU,), {"__module__": module})()
    assert home(array) == device


def test_rows_of_the_host_are_trained_on_by_numpy(xp: Any) -> None:
    for rows in (X, X.tolist(), sparse.csr_array(X), xp.asarray(X)):
        assert home(rows) == "cpu"
    assert is_foreign(xp.asarray(X)) and not is_foreign(X)


def test_sparse_rows_are_a_host_array_row_by_row() -> None:
    matrix = sparse.csr_array(np.where(X > 0.5, X, 0.0))
    rows = SparseRows(matrix)
    assert (rows.shape, rows.dtype, len(rows), rows.nbytes) == ((120, 5), np.float32, 120, 120 * 5 * 4)
    for key in (slice(3, 9), np.array([5, 5, 0])):
        assert np.array_equal(rows[key], matrix.toarray()[key])


def test_the_layout_of_rows_does_not_matter() -> None:
    expected = MLPClassifier(**QUICK).fit(X, y)
    for rows in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X[::-1][::-1]):
        found = MLPClassifier(**QUICK).fit(rows, y)
        assert np.array_equal(found.coefs_[0], expected.coefs_[0])
        assert np.array_equal(found.predict_proba(rows), expected.predict_proba(X))


def test_read_only_rows() -> None:
    rows, labels = X.copy(), y.copy()
    rows.flags.writeable = labels.flags.writeable = False
    assert np.array_equal(
        MLPClassifier(**QUICK).fit(rows, labels).coefs_[0], MLPClassifier(**QUICK).fit(X, y).coefs_[0]
    )


def test_sparse_labels() -> None:
    marks = np.stack([y > 0, y > 1], axis=1).astype(int)
    expected = MLPClassifier(**QUICK).fit(X, marks)
    found = MLPClassifier(**QUICK).fit(X, sparse.csr_array(marks))
    assert np.array_equal(found.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_rows_are_let_go_after_a_fit(solver: str) -> None:
    rows = X.astype(np.float64)
    seen = weakref.ref(rows)
    model = MLPClassifier(**QUICK, solver=solver).fit(rows, y)
    del rows
    gc.collect()
    assert seen() is None
    assert model.score(X, y) >= 0.0

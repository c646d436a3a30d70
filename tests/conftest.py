"""The table of backends on which laws are tested.

``MLP_XP_TEST_BACKENDS=numpy,jax-jit`` in the environment selects some of them; those not installed are skipped.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from mlp_xp.nn.optimizers import Adam
from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.numpy_plain import PlainNumpyBackend
from mlp_xp_backends.trees import tree_map

# The same examples on every machine, however slow or busy it is
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers one thread of the linear algebra libraries, unless the environment sets more."""
    if getattr(config.option, "numprocesses", None):
        for pool in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(pool, "1")


class Variant:
    """A backend with some members replaced."""

    def __init__(self, base: Any, **members: Any) -> None:
        self._base = base
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        if name == "_base":  # `copy` asks before there is one
            raise AttributeError(name)
        return getattr(self._base, name)


class ReadOnly(PlainNumpyBackend):
    """NumPy without the compiler, where every array but the carry is read-only."""

    def asarray(self, x: Any, dtype: Any = None) -> np.ndarray:
        x = np.array(x, dtype=dtype)
        x.flags.writeable = False
        return x

    def compile(self, body: Any) -> Any:
        plain = plain_loop(self.xp, body, np.stack)
        return lambda carry, consts, items: plain(tree_map(np.array, carry), consts, items)


def eager_jax() -> Variant:
    """JAX, operation by operation, without jit."""
    jax = get_backend("jax:cpu")
    return Variant(jax, compile=jax.eager)


BACKENDS: dict[str, Callable[[], Any]] = {
    "numpy": lambda: get_backend("numpy"),
    "numpy-readonly": ReadOnly,
    "array_api_strict": lambda: get_backend("array_api_strict"),
    "torch": lambda: get_backend("torch:cpu"),
    "jax": eager_jax,
    "jax-jit": lambda: get_backend("jax:cpu"),
    "cupy": lambda: get_backend("cupy"),
}
MARKS = {"cupy": pytest.mark.gpu}
INTERPRETED = {"numpy-readonly", "array_api_strict"}  # checked step by step, which a whole run repeats


def selected() -> list[str]:
    names = [name for name in os.environ.get("MLP_XP_TEST_BACKENDS", "").split(",") if name]
    if unknown := set(names) - set(BACKENDS):
        raise pytest.UsageError(f"MLP_XP_TEST_BACKENDS names {sorted(unknown)}; known are {', '.join(BACKENDS)}")
    return names or list(BACKENDS)


@cache
def built(name: str) -> Any:
    return BACKENDS[name]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Omit slow cases from quick runs: eager JAX, which compiles every operation for every shape, and part of jit's."""
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {})
        name, wide = values.get("backend"), values.get("dtype") == "float64"
        run = getattr(values.get("case"), "run", False)
        second = "step" in values and values["step"].clip_norm is None  # half of the steps clip
        second |= "moving" in values and not isinstance(values["optimizer"], Adam)  # a third of the frozen ones
        if name == "jax" or (name == "jax-jit" and (wide or second)) or (run and (wide or name in INTERPRETED)):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Garbage collections leave out the libraries and the tests themselves, which take most of a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Skip a test that uses torch or JAX if it is not installed."""
    try:
        return (yield)
    except BackendError as error:
        said = str(error)
        missing = [name for name in ("torch", "jax") if find_spec(name) is None and f"{name} is not installed" in said]
        if missing:
            pytest.skip(f"{missing[0]} is not installed")
        raise


@pytest.fixture(scope="session", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in selected()])
def backend(request: pytest.FixtureRequest) -> Any:
    """Every backend of the table in turn."""
    try:
        return built(request.param)
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)

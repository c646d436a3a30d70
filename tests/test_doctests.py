"""Every public name has a docstring with an example, and the examples run."""

from __future__ import annotations

import doctest
import inspect
from functools import cache
from importlib import import_module

import numpy as np
import pytest

import mlp_xp
from mlp_xp_backends import get_backend, trees

NEEDS = {"arrow_batches": "pyarrow"}


@cache
def names():
    """The names that examples use without importing them."""
    return {**public(mlp_xp), "np": np, "xp": get_backend("numpy:plain").xp, "leaves": trees.leaves}


def public(module):
    """The public names of a module."""
    return {name: getattr(module, name) for name in module.__all__}


def examples(thing, given=None):
    """The doctests of a public object and of its members, which may use the names ``given`` without importing them."""
    thing = thing if hasattr(thing, "__name__") else type(thing)  # ABSENT
    module = inspect.getmodule(thing)
    given = {**names(), **(given or {}), thing.__name__: thing}
    found = doctest.DocTestFinder().find(thing, thing.__name__, module, globs=given)
    return [test for test in found if test.examples]


def run(thing, given=None):
    """The failures of the examples of a public object."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    for test in examples(thing, given):
        doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("name", mlp_xp.__all__)
def test_every_public_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    thing = getattr(mlp_xp, name)
    assert inspect.getdoc(thing)
    assert inspect.ismodule(thing) or examples(thing)
    assert not run(thing)


@pytest.mark.parametrize(
    "path", ["files.snapshot.Snapshot", "nn.gradient_check.GradientReport", "training.run.EpochProgress"]
)
def test_every_class_of_results_has_an_example_that_runs(path):
    module, _, name = path.rpartition(".")
    thing = getattr(import_module(f"mlp_xp.{module}"), name)
    assert examples(thing) and not run(thing)


@pytest.mark.filterwarnings("ignore:.*converge")
@pytest.mark.parametrize("module", ["mlp_xp_backends", "mlp_xp.sklearn", "mlp_xp.parity"])
def test_every_public_name_of_a_subpackage_has_an_example_that_runs(module):
    package = pytest.importorskip(module)
    for name, thing in public(package).items():
        assert inspect.getdoc(thing)
        assert examples(thing), f"{module}.{name} has no example"
        assert not run(thing, public(package))

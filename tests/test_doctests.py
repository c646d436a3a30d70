"""Every public name has a docstring, and the examples in the docstrings run."""

from __future__ import annotations

import doctest
import inspect
from functools import cache

import numpy as np
import pytest

import mlp_xp
from mlp_xp import nn
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import ABSENT

PLAIN = {"Affine", "Spec", "Moment", "Rates", "TrainState"}  # named tuples, whose fields say it all


@cache
def names():
    """The names that examples use without importing them."""
    public = {name: getattr(mlp_xp, name) for name in mlp_xp.__all__}
    return {**public, "np": np, "xp": get_backend("numpy:plain").xp, "ABSENT": ABSENT}


def examples(name):
    """The doctests of a public name and of its methods."""
    thing = getattr(mlp_xp, name)
    module = inspect.getmodule(thing)
    return [test for test in doctest.DocTestFinder().find(thing, name, module, globs=dict(names())) if test.examples]


@pytest.mark.parametrize("name", mlp_xp.__all__)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for test in examples(name):
        report: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
        assert not report, "".join(report)


@pytest.mark.parametrize("name", sorted(set(nn.__all__) - PLAIN))
def test_every_name_of_the_math_has_an_example(name):
    assert examples(name)

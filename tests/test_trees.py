"""Trees: the structure of tuples is kept, and JAX and torch see the same one."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp_backends.trees import ABSENT, leaves, named_leaves, tree_map, unflatten


class Pair(NamedTuple):
    a: Any
    b: Any


trees = st.recursive(
    st.integers(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.builds(Pair, inner, inner),
    max_leaves=12,
)


@settings(deadline=None)  # importing JAX or torch takes longer than a test
@given(trees)
def test_unflatten_is_the_inverse_of_leaves(tree):
    again = unflatten(tree, iter(leaves(tree)))
    assert again == tree
    assert repr(again) == repr(tree)  # named tuples stay what they are


@settings(deadline=None)  # importing JAX or torch takes longer than a test
@given(trees)
def test_map_maps_leaves(tree):
    assert leaves(tree_map(lambda x: 2 * x, tree)) == [2 * x for x in leaves(tree)]
    assert leaves(tree_map(lambda x, y: x - y, tree, tree)) == [0] * len(leaves(tree))


@settings(deadline=None)  # importing JAX or torch takes longer than a test
@given(trees)
def test_every_leaf_has_a_name_of_its_own(tree):
    assert list(named_leaves(tree).values()) == leaves(tree)


@settings(deadline=None)  # importing JAX or torch takes longer than a test
@given(trees)
def test_jax_sees_the_same_leaves(tree):
    jax = pytest.importorskip("jax")
    assert jax.tree.leaves(tree) == leaves(tree)


def test_names_are_fields_and_positions():
    assert named_leaves((Pair(1, (2, 3)), (), 4)) == {"0.a": 1, "0.b.0": 2, "0.b.1": 3, "2": 4}
    assert named_leaves(5) == {"": 5}


def test_trees_of_different_structure_do_not_mix():
    with pytest.raises(ValueError, match="zip"):
        tree_map(lambda x, y: x, (1, 2), (1,))


def test_absence_is_one_node_without_leaves_and_stays_itself():
    assert leaves((1, ABSENT)) == [1]
    assert tree_map(lambda x: x, (1, ABSENT))[1] is ABSENT
    assert unflatten((1, ABSENT), iter([2]))[1] is ABSENT
    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT
    assert copy.deepcopy(ABSENT) is ABSENT

"""Trees as backends see them: tuples and named tuples, nested at will, of whatever is not a tuple."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mlp_xp_backends.protocol import Tree

__all__ = ["leaves", "skeleton", "unflatten"]


def leaves(tree: Tree) -> list[Any]:
    """The leaves from left to right."""
    if isinstance(tree, tuple):
        return [leaf for node in tree for leaf in leaves(node)]
    return [tree]


def unflatten(like: Tree, flat: Iterator[Any]) -> Tree:
    """A tree of the structure of ``like`` filled from ``flat``: the inverse of `leaves`."""
    if not isinstance(like, tuple):
        return next(flat)
    children = [unflatten(node, flat) for node in like]
    return type(like)(*children) if hasattr(like, "_fields") else tuple(children)


def skeleton(tree: Tree, of_leaf: Callable[[Any], Any]) -> Tree:
    """``tree`` with ``of_leaf`` of every leaf, equal and hashed alike for trees that look alike."""
    if isinstance(tree, tuple):
        return (type(tree), *(skeleton(node, of_leaf) for node in tree))
    return of_leaf(tree)

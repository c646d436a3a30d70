"""Trees: nested tuples and named tuples of arrays.

Parameters, gradients, optimizer state and checkpoints are trees of the same structure, so the functions here serve all
of them. A tuple is a node (an empty tuple is a node without leaves); everything else is a leaf. `jax.tree` and
`torch.utils._pytree` see the same structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

__all__ = ["ABSENT", "Absent", "leaves", "length", "named_leaves", "tree_map", "unflatten"]


class Absent(tuple[Any, ...]):
    """The type of `ABSENT`, its only instance: a node without leaves.

    >>> leaves((ABSENT, 1, ABSENT))
    [1]
    """

    __slots__ = ()
    _fields = ()

    def __new__(cls) -> Self:
        """Return the only instance."""
        return ABSENT if "ABSENT" in globals() else super().__new__(cls)

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Any = Absent()
"""The placeholder for an array that a tree does not contain, such as sample weights. Test with ``is ABSENT``."""


def _rebuild(node: tuple[Any, ...], children: Iterator[Any]) -> Any:
    """A tuple of the type of ``node`` that holds ``children``."""
    return type(node)(*children) if hasattr(node, "_fields") else tuple(children)


def tree_map(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply ``f`` to each leaf of ``tree`` and the corresponding leaves of ``others``; return a tree of the results."""
    if isinstance(tree, tuple):
        return _rebuild(tree, (tree_map(f, *nodes) for nodes in zip(tree, *others, strict=True)))
    return f(tree, *others)


def leaves(tree: Any) -> list[Any]:
    """The leaves from left to right."""
    if isinstance(tree, tuple):
        return [leaf for node in tree for leaf in leaves(node)]
    return [tree]


def named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves by name, such as ``0.W``: field names of named tuples and positions, joined by dots."""
    if not isinstance(tree, tuple):
        return {prefix: tree}
    names = getattr(tree, "_fields", range(len(tree)))
    named: dict[str, Any] = {}
    for name, node in zip(names, tree, strict=True):
        named |= named_leaves(node, f"{prefix}.{name}" if prefix else str(name))
    return named


def unflatten(like: Any, flat: Iterator[Any]) -> Any:
    """A tree of the structure of ``like`` filled from ``flat``: the inverse of `leaves`."""
    if isinstance(like, tuple):
        return _rebuild(like, (unflatten(node, flat) for node in like))
    return next(flat)


def length(items: Any) -> int:
    """The number of steps: the size of the leading axis that all leaves of ``items`` share.

    Raises ValueError if there is none or the leaves disagree.
    """
    sizes = {leaf.shape[0] if leaf.shape else 0 for leaf in leaves(items)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"the leaves of items have {sorted(sizes) or 'no'} rows: all need the same number, at least 1")
    return int(sizes.pop())

"""The loop as plain Python: for libraries without a compiled scan, and to compare compiled ones with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlp_xp_backends.protocol import Array, Body, Loop, Namespace, Tree


def plain_loop(xp: Namespace, body: Body, stack: Callable[[Sequence[Array]], Array]) -> Loop:
    """The loop over ``body``, step by step; ``stack`` joins the arrays of all steps along a new axis 0."""

    def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        outs = []
        for i in range(length(items)):
            carry, out = body(xp, carry, consts, tree_at(items, i))
            outs.append(out)
        return carry, _stacked(outs, stack)

    return loop


def length(items: Tree) -> int:
    """The number of steps: the size of the leading axis that all leaves of ``items`` share.

    Raises ValueError if there is none or the leaves disagree.
    """
    sizes = set(_sizes(items))
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"the leaves of items have {sorted(sizes) or 'no'} rows: all need the same number, at least 1"
        )
    return sizes.pop()


def _sizes(items: Tree) -> list[int]:
    if isinstance(items, tuple):
        return [n for node in items for n in _sizes(node)]
    return [int(items.shape[0])] if items.shape else [0]


def tree_at(tree: Tree, i: int) -> Tree:
    """Row ``i`` of every leaf; a 1-D leaf gives a 0-d array."""
    if isinstance(tree, tuple):
        return _rebuilt(tree, [tree_at(node, i) for node in tree])
    return tree[i, ...]


def _stacked(outs: Sequence[Tree], stack: Callable[[Sequence[Array]], Array]) -> Tree:
    first = outs[0]
    if isinstance(first, tuple):
        return _rebuilt(first, [_stacked(nodes, stack) for nodes in zip(*outs, strict=True)])
    return stack(outs)


def _rebuilt(node: Tree, children: Sequence[Tree]) -> Tree:
    return type(node)(*children) if hasattr(node, "_fields") else tuple(children)

"""The loop as plain Python: for libraries without a compiled scan, and to compare compiled ones with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import leaves, length, tree_map, unflatten
from mlp_xp_backends.typing import Array, Namespace, Tree


def plain_loop(xp: Namespace, body: Body, stack: Callable[[Sequence[Array]], Array]) -> Loop:
    """The loop over ``body``, step by step; ``stack`` joins the arrays of all steps along a new axis 0."""

    def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        outs = []
        for i in range(length(items)):
            item = unflatten(items, (leaf[i, ...] for leaf in leaves(items)))  # of a 1-D leaf a 0-d array
            carry, out = body(xp, carry, consts, item)
            carried = {id(leaf) for leaf in leaves(carry)}
            outs.append(tree_map(lambda leaf, carried=carried: _own(xp, leaf, carried), out))
        columns = zip(*map(leaves, outs), strict=True)
        return carry, unflatten(outs[0], (stack(column) for column in columns))

    return loop


def _own(xp: Namespace, x: Array, carried: set[int]) -> Array:
    """``x``, or a copy if it may share memory with carried arrays, which the next step overwrites."""
    seen = id(x) in carried or getattr(x, "base", None) is not None or getattr(x, "_base", None) is not None
    return xp.asarray(x, copy=True) if seen else x

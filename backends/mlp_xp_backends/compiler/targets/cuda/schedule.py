"""The order of a step: launches of nests that do not wait for each other, and products between them."""

from __future__ import annotations

from mlp_xp_backends.compiler.program import Value
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph, Nest

ALIGNMENT = 256
"""Bytes: what CUDA's own allocations start at, and cuBLAS is fastest with."""

MOST = 64
"""Nests of a launch at most: a kernel cannot have any number of parameters."""

Launch = list[Nest]
"""Nests that run side by side, or one product."""


def launches(graph: Graph) -> list[Launch]:
    """Few launches: from the end on, products as soon as no operation depends on them, then all remaining nests.

    So every nest runs as late as it can, and the updates of all parameters come together in the last launch.
    """
    followers = {id(nest): 0 for nest in graph.nests}
    for nest in graph.nests:
        for before in graph.needs(nest):
            followers[id(before)] += 1
    left, order = list(graph.nests), []
    while left:
        free = [nest for nest in left if not followers[id(nest)]]
        launch = [nest for nest in free if nest.product][-1:] or free[:MOST]
        order.append(launch)
        for nest in launch:
            left.remove(nest)
            for before in graph.needs(nest):
                followers[id(before)] -= 1
    return order[::-1]


def places(graph: Graph, order: list[Launch]) -> tuple[dict[Value, int], int]:
    """The offset of each stored result in one piece of memory, in bytes, and the length of that piece.

    Two results overlap only if the last launch that reads one comes before the launch that makes the other.
    """
    number = {id(nest): k for k, launch in enumerate(order) for nest in launch}
    ends: dict[Value, int] = {}
    for op, reads in graph.reads.items():
        for read in reads:
            ends[read.root] = max(ends.get(read.root, 0), number[id(graph.of[op])])
    stored = [op.out for op in graph.reads if graph.stored(op) and op.out not in graph.step.target]
    lives = [(v, number[id(graph.of[graph.step.maker[v]])], ends.get(v, 0)) for v in stored]
    found: dict[Value, int] = {}
    for v, first, last in sorted(lives, key=lambda life: -life[0].nbytes):
        others = [(found[w], w.nbytes) for w, f, t in lives if w in found and f <= last and first <= t]
        offset = 0
        for start, size in sorted(others):
            if offset + v.nbytes <= start:
                break
            offset = max(offset, -(-(start + size) // ALIGNMENT) * ALIGNMENT)
        found[v] = offset
    return found, max((found[v] + v.nbytes for v in found), default=0)

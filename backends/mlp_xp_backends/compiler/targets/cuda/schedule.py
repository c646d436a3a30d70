"""The order of a step: launches of independent nests, and matrix products between them."""

from __future__ import annotations

from mlp_xp_backends.compiler.program import Value
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph, Nest

ALIGNMENT = 256
"""The alignment of results in bytes: that of CUDA's own allocations, with which cuBLAS is fastest."""

MOST = 64
"""The largest number of nests in a launch, because the number of parameters of a kernel is limited."""

Launch = list[Nest]
"""Nests that run concurrently, or one product."""


def launches(graph: Graph) -> list[Launch]:
    """Group the nests into few launches.

    The list is built from the end: a product as soon as no remaining operation depends on it, otherwise all nests on
    which none depends. So every nest runs as late as possible, and one last launch updates all parameters.
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
    """The offset of each stored result in one block of memory, and the length of the block, in bytes.

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

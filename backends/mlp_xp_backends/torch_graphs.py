"""CUDA graphs for torch: a step is recorded once, and from then on sent to the GPU as one piece.

A recorded step works in fixed memory. The carry and the items of all steps are copied to where it expects them, and a
number on the device says which item is next: between steps the host does nothing but launch the graph again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock

import torch

from mlp_xp.trees import leaves, tree_map, unflatten
from mlp_xp_backends.loop import length
from mlp_xp_backends.protocol import Body, Loop, Namespace, Tree

EAGER = 100
"""Steps that are taken one operation at a time before a recording, which costs about as much, is made."""
GRAPHS = 4
"""How many sets of shapes and data a loop remembers: each recording holds memory of the device."""

Step = Callable[[], None]
Capture = Callable[[Step], Step]
"""Records what a function does on the device, and returns how to do it again."""


def cuda_graph(device: torch.device, step: Step) -> Step:
    """A `Capture` by CUDA. Other threads may use the device meanwhile."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    replay: Step = graph.replay
    return replay


class GraphLoop:
    """A loop over ``body`` that records its step once it has been taken often enough on the same data.

    ``eager`` is the same loop, one operation at a time: for the first steps, and for a body that cannot be recorded.
    """

    def __init__(self, xp: Namespace, body: Body, eager: Loop, capture: Capture) -> None:
        self.xp, self.body, self.eager, self.capture = xp, body, eager, capture
        self.graphs: dict[Hashable, Graph | None] = {}
        self.taken: dict[Hashable, int] = {}
        self.lock = Lock()

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""
        with self.lock:
            return self._run(carry, consts, items, length(items))

    def _run(self, carry: Tree, consts: Tree, items: Tree, n: int) -> tuple[Tree, Tree]:
        key = (
            tree_map(lambda a: (a.shape, a.dtype), carry),
            tree_map(lambda a: (a.data_ptr(), a.shape, a.stride(), a.dtype), consts),
            tree_map(lambda a: (a.shape[1:], a.dtype), items),
        )
        taken = self.taken.setdefault(key, 0)
        self.taken[key] += n
        graph = self.graphs.get(key)
        if taken >= EAGER and (key not in self.graphs or (graph is not None and graph.steps < n)):
            graph = self._record(key, carry, consts, items)
        if len(self.taken) > GRAPHS:
            oldest = next(iter(self.taken))
            del self.taken[oldest]
            self.graphs.pop(oldest, None)
        return self.eager(carry, consts, items) if graph is None else graph(carry, items, n)

    def _record(self, key: Hashable, carry: Tree, consts: Tree, items: Tree) -> Graph | None:
        self.graphs.pop(key, None)  # a shorter one makes room
        try:
            graph = Graph(self.xp, self.body, self.capture, carry, consts, items)
        except RuntimeError:  # the body does what no graph can, such as reading a number back
            graph = None
        self.graphs[key] = graph
        return graph


class Graph:
    """A recorded step and the memory that it works in, for as many steps as ``items`` has."""

    def __init__(self, xp: Namespace, body: Body, capture: Capture, carry: Tree, consts: Tree, items: Tree) -> None:
        self.steps = length(items)
        self.carry, self.items = (tree_map(torch.clone, tree) for tree in (carry, items))
        self.consts = consts  # whose memory stays where it is as long as somebody holds them
        self.next = torch.zeros(1, dtype=torch.int64, device=leaves(items)[0].device)
        self.trees: tuple[Tree, Tree] = ((), ())
        self.replay = capture(lambda: self._step(xp, body))

    def _step(self, xp: Namespace, body: Body) -> None:
        item = tree_map(lambda a: torch.index_select(a, 0, self.next)[0], self.items)
        carry, out = body(xp, self.carry, self.consts, item)
        outs = tree_map(lambda a: a.new_empty((self.steps, *a.shape)), out)
        for stacked, a in zip(leaves(outs), leaves(out), strict=True):
            stacked.index_copy_(0, self.next, a.unsqueeze(0))
        moved = [(here, a) for here, a in zip(leaves(self.carry), leaves(carry), strict=True) if a is not here]
        for here, a in [(here, a.clone()) for here, a in moved]:  # all before any is written over
            here.copy_(a)
        self.next += 1
        self.trees = carry, outs

    def __call__(self, carry: Tree, items: Tree, n: int) -> tuple[Tree, Tree]:
        """``n`` steps from ``carry`` on."""
        for here, a in zip(leaves(self.carry), leaves(carry), strict=True):
            here.copy_(a)
        for here, a in zip(leaves(self.items), leaves(items), strict=True):
            here[:n].copy_(a)
        self.next.zero_()
        for _ in range(n):
            self.replay()
        after, outs = self.trees
        return unflatten(after, map(torch.clone, leaves(self.carry))), tree_map(lambda a: a[:n].clone(), outs)

"""CUDA graphs for torch: a step is recorded once, and from then on sent to the GPU as one piece.

A recorded step works in fixed memory. The carry and the items of all steps are copied to where it expects them, and a
number on the device says which item is next: between steps the host does nothing but launch the graph again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from weakref import ref

import torch

from mlp_xp_backends.loop import length
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import leaves, tree_map, unflatten
from mlp_xp_backends.typing import Namespace, Tree

EAGER = 100
"""Steps that are taken one operation at a time before a recording, which costs about as much, is made."""
GRAPHS = 4
"""How many sets of shapes and data a loop remembers: each recording holds memory of the device."""

CAPTURING = Lock()
"""One recording at a time is what CUDA allows a process."""

Step = Callable[[], None]
Capture = Callable[[Step], Step]
"""Records what a function does on the device, and returns how to do it again."""


def cuda_graph(device: torch.device, step: Step) -> Step:
    """A `Capture` by CUDA. Other threads may use the device meanwhile."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # the default stream is of one device for all
    recording = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
    with CAPTURING, torch.cuda.stream(stream), recording:  # the middle one comes back from a recording that fails
        step()
    replay: Step = graph.replay
    return replay


class GraphLoop:
    """A loop over ``body`` that records its step once it has been taken often enough on the same data.

    ``eager`` is the same loop, one operation at a time: for the first steps, and for a body that cannot be recorded.
    """

    def __init__(self, xp: Namespace, body: Body, eager: Loop, capture: Capture) -> None:
        self.xp, self.body, self.eager, self.capture = xp, body, eager, capture
        self.seen: dict[Hashable, Seen] = {}
        self.lock = Lock()

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""
        with self.lock:
            n, data = length(items), leaves(consts)
            key = (
                tree_map(lambda a: (a.shape, a.dtype), carry),
                tuple(map(id, data)),
                tree_map(lambda a: (a.shape[1:], a.dtype), items),
            )
            seen = self.seen.get(key)
            if seen is None or any(there() is not a for there, a in zip(seen.data, data, strict=True)):
                self.seen.pop(key, None)  # of arrays that are gone and had the same ids
                seen = self.seen[key] = Seen([ref(a) for a in data])
                if len(self.seen) > GRAPHS:
                    del self.seen[next(iter(self.seen))]
            graph = seen.graph if seen.graph is not None and seen.graph.steps >= n else None
            if graph is None and seen.taken >= EAGER and not seen.refused:
                graph = self._record(seen, carry, consts, items)
            seen.taken += n
            return self.eager(carry, consts, items) if graph is None else graph(carry, items, n)

    def _record(self, seen: Seen, carry: Tree, consts: Tree, items: Tree) -> Graph | None:
        seen.graph = None  # a shorter one makes room
        try:
            seen.graph = Graph(self.xp, self.body, self.capture, carry, consts, items)
        except RuntimeError:  # the body does what no graph can, such as reading a number back
            seen.refused = True
        return seen.graph


@dataclass
class Seen:
    """What is known of a set of shapes and data."""

    data: list[ref[torch.Tensor]]
    taken: int = 0
    """Steps so far."""
    graph: Graph | None = None
    refused: bool = False


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

"""CUDA graphs for torch: a step is recorded once and then sent to the GPU as a single launch.

A recorded step works in fixed memory. The carry and the items of all steps are copied to that memory, and a counter on
the device selects the item: between steps, the host only launches the graph again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock, RLock
from weakref import ref

import torch

from mlp_xp_backends.memory import is_out_of_memory
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import leaves, length, tree_map, unflatten
from mlp_xp_backends.typing import Namespace, Tree

EAGER = 100
"""Steps that run one operation at a time before a recording, which costs about as much, is made."""
GRAPHS = 4
"""How many sets of shapes and data a loop remembers: each recording holds memory of the device."""

CAPTURING = RLock()
"""Held while a step is recorded. CUDA allows a process one recording at a time, and transfers to and from the host
would be reported as synchronizations of the step."""

Step = Callable[[], None]
Capture = Callable[[Step], Step]
"""Records what a function does on the device, and returns a function that does it again."""


def cuda_graph(device: torch.device, step: Step) -> Step:
    """A `Capture` by CUDA. Runs ``step`` once before it records it; other threads may use the device meanwhile.

    Raises RuntimeError if ``step`` waits for the device, or does anything else that a graph cannot hold.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)  # the default stream is of one device for all
    pool = torch.cuda.graph_pool_handle()
    recording = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    with CAPTURING:
        _warm_up(device, stream, step)
        with _cleared_workspaces(), _restored_after_failure(device, pool), torch.cuda.stream(stream), recording:
            step()
    replay: Step = graph.replay
    return replay


def _warm_up(device: torch.device, stream: torch.cuda.Stream, step: Step) -> None:
    """Run ``step`` on ``stream``, so that libraries initialize themselves there; raise if it waits for the device."""
    current, mode = torch.cuda.current_stream(device), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(current)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(stream)


@contextmanager
def _cleared_workspaces() -> Iterator[None]:
    """Keep cuBLAS workspaces of the graph's memory pool and of the eager steps apart, as torch's own graph trees do."""
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def _restored_after_failure(device: torch.device, pool: tuple[int, int]) -> Iterator[None]:
    """After a failed recording, take the random generator and the allocator out of their recording state.

    torch leaves both in it: random numbers then raise errors, and allocations stay in the pool of the graph.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    before = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(before)
        for leave in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
            with suppress(RuntimeError):  # torch raises if the recording failed before or after it used the pool
                leave(index, pool)
        raise


class GraphLoop:
    """A loop over ``body`` that records its step after `EAGER` steps on the same data.

    ``eager`` is the same loop, one operation at a time: for the first steps, and for a body that cannot be recorded.
    Neither the loop nor its recordings keep ``consts`` alive.
    """

    def __init__(self, xp: Namespace, body: Body, eager: Loop, capture: Capture) -> None:
        self.xp, self.body, self.eager, self.capture = xp, body, eager, capture
        self.seen: dict[Hashable, Seen] = {}
        self.lock = Lock()

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """Run the loop; see `Backend.compile`."""
        with self.lock:
            n, data = length(items), leaves(consts)
            key = (
                tree_map(lambda a: (a.shape, a.dtype), carry),
                tuple((id(a), a.data_ptr()) for a in data),
                tree_map(lambda a: (a.shape[1:], a.dtype), items),
            )
            seen = self._seen(key, data)
            graph = seen.graph if seen.graph is not None and seen.graph.steps >= n else None
            if graph is None and seen.taken >= EAGER and not seen.refused:
                graph = self._record(seen, carry, consts, items)
            seen.taken += n
            return self.eager(carry, consts, items) if graph is None else graph(carry, items, n)

    def _seen(self, key: Hashable, data: list[torch.Tensor]) -> Seen:
        self.seen = {k: seen for k, seen in self.seen.items() if seen.alive()}  # another array may get the same id
        if key not in self.seen:
            if len(self.seen) == GRAPHS:
                del self.seen[next(iter(self.seen))]
            self.seen[key] = Seen([ref(a) for a in data])
        return self.seen[key]

    def _record(self, seen: Seen, carry: Tree, consts: Tree, items: Tree) -> Graph | None:
        seen.graph = None  # a shorter one makes room
        try:
            seen.graph = Graph(self.xp, self.body, self.capture, carry, consts, items)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            seen.refused = True
            reason = str(error).strip().partition("\n")[0]
            message = f"torch cannot record this loop as a CUDA graph and runs it one operation at a time: {reason}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return seen.graph


@dataclass
class Seen:
    """What a loop remembers of a set of shapes and data."""

    data: list[ref[torch.Tensor]]
    taken: int = 0
    """Steps so far."""
    graph: Graph | None = None
    refused: bool = False
    """Whether recording failed."""

    def alive(self) -> bool:
        """Whether all data still exist."""
        return all(there() is not None for there in self.data)


class Graph:
    """A recorded step and the memory that it works in, for at most as many steps as ``items`` has.

    The recording reads ``consts`` where they are stored, so it may be replayed only while they exist.
    """

    def __init__(self, xp: Namespace, body: Body, capture: Capture, carry: Tree, consts: Tree, items: Tree) -> None:
        self.steps = length(items)
        self.carry, self.items = (tree_map(torch.clone, tree) for tree in (carry, items))
        self.next = torch.zeros(1, dtype=torch.int64, device=leaves(items)[0].device)
        self.trees: tuple[Tree, Tree] = ((), ())
        self.replay = capture(lambda: self._step(xp, body, consts))

    def _step(self, xp: Namespace, body: Body, consts: Tree) -> None:
        item = tree_map(lambda a: torch.index_select(a, 0, self.next)[0], self.items)
        carry, out = body(xp, self.carry, consts, item)
        outs = tree_map(lambda a: a.new_empty((self.steps, *a.shape)), out)
        for stacked, a in zip(leaves(outs), leaves(out), strict=True):
            stacked.index_copy_(0, self.next, a.unsqueeze(0))
        moved = [(here, a) for here, a in zip(leaves(self.carry), leaves(carry), strict=True) if a is not here]
        for here, a in [(here, a.clone()) for here, a in moved]:  # all before any is overwritten
            here.copy_(a)
        self.next += 1
        self.trees = carry, outs

    def __call__(self, carry: Tree, items: Tree, n: int) -> tuple[Tree, Tree]:
        """Run ``n`` steps from ``carry`` on."""
        for here, a in zip(leaves(self.carry), leaves(carry), strict=True):
            here.copy_(a)
        for here, a in zip(leaves(self.items), leaves(items), strict=True):
            here[:n].copy_(a)
        self.next.zero_()
        for _ in range(n):
            self.replay()
        after, outs = self.trees
        return unflatten(after, map(torch.clone, leaves(self.carry))), tree_map(lambda a: a[:n].clone(), outs)

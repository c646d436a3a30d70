"""From a recorded program to CUDA C++ and a list of launches: everything that can be done without a device."""

from __future__ import annotations

from dataclasses import dataclass

from mlp_xp_backends.compiler.program import Program, Value
from mlp_xp_backends.compiler.targets.cuda.elements import Kernel
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph
from mlp_xp_backends.compiler.targets.cuda.kernels import write
from mlp_xp_backends.compiler.targets.cuda.lower import lower
from mlp_xp_backends.compiler.targets.cuda.prelude import PRELUDE
from mlp_xp_backends.compiler.targets.cuda.schedule import ALIGNMENT, Launch, launches, places

BEGIN = 'extern "C" __global__ void begin(long long* table{}) {{\ntable[0] = 0;{}\n}}\n'
TICK = 'extern "C" __global__ void tick(long long* table) {\ntable[0] += 1;\n}\n'


@dataclass(frozen=True, eq=False)
class Emitted:
    """The launches of a step in their order, and the source of their kernels.

    The table is an array on the device. It contains the number of the step, the number of the next step, and the
    addresses of the items and results of all steps, which the kernel ``begin`` sets because they differ from call to
    call. Counters follow, which are 0 between launches.
    """

    program: Program
    order: list[Launch]
    kernels: dict[int, Kernel]
    """The kernels by position in ``order``; the others are products."""
    slots: tuple[Value, ...]
    """The arrays whose addresses are in the table."""
    ticks: bool
    """Whether a separate kernel counts the steps, because a step has fewer than two generated kernels."""
    offsets: dict[Value, int]
    size: int
    """Offsets, in bytes, of the results that launches pass to each other in one block of memory, and its length."""
    table: int
    """The length of the table."""

    @property
    def products(self) -> int:
        """The number of matrix products of a step."""
        return len(self.order) - len(self.kernels)

    @property
    def launches(self) -> int:
        """The number of launches of a step, including products."""
        return len(self.order) + self.ticks

    @property
    def source(self) -> str:
        """CUDA C++ of all kernels."""
        n = range(len(self.slots))
        begin = BEGIN.format("".join(f", long long p{k}" for k in n), "".join(f"\ntable[{2 + k}] = p{k};" for k in n))
        return "\n".join([PRELUDE, begin, TICK, *(k.source for k in self.kernels.values())])


def emit(program: Program) -> Emitted:
    """Compile ``program`` to CUDA C++. Raises `Unrecordable` for operations that the target does not support."""
    step = lower(program)
    graph = Graph(step)
    graph.fuse()
    order = launches(graph)
    offsets, size = places(graph, order)
    slots = (*program.items, *(v for v, (kind, _) in step.target.items() if kind == "out"))
    own = [k for k, launch in enumerate(order) if launch[0].product is None]
    ends = (own[0], own[-1]) if len(own) > 1 else (own[0] if own else None, None)
    kernels, tickets = {}, 2 + len(slots)
    for k in own:
        kernels[k] = Kernel(f"step{k}", slots, tickets)
        write(kernels[k], graph, order[k], k == ends[0], k == ends[1])
        tickets = kernels[k].tickets
        for v in kernels[k].scratch:
            offsets[v] = size
            size += -(-v.nbytes // ALIGNMENT) * ALIGNMENT
    return Emitted(program, order, kernels, slots, len(own) < 2, offsets, size, tickets)

"""Steps as one CUDA graph: recorded once, and from then on sent to the device as one piece."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import cupy

from mlp_xp_backends.compiler.targets.cuda.products import Call

UNROLLED = 8
"""Steps of the larger of the two graphs."""
WORTH = 32
"""Steps on the same arrays from which on a recording, which costs about as much as a few steps, pays."""
CAPTURING = Lock()
"""One recording at a time."""


class StepGraphs:
    """One step and `UNROLLED` steps as graphs. ``calls`` makes the calls of a step for a stream."""

    def __init__(self, calls: Callable[[int], list[Call]]) -> None:
        stream = cupy.cuda.Stream(non_blocking=True)  # beside a blocking one the default stream could not be used
        with CAPTURING, _uncollected():
            self.calls = calls(stream.ptr)  # whose arguments have to live as long as the graphs
            self.one, self.many = (_captured(stream, self.calls, n) for n in (1, UNROLLED))

    def launch(self, steps: int, stream: Any) -> None:
        """Take ``steps`` steps on ``stream``."""
        for _ in range(steps // UNROLLED):
            self.many.launch(stream)
        for _ in range(steps % UNROLLED):
            self.one.launch(stream)


def _captured(stream: Any, calls: list[Call], steps: int) -> Any:
    """What ``calls`` send to ``stream``, as a graph. Other threads may use the device meanwhile."""
    stream.begin_capture(cupy.cuda.runtime.streamCaptureModeRelaxed)
    try:
        for _ in range(steps):
            for f, args, _ in calls:
                f(*args)
    finally:
        graph = stream.end_capture()
    return graph


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which might destroy what belongs to CUDA in the middle of a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Steps as a CUDA graph, which is captured once and then launched as a whole."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import cupy

from mlp_xp_backends.compiler.targets.cuda.products import Call

UNROLLED = 8
"""The number of steps in the larger of the two graphs."""
WORTH = 32
"""The number of steps on the same arrays above which a capture pays; it costs about as much as a few steps."""
ATTEMPTS = 3
"""How often a capture is tried, because a thread that synchronizes the device meanwhile invalidates it."""
CAPTURING = Lock()
"""Held during a capture, and by what disturbs one: there is one at a time."""


class StepGraphs:
    """Two graphs, of one step and of `UNROLLED` steps. ``calls(stream)`` returns the calls of a step."""

    def __init__(self, calls: Callable[[int], list[Call]]) -> None:
        stream = cupy.cuda.Stream(non_blocking=True)  # a blocking stream would synchronize with the default stream
        with CAPTURING, _uncollected():
            self.calls = calls(stream.ptr)  # their arguments have to live as long as the graphs
            self.one, self.many = (_repeated(_captured, stream, self.calls, n) for n in (1, UNROLLED))

    def launch(self, steps: int, stream: Any) -> None:
        """Run ``steps`` steps on ``stream``."""
        for _ in range(steps // UNROLLED):
            self.many.launch(stream)
        for _ in range(steps % UNROLLED):
            self.one.launch(stream)


def _repeated(capture: Callable[..., Any], *args: Any) -> Any:
    """Return the result of the first of several attempts that succeeds. A capture leaves the device unchanged."""
    for _ in range(ATTEMPTS - 1):
        with suppress(cupy.cuda.runtime.CUDARuntimeError):
            return capture(*args)
    return capture(*args)


def _captured(stream: Any, calls: list[Call], steps: int) -> Any:
    """Capture the calls that are sent to ``stream`` as a graph. Other threads may use the device meanwhile."""
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
    """Disable the garbage collector, which might destroy CUDA objects in the middle of a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

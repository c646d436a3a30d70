"""Large products in parts, one thread of Python for each core.

The threads of a BLAS wait for one another by spinning, which on a busy machine costs far more than the share of the
other process. Here each part is a single-threaded call, and idle threads sleep. The parts depend only on the shapes, so
that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock, Thread

from mlp_xp_backends.compiler.targets.cpu.blas import Call
from mlp_xp_backends.compiler.targets.cpu.denormals import flushed
from mlp_xp_backends.typing import HostArray

SPLIT = 8_000_000
"""Multiplications of a product from which several cores are faster than one."""
MOST = 8
"""The largest number of parts of a product."""


def parts(c: HostArray, a: HostArray, b: HostArray) -> list[tuple[HostArray, HostArray, HostArray]]:
    """Split ``c = a b`` into products of blocks along the longer side of ``c``."""
    (rows, columns), work = c.shape, c.size * a.shape[1]
    n = 1
    while n < MOST and work >= SPLIT * n * n:
        n *= 2
    if n == 1:
        return [(c, a, b)]
    long = max(rows, columns)
    size = -(-long // n)
    size += -size % 16  # multiples of the tiles of BLAS's kernels
    cuts = [slice(start, start + size) for start in range(0, long, size)]
    return [(c[cut], a[cut], b) if rows >= columns else (c[:, cut], a, b[:, cut]) for cut in cuts]


class Worker:
    """A thread that runs the calls assigned to it and sleeps in between."""

    def __init__(self) -> None:
        self.calls: Sequence[Call] = ()
        self.go, self.done = Lock(), Lock()
        self.go.acquire()
        self.done.acquire()
        Thread(target=self._work, name="products of compiled loops", daemon=True).start()

    def _work(self) -> None:
        with flushed():
            while True:
                self.go.acquire()
                calls, self.calls = self.calls, ()
                for f, args in calls:
                    f(*args)
                self.done.release()


class Team:
    """The workers of a process. One run at a time uses them; concurrent runs compute on their own thread."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.free = Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """Discard the workers: a forked process does not inherit threads."""
        self.workers, self.free = [], Lock()

    def split(self, calls: Sequence[Call], threads: int) -> Call:
        """A call that runs all of ``calls`` on ``threads`` threads."""
        shares = [calls[k * len(calls) // threads : (k + 1) * len(calls) // threads] for k in range(threads)]
        return self._run, ([share for share in shares if share],)

    def _run(self, shares: Sequence[Sequence[Call]]) -> None:
        if len(shares) == 1 or not self.free.acquire(blocking=False):
            for share in shares:
                for f, args in share:
                    f(*args)
            return
        try:
            while len(self.workers) < len(shares) - 1:
                self.workers.append(Worker())
            begun: list[Worker] = []
            try:
                for worker, share in zip(self.workers, shares[1:], strict=False):
                    worker.calls = share
                    begun.append(worker)
                    worker.go.release()
                for f, args in shares[0]:
                    f(*args)
            finally:
                for worker in begun:
                    if worker.calls and worker.go.locked():  # interrupted before its release
                        worker.go.release()
                    worker.done.acquire()
        finally:
            self.free.release()


TEAM = Team()

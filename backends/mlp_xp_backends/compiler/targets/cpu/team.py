"""A thread of Python for each core: products and long elementwise chains are divided between them.

The threads of a BLAS wait for one another by spinning, which on a busy machine costs far more than the share of the
other process. Here each part is a single-threaded call, and idle threads sleep. The parts of a product depend only on
its shape, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock, Thread, get_ident
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.blas import Call
from mlp_xp_backends.compiler.targets.cpu.denormals import flushed
from mlp_xp_backends.typing import HostArray

SPLIT = 8_000_000
"""Multiplications of a product from which several cores are faster than one."""
MOST = 4
"""The largest number of parts of a product."""
TILE = 8
"""The rows or columns of all parts but the last are multiples of this."""

Product = tuple[HostArray, HostArray, HostArray]
"""The arrays of ``c = a b``."""


def parts(c: HostArray, a: HostArray, b: HostArray) -> list[Product]:
    """Split ``c = a b`` into products of blocks along the longer side of ``c``."""
    (rows, columns), work, n = c.shape, c.size * a.shape[1], 1
    while n < MOST and work >= SPLIT * n**3:
        n *= 2
    by_row, tiles = rows >= columns, -(-max(rows, columns) // TILE)
    cuts = [slice(k * tiles // n * TILE, (k + 1) * tiles // n * TILE) for k in range(n)]
    return [(c[cut], a[cut], b) if by_row else (c[:, cut], a, b[:, cut]) for cut in cuts]


def in_shares(calls: Sequence[Call], threads: int) -> list[Sequence[Call]]:
    """Divide independent calls between threads."""
    shares = [calls[k * len(calls) // threads : (k + 1) * len(calls) // threads] for k in range(threads)]
    return [share for share in shares if share]


class Worker:
    """A thread that runs the calls assigned to it and sleeps in between."""

    def __init__(self) -> None:
        self.calls: Sequence[Call] = ()
        self.error: BaseException | None = None
        self.retired = False
        self.go, self.done = Lock(), Lock()
        self.go.acquire()
        self.done.acquire()
        self.thread = Thread(target=self._work, name="worker of compiled loops", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        with flushed(), np.errstate(all="ignore"):
            while not self.retired:
                self.go.acquire()
                try:
                    _run_all(self.calls)
                except BaseException as error:
                    self.error = error
                self.done.release()

    def wait(self) -> None:
        """Wait until all calls have run; raises what they raised."""
        self.done.acquire()
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def retire(self) -> None:
        """End the thread after the calls that it may have begun."""
        self.retired = True
        with suppress(RuntimeError):  # it has been released already
            self.go.release()
        self.thread.join()


def _run_all(calls: Sequence[Call]) -> None:
    for f, args in calls:
        f(*args)


class Team:
    """The workers of a process. One run at a time leads them; concurrent runs compute on their own thread."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start without workers: a forked process does not inherit threads."""
        self.workers.clear()
        self.free, self.leader = Lock(), 0

    @contextmanager
    def led(self, threads: int) -> Iterator[None]:
        """Divide calls between this thread and ``threads`` - 1 workers, unless another run leads them."""
        if threads < 2 or not self.free.acquire(blocking=False):
            yield
            return
        try:
            while len(self.workers) < threads - 1:
                self.workers.append(Worker())
            with _apart([worker.thread for worker in self.workers[: threads - 1]]):
                self.leader = get_ident()
                yield
        finally:
            self.leader = 0
            self.free.release()

    def call(self, shares: Sequence[Sequence[Call]]) -> Call:
        """One call that runs all shares, the first one on the calling thread."""
        return self._run, (shares,)

    def _run(self, shares: Sequence[Sequence[Call]]) -> None:
        if self.leader != get_ident():
            for share in shares:
                _run_all(share)
            return
        workers = self.workers[: len(shares) - 1]
        try:
            for worker, share in zip(workers, shares[1:], strict=True):
                worker.calls = share
                worker.go.release()
            _run_all(shares[0])
            for worker in workers:
                worker.wait()
        except BaseException:  # an interruption: which workers have begun is unknown
            for worker in workers:
                worker.retire()
                self.workers.remove(worker)
            raise


TEAM = Team()


@contextmanager
def _apart(workers: Sequence[Thread]) -> Iterator[None]:
    """Keep this thread and the workers on different cores while a run lasts, where the system can.

    Linux tends to wake a thread on the core of the thread that wakes it, so that both would share one core.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    n, here = len(workers) + 1, _core()
    if len(cores) < n or here not in cores:
        yield
        return
    cores.remove(here)
    groups = [{here, *cores[n - 1 :: n]}, *(set(cores[k::n]) for k in range(n - 1))]
    try:
        with suppress(OSError):  # the system may forbid it
            for thread, group in zip(workers, groups[1:], strict=True):
                os.sched_setaffinity(thread.native_id or 0, group)
            os.sched_setaffinity(0, groups[0])
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, {here, *cores})


def _core() -> int | None:
    """The core that this thread runs on; `None` if the system does not tell."""
    library = _c_library()
    return None if library is None else int(library.sched_getcpu())


@cache
def _c_library() -> Any:
    with suppress(OSError, TypeError):  # on Windows, there is no such handle
        library = ctypes.CDLL(None)
        return library if hasattr(library, "sched_getcpu") else None
    return None

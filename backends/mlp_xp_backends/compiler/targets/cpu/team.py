"""A thread of Python for each core: products and long elementwise chains are divided between them.

The threads of a BLAS wait for one another by spinning, which on a busy machine costs far more than the share of the
other process. Here each part is a single-threaded call, idle threads sleep, and a thread that is late leaves parts to
the others.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock, Thread, get_ident

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.blas import Call
from mlp_xp_backends.compiler.targets.cpu.denormals import flushed

Share = Sequence[Call]
"""Calls that one thread runs in order."""


class Worker:
    """A thread that takes shares of the work and sleeps while there is none."""

    def __init__(self) -> None:
        self.todo: deque[Share] | None = None
        self.error: BaseException | None = None
        self.go, self.done = Lock(), Lock()
        self.go.acquire()
        self.done.acquire()
        self.thread = Thread(target=self._work, name="worker of compiled loops", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        with flushed(), np.errstate(all="ignore"):
            while True:
                self.go.acquire()
                if self.todo is None:
                    return
                try:
                    _work_off(self.todo)
                except BaseException as error:
                    self.error = error
                self.done.release()

    def wait(self) -> None:
        """Wait until it has finished its last share, if it has woken up at all; raises what the calls raised."""
        if self.go.acquire(blocking=False):
            return
        self.done.acquire()
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def retire(self) -> None:
        """End the thread after the shares that it may have begun."""
        self.todo = None
        with suppress(RuntimeError):  # it has been released already
            self.go.release()
        self.thread.join()


def _work_off(todo: deque[Share]) -> None:
    """Take shares one by one and run them until none is left."""
    while True:
        try:
            share = todo.popleft()
        except IndexError:
            return
        for f, args in share:
            f(*args)


class Team:
    """The workers of a process. One run at a time leads them; concurrent runs compute on their own thread."""

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start without workers: a forked process does not inherit threads."""
        self.workers: list[Worker] = []
        self.free, self.leader = Lock(), 0
        self.called: list[Worker] = []

    @contextmanager
    def led(self, threads: int) -> Iterator[None]:
        """Divide calls between this thread and ``threads`` - 1 workers, unless another run leads them."""
        if threads < 2 or not self.free.acquire(blocking=False):
            yield
            return
        try:
            while len(self.workers) < threads - 1:
                self.workers.append(Worker())
            self.called = self.workers[: threads - 1]
            with _apart([worker.thread for worker in self.called]):
                self.leader = get_ident()
                yield
        finally:
            self.leader = 0
            self.free.release()

    def call(self, shares: Sequence[Share]) -> Call:
        """One call that runs all shares. Threads that are late, on a busy machine, leave more of them to the others."""
        return self._run, (shares,)

    def _run(self, shares: Sequence[Share]) -> None:
        todo = deque(shares)
        workers = self.called[: len(shares) - 1] if self.leader == get_ident() else []
        try:
            for worker in workers:
                worker.todo = todo
                worker.go.release()
            _work_off(todo)
            for worker in workers:
                worker.wait()
        except BaseException:  # an interruption: which workers have begun is unknown
            todo.clear()
            for worker in self.workers:
                worker.retire()
            self.workers, self.called = [], []
            raise


TEAM = Team()


@contextmanager
def _apart(workers: Sequence[Thread]) -> Iterator[None]:
    """Keep this thread and the workers on different cores while a run lasts, where the system can.

    Linux tends to wake a thread on the core of the thread that wakes it, so that both would share one core.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    n, here = len(workers) + 1, _core_number()()
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


@cache
def _core_number() -> Callable[[], int]:
    """The function that returns the core that a thread runs on, or -1 if the system does not tell."""
    with suppress(OSError, TypeError, AttributeError):  # Windows has no such handle, others no such function
        return ctypes.CDLL(None).sched_getcpu
    return lambda: -1

"""Tasks in this process or in joblib's processes, on other cores or, with a suitable backend, on other machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, TypeVar

from mlp_xp.data.shares import share

T = TypeVar("T")
TASKS = 2
"""Tasks of each process, so that all are busy to the end."""
STACKS = 4
"""Stacks of a task at most: what a task has trained is reported and written when it ends."""


def divided(members: Sequence[T], size: int, workers: int) -> list[list[T]]:
    """The members of each task, to train in stacks of at most ``size``.

    The lengths of all stacks differ by at most one, so that few of them are compiled. The processes get equal numbers
    of stacks, unless there are too few members.

    >>> [len(task) for task in divided(range(120), 16, workers=2)]
    [30, 30, 30, 30]
    """
    stacks = min(len(members), workers * -(-len(members) // (size * workers)))
    tasks = workers * max(TASKS if workers > 1 else 1, -(-stacks // (STACKS * workers)))
    return [list(chain(*task)) for task in _equal(_equal(members, stacks), min(tasks, stacks))]


def stack_size(members: int, most: int) -> int:
    """The length of the first of as few stacks as ``members`` need; the others are at most one shorter.

    >>> stack_size(30, 16)
    15
    """
    return -(-members // -(-members // most))


def _equal(things: Any, count: int) -> list[Any]:
    """``count`` parts of a sequence, as equal as can be, the longer ones first."""
    return [things[slice(*share(len(things), i, count))] for i in range(count)]


def run_tasks(f: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], n_jobs: int | None) -> Iterator[Any]:
    """Yield ``f(*job)`` of every job, in the order in which the jobs end."""
    if processes(n_jobs) == 1:
        for job in jobs:
            yield f(*job)
        return
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    in_any_order = getattr(backend, "supports_return_generator", False)  # which Ray's and multiprocessing's lack
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered" if in_any_order else "list")
    if getattr(backend, "supports_sharedmem", False):  # threads share one limit, so one of them must not end it
        with one_core():
            yield from parallel(delayed(f)(*job) for job in jobs)
    else:
        yield from parallel(delayed(on_one_core)(f, *job) for job in jobs)


def on_one_core(f: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``f`` with one BLAS thread, because each core has a process of its own."""
    with one_core():
        return f(*arguments)


def one_core() -> AbstractContextManager[Any]:
    """A context in which this process has one BLAS thread; without threadpoolctl, an empty one."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, user_api="blas")  # type: ignore[no-any-return]


def processes(n_jobs: int | None) -> int:
    """The number of processes that joblib would use; 1 if it is neither requested nor configured."""
    if n_jobs in (None, 1) and "joblib" not in sys.modules:
        return 1
    try:
        from joblib import effective_n_jobs
    except ImportError:
        if n_jobs in (None, 1):
            return 1
        raise ImportError("n_jobs needs joblib: pip install joblib") from None
    return int(effective_n_jobs(n_jobs))

"""Tasks in this process or in joblib's processes, on other cores or, with a suitable backend, on other machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def run_tasks(f: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], n_jobs: int | None) -> Iterator[Any]:
    """Yield ``f(*job)`` of every job, in the order in which the jobs end."""
    if processes(n_jobs) == 1:
        for job in jobs:
            yield f(*job)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    yield from parallel(delayed(on_one_core)(f, *job) for job in jobs)


def on_one_core(f: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``f`` with one BLAS thread, because each core has a process of its own."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return f(*arguments)
    with threadpool_limits(1, user_api="blas"):
        return f(*arguments)


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

"""Several cores for one chain of elementwise operations, which NumPy runs on one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from mlp_xp_backends.numpy_engine.denormals import flushed
from mlp_xp_backends.numpy_engine.openblas import blas

Blocks = Sequence[tuple[Any, ...]]


def cores() -> int:
    """The threads that BLAS may use now, which are ours too: limiting them there limits them here."""
    library = blas()
    return 1 if library is None else library.threads()


def on_cores(chain: Callable[[Blocks], None], parts: Sequence[Blocks]) -> None:
    """``chain`` of every part, on as many cores as there are parts if BLAS may use them, else one by one."""
    if cores() < len(parts):
        for part in parts:
            chain(part)
        return
    others = [_pool().submit(_flushed, chain, part) for part in parts[1:]]
    chain(parts[0])
    for other in others:
        other.result()


def _flushed(chain: Callable[[Blocks], None], part: Blocks) -> None:
    with flushed():
        chain(part)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "mlp_xp")


if hasattr(os, "register_at_fork"):  # a forked child has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)

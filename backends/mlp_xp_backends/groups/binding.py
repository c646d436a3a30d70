"""Backends bound to a group: their namespace has one more member, ``all_sum``."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from mlp_xp_backends.groups.base import Group, stored
from mlp_xp_backends.protocol import Backend, BackendError
from mlp_xp_backends.typing import Array


def with_group(backend: Backend, group: Group) -> Backend:
    """Return ``backend`` with ``xp.all_sum(x)``, the sum of ``x`` over all ranks of ``group``, as in `Group.sum`.

    A body may call it in a compiled loop; each rank must then take the same number of steps. Arrays that the group
    cannot communicate directly are copied to the host and back. The returned backend compiles its loops anew.

    Raises `BackendError` for JAX, whose compiled loops cannot communicate with other processes.
    """
    if backend.name == "jax":
        raise BackendError(
            "jax cannot run with a group: its compiled loops make no calls to other processes.\n"
            'Use device="cpu" with group="mpi", device="cuda" with group="nccl", or device="torch" with group="torch".'
        )
    bound: Any = copy(backend)
    namespace = backend.xp
    bound.xp = type(namespace)(**{**vars(namespace), "all_sum": _all_sum(backend, group)})
    bound.group = group
    result: Backend = bound
    return result


def _all_sum(backend: Backend, group: Group) -> Callable[..., Array]:
    if backend.name in group.native:
        return group.sum

    def all_sum(x: Array, out: Array | None = None) -> Array:
        return stored(backend.asarray(group.sum(backend.to_numpy(x))), out)

    return all_sum

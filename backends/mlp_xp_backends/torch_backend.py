"""torch without autograd, on the CPU or one CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import array_api_compat.torch as compat
import numpy as np
import torch

from mlp_xp_backends.groups.base import Group
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import as_host, host_memory, memory_guard
from mlp_xp_backends.namespace import CREATION, derived, mapped, over_models
from mlp_xp_backends.protocol import Body, Loop, Memory, OnDevice
from mlp_xp_backends.torch_graphs import CAPTURING, GraphLoop, cuda_graph
from mlp_xp_backends.typing import Array, HostArray, Tree


class TorchBackend(OnDevice):
    """torch on ``device``, ``cpu`` or ``cuda:N``, without autograd: bodies compute their own gradients."""

    name = "torch"
    group: Group | None = None
    """The group that ``xp.all_sum`` adds over, if any: see `with_group`."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._device = torch.device(device)
        creation = mapped(compat, lambda f: partial(f, device=self._device), CREATION)
        self.xp = derived(compat, **_REPLACEMENTS, **creation)
        self.xp.segment_sum = over_models(self.xp, _segment_sum)

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """``x`` on the device. On the CPU it shares the memory of ``x``, unless that is read-only."""
        with self._transfer(), memory_guard(self.device, self.memory):
            return _tensor(x).to(self._device, None if dtype is None else getattr(torch, dtype))

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` on the host, sharing memory on the CPU. Waits for the device."""
        with self._transfer():
            return np.asarray(x.numpy(force=True))

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        if self._device.type == "cuda":
            with self._transfer():
                torch.cuda.synchronize(self._device)

    def compile(self, body: Body) -> Loop:
        """The loop in plain Python; on a GPU, its step becomes a CUDA graph after some steps."""
        run = plain_loop(self.xp, body, torch.stack)
        if self._device.type == "cuda" and self.group is None:  # a graph cannot hold a call to another process
            run = GraphLoop(self.xp, body, run, partial(cuda_graph, self._device))

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            with torch.no_grad(), memory_guard(self.device, self.memory):
                return run(carry, consts, items)

        return loop

    def _transfer(self) -> AbstractContextManager[object]:
        """The context of everything that waits for the device: not while another thread records a step."""
        return CAPTURING if self._device.type == "cuda" else nullcontext()

    def memory(self) -> Memory:
        """Free and total memory of the device. Unused memory in torch's pool counts as free."""
        if self._device.type == "cpu":
            return host_memory()
        free, total = torch.cuda.mem_get_info(self._device)
        pool = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return Memory(free + pool, total)


def _tensor(x: Array) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x.detach()
    if hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] != 1:  # not on the host
        return torch.from_dlpack(x)
    host = as_host(x)
    shareable = host.flags.writeable and all(stride >= 0 for stride in host.strides)
    return torch.from_numpy(host if shareable else host.copy())  # torch has no read-only tensors


def _extremum(
    of_two: Callable[[Array, Array], Array], bounded: Callable[[Array, float], Array]
) -> Callable[[Array, Array], Array]:
    """``of_two``, or ``bounded`` for a Python number: one kernel, and no transfer of a scalar to the device."""

    def extremum(x1: Array, x2: Array, /) -> Array:
        if isinstance(x2, int | float):
            return bounded(x1, x2)
        if isinstance(x1, int | float):
            return bounded(x2, x1)
        return of_two(x1, x2)

    return extremum


def _logaddexp(x1: Array, x2: Array, /) -> Array:
    if isinstance(x2, int | float):
        x2 = torch.full_like(x1, x2)
    if isinstance(x1, int | float):
        x1 = torch.full_like(x2, x1)
    return compat.logaddexp(x1, x2)


def _take(x: Array, indices: Array, /, *, axis: int | None = None) -> Array:
    return torch.index_select(x, 0 if axis is None else axis, indices)


def _take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    return torch.take_along_dim(x, indices.to(torch.int64), dim=axis)


def _one_hot(ids: Array, n: int, *, dtype: torch.dtype) -> Array:
    hot = torch.zeros((*ids.shape, n), dtype=dtype, device=ids.device)
    return hot.scatter_(-1, ids.to(torch.int64).unsqueeze(-1), 1)


def _segment_sum(values: Array, ids: Array, n: int) -> Array:
    """Sum in an order that never changes, which on a GPU the gradient of torch's own embedding does: it sorts."""
    ids = ids.to(torch.int64)
    if values.device.type == "cpu":
        return values.new_zeros((n, values.shape[1])).index_add_(0, ids, values)
    return torch.ops.aten.embedding_dense_backward(values, ids, n, -1, False)


_REPLACEMENTS = {
    "one_hot": _one_hot,
    "maximum": _extremum(compat.maximum, torch.clamp_min),
    "minimum": _extremum(compat.minimum, torch.clamp_max),
    "logaddexp": _logaddexp,
    "take": _take,  # array-api-compat's runs three more kernels for negative indices
    "take_along_axis": _take_along_axis,
}

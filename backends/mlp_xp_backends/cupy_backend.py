"""CuPy on one CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import array_api_compat.cupy as compat
import cupy
import numpy as np

from mlp_xp_backends.compiler.loop import CompiledLoop
from mlp_xp_backends.compiler.targets.cuda.graph import CAPTURING
from mlp_xp_backends.compiler.targets.cuda.launch import target
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import as_host, memory_guard
from mlp_xp_backends.namespace import CREATION, derived, extras, mapped
from mlp_xp_backends.protocol import Body, Loop, Memory, OnDevice
from mlp_xp_backends.typing import Array, HostArray, Tree

STAGED = 64 * 2**20
"""Largest transfer in bytes that goes through pinned memory: the size of a window of streamed data."""

OUTSIDE = ("concat", "reshape", "stack", "take", "where")
"""The other functions that are called outside of loops, where another device may be the current one."""


class CupyBackend(OnDevice):
    """CuPy on the CUDA device with number ``index``."""

    name = "cupy"

    def __init__(self, index: int = 0) -> None:
        self.device = f"cuda:{index}"
        self._cuda = cupy.cuda.Device(index)
        here = mapped(compat, self._on_device, (*CREATION, *OUTSIDE))
        self.xp = derived(compat, clip=_clip, sign=_sign, **here)
        vars(self.xp).update(extras(self.xp))

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """``x`` on the device; an array of another library on this device shares its memory (DLPack)."""
        with self._cuda, memory_guard(self.device, self.memory):
            if _on_gpu(x):
                x = x if isinstance(x, cupy.ndarray) else cupy.from_dlpack(x)
                x = x if x.device == self._cuda else _from_another_device(x)
                return x if dtype is None else x.astype(dtype, copy=False)
            return _sent(np.asarray(as_host(x), dtype=dtype))

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` on the host. Waits for the device."""
        with self._cuda:
            return np.asarray(cupy.asnumpy(x))

    def synchronize(self) -> None:
        """Return when all work sent to the device is done."""
        with CAPTURING:  # CUDA cannot synchronize a device while one of its streams is captured
            self._cuda.synchronize()

    def compile(self, body: Body) -> Loop:
        """The loop as few generated kernels, or one operation at a time; nothing waits for the device."""
        run = CompiledLoop(body, plain_loop(self.xp, body, cupy.stack), target)

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            with self._cuda, memory_guard(self.device, self.memory):
                return run(carry, consts, items)

        return loop

    def memory(self) -> Memory:
        """Free and total bytes of the device, within the limit of CuPy's pool; memory that the pool holds unused is free."""
        with self._cuda:
            free, total = cupy.cuda.runtime.memGetInfo()
            pool = cupy.get_default_memory_pool()
            free, limit = free + pool.free_bytes(), pool.get_limit() or total
            return Memory(min(free, max(limit - pool.used_bytes(), 0)), min(total, limit))

    def _on_device(self, f: Callable[..., Array]) -> Callable[..., Array]:
        @wraps(f)
        def create(*args: Any, **kwargs: Any) -> Array:
            with self._cuda:
                return f(*args, **kwargs)

        return create


def _on_gpu(x: Array) -> bool:
    """Whether ``x`` says through DLPack that it is on a CUDA device (2) or in CUDA managed memory (13)."""
    return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] in (2, 13)


def _from_another_device(x: cupy.ndarray) -> cupy.ndarray:
    """A copy on the current device, made after the pending work on ``x`` on its own device and before later work there.

    CuPy orders both only in the default stream.
    """
    here = cupy.cuda.get_current_stream()
    with x.device:
        there = cupy.cuda.get_current_stream()
        written = there.record(cupy.cuda.Event(disable_timing=True))
    here.wait_event(written)
    copy = x.copy()
    read = here.record(cupy.cuda.Event(disable_timing=True))
    with x.device:
        there.wait_event(read)
    return copy


def _sent(x: HostArray) -> cupy.ndarray:
    """``x`` on the current device. Larger arrays are not staged in pinned memory, which CuPy would keep."""
    if x.nbytes <= STAGED:
        return cupy.asarray(x)
    there = cupy.empty(x.shape, x.dtype)
    there.set(np.ascontiguousarray(x))
    return there


def _clip(x: Array, /, min: Any = None, max: Any = None) -> Array:
    """CuPy's own: one kernel where array-api-compat's reads masks back to the host."""
    return cupy.clip(x, min, max)


def _sign(x: Array, /) -> Array:
    """The sign, NaN where ``x`` is, without array-api-compat's masks that are read back to the host."""
    return cupy.where(x == x, cupy.sign(x), x)

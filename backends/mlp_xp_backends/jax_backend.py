"""JAX on one device; the loop is a jitted scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import as_host, host_memory, memory_guard
from mlp_xp_backends.namespace import derived, extras, mapped, names, over_models
from mlp_xp_backends.protocol import Body, Loop, Memory, OnDevice
from mlp_xp_backends.trees import length
from mlp_xp_backends.typing import Array, HostArray, Tree


class JaxBackend(OnDevice):
    """JAX on ``device``, ``cpu`` or ``cuda:N``.

    JAX converts float64 and int64 to 32 bits unless its flag ``jax_enable_x64`` is set. Loops, conversions and the
    functions of ``xp`` set the flag and the device while they run, so 64 bits are kept and the flag of the surrounding
    program does not change. Operators outside of a loop obey that flag.
    """

    name = "jax"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        kind, _, index = device.partition(":")
        self._device = jax.devices(kind)[int(index or 0)]
        self.xp = derived(jnp, **self._scoped(jnp), linalg=SimpleNamespace(**self._scoped(jnp.linalg)))
        members = extras(jnp)
        if self.device == "cpu":  # on a GPU, XLA adds by atomics, in an order that changes from run to run
            members["segment_sum"] = over_models(jnp, jax.ops.segment_sum)
        vars(self.xp).update({name: self._in_scope(f) for name, f in members.items()})

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """``x`` on the device. Shares the memory of ``x`` only if that is read-only."""
        with self._scope():
            if isinstance(x, jax.Array):
                if x.devices() == {self._device} and dtype in (None, str(x.dtype)):
                    return x
                return jax.device_put(jnp.asarray(x, dtype=dtype), self._device)
            host = np.asarray(as_host(x), dtype=dtype)
            return jax.device_put(host.copy() if host.flags.writeable else host, self._device)

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` on the host, read-only. Waits for the device."""
        return np.asarray(x)

    def synchronize(self) -> None:
        """Wait until all arrays of the device are computed."""
        jax.block_until_ready([x for x in jax.live_arrays() if self._device in x.devices()])

    def compile(self, body: Body) -> Loop:
        """``jax.lax.scan`` over ``body``, jitted once for each set of shapes; the memory of the carry is reused."""

        def step(consts: Tree, carry: Tree, item: Tree) -> Any:
            return body(self.xp, carry, consts, item)

        def scan(carry: Tree, consts: Tree, items: Tree) -> Any:
            return jax.lax.scan(partial(step, consts), carry, items)

        jitted = jax.jit(scan, donate_argnums=0)

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            length(items)
            with self._scope():
                carry, outs = jitted(carry, consts, items)
            return carry, outs

        return loop

    def eager(self, body: Body) -> Loop:
        """The loop in plain Python: the reference for `compile`."""
        plain = plain_loop(self.xp, body, self.xp.stack)

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            with self._scope():
                return plain(carry, consts, items)

        return loop

    def memory(self) -> Memory:
        """Free and total memory: of the machine on the CPU, of JAX's share of the device on a GPU."""
        stats = self._device.memory_stats()
        if self.device == "cpu" or not stats:
            return host_memory()
        return Memory(stats["bytes_limit"] - stats["bytes_in_use"], stats["bytes_limit"])

    @contextmanager
    def _scope(self) -> Iterator[None]:
        bits, place = jax.enable_x64(True), jax.default_device(self._device)
        precision = jax.default_matmul_precision("highest")  # otherwise newer GPUs multiply float32 with 10 bits
        with bits, place, precision, memory_guard(self.device, self.memory):
            yield

    def _scoped(self, module: Any) -> dict[str, Any]:
        functions = [name for name in names(module) if _is_function(getattr(module, name))]
        return mapped(module, self._in_scope, functions)

    def _in_scope(self, f: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(f)
        def scoped(*args: Any, **kwargs: Any) -> Any:
            with self._scope():
                return f(*args, **kwargs)

        return scoped


def _is_function(x: Any) -> bool:
    return callable(x) and not isinstance(x, type)  # dtypes and classes can be called as well

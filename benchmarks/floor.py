"""The floor: the matrix products of a step alone, written to preallocated outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.networks import SEED, Array, Task
from benchmarks.peers import Peer, the_mkl


class Products(Peer):
    """``y = x W``, ``dW = x' dy`` and, where it is needed, ``dx = dy W'`` of all layers, repeatedly.

    NumPy's BLAS or MKL computes them on the CPU, PyTorch on a GPU. Batches, losses, updates and the gradient of an
    embedding are omitted.
    """

    trains = False

    def __init__(self, device: str, task: Task) -> None:
        self.task, self.rng = task, np.random.default_rng(SEED)
        multiply, send, self.wait = {"cpu": on_cpu, "mkl": on_mkl, "cuda": on_gpu}[device]()
        self.products: list[Callable[[], object]] = []
        B = task.net.batch
        for n, m, needed in task.net.layers:
            shapes = (B, n), (n, m), (B, m), (B, m), (n, m), (B, n)
            x, W, dy, y, dW, dx = (send(self.rng.standard_normal(shape, dtype=np.float32)) for shape in shapes)
            self.products += [multiply(x, W, y), multiply(x.T, dy, dW)]
            if needed:
                self.products.append(multiply(dy, W.T, dx))

    def place(self, order: Array) -> int:
        return len(order)

    def steps(self, placed: int) -> Array:
        for _ in range(placed):
            for product in self.products:
                product()
        self.wait()
        return np.zeros(1)


Tools = tuple[Callable[[Any, Any, Any], Callable[[], object]], Callable[[Array], Any], Callable[[], None]]
"""Functions that multiply two matrices into a third, send a matrix to the device, and wait for the device."""


def on_cpu() -> Tools:
    return (lambda a, b, c: partial(np.matmul, a, b, out=c)), lambda a: a, lambda: None


def on_mkl() -> Tools:
    library, one, zero = the_mkl(), np.ones((), np.float32), np.zeros((), np.float32)

    def multiply(a: Array, b: Array, c: Array) -> Callable[[], object]:
        call = library.gemm(c, a, b, one, zero)
        assert call is not None
        hold = (a, b, c, one, zero)  # keeps the matrices alive: the call has only their addresses
        return lambda: (call[0](*call[1]), hold)

    return multiply, lambda a: a, lambda: None


def on_gpu() -> Tools:
    import torch

    multiply = lambda a, b, c: partial(torch.mm, a, b, out=c)  # noqa: E731
    return multiply, lambda a: torch.from_numpy(a).cuda(), torch.cuda.synchronize

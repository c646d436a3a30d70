"""The peers on each device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.networks import Task
from benchmarks.peers import Ours, Peer, the_mkl
from mlp_xp_backends.compiler.targets.cpu.libraries import openblas
from mlp_xp_backends.numpy_backend import NumpyBackend
from mlp_xp_backends.numpy_plain import PlainNumpyBackend

Entry = Callable[[Task], Peer]

OURS = {"cpu": ("numpy", "numpy mkl", "torch:cpu", "jax:cpu"), "cuda": ("cupy", "torch:cuda", "jax:cuda")}
"""Our engines; the first one is the default on its device."""
MKL = "numpy mkl"
PLAIN = "numpy plain"
TORCH = ("PyTorch fused", "PyTorch foreach", "PyTorch compiled")
JAX_STEP, JAX_SCAN = "JAX step", "JAX scan"
SKLEARN = "scikit-learn"
FLOOR, MKL_FLOOR = "products", "products mkl"


def roster(device: str, compiled: bool) -> dict[str, Entry]:
    """All peers of a device, by name and in the order of the table; creating a peer imports its library."""
    entries: dict[str, Entry] = {name: ours(name) for name in OURS[device]}
    if device == "cpu":
        entries["numpy"] = lambda task: Ours(NumpyBackend(openblas), task)
        entries[MKL] = ours_with_mkl
        entries[PLAIN] = lambda task: Ours(PlainNumpyBackend(), task)
    for name, *options in zip(TORCH, ("fused", "foreach", "foreach"), (False, False, True), strict=True):
        if compiled or not options[1]:
            entries[name] = pytorch(device, *options)
    entries[JAX_STEP], entries[JAX_SCAN] = jax(device, False), jax(device, True)
    if device == "cpu":
        entries[SKLEARN] = sklearn
    entries[FLOOR] = lambda task: products(device, task)
    if device == "cpu":
        entries[MKL_FLOOR] = lambda task: products("mkl", task)
    return entries


def ours(name: str) -> Entry:
    return lambda task: Ours(name, task)


def ours_with_mkl(task: Task) -> Peer:
    library = the_mkl()
    return Ours(NumpyBackend(lambda: library), task)


def pytorch(device: str, *options: Any) -> Entry:
    def build(task: Task) -> Peer:
        from benchmarks.torch_peer import PyTorch

        return PyTorch(device, task, *options)

    return build


def jax(device: str, scan: bool) -> Entry:
    def build(task: Task) -> Peer:
        from benchmarks.jax_peer import Jax

        return Jax(device, task, scan)

    return build


def sklearn(task: Task) -> Peer:
    from benchmarks.sklearn_peer import Sklearn

    return Sklearn(task)


def products(device: str, task: Task) -> Peer:
    from benchmarks.floor import Products

    return Products(device, task)

"""Products of a dense layer in half precision with float32 accumulation: CPU time and error beside float32.

``python -m benchmarks precision`` prints one row per library and shape. ``cast`` includes the rounding of both float32
operands, which every step of training with float32 weights needs; without it, the operands are already half precision.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

SHAPES = ((128, 784, 300), (512, 784, 1024))
"""Rows, inputs, outputs."""
REPETITIONS = 5


def run(libraries: list[str]) -> Iterator[str]:
    """The rows of a table in Markdown."""
    yield "| library | rows x in x out | operation | CPU time, ms | over float32 | largest error / (abs(A) abs(B)) |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for library, products in (("torch", torch_products), ("jax", jax_products)):
        if library not in libraries or importlib.util.find_spec(library) is None:
            continue
        for shape in SHAPES:
            yield from _rows(library, shape, products)


def _rows(library: str, shape: tuple[int, int, int], products: Callable[..., dict[str, Any]]) -> Iterator[str]:
    rows, n_in, n_out = shape
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal(s).astype(np.float32) for s in ((rows, n_in), (n_in, n_out)))
    made = products(A, B)
    times = cpu_times(made)
    exact, scale = A.astype(float) @ B.astype(float), np.abs(A).astype(float) @ np.abs(B).astype(float)
    for name, f in made.items():
        error = np.max(np.abs(np.asarray(f(), dtype=float) - exact) / scale)
        ratio = times[name] / times["float32"]
        yield f"| {library} | {rows} x {n_in} x {n_out} | {name} | {times[name]:.2f} | {ratio:.2f} | {error:.0e} |"


def cpu_times(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The median CPU time of each in ms, over all threads, measured in turn."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(REPETITIONS + 2):
        for name, f in functions.items():
            began = time.process_time()
            f()
            if turn >= 2:
                found[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(times) for name, times in found.items()}


def torch_products(A: Any, B: Any) -> dict[str, Callable[[], Any]]:
    """Products of torch on the CPU with one thread, which accumulate in float32 and round the result."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.from_numpy(A), torch.from_numpy(B)
    made: dict[str, Callable[[], Any]] = {"float32": lambda: a @ b}
    for dtype in (torch.bfloat16, torch.float16):
        name, x, y = str(dtype).removeprefix("torch."), a.to(dtype), b.to(dtype)
        made[name] = lambda x=x, y=y: (x @ y).float()
        made[f"{name}, cast"] = lambda dtype=dtype: (a.to(dtype) @ b.to(dtype)).float()
    return made


def jax_products(A: Any, B: Any) -> dict[str, Callable[[], Any]]:
    """Products of JAX with results in float32."""
    import jax
    import jax.numpy as jnp

    a, b = jnp.asarray(A), jnp.asarray(B)

    @partial(jax.jit, static_argnames="dtype")
    def product(a: Any, b: Any, dtype: Any) -> Any:
        return jax.lax.dot(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)

    made: dict[str, Callable[[], Any]] = {"float32": lambda: product(a, b, jnp.float32).block_until_ready()}
    for dtype in (jnp.bfloat16, jnp.float16):
        name, x, y = dtype.__name__, a.astype(dtype), b.astype(dtype)
        made[name] = lambda dtype=dtype, x=x, y=y: product(x, y, dtype).block_until_ready()
        made[f"{name}, cast"] = lambda dtype=dtype: product(a, b, dtype).block_until_ready()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("libraries", nargs="*", default=["torch", "jax"])
    for line in run(parser.parse_args().libraries):
        print(line, flush=True)


if __name__ == "__main__":
    main()

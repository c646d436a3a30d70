"""``python -m benchmarks NAME ...``: the benchmarks by name."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "speed": "a step and an epoch beside PyTorch, JAX, scikit-learn and the bare matrix products",
    "sklearn_fit": "our estimators beside scikit-learn's",
    "predict": "small predictions and updates beside scikit-learn and onnxruntime",
    "search": "searches and stacks of models beside scikit-learn",
    "mnist_race": "from a cold process to a trained MNIST network, beside PyTorch",
    "memory": "peak memory beside PyTorch's, and a data set larger than memory",
    "launches": "kernels and products of a step on CUDA, counted without a device",
    "passes": "how much each pass of the compiler saves on this CPU",
    "precision": "products in bfloat16 and float16 on the CPU, beside float32",
    "steadiness": "the cost of callbacks, and whether epochs slow down",
    "ranks": "training on several processes beside PyTorch's DistributedDataParallel",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        listing = "\n".join(f"  {command:{width}}  {what}" for command, what in COMMANDS.items())
        print(f"usage: python -m benchmarks NAME [options]\n\n{listing}\n\nEach has its own --help.")
        raise SystemExit(0 if name in ("-h", "--help") else f"\nno benchmark is called {name!r}")
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()

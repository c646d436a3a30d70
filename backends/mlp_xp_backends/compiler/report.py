"""The compiled program of a body, as text."""

from __future__ import annotations

from collections import Counter
from importlib import import_module

from mlp_xp_backends.compiler.program import Kind, Program
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.show import show
from mlp_xp_backends.protocol import Body
from mlp_xp_backends.typing import Tree


def report(body: Body, carry: Tree, consts: Tree, items: Tree, device: str) -> str:
    """The program of ``body`` as it runs on ``device`` (``cpu`` or ``cuda``), one line for each operation.

    The arrays may be those of any device; neither CuPy nor a GPU is needed. `Unrecordable` if the body has no program.
    """
    program = record(body, carry, consts, items)
    return _on_cuda(program) if device.startswith("cuda") else _on_cpu(program)


def _on_cpu(program: Program) -> str:
    from mlp_xp_backends.compiler.passes import rewritten
    from mlp_xp_backends.compiler.targets.cpu.memory import plan_memory

    recorded = len(program.ops)
    program = rewritten(program)
    plan = plan_memory(program)
    kinds = Counter(op.kind for op in program.ops if op.kind is not Kind.VIEW)
    products = kinds[Kind.MATMUL] + kinds[Kind.GEMM]
    summary = (
        f"{recorded} operations recorded, {kinds.total()} left, of which {products} products; "
        f"{sum(plan.buffers):,} bytes of scratch memory"
    )
    return f"{show(program, plan.places)}\n{summary}"


def _on_cuda(program: Program) -> str:
    emitted = import_module("mlp_xp_backends.compiler.targets.cuda.emit").emit(program)
    counts = f"{emitted.launches} launches, of which {emitted.products} products"
    return f"{show(emitted.program)}\n{emitted.source}\n{len(program.ops)} operations recorded; {counts}"

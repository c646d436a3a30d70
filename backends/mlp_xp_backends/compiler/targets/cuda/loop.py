"""The compiled loop on CUDA: one plan for each set of shapes, and the plain loop for what has none."""

from __future__ import annotations

from collections.abc import Hashable


from mlp_xp_backends.compiler.program import Unrecordable
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cuda.emit import Emitted, emit
from mlp_xp_backends.compiler.targets.cuda.launch import Plan
from mlp_xp_backends.loop import length
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import leaves, tree_map
from mlp_xp_backends.typing import Tree

PLANS = 8
"""How many sets of shapes a loop remembers: each has memory of its own on the device."""


class FusedLoop:
    """A loop over ``body`` as few launches; ``plain`` is the same loop one operation at a time."""

    def __init__(self, body: Body, plain: Loop) -> None:
        self.body, self.plain = body, plain
        self.plans: dict[Hashable, Plan | None] = {}

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""
        length(items)
        plan = self.plan(carry, consts, items)
        return (plan or self.plain)(carry, consts, items)

    def plan(self, carry: Tree, consts: Tree, items: Tree) -> Plan | None:
        """The plan for arrays like these; None for a body that cannot be recorded or has no kernels here."""
        key = (
            tree_map(lambda a: (a.shape, a.dtype), carry),
            tree_map(lambda a: (a.shape, a.dtype, a.strides), consts),
            tree_map(lambda a: (a.shape[1:], a.dtype), items),
        )
        if key not in self.plans:
            emitted = self._emitted(carry, consts, items)
            if len(self.plans) == PLANS:
                del self.plans[next(iter(self.plans))]
            self.plans[key] = None if emitted is None else Plan(emitted)
        return self.plans[key]

    def _emitted(self, carry: Tree, consts: Tree, items: Tree) -> Emitted | None:
        try:
            program = record(self.body, carry, consts, items)
        except (Unrecordable, Exception):  # which the plain loop raises again, if it is the body's own mistake
            return None
        try:
            return emit(program)
        except Unrecordable:
            return None

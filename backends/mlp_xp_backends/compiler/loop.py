"""The compiled loop: a body recorded once for each set of shapes, step by step where it cannot be recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Protocol

from mlp_xp_backends.compiler.compare import alike
from mlp_xp_backends.compiler.program import Program, Unrecordable
from mlp_xp_backends.compiler.recorder import AllSum, record
from mlp_xp_backends.compiler.tape import layout_of
from mlp_xp_backends.loop import length
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import tree_map
from mlp_xp_backends.typing import Tree

REMEMBERED = 8
"""How many sets of shapes a loop remembers: each holds scratch memory."""


class Compiled(Protocol):
    """A program made ready for a machine."""

    def fits(self, consts: Tree, items: Tree) -> bool:
        """Whether it may run on these: whether integers that it takes for row numbers are."""

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""


class CompiledLoop:
    """A loop over ``body`` that ``target`` makes ready for each set of shapes; ``plain`` is the loop step by step.

    ``plain`` runs whatever cannot be recorded, and what ``target`` has no program for, so that everything means what it
    means there, errors included. ``all_sum`` is the ``xp.all_sum`` of a backend with a group.
    """

    def __init__(
        self, body: Body, plain: Loop, target: Callable[[Program], Compiled | None], all_sum: AllSum | None = None
    ) -> None:
        self.body, self.plain, self.target, self.all_sum = body, plain, target, all_sum
        self.ready: dict[Hashable, Compiled | None] = {}

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""
        length(items)
        compiled = self.compiled(carry, consts, items)
        if compiled is None or not compiled.fits(consts, items):
            return self.plain(carry, consts, items)
        return compiled(carry, consts, items)

    def compiled(self, carry: Tree, consts: Tree, items: Tree) -> Compiled | None:
        """What runs arrays like these; `None` if the body does what cannot be recorded."""
        try:
            key = (
                tree_map(lambda a: layout_of(a)[:2], carry),
                tree_map(layout_of, consts),
                tree_map(lambda a: (a.shape[1:], layout_of(a)[1]), items),
            )
        except Unrecordable:
            return None
        if key not in self.ready:
            if len(self.ready) == REMEMBERED:
                del self.ready[next(iter(self.ready))]
            self.ready[key] = self._compile(carry, consts, items)
        return self.ready[key]

    def _compile(self, carry: Tree, consts: Tree, items: Tree) -> Compiled | None:
        try:
            program, again = (record(self.body, carry, consts, items, self.all_sum) for _ in range(2))
        except (Unrecordable, Exception):  # the plain loop says what is wrong, if anything is
            return None
        if alike(program, again):
            return self.target(program)
        warnings.warn(
            "the loop runs step by step: what it is made of gives other numbers at every call, such as random numbers "
            "of the host or a counter; pass them in as items, or let them be carried",
            stacklevel=4,
        )
        return None

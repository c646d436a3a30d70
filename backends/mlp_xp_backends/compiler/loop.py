"""The compiled loop: the body is recorded for each set of shapes; the plain loop runs what cannot be recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Protocol

from mlp_xp_backends.compiler.program import Program, Unrecordable
from mlp_xp_backends.compiler.recorder import AllSum, Unrepeatable, record
from mlp_xp_backends.compiler.tape import layout_of
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.trees import length, tree_map
from mlp_xp_backends.typing import Tree

REMEMBERED = 8
"""Sets of shapes for which a loop keeps its program and scratch memory."""


class Compiled(Protocol):
    """A program prepared for a machine."""

    def fits(self, consts: Tree, items: Tree) -> bool:
        """Whether the integers that the program uses as row numbers, columns or segment ids are in range."""

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""


class CompiledLoop:
    """A loop over ``body`` that ``target`` prepares for each set of shapes; ``plain`` is the uncompiled loop.

    ``plain`` runs what cannot be recorded and what ``target`` does not support; results and errors are always its own.
    ``all_sum`` is the ``xp.all_sum`` of a backend with a group.
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
        """The program for arrays of these layouts; `None` if the body cannot be recorded."""
        try:
            key = (
                tree_map(lambda a: layout_of(a)[:2], carry),
                tree_map(layout_of, consts),
                tree_map(lambda a: (a.shape[1:], layout_of(a)[1]), items),
            )
        except Unrecordable:
            return None
        with suppress(KeyError):
            return self.ready[key]
        for old in list(self.ready)[: 1 - REMEMBERED]:
            self.ready.pop(old, None)
        compiled = self.ready[key] = self._compile(carry, consts, items)
        return compiled

    def _compile(self, carry: Tree, consts: Tree, items: Tree) -> Compiled | None:
        try:
            program = record(self.body, carry, consts, items, self.all_sum)
        except Unrepeatable:
            warnings.warn(
                "the loop runs step by step: its body computes something else at every call, for instance from random "
                "numbers of the host or a counter; pass such values as items or in the carry",
                stacklevel=4,
            )
            return None
        except (Unrecordable, Exception):  # the plain loop raises the error, if there is one
            return None
        return self.target(program)

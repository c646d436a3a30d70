"""Trains models in a stack: takes them in while there is room, and out when they are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np  # noqa: TID251  losses are host arrays

from mlp_xp.sweep.stack import EpochPlan, Stack, exchanged, rows_on_host
from mlp_xp.sweep.tasks import stack_size
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import HostArray, Tree

SHRINK = 0.5
"""A stack is compacted when at most this share of its models is left and no others wait: each size is compiled."""

INTERVAL = 60.0
"""Seconds from one checkpoint of a stack to the next."""


M = TypeVar("M", bound=Any)


class Team(Generic[M]):
    """The models of a stack, of at most ``size``. Subclasses define `plan` and `measure`.

    A member is a model to train; between two calls of `train` its state is stored there, on the host. It has

    - ``step`` and ``state``: its `TrainStep`, and the `TrainState` to continue from;
    - ``kept``: parameters and layer states of its best epoch so far, or ``None`` if they are not kept;
    - ``is_over(until)``: whether it has done ``until`` epochs or its last;
    - ``note(loss, measured, seconds)``: records an epoch and returns whether it is the best so far;
    - ``store(state, kept)``: takes both back from the stack.
    """

    def __init__(self, stack: Stack, size: int) -> None:
        self.stack, self.size = stack, size
        self.members: list[M] = []
        self.over: set[int] = set()  # positions of members that are over but still in the stack
        self.plans: list[EpochPlan] = []  # of the last epoch
        self.kept: Tree = ABSENT  # of the best epochs, stacked

    def plan(self, member: M, known: dict[Any, Any]) -> EpochPlan:
        """The next epoch of a member; ``known`` is shared by the members in an epoch."""
        raise NotImplementedError

    def measure(self, losses: HostArray) -> tuple[HostArray, Sequence[Any]]:
        """The loss of each member in an epoch, from those of its steps, (steps, members), and its measured values."""
        raise NotImplementedError

    @property
    def under_way(self) -> list[int]:
        """The positions of the members that are not over."""
        return [i for i in range(len(self.members)) if i not in self.over]

    def train(self, members: Sequence[M], until: int | None = None, save: Callable[[M], Any] | None = None) -> None:
        """Train all members to their end, or to ``until`` epochs.

        Every `INTERVAL` call ``save`` with those under way and those that have ended since.
        """
        waiting = [member for member in members if not member.is_over(until)][::-1]
        unsaved, saved = list[M](), time.monotonic()
        while waiting or self.members:
            if not self.members:
                size = stack_size(len(waiting), self.size)
            if new := [waiting.pop() for _ in range(min(len(waiting), size - len(self.members)))]:
                self.exchange(list(range(len(self.members))), new)
            with np.errstate(all="ignore"):  # of models that diverge
                self.epoch()
            unsaved += self.release(until, bool(waiting))
            if save is not None and time.monotonic() - saved >= INTERVAL:
                for member in unsaved + self.store(self.under_way):
                    save(member)
                unsaved, saved = [], time.monotonic()

    def exchange(self, keep: Sequence[int], new: Sequence[M]) -> None:
        """Keep the members at these positions and take new ones in."""
        self.stack.exchange(keep, [(member.step, member.state) for member in new])
        self.members = [*(self.members[i] for i in keep), *new]
        if self.members[0].kept is not None:
            self.kept = exchanged(self.stack.backend, self.kept, keep, [member.kept for member in new])

    def epoch(self) -> None:
        """One epoch of all members."""
        began, known = time.perf_counter(), dict[Any, Any]()
        self.plans = [
            self.plans[i] if i in self.over else self.plan(member, known) for i, member in enumerate(self.members)
        ]
        losses, measured = self.measure(self.stack.epoch(self.plans))
        seconds = (time.perf_counter() - began) / len(self.members)
        improved = np.zeros(len(self.members), bool)
        for i in self.under_way:
            improved[i] = self.members[i].note(float(losses[i]), measured[i], seconds)
        self._keep(improved)

    def _keep(self, improved: HostArray) -> None:
        """Copy the parameters and layer states of the members that have improved."""
        if self.kept is ABSENT or not improved.any():
            return
        xp, state = self.stack.backend.xp, self.stack.state
        mask = self.stack.backend.asarray(improved[:, None, None])
        self.kept = tree_map(lambda new, old: xp.where(mask, new, old), (state.params, state.layers), self.kept)

    def release(self, until: int | None, more: bool) -> list[M]:
        """Store the members that are over, and take them out of the stack if that is worth the compilation."""
        ended = [i for i in self.under_way if self.members[i].is_over(until)]
        stored = self.store(ended)
        self.over |= set(ended)
        left = self.under_way
        if not left:
            self.members, self.over = [], set()
        elif self.over and (more or len(left) <= SHRINK * len(self.members)):
            self.over = set()
            self.exchange(left, [])
        return stored

    def store(self, chosen: Sequence[int]) -> list[M]:
        """Copy the states of the members at these positions back to them, and return these members."""
        if not chosen:
            return []
        states, kept = self.stack.states(chosen), [None] * len(chosen)
        if self.kept is not ABSENT:
            kept = rows_on_host(self.stack.backend, self.kept, chosen)
        members = [self.members[i] for i in chosen]
        for member, state, best in zip(members, states, kept, strict=True):
            member.store(state, best)
        return members

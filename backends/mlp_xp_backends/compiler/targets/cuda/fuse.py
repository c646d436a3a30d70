"""Nests: operations that share their loops and therefore one pass over memory.

A nest has a domain of axes longer than 1, some of which are folded, that is, reduced over. Each member of the nest is
an operation on some of the axes: on all, on those that are kept, or on none. Two nests are merged if one reads what
the other writes, at the same indices, and no third nest has to run between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from mlp_xp_backends.compiler.program import Kind, Op, Value
from mlp_xp_backends.compiler.targets.cuda.access import Axes, folded, read_axes, result_axes, space
from mlp_xp_backends.compiler.targets.cuda.lower import Step

NARROW, LONG = 32, 65_536
"""A fold of more than `LONG` elements to fewer than `NARROW` results has too few threads to store elements, too."""


@dataclass(eq=False)
class Nest:
    """Operations on the axes of one domain; a matrix product is a nest of its own, without loops."""

    domain: tuple[int, ...]
    at: dict[Op, Axes]
    """For each member, the axis of the domain that corresponds to each axis of its space."""
    folds: frozenset[int] = frozenset()

    @property
    def kept(self) -> list[int]:
        """The axes that are not folded."""
        return [a for a in range(len(self.domain)) if a not in self.folds]

    @property
    def product(self) -> Op | None:
        """The matrix product, if the nest is one."""
        op = next(iter(self.at))
        return op if op.kind is Kind.MATMUL else None


@dataclass(eq=False)
class Read:
    """A read of ``root`` by ``op``, directly or through single numbers that are computed inline."""

    op: Op
    root: Value
    axes: Axes | None


@dataclass(eq=False)
class Graph:
    """The nests of a step and the order in which they have to run."""

    step: Step
    nests: list[Nest] = field(default_factory=list)
    of: dict[Op, Nest] = field(default_factory=dict)
    reads: dict[Op, list[Read]] = field(default_factory=dict)
    before: dict[Op, set[Op]] = field(default_factory=dict)
    """The predecessors of each operation: those that write what it reads, and those that read what it overwrites."""

    def __post_init__(self) -> None:
        ops = [op for op in self.step.ops if op.out not in self.step.inline]
        for op in ops:
            self.reads[op] = list(self._reads(op, op))
            self.before[op] = {self.step.maker[r.root] for r in self.reads[op] if r.root in self.step.maker}
            wide = [a for a, n in enumerate(space(op)) if n > 1]
            at = tuple(wide.index(a) if a in wide else None for a in range(len(space(op))))
            folds = frozenset(x for a in folded(op) if (x := at[a]) is not None)
            nest = self.of[op] = Nest(tuple(space(op)[a] for a in wide), {op: at}, folds)
            self.nests.append(nest)
        carry = self.step.program.carry
        for v, (kind, k) in self.step.target.items():
            if kind == "carry":
                store = self.step.maker[v]
                self.before[store] |= {op for op in ops for r in self.reads[op] if r.root is carry[k]} - {store}

    def _reads(self, reader: Op, op: Op) -> Iterator[Read]:
        for k, v in enumerate(op.inputs):
            if v.root in self.step.inline:
                for read in self._reads(op, self.step.maker[v.root]):
                    single = read.axes is not None
                    yield Read(reader, read.root, tuple(None for _ in read.root.shape) if single else None)
            else:
                yield Read(reader, v.root, read_axes(op, k))

    def fuse(self) -> None:
        """Merge nests that write and read the same arrays, in the order of the program, until no two can be merged."""
        found = True
        while found:
            found = False
            for op, reads in self.reads.items():
                for read in reads:
                    maker = self.step.maker.get(read.root)
                    if maker is not None and read.axes is not None and self._merge(self.of[maker], self.of[op], read):
                        found = True

    def _merge(self, first: Nest, second: Nest, read: Read) -> bool:
        if first is second or first.product or second.product:
            return False
        merged = self._together(first, second, read)
        if merged is None or not self._consistent(merged) or self._between(first, second) or self._starved(merged):
            return False
        self.nests[self.nests.index(first)] = merged
        self.nests.remove(second)
        self.of |= dict.fromkeys(merged.at, merged)
        return True

    def _together(self, first: Nest, second: Nest, read: Read) -> Nest | None:
        """Both nests in one domain, or None if the axes of the write and the read do not correspond."""
        maker = self.step.maker[read.root]
        assert read.axes is not None
        to: dict[int, int] = {}  # from axes of the first domain to axes of the second
        for made, seen in zip(result_axes(maker), read.axes, strict=True):
            a = None if made is None else first.at[maker][made]
            b = None if seen is None else second.at[read.op][seen]
            if a is not None and b is not None:
                to[a] = b
        rising = sorted(to.values()) == [to[a] for a in sorted(to)] and len(set(to.values())) == len(to)
        if first.domain == second.domain and all(a == b for a, b in to.items()):
            if first.folds and second.folds and first.folds != second.folds:
                return None
            return Nest(first.domain, first.at | second.at, first.folds | second.folds)
        if rising and len(to) == len(first.domain) and not first.folds and second.folds:
            return _joined(second, first, to) if sorted(to.values()) == second.kept else None
        if rising and len(to) == len(second.domain) and first.folds and not second.folds:
            return _joined(first, second, {b: a for a, b in to.items()}) if sorted(to) == first.kept else None
        return None

    def _consistent(self, nest: Nest) -> bool:
        """Whether each member reads what other members write, or overwrite, only at its own indices."""
        carry = self.step.program.carry
        over = {carry[k]: v for v, (kind, k) in self.step.target.items() if kind == "carry"}
        for op in nest.at:
            for read in self.reads[op]:
                maker = self.step.maker.get(over.get(read.root, read.root))
                if maker is None or maker not in nest.at:
                    continue
                if read.axes is None:
                    return False
                made = [None if a is None else nest.at[maker][a] for a in result_axes(maker)]
                seen = [None if a is None else nest.at[op][a] for a in read.axes]
                if made != seen:
                    return False
        return True

    def _starved(self, nest: Nest) -> bool:
        """Whether a nest would store large results with few threads."""
        if not nest.folds or prod(nest.domain) <= LONG or prod(nest.domain[a] for a in nest.kept) >= NARROW:
            return False
        return any(self.stored(op) and op.out.size > LONG for op in nest.at)

    def _between(self, first: Nest, second: Nest) -> bool:
        """Whether a third nest has to run after the first and before the second."""
        todo = [n for n in self.needs(second) if n is not first]
        seen = set(map(id, todo))
        while todo:
            for n in self.needs(todo.pop()):
                if n is first:
                    return True
                if id(n) not in seen:
                    seen.add(id(n))
                    todo.append(n)
        return second in self.needs(first)

    def needs(self, nest: Nest) -> list[Nest]:
        """The nests that have to run before ``nest``."""
        found = {id(n): n for op in nest.at for before in self.before[op] if (n := self.of[before]) is not nest}
        return list(found.values())

    def stored(self, op: Op) -> bool:
        """Whether the result of ``op`` is stored in memory, because it leaves the step or another nest reads it."""
        if op.out in self.step.target or op.kind is Kind.MATMUL:
            return True
        return any(r.root is op.out and self.of[r.op] is not self.of[op] for rs in self.reads.values() for r in rs)


def _joined(whole: Nest, part: Nest, to: dict[int, int]) -> Nest:
    """``whole`` with the members of ``part``, whose axes are mapped by ``to``."""
    moved = {op: tuple(None if a is None else to[a] for a in at) for op, at in part.at.items()}
    return Nest(whole.domain, whole.at | moved, whole.folds)

"""Names for what the lines of a plan work on, and how to find it once the arrays are there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mlp_xp_backends.numpy_engine.blas import Blas
from mlp_xp_backends.numpy_engine.layout import Layout
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Program, Value

Arrays = Callable[[Value], NDArray]
"""The array of each value."""
Binding = Callable[[Arrays], Any]


class Names:
    """Every name with its `Binding`, which is asked anew when other arrays come."""

    def __init__(self, program: Program, layout: Layout, blas: Blas | None) -> None:
        self.program, self.layout, self.blas = program, layout, blas
        self.bindings: dict[str, Binding] = {}
        self._known: dict[Any, str] = {}

    def bound(self, key: Any, prefix: str, binding: Binding) -> str:
        """The name of what ``binding`` gives; one for each ``key``."""
        if key not in self._known:
            self._known[key] = f"{prefix}{len(self._known)}"
            self.bindings[self._known[key]] = binding
        return self._known[key]

    def array(self, v: Value) -> str:
        """The name of an array."""
        return self.bound(("array", id(v)), "v", lambda at: at(v))

    def object(self, x: Any) -> str:
        """The name of anything else."""
        return self.bound(("object", id(x)), getattr(x, "__name__", "k"), lambda _: x)

    def blas_line(self, op: Op, call: Callable[[Blas, Arrays], Any], role: str = "") -> str | None:
        """A line that calls BLAS, if there is one and the arrays lie as it needs them; one for each ``role``."""
        blas = self.blas
        if blas is None or call(blas, lambda v: v.like) is None:
            return None

        def part(k: int, at: Arrays) -> Any:
            return call(blas, at)[k]

        f, args = (self.bound(("blas", k, id(op), role), "blas", partial(part, k)) for k in (0, 1))
        return f"{f}(*{args})"

    def start(self, op: Op, x: Value, out: str, source: str) -> list[str]:
        """The line that makes the result of ``op`` begin as ``x``, which it may be written over already."""
        return [] if self.same_place(x, op.out) else [f"{out}[...] = {source}"]

    def same_place(self, x: Value, y: Value) -> bool:
        """Whether two values lie in the same memory."""
        places = self.layout.places
        if x.root is not x or x.shape != y.shape:
            return False
        if x.source is not None and x.source[0] in ("carry", "pack"):
            place = places.get(id(y))
            return place is not None and place.kind == "carry" and self.program.carry[place.number] is x
        return id(x) in places and places[id(x)] == places.get(id(y))

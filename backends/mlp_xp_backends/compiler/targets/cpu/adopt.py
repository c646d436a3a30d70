"""Which arrays a run may write to: those of the carry themselves, or copies of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from mlp_xp_backends.compiler.program import Program, Value
from mlp_xp_backends.typing import HostArray


def adopted(
    program: Program, carried: list[HostArray], given: list[HostArray]
) -> tuple[list[HostArray], list[HostArray]]:
    """The leaves to go on with, and the program's carried arrays that hold them.

    Leaves are themselves where they can be written to, else copies; packed ones are parts of one array.
    """
    crowded = _overlapping(carried, given)
    returned, held = list(carried), []
    for v, after, members in zip(program.carry, program.carry_out, program.members, strict=True):
        arrays = [carried[k] for k in members]
        if len(members) == 1:
            (a,), (k,) = arrays, members
            usable = a.flags.carray and k not in crowded
            returned[k] = a if usable or (after is v and a.flags.c_contiguous and a.flags.aligned) else a.copy("C")
            held.append(returned[k])
            continue
        long = _packed(arrays, v)
        if long is None or crowded.intersection(members):
            long = np.concatenate([a.reshape(-1) for a in arrays])
            stops = np.cumsum([a.size for a in arrays]).tolist()
            for k, a, stop in zip(members, arrays, stops, strict=True):
                returned[k] = long[stop - a.size : stop].reshape(a.shape)
        held.append(long)
    return returned, held


def _overlapping(carried: list[HostArray], given: list[HostArray]) -> set[int]:
    """The carried arrays that share memory with another array."""
    crowded = {j for (_, a), (j, b) in combinations(enumerate(carried), 2) if np.may_share_memory(a, b)}
    return crowded | {j for j, a in enumerate(carried) if any(np.may_share_memory(a, b) for b in given)}


def _packed(arrays: list[HostArray], like: Value) -> HostArray | None:
    """The array that has these, one behind the other, if there is one."""
    long, start = arrays[0].base, 0
    alike = isinstance(long, np.ndarray) and long.shape == like.shape and long.dtype == like.dtype
    if not isinstance(long, np.ndarray) or not alike or not long.flags.carray:
        return None
    for a in arrays:
        if a.base is not long or not a.flags.carray or a.ctypes.data != long.ctypes.data + start:
            return None
        start += a.nbytes
    return long

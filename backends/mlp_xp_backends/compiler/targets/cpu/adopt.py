"""The arrays that a run writes to: those of the carry, or copies of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from mlp_xp_backends.compiler.program import Program
from mlp_xp_backends.typing import HostArray


def adopted(
    program: Program, carried: list[HostArray], given: list[HostArray]
) -> tuple[list[HostArray], list[HostArray]]:
    """The leaves of the carry to return, and the program's carried arrays that contain them.

    A leaf is copied only if it cannot be written to; packed leaves are views of one array.
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
        long = _packed(arrays)
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


def _packed(arrays: list[HostArray]) -> HostArray | None:
    """The first of these arrays if the others follow it without gaps in the memory of one array, else `None`."""
    base, end = arrays[0].base, arrays[0].ctypes.data
    for a in arrays:
        if base is None or a.base is not base or not a.flags.carray or a.ctypes.data != end:
            return None
        end += a.nbytes
    return arrays[0]

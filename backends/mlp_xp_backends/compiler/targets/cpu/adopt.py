"""The arrays that a run writes to: those of the carry, or copies of them."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from mlp_xp_backends.compiler.program import Program
from mlp_xp_backends.typing import HostArray


def adopted(
    program: Program, carried: list[HostArray], given: list[HostArray]
) -> tuple[list[HostArray], list[HostArray]]:
    """The leaves of the carry to return, and for each carried array of the program one that begins at its address.

    The leaves of a carried array are copied, as views of one array, only if it cannot be written in their memory.
    """
    crowded = _overlapping(carried, given)
    returned, held = list(carried), []
    for v, after, members in zip(program.carry, program.carry_out, program.members, strict=True):
        arrays = [carried[k] for k in members]
        only_read = after is v and arrays[0].flags.c_contiguous and arrays[0].flags.aligned
        whole = arrays[0]
        if not only_read and (crowded.intersection(members) or not _adjacent(arrays)):
            whole = np.concatenate([a.reshape(-1) for a in arrays])
            stops = np.cumsum([a.size for a in arrays]).tolist()
            for k, a, stop in zip(members, arrays, stops, strict=True):
                returned[k] = whole[stop - a.size : stop].reshape(a.shape)
        held.append(whole)
    return returned, held


def _overlapping(carried: list[HostArray], given: list[HostArray]) -> set[int]:
    """The carried arrays that share memory with another array."""
    crowded = {j for (_, a), (j, b) in combinations(enumerate(carried), 2) if np.may_share_memory(a, b)}
    return crowded | {j for j, a in enumerate(carried) if any(np.may_share_memory(a, b) for b in given)}


def _adjacent(arrays: list[HostArray]) -> bool:
    """Whether these arrays can be written to and follow one another without gaps in memory."""
    gapless = all(a.ctypes.data + a.nbytes == b.ctypes.data for a, b in pairwise(arrays))
    return gapless and all(a.flags.carray for a in arrays)

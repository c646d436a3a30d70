"""The states of NumPy's bit generators as JSON and back."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID251  bit generators run on the host

from mlp_xp._checks import shown
from mlp_xp.files.container import Json

KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.SFC64, np.random.MT19937, np.random.Philox)
}
_LIMITS = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def encode(state: dict[str, Any]) -> Json:
    """``state``, arrays as lists; `ValueError` unless it is that of one of NumPy's bit generators."""
    name = state.get("bit_generator")
    if name not in KINDS:
        raise ValueError(
            f"cannot save the bit generator {shown(name)}: pass seed as an integer or as a NumPy generator over "
            f"{', '.join(KINDS)}"
        )
    return _encode(state)


def _encode(value: Any) -> Json:
    if isinstance(value, dict):
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def decode(value: Json) -> dict[str, Any]:
    """Return the state that `encode` wrote. Raises `ValueError` for anything that is not a state of a bit generator."""
    name = value.get("bit_generator") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"its bit generator {shown(name)} is unknown")
    state: dict[str, Any] = _decode("generator", value, KINDS[name](0).state)
    return state


def _decode(name: str, value: Json, like: Any) -> Any:
    """``value`` with the types of ``like``."""
    if isinstance(like, dict):
        if not isinstance(value, dict) or value.keys() != like.keys():
            raise ValueError(f"{name} must have the fields {', '.join(like)}")
        return {key: _decode(key, value[key], entry) for key, entry in like.items()}
    if isinstance(like, np.ndarray):
        if not isinstance(value, list) or len(value) != like.size:
            raise ValueError(f"{name} must be a list of {like.size} integers")
        limit = np.iinfo(like.dtype).max
        decoded = np.array([_integer(name, entry, limit) for entry in value], like.dtype)
        if like.size == 624 and not decoded.any():  # MT19937, whose output would be 0 forever
            raise ValueError(f"{name} must not be 0 throughout")
        return decoded
    if isinstance(like, str):
        return value
    if name == "inc" and isinstance(value, int) and value % 2 == 0:  # PCG64's increment, by its construction
        raise ValueError("inc must be odd")
    return _integer(name, value, _LIMITS.get(name, 2**128 - 1))


def _integer(name: str, value: Json, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{name} must be an integer from 0 to {limit}, not {shown(value)}")
    return value

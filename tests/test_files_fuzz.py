"""A drill: files with random damage are read as valid objects or refused with a `FileError`, each within two seconds.

``pytest -m slow tests/test_files_fuzz.py`` runs the long form. A failure prints the seed of its mutation.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from surgery import assembled, parts

from mlp_xp.files.checkpoints import check_savable, read_model, read_snapshot
from mlp_xp.files.disk import FileError
from mlp_xp.files.models import SavedModel, write_model
from mlp_xp.files.snapshot import Snapshot

FILES = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))
GOOD = [path.read_bytes() for path in FILES]
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 624, 625, 2**31, 2**32, 2**53, 2**63, 2**64, 10**400, -(10**400), 0.0, -0.5, 1.5,
    1e308, float("nan"), float("inf"), float("-inf"), "", "x", "mean", "float32", "\0", "\ud800", "x" * 10_000, [], [0],
    [[]], {}, {"type": "Dense"}, {"type": "Chain", "layers": []}, {"type": "ReLU"}, {"type": "custom:X"}, [None] * 1000,
]  # fmt: skip
LIMIT = 6.0  # seconds: two, and six on a machine that is slow or busy


def flipped(rng: random.Random, content: bytes) -> bytes:
    """Some bits are flipped, in the index or in the arrays."""
    damaged = bytearray(content)
    index = 8 + int.from_bytes(content[:8], "little")
    begin, end = rng.choice([(0, index), (index, len(content))])
    for _ in range(rng.choice([1, 1, 2, 8])):
        damaged[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(rng: random.Random, content: bytes) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def spliced(rng: random.Random, content: bytes) -> bytes:
    """A part of the file is replaced by a part of another, removed, or occurs twice."""
    other = rng.choice([content, rng.choice(GOOD), bytes(rng.randrange(256) for _ in range(64)), b""])
    i, j = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    k, m = sorted(rng.randrange(len(other) + 1) for _ in range(2))
    return content[:i] + other[k:m] + content[j:]


def places(value: Any) -> list[tuple[Any, Any]]:
    """All containers of a JSON value with a key into each."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in pairs for place in [(value, key), *places(child)]]


def edited(rng: random.Random, content: bytes) -> bytes:
    """Some values of the index or of the header are replaced, removed, renamed, doubled or exchanged."""
    index, header, data = parts(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        container, key = rng.choice(places(header if rng.random() < 0.7 else index))
        action = rng.randrange(6)
        if action == 0 and isinstance(container, dict):
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[rng.choice(["type", "layers", "W", "", "params.0.W", "x"])] = container.pop(key)
        elif action == 2 and isinstance(container, list):
            container.append(container[key])
        elif action == 3:
            other, name = rng.choice(places(header))
            container[key] = json.loads(json.dumps(other[name]))
        elif action == 4 and isinstance(container[key], (int, float)):
            container[key] = rng.choice([container[key] * 2, container[key] // 2, container[key] + 1])
        else:
            container[key] = rng.choice(NASTY)
    return assembled({"__metadata__": {}} | index, header, data) if _has_metadata(index) else json.dumps(index).encode()


def _has_metadata(index: dict[str, Any]) -> bool:
    return isinstance(index.get("__metadata__", {}), dict)


MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [flipped, cut, spliced, edited, edited, edited]


def drill(path: Path, seeds: range) -> Counter[str]:
    """Read a mutated file for every seed; how many were read and how many refused."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        path.write_bytes(rng.choice(MUTATIONS)(rng, rng.choice(GOOD)))
        for read in (read_model, read_snapshot):
            began = time.thread_time()
            try:
                result: Any = read(path)
            except FileError as error:
                assert str(path) in str(error) and len(str(error)) < 2000, f"seed {seed}"
                outcomes["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {read.__name__} raised {error!r}") from error
            else:
                assert_valid(result, path, seed)
                outcomes["read"] += 1
            lasted = time.thread_time() - began
            assert lasted < LIMIT, f"seed {seed}: {read.__name__} took {lasted:.1f} s"
    return outcomes


def assert_valid(result: Any, path: Path, seed: int) -> None:
    """What was read can be used: a forward pass, a generator that draws, a file that can be written again."""
    if isinstance(result, SavedModel):
        n_in = 3 if result.network.first.takes != "ids" else result.network.first.ids_per_row
        with np.errstate(all="ignore"):
            result.network.forward(np, result.params, result.state, np.zeros((2, n_in), np.int32), False)
        write_model(path, result)
    else:
        assert isinstance(result, Snapshot), f"seed {seed}"
        bits = getattr(np.random, result.generator["bit_generator"])()
        bits.state = result.generator
        np.random.Generator(bits).permutation(100)
        check_savable(result)


def test_three_hundred_damaged_files(tmp_path: Path) -> None:
    outcomes = drill(tmp_path / "f", range(300))
    assert outcomes["read"] > 10 and outcomes["refused"] > 100


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    outcomes = drill(tmp_path / "f", range(1_000, 11_000))
    print(dict(outcomes))
    assert outcomes["read"] > 300 and outcomes["refused"] > 3_000

"""A drill: runs that are killed or interrupted at random moments end with the bits of an undisturbed run.

``pytest -m slow tests/test_drill.py -s`` disturbs 300 times and prints how.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from drill.runs import KINDS, KNOWN, X, everything

from mlp_xp.files.checkpoints import read_snapshot
from mlp_xp.files.disk import remove_stale

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
DISTURBANCES = ["kill", "kill", "kill", "ctrl-c", "ctrl-c twice"]
CHUNKS = [1, 3, 7, 1000]
MOST = 6
"""Disturbances of one run, so that all kinds of runs get their share."""


class Server:
    """A process that forks one for each run."""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "drill.server"],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()

    def start(self, *command: object) -> int:
        """Start a run; the id of its process."""
        assert self.process.stdin is not None
        self.process.stdin.write(";".join(map(str, command)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """The exit status of the run."""
        return self._answer()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def disturb(pid: int, how: str, rng: random.Random) -> None:
    """Send the signals, unless the process has ended already."""
    with contextlib.suppress(ProcessLookupError):
        if how == "kill":
            os.kill(pid, signal.SIGKILL)
        for _ in range({"ctrl-c": 1, "ctrl-c twice": 2}.get(how, 0)):
            os.kill(pid, signal.SIGINT)
            time.sleep(rng.uniform(0.0, 0.002))


def drill(server: Server, folder: Path, disturbances: int, seed: int) -> Counter[tuple[str, str]]:
    """Disturb runs of all kinds until there were that many disturbances; how often each kind of run was
    stopped by each of them before its end.
    """
    rng, done = random.Random(seed), Counter[tuple[str, str]]()
    expected, lasted = {}, {}
    runs = 0
    while sum(done.values()) < disturbances:
        kind = list(KINDS)[runs % len(KINDS)]
        place = folder / str(runs)
        place.mkdir()
        np.save(place / "x.npy", X)  # here, where no signal can stop it halfway
        if kind not in expected:
            began = time.monotonic()
            server.start(kind, place / "whole", False, 10**6)
            assert server.wait() == 0, kind
            lasted[kind] = time.monotonic() - began
            expected[kind] = everything(read_snapshot(place / "whole.end", KNOWN))
        path, part, turn = place / "run", rng.choice([0.15, 0.6, 1.2]), rng.randrange(2)
        enough = min(disturbances, sum(done.values()) + MOST)
        while not path.with_suffix(".end").exists():
            pid = server.start(kind, path, bool(turn % 2), rng.choice(CHUNKS))
            turn += 1
            how = None
            if sum(done.values()) < enough:
                time.sleep(rng.uniform(0.0, part * lasted[kind]))
                how = rng.choice(DISTURBANCES)
                disturb(pid, how, rng)
            status = server.wait()
            # Ctrl-C inside an import may become another error (1): then the files and the bits count
            allowed = {None: (0,), "kill": (0, -signal.SIGKILL)}.get(how, (0, 1, -signal.SIGINT))
            assert status in allowed, (kind, seed, how, status)
            if how is not None and not path.with_suffix(".end").exists():
                done[kind, how] += 1
            if path.exists():
                read_snapshot(path, KNOWN)
        assert everything(read_snapshot(path.with_suffix(".end"), KNOWN)) == expected[kind], (kind, seed)
        remove_stale(path.with_suffix(".end"))  # what the next write does first: the last run may have been killed too
        leftovers = {entry.name for entry in place.iterdir()} - {"run", "run.end", "whole", "whole.end", "x.npy"}
        assert not leftovers, (kind, seed, leftovers)
        runs += 1
    return done


def test_runs_that_are_disturbed_ten_times_end_with_the_same_bits(server: Server, tmp_path: Path) -> None:
    drill(server, tmp_path, 10, seed=0)


@pytest.mark.slow
def test_runs_that_are_disturbed_three_hundred_times_end_with_the_same_bits(server: Server, tmp_path: Path) -> None:
    done = drill(server, tmp_path, 300, seed=1)
    for kind in KINDS:
        print(kind, {how: done[kind, how] for how in dict.fromkeys(DISTURBANCES)})
    assert {kind for kind, _ in done} == set(KINDS) and {how for _, how in done} == set(DISTURBANCES)

"""Errors on one of several ranks: all of them raise an error, or the job ends; none waits forever."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_groups import END, LIMIT, MPIEXEC, environment, needs_mpi

from mlp_xp.training.group_ranks import ranks_of
from mlp_xp.training.messages import LENGTH, Messages, RankError
from mlp_xp_backends.groups import Solo

TESTS = Path(__file__).parent


def mpi_run(ranks: int, program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", str(program), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The errors of three ranks in each case, from one job that continues after all of them."""
    folder = tmp_path_factory.mktemp("refused")
    ran = mpi_run(3, TESTS / "rank_refusals.py", str(folder), folder=folder)
    assert ran.returncode == 0, ran.stderr
    return [json.loads((folder / f"refused-{rank}.json").read_text()) for rank in range(3)]


@needs_mpi
@pytest.mark.parametrize(
    ("case", "rank", "error"),
    [
        ("columns", 2, "ValueError: x has 5 columns"),
        ("a label", 0, "ValueError: y"),
        ("weights", 1, "ValueError: sample_weight must be finite and non-negative"),
        ("no rows", 1, "ValueError: x has no rows"),
        ("validation rows", 1, "ValueError: validation data 'valid': x has 2 columns"),
        ("an option", 2, "TypeError: max_epochs must be a positive integer"),
        ("a rate", 2, "ZeroDivisionError: no rate"),
        ("a source", 1, "ConnectionError: the server is gone"),
        ("a folder", 0, "FileError: "),
        ("a callback at start", 0, "OSError: [Errno 28] No space left on device"),
        ("a callback at chunk", 0, "OSError: [Errno 28] No space left on device"),
        ("a callback at epoch", 0, "OSError: [Errno 28] No space left on device"),
        ("a callback at end", 0, "OSError: [Errno 28] No space left on device"),
        ("an estimator", 2, "ValueError: Input X contains NaN."),
    ],
)
def test_an_error_of_one_rank_is_an_error_on_all(refused: Any, case: str, rank: int, error: str) -> None:
    if case == "an estimator" and not find_spec("sklearn"):
        pytest.skip("scikit-learn is not installed")
    own = refused[rank][case]
    assert own.startswith(error)
    for number, found in enumerate(refused):
        if number != rank:
            assert found[case] == f"RankError: rank {rank} raised {own}"[: len(found[case])]
            assert error in found[case]


@needs_mpi
@pytest.mark.parametrize(("case", "what"), [("residence", "options"), ("optimizers", "step")])
def test_ranks_that_differ_are_an_error_on_all(refused: Any, case: str, what: str) -> None:
    expected = f"ValueError: the ranks must run the same program, but they differ in: {what}"
    assert [found[case] for found in refused] == [expected] * 3


@needs_mpi
def test_nan_on_one_rank_is_found_by_all(refused: Any) -> None:
    own = "x holds NaN or infinity, the first in row 3"
    others = "x of rank 1 holds NaN or infinity, the first in its row 3"
    for found, said in zip(refused, (others, own, others), strict=True):
        assert found["NaN"].startswith("TrainingDivergedError: the loss of epoch 1 is nan")
        assert said in found["NaN"]


INSIDE = """
import time
import numpy as np
from mlp_xp import Trainer, mlp
from mlp_xp.data import feed
from mlp_xp.training import epoch
from mlp_xp_backends.groups import get_group

epoch.CHUNK_WORK, feed.WINDOW_BYTES, group = 0, 1, get_group("mpi")


class Rows(np.ndarray):
    reads = 0

    def __getitem__(self, key):
        if isinstance(key, np.ndarray) and group.rank == 1:
            Rows.reads += 1
            if Rows.reads == 4:
                print(time.time(), flush=True)
                {failure}
        return super().__getitem__(key)


x = np.random.default_rng(0).normal(size=(60, 4)).view(Rows)
try:
    Trainer(mlp(4, 3), device="cpu", group="mpi").fit(x, np.zeros(60, int), max_epochs=9, batch_size=6, resident=False)
except Exception:
    print("goes on", flush=True)
    group.barrier()
"""


@needs_mpi
@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ('raise OSError("the disk does not answer")', "rank 1: ended by OSError: the disk does not answer"),
        pytest.param("raise KeyboardInterrupt", "rank 1: ended by KeyboardInterrupt", marks=pytest.mark.slow),
    ],
    ids=["an error", "an interruption"],
)
def test_an_error_inside_the_steps_ends_the_job(tmp_path: Path, failure: str, said: str) -> None:
    """The other ranks wait for gradients, and catching the error on one rank does not free them."""
    program = tmp_path / "program.py"
    program.write_text(INSIDE.replace("{failure}", failure))
    ran = mpi_run(2, program, folder=tmp_path)
    assert time.time() - float(ran.stdout.split()[0]) < END
    assert "goes on" not in ran.stdout
    assert ran.returncode != 0
    assert said in ran.stderr
    assert "Traceback" in ran.stderr


# One process


class Recorder(Solo):
    """Rank 1 of 2; the other one sends what ``answers`` holds."""

    rank, size = 1, 2

    def __init__(self, answers: list[np.ndarray]) -> None:
        self.answers, self.aborted = answers, ""

    def sum(self, x: Any, out: Any = None) -> Any:
        return x + self.answers.pop(0)

    def broadcast(self, x: Any, root: int = 0) -> Any:
        return self.answers.pop(0) if root != self.rank else x

    def abort(self, message: str) -> Any:
        self.aborted = message


FINE, FAILS = np.asarray([0, 0], np.int32), np.asarray([0, 1], np.int32)


def text_of(message: str) -> np.ndarray:
    return np.frombuffer(message.encode().ljust(LENGTH, b"\0"), np.uint8)


def test_a_message_reports_the_error_of_another_rank() -> None:
    messages = Messages(Recorder([FINE, FAILS, np.asarray([1, 0]), text_of("ValueError: bad")]))
    with pytest.raises(RankError, match=r"^rank 0 raised ValueError: bad$"), messages.together():
        assert messages.any(True)
        messages.sum(np.ones(3))
    assert messages.group.answers == []


def test_ranks_that_fail_together_raise_their_own_errors() -> None:
    messages = Messages(Recorder([FAILS, np.asarray([1, 0]), text_of("ValueError: zero")]))
    with pytest.raises(ValueError, match="one"), messages.together(), messages.together():
        raise ValueError("one")
    assert messages.group.answers == []


def test_the_end_of_the_body_meets_an_error() -> None:
    messages = Messages(Recorder([FAILS, np.asarray([1, 0]), text_of("OSError: " + "long " * 500)]))
    with pytest.raises(RankError, match="rank 0 raised OSError: long"), messages.together():
        pass


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_ends_all_ranks(error: BaseException, capsys: Any) -> None:
    messages = Messages(Recorder([]))
    with pytest.raises(type(error)), messages.together():
        raise error
    assert messages.group.aborted.startswith(f"ended by {type(error).__name__}")


def test_one_process_sends_no_messages() -> None:
    class Silent(Solo):
        def sum(self, x: Any, out: Any = None) -> Any:
            raise AssertionError

        broadcast = sum

    ranks = ranks_of(Silent())
    with pytest.raises(ValueError, match="own"), ranks.together():
        assert ranks.any(True)
        assert ranks.total(np.ones(2)).sum() == 2.0
        assert list(ranks.steps([1, 2])) == [1, 2]
        raise ValueError("own")

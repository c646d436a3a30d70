"""Groups of real processes: sums with the same bits on every rank, also inside loops, and one end for all ranks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends import BackendError
from mlp_xp_backends.groups import Solo, get_group, with_group
from mlp_xp_backends.groups.base import end_all_with, place

RANKS = 3
LIMIT = 180
END = 60.0
"""Seconds after which a job has ended when one of its ranks has; a busy machine of two cores takes 0.3."""
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
missing = next((word for word, there in (("mpi4py", find_spec("mpi4py")), ("mpiexec", MPIEXEC)) if not there), None)
needs_mpi = pytest.mark.skipif(missing is not None, reason=f'{missing} is not installed: pip install "mlp-xp[mpi]"')


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def mpi_run(program: str, folder: Path, *options: str, ranks: int = RANKS) -> subprocess.CompletedProcess[str]:
    script = folder / "program.py"
    script.write_text(program)
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, *options, str(script)]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )


@contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody else is given: it stays bound, and a program that reuses addresses can listen on it."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


LAWS = """
import sys
import numpy as np
from mlp_xp_backends import get_backend
from mlp_xp_backends.groups import get_group, with_group

group = get_group("mpi")
assert group is get_group("mpi")
found = {"place": np.asarray([group.rank, group.size, group.local_rank])}
for dtype in ("float32", "float64", "int64"):
    x = (1000 * np.random.default_rng(group.rank).normal(size=100_003)).astype(dtype)
    before = x.copy()
    found[f"sum {dtype}"] = group.sum(x)
    assert np.array_equal(x, before)
found["sum of a view"] = group.sum(np.arange(6.0).reshape(2, 3).T[::-1] + group.rank)
found["sum of a number"] = group.sum(np.asarray(1.0 + group.rank))
found["sum of nothing"] = group.sum(np.zeros((0, 2)))
found["broadcast"] = group.broadcast(np.full(3, group.rank), root=1)
group.barrier()


def step(xp, w, data, rows):
    X, y, share = (xp.take(a, rows, axis=0) for a in data)
    residual = (xp.matmul(X, w) - y) * share
    gradient = xp.matmul(xp.matrix_transpose(X), residual)
    loss = xp.sum(residual * residual)
    sums = xp.all_sum(xp.concat([xp.reshape(gradient, (-1,)), xp.reshape(loss, (1,))]))
    w -= 0.01 * xp.reshape(sums[:-1], w.shape)
    return w, sums[-1]


def mine(batch):  # ragged: 11 rows in a batch; what is left over has weight 0
    own = np.array_split(batch, group.size)[group.rank]
    return np.pad(own, (0, 4 - len(own)), constant_values=33)


rng = np.random.default_rng(0)
data = rng.normal(size=(34, 4)), rng.normal(size=(34, 2)), np.ones((34, 1))
data[2][33] = 0.0
rows = np.stack([mine(batch) for batch in rng.permutation(33).reshape(3, 11)])
for name in sys.argv[1:] or ["numpy", "numpy:plain", "array_api_strict", "torch:cpu"]:
    try:
        backend = with_group(get_backend(name), group)
    except Exception as error:
        found[f"run {name}"] = np.asarray(str(error))
        continue
    w, losses = backend.compile(step)(
        backend.asarray(np.zeros((4, 2))), tuple(map(backend.asarray, data)), backend.asarray(rows)
    )
    found[f"run {name}"] = np.concatenate([np.ravel(backend.to_numpy(w)), backend.to_numpy(losses)])
np.savez(f"found-{group.rank}.npz", **found)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """The results of every rank."""
    folder = tmp_path_factory.mktemp("ranks")
    ran = mpi_run(LAWS, folder, "-m", "mpi4py")
    assert ran.returncode == 0, ran.stderr
    return [dict(np.load(folder / f"found-{rank}.npz")) for rank in range(RANKS)]


@needs_mpi
def test_every_rank_has_its_place(found: Any) -> None:
    assert [tuple(results["place"]) for results in found] == [(0, 3, 0), (1, 3, 1), (2, 3, 2)]


@needs_mpi
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_a_sum_has_the_same_bits_on_every_rank(found: Any, dtype: str) -> None:
    parts = [(1000 * np.random.default_rng(rank).normal(size=100_003)).astype(dtype) for rank in range(RANKS)]
    first, *others = (results[f"sum {dtype}"] for results in found)
    assert first.dtype == dtype
    np.testing.assert_allclose(first, np.sum(parts, axis=0, dtype="float64"), rtol=1e-4, atol=1e-3)
    for other in others:
        assert other.tobytes() == first.tobytes()


@needs_mpi
def test_sums_of_views_numbers_and_nothing_and_a_broadcast(found: Any) -> None:
    for results in found:
        np.testing.assert_array_equal(results["sum of a view"], 3 * (np.arange(6.0).reshape(2, 3).T[::-1] + 1))
        assert results["sum of a number"] == 6.0
        assert results["sum of nothing"].shape == (0, 2)
        np.testing.assert_array_equal(results["broadcast"], [1, 1, 1])


@needs_mpi
@pytest.mark.parametrize("name", ["numpy", "numpy:plain", "array_api_strict", "torch:cpu"])
def test_a_loop_over_ranks_is_the_loop_of_one_process(found: Any, name: str) -> None:
    """Least squares by batches of 11 rows, divided among three ranks."""
    first, *others = (results[f"run {name}"] for results in found)
    if first.dtype.kind == "U":
        pytest.skip(str(first).partition("\n")[0])
    rng = np.random.default_rng(0)
    X, y, w, losses = rng.normal(size=(34, 4)), rng.normal(size=(34, 2)), np.zeros((4, 2)), []
    for rows in rng.permutation(33).reshape(3, 11):
        residual = X[rows] @ w - y[rows]
        losses.append(np.sum(residual**2))
        w = w - 0.01 * X[rows].T @ residual
    np.testing.assert_allclose(first, [*np.ravel(w), *losses], rtol=1e-12)
    for other in others:
        assert other.tobytes() == first.tobytes()


FAILING = """
import time
from mlp_xp_backends.groups import get_group

group = get_group("mpi")
if group.rank == 1:
    print(time.time(), flush=True)
    {failure}
group.barrier()
"""


@needs_mpi
@pytest.mark.parametrize("options", [(), ("-m", "mpi4py")], ids=["python", "python -m mpi4py"])
def test_an_exception_on_one_rank_ends_all(tmp_path: Path, options: tuple[str, ...]) -> None:
    ran = mpi_run(FAILING.format(failure='raise ValueError("row 7 is bad")'), tmp_path, *options, ranks=2)
    assert time.time() - float(ran.stdout.split()[0]) < END
    assert ran.returncode != 0
    assert "ValueError: row 7 is bad" in ran.stderr


@needs_mpi
def test_abort_ends_all_with_its_message(tmp_path: Path) -> None:
    ran = mpi_run(FAILING.format(failure='group.abort("the disk is full")'), tmp_path, ranks=2)
    assert ran.returncode != 0
    assert "rank 1: the disk is full" in ran.stderr


@pytest.mark.slow
def test_torch_distributed_sums_tensors_and_host_arrays(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = """
import numpy as np, torch
from mlp_xp_backends.groups import get_group

group = get_group("torch")
x = np.random.default_rng(group.rank).normal(size=(7, 5))
total = group.sum(torch.from_numpy(x).T)
assert total.shape == (5, 7)
assert np.array_equal(total.numpy().T, group.sum(x))
assert group.broadcast(np.asarray([group.rank]), root=1).tolist() == [1]
group.barrier()
np.save(f"{group.rank}.npy", group.sum(x))
"""
    (tmp_path / "program.py").write_text(program)
    with free_port() as port:
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        ranks = [
            subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment(**job, RANK=rank))
            for rank in ("0", "1")
        ]
        assert [process.wait(LIMIT) for process in ranks] == [0, 0]
    first, second = (np.load(tmp_path / f"{rank}.npy") for rank in (0, 1))
    assert first.tobytes() == second.tobytes()
    np.testing.assert_array_equal(first, sum(np.random.default_rng(rank).normal(size=(7, 5)) for rank in (0, 1)))


# One process


def test_a_group_of_one_changes_nothing(backend: Any) -> None:
    if backend.name == "jax":
        with pytest.raises(BackendError, match=r"jax cannot run with a group(.|\n)*group=\"mpi\""):
            with_group(backend, Solo())
        return

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        carry = carry + xp.all_sum(item)
        return carry, xp.all_sum(2.0 * carry)

    bound = with_group(backend, get_group(None))
    assert not hasattr(backend.xp, "all_sum")
    total, outs = bound.compile(body)(bound.asarray(np.zeros(())), (), bound.asarray(np.arange(4.0)))
    assert bound.to_numpy(total) == 6.0
    np.testing.assert_array_equal(bound.to_numpy(outs), [0.0, 2.0, 6.0, 12.0])


def test_solo() -> None:
    group, x = Solo(), np.arange(3)
    group.barrier()
    assert group.sum(x) is x
    assert group.broadcast(x) is x
    with pytest.raises(SystemExit, match="no rows"):
        group.abort("no rows")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (5, 8, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2, 1)),
        ({"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"}, (9, 16, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, (0, 1, 0)),  # a batch script, without srun
        ({"PMI_RANK": "9", "PMI_SIZE": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1"}, (9, 16, 1)),
    ],
)
def test_the_place_comes_from_the_launcher(variables: dict[str, str], expected: tuple[int, int, int]) -> None:
    assert place(variables) == expected


@pytest.mark.parametrize(
    ("name", "absent", "said"),
    [
        ("mpi", "mpi4py", r'needs mpi4py(.|\n)*pip install "mlp-xp\[mpi\]"'),
        ("nccl", "cupy", r'needs CuPy and NCCL(.|\n)*pip install "mlp-xp\[cuda13\]"'),
        ("torch", "torch", r'needs torch(.|\n)*pip install "mlp-xp\[torch\]"'),
        ("gloo", "", r"unknown group 'gloo'.\nKnown names: mpi, nccl, torch"),
    ],
)
def test_what_a_group_lacks_is_named(monkeypatch: pytest.MonkeyPatch, name: str, absent: str, said: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BackendError, match=said):
        get_group.__wrapped__(name)


def test_torch_without_a_launcher_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(BackendError, match=r"MASTER_ADDR(.|\n)*torchrun"):
        get_group.__wrapped__("torch")


def test_an_uncaught_exception_ends_all_ranks(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    end_all_with(told.append)  # type: ignore[arg-type]
    sys.excepthook(ValueError, ValueError("row 7 is bad"), None)
    assert told == ["ended by ValueError"]
    assert "ValueError: row 7 is bad" in capsys.readouterr().err

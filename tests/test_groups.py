"""Groups of real processes: sums with the same bits on every rank, also inside loops, and one end for all ranks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.groups import Solo, get_group, mpi, nccl, with_group
from mlp_xp_backends.groups.base import Place, end_all_with, gpu_of, place
from mlp_xp_backends.groups.rendezvous import from_first

RANKS = 3
LIMIT = 60
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
    assert time.time() - float(ran.stdout.split()[0]) < 10.0
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
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
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


# CuPy where there is no GPU: arrays of NumPy in its clothes


class CupyArray:
    """An array that only the functions of a fake CuPy touch."""

    made: ClassVar[dict[int, Any]] = {}

    def __init__(self, x: Any, device: int = 0) -> None:
        self.x, self.device = np.array(x), Device(device)
        self.dtype, self.size = self.x.dtype, self.x.size
        self.data = SimpleNamespace(ptr=id(self))
        self.made[id(self)] = self

    def __setitem__(self, key: Any, value: Any) -> None:
        self.x[key] = value.x


CupyArray.__module__ = "cupy"


class Device:
    """A GPU; the stream that is current there is known by its number."""

    events: ClassVar[list[str]] = []
    current: ClassVar[list[int]] = [0]

    def __init__(self, id: int) -> None:
        self.id = id

    def use(self) -> None:
        self.events.append(f"use {self.id}")
        self.current[:] = [self.id]

    def __enter__(self) -> None:
        self.current.append(self.id)

    def __exit__(self, *_: object) -> None:
        self.current.pop()


class Stream:
    def __init__(self) -> None:
        self.device = Device.current[-1]
        self.ptr = 1000 + self.device

    def synchronize(self) -> None:
        Device.events.append(f"synchronize {self.device}")


class NcclError(RuntimeError):
    """What NCCL refuses."""


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = ModuleType("cupy")
    monkeypatch.setattr(Device, "events", [])
    monkeypatch.setattr(Device, "current", [0])
    monkeypatch.setattr(CupyArray, "made", {})

    class Communicator:
        """Two ranks that hold the same numbers; buffers are addresses, dtypes are NCCL's numbers."""

        def __init__(self, size: int, number: bytes, rank: int) -> None:
            if made.refuses:
                raise NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")
            Device.events.append(f"rank {rank} of {size} by {number[:3]!r} on {Device.current[-1]}")

        def sum(self, x: int, out: int, count: int, code: int, op: str, stream: int) -> None:
            Device.events.append(f"sum of {count} {code} in {stream}")
            made.made[out].x[...] = 2 * made.made[x].x

        def broadcast(self, x: int, out: int, count: int, code: int, root: int, stream: int) -> None:
            Device.events.append(f"broadcast of {count} {code} from {root} in {stream}")

        def destroy(self) -> None:
            Device.events.append("destroy")

    Communicator.allReduce = Communicator.sum  # type: ignore[attr-defined]  # NCCL's name
    nccl = SimpleNamespace(
        available=True,
        NcclError=NcclError,
        NcclCommunicator=Communicator,
        get_unique_id=lambda: bytes(range(128, 256)),
        NCCL_SUM="sum",
        **{f"NCCL_{name}": name.lower() for name in ("FLOAT32", "FLOAT64", "INT32", "INT64", "UINT8")},
    )
    vars(made).update(
        ndarray=CupyArray,
        asarray=lambda x, order: x if isinstance(x, CupyArray) else CupyArray(x, Device.current[-1]),
        array=lambda x: CupyArray(x.x, Device.current[-1]),
        empty_like=lambda x: CupyArray(np.full_like(x.x, 7), Device.current[-1]),
        asnumpy=lambda x: x.x,
        cuda=SimpleNamespace(
            get_current_stream=Stream, Device=Device, nccl=nccl, runtime=SimpleNamespace(getDeviceCount=lambda: 4)
        ),
        made=CupyArray.made,
        refuses=False,
    )
    cuda = ModuleType("cupy.cuda")
    vars(cuda).update(nccl=nccl)
    for module in (made, cuda):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("atexit.register", lambda f: f)
    return made


def test_device_memory_is_ready_before_mpi_reads_it(cupy: Any) -> None:
    """A CUDA-aware MPI does not wait for streams: pylops-mpi, issue 182. The stream is that of the array's GPU."""
    group = object.__new__(mpi.MpiGroup)

    def reduced(x: CupyArray, out: CupyArray) -> None:
        assert Device.events == ["synchronize 3"]
        assert out.device.id == 3
        out.x[...] = 2 * x.x

    group._comm = SimpleNamespace(Allreduce=reduced)
    np.testing.assert_array_equal(group.sum(CupyArray([1.0, 2.0], 3)).x, [2.0, 4.0])


def test_host_arrays_are_sent_from_where_they_are_stored() -> None:
    x = np.arange(4.0)
    sent, received = mpi._buffers(x)
    assert sent is x
    assert not np.shares_memory(x, received)


def test_nccl_sums_device_and_host_arrays(cupy: Any) -> None:
    group = get_group.__wrapped__("nccl")
    x = CupyArray([1.0, 2.0])
    np.testing.assert_array_equal(group.sum(x).x, [2.0, 4.0])
    np.testing.assert_array_equal(x.x, [1.0, 2.0])
    total = group.sum(np.asarray(3, np.int32))
    assert total.shape == ()
    assert total == 6
    np.testing.assert_array_equal(group.broadcast(np.asarray([3], np.uint8), root=1), [3])
    out = CupyArray([0.0, 0.0])
    assert group.sum(x, out) is out
    np.testing.assert_array_equal(out.x, [2.0, 4.0])
    group.barrier()
    assert Device.events == [
        *("use 0", "rank 0 of 1 by b'\\x80\\x81\\x82' on 0", "sum of 2 float64 in 1000", "sum of 1 int32 in 1000"),
        *("broadcast of 1 uint8 from 1 in 1000", "sum of 2 float64 in 1000", "sum of 1 int32 in 1000"),
    ]


def test_nccl_uses_the_gpu_of_the_rank(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever thread and on whatever current device; the id of the job is that of rank 0."""
    monkeypatch.setattr(nccl, "place", lambda: Place(6, 8, 2))
    monkeypatch.setattr(nccl, "from_first", lambda own, rank, size, at: b"the id")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    group = nccl.NcclGroup()
    assert Device.events == ["use 2", "rank 6 of 8 by b'the' on 2"]
    Device.current[:] = [0]
    group.sum(np.ones(3, np.float32))
    assert Device.events[2:] == ["sum of 3 float32 in 1002"]
    with pytest.raises(BackendError, match=r"on cuda:1, and the GPU of rank 6 is cuda:2(.|\n)*without a number"):
        group.sum(CupyArray([1.0], 1))


def test_two_ranks_on_one_gpu_are_one_clear_error(cupy: Any) -> None:
    cupy.refuses = True
    with pytest.raises(BackendError, match=r"rank 0 on cuda:0 of 4: NCCL_ERROR(.|\n)*one rank for each GPU"):
        get_group.__wrapped__("nccl")


def test_each_rank_has_a_gpu() -> None:
    assert [gpu_of(rank, visible=3) for rank in range(3)] == [0, 1, 2]
    assert gpu_of(3, visible=1) == 0  # a launcher that binds
    with pytest.raises(BackendError, match="rank 3 of this machine has no GPU: 3 are visible"):
        gpu_of(3, visible=3)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_all_ranks_receive_the_bytes_of_the_first() -> None:
    """In any order of arrival, and whoever else connects."""
    at, sent, found = ("127.0.0.1", free_port()), bytes(range(256)), {}

    def rank(number: int) -> None:
        found[number] = from_first(sent if number == 0 else b"", number, 4, at, patience=20.0)

    ranks = [Thread(target=rank, args=(number,)) for number in (2, 0, 3, 1)]
    ranks[0].start()
    time.sleep(0.2)
    ranks[1].start()
    for word in (b"GET / HTTP/1.1\r\n\r\n", b""):
        with suppress(OSError), socket.create_connection(at) as stray:
            stray.sendall(word)
    for thread in ranks[2:]:
        thread.start()
    for thread in ranks:
        thread.join(20.0)
    assert found == dict.fromkeys(range(4), sent)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_in_vain_is_one_clear_error(rank: int) -> None:
    with pytest.raises(BackendError, match=rf"rank {rank} cannot meet the other 1 at 127(.|\n)*Set MASTER_ADDR"):
        from_first(b"x", rank, 2, ("127.0.0.1", free_port()), patience=0.1)


def test_an_uncaught_exception_ends_all_ranks(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    end_all_with(told.append)  # type: ignore[arg-type]
    sys.excepthook(ValueError, ValueError("row 7 is bad"), None)
    assert told == ["ended by ValueError"]
    assert "ValueError: row 7 is bad" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::UserWarning")  # of CuPy, where NCCL is not installed: the test then skips
def test_nccl_on_a_real_gpu() -> None:
    try:
        group = get_group("nccl")
        backend = with_group(get_backend("cupy"), group)
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])
    for dtype in ("float32", "float64", "int32", "int64", "uint8"):
        x = np.arange(3, dtype=dtype)
        np.testing.assert_array_equal(backend.to_numpy(backend.xp.all_sum(backend.asarray(x))), x)
        np.testing.assert_array_equal(group.broadcast(x), x)
    assert group.sum(np.asarray(1.5)).shape == ()
    assert group.sum(np.zeros((0, 2))).shape == (0, 2)
    group.barrier()

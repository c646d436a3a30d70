"""Groups on GPUs: which device, stream and dtype a message uses, and how the ranks of NCCL find each other."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from test_groups import free_port

from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.groups import get_group, mpi, nccl, with_group
from mlp_xp_backends.groups.base import Place, gpu_of
from mlp_xp_backends.groups.rendezvous import from_first

# A fake CuPy for machines without a GPU: NumPy arrays behind CuPy's interface


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
    """The error that NCCL raises."""


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


def test_all_ranks_receive_the_bytes_of_the_first() -> None:
    """This holds in any order of arrival, even if other programs connect."""
    sent, found = bytes(range(256)), {}

    def rank(number: int) -> None:
        found[number] = from_first(sent if number == 0 else b"", number, 4, at, patience=60.0)

    ranks = [Thread(target=rank, args=(number,)) for number in (2, 0, 3, 1)]
    with free_port() as port:
        at = ("127.0.0.1", port)
        ranks[0].start()
        time.sleep(0.2)
        ranks[1].start()
        for word in (b"GET / HTTP/1.1\r\n\r\n", b""):
            with suppress(OSError), socket.create_connection(at) as stray:
                stray.sendall(word)
        for thread in ranks[2:]:
            thread.start()
        for thread in ranks:
            thread.join(60.0)
    assert found == dict.fromkeys(range(4), sent)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_in_vain_is_one_clear_error(rank: int) -> None:
    message = rf"rank {rank} cannot meet the other 1 at 127(.|\n)*Set MASTER_ADDR"
    with free_port() as port, pytest.raises(BackendError, match=message):
        from_first(b"x", rank, 2, ("127.0.0.1", port), patience=0.1)


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

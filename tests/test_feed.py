"""The transfer of data to the device: where data are stored, and in which windows and dtypes they are sent."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import Embedding, Rescale, mlp
from mlp_xp.data import feed as feeds
from mlp_xp.data.feed import Batch, Whole, bounds_of_chunks, fits, gather, is_mapped, make_feed, row_bytes, send
from mlp_xp_backends import get_backend
from mlp_xp_backends.protocol import Memory
from mlp_xp_backends.trees import ABSENT

ROWS = 50
NET = mlp(3, 2)
CPU = get_backend("cpu")


def data(dtype: str = "float32", rows: int = ROWS) -> Batch:
    numbers = np.arange(rows)
    return Batch(np.column_stack([numbers, -numbers, numbers]).astype(dtype), numbers.astype(np.int32), ABSENT)


class Device:
    """A device other than the host, with some free memory, that records the dtypes in which arrays are sent to it."""

    name, device, xp = "other", "cuda:0", np

    def __init__(self, free: int = 0) -> None:
        self.free, self.sent = free, []

    def memory(self) -> Memory:
        return Memory(self.free, self.free)

    def asarray(self, a: Any, dtype: Any = None) -> Any:
        if isinstance(a, np.ndarray) and not isinstance(a, There):
            self.sent.append((str(a.dtype), dtype))
        return np.asarray(a, dtype).view(There)


class There(np.ndarray):
    """An array that is stored on another device."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


# Windows


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("models", [None, 2])
@pytest.mark.parametrize("resident", [True, False])
def test_windows_are_the_batches_of_the_epoch(resident: bool, models: int | None, most: int, start: int) -> None:
    """Whatever their length: gathered from them, the steps from ``start`` on have the rows of the order."""
    shape = (ROWS,) if models is None else (models, ROWS)
    order = np.random.default_rng(0).permuted(np.broadcast_to(np.arange(ROWS), shape), axis=-1)
    feed = make_feed(CPU, NET, data(), "float32", resident)
    assert feed.resident is resident
    found, at = [], start
    for window, rows, end in feed.windows(Whole(order, 8), most, start):
        assert 0 < end - at == len(rows) <= most
        found += [gather(np, window, step).y for step in rows]
        at = end
    assert at == 7, "six batches of 8 rows, and one of 2"
    for step, y in enumerate(found, start):
        np.testing.assert_array_equal(y, order[..., 8 * step : 8 * step + 8])


def test_gathering_for_many_models_is_gathering_for_each() -> None:
    rows = np.random.default_rng(0).integers(0, ROWS, (2, 5))
    both = gather(np, data(), rows)
    for i in range(2):
        one = gather(np, data(), rows[i])
        np.testing.assert_array_equal(both.x[i], one.x)
        np.testing.assert_array_equal(both.y[i], one.y)


@pytest.mark.parametrize("models", [1, 3])
def test_windows_of_streamed_data_are_as_large_as_allowed_and_no_larger(
    models: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has 3 * 4 bytes of x and 4 of y; 6 steps of 8 rows fit, and 7 do not."""
    assert row_bytes(data()) == 16
    monkeypatch.setattr(feeds, "WINDOW_BYTES", 7 * models * 8 * 16 - 1)
    order = np.tile(np.arange(48 * 3), (models, 1))
    feed = make_feed(CPU, NET, data(rows=48 * 3), "float32", False)
    steps = [len(rows) for _, rows, _ in feed.windows(Whole(order, 8), 1000)]
    assert steps == [6, 6, 6]
    monkeypatch.setattr(feeds, "WINDOW_BYTES", 1)
    assert [len(rows) for _, rows, _ in feed.windows(Whole(order, 8), 1000)] == [1] * 18, "one step at least"


def test_the_next_window_is_gathered_while_the_present_one_is_in_use() -> None:
    """Another thread prepares one window in advance, but not more."""
    made: list[int] = []
    ready = [threading.Event() for _ in range(5)]

    def gathered(i: int) -> tuple[int, str]:
        made.append(i)
        ready[i].set()
        return i, threading.current_thread().name

    found = feeds._ahead(gathered, iter(range(5)))
    for i, (value, thread) in enumerate(found):
        assert value == i
        assert thread != threading.current_thread().name
        if i < 4:
            assert ready[i + 1].wait(10), "the next one is made without being asked for"
        assert max(made) <= i + 1
    assert not list(feeds._ahead(gathered, iter(())))


# Where the data are kept


@pytest.mark.parametrize(("free", "there"), [(2 * 800, False), (2 * 800 + 2, True)])
def test_data_are_resident_if_they_take_less_than_half_of_the_free_memory(free: int, there: bool) -> None:
    """50 rows of 3 float32 and an int32 label: 800 bytes, also of bytes, which become floats on the device."""
    for dtype in ("float32", "float64", "uint8"):
        device: Any = Device(free)
        assert fits(device, NET, data(dtype), "float32") is there
        made = make_feed(device, NET, data(dtype), "float32", None)
        assert made.resident is there
        assert isinstance(made.data.x, There) is there


def test_data_of_the_host_need_no_memory_of_numpy_unless_they_are_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(CPU), "memory", lambda self: Memory(0, 0))
    assert fits(CPU, NET, data("float32"), "float32")
    assert not fits(CPU, NET, data("float64"), "float32")
    embedding = mlp(4, 2, first=Embedding(5, 4, ids_per_row=1))
    for dtype, needs in (("int32", False), ("int64", True)):  # ids are int32 there
        ids = Batch(np.zeros((ROWS, 1), dtype), ABSENT, ABSENT)
        assert fits(CPU, embedding, ids, "float32") is not needs
        assert np.shares_memory(send(CPU, embedding, ids, "float32").x, ids.x) is not needs


def test_data_on_a_device_stay_there() -> None:
    device: Any = Device(0)
    there = data()._replace(x=device.asarray(data().x))
    assert make_feed(device, NET, there, "float32", False).resident


def test_arrays_of_other_libraries_on_the_host_are_streamed_as_arrays_of_numpy() -> None:
    torch = pytest.importorskip("torch")
    given = data()._replace(x=torch.arange(150, dtype=torch.float32).reshape(50, 3))
    made = make_feed(CPU, NET, given, "float32", False)
    assert type(made.data.x) is np.ndarray
    assert np.shares_memory(made.data.x, given.x.numpy())


def test_mapped_arrays_are_recognized_through_views(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(6, 2))
    for a in (mapped, mapped[2:], np.asarray(mapped), np.asarray(mapped)[::2]):
        assert is_mapped(a)
    for a in (np.zeros(3), np.array(mapped), [1.0], np.zeros((4, 2))[1:]):
        assert not is_mapped(a)


# What is sent


@pytest.mark.parametrize(
    ("network", "given", "sent", "there"),
    [
        (NET, "float64", [("float64", "float32")], "float32"),
        (NET, "int64", [("int64", "float32")], "float32"),
        (NET, "uint8", [("uint8", None)], "float32"),
        (NET, "int8", [("int8", None)], "float32"),
        (mlp(3, 2, first=Rescale(scale=0.1)), "uint8", [("uint8", None)], "uint8"),
        (mlp(12, 2, first=Embedding(60, 4, ids_per_row=3)), "int64", [("int64", "int32")], "int32"),
        (mlp(12, 2, first=Embedding(60, 4, ids_per_row=3)), "uint8", [("uint8", None)], "int32"),
    ],
)
def test_inputs_are_sent_as_the_first_layer_takes_them_and_bytes_as_bytes(
    network: Any, given: str, sent: list[Any], there: str
) -> None:
    """Bytes are cast on the device: that is a quarter of the transfer."""
    device: Any = Device()
    x = send(device, network, Batch(data(given).x, ABSENT, ABSENT), "float32").x
    assert device.sent == sent
    assert str(x.dtype) == there


def test_labels_keep_their_dtype_and_real_targets_and_weights_take_that_of_the_network() -> None:
    labels, real = np.arange(4, dtype=np.int32), np.arange(4.0)
    x = np.zeros((4, 3))
    for y, dtype in ((labels, "int32"), (real[:, None], "float32")):
        there = send(CPU, NET, Batch(x, y, labels), "float32")
        assert [str(a.dtype) for a in there] == ["float32", dtype, "float32"]


# Chunks


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 40, 41, 96, 97])
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_chunks_cover_the_steps_once_and_have_batches_of_one_size(rows: int, start: int, most: int) -> None:
    steps = -(-rows // 8)
    if start >= steps:
        return
    bounds = bounds_of_chunks(rows, 8, most, start)
    assert bounds[0] == start and bounds[-1] == steps and all(0 < b - a <= most for a, b in pairwise(bounds))
    for a, b in pairwise(bounds):
        sizes = {min(8 * (i + 1), rows) - 8 * i for i in range(a, b)}
        assert len(sizes) == 1


@pytest.mark.parametrize(
    ("full", "most", "length"), [(12, 12, 12), (12, 5, 4), (12, 8, 6), (13, 5, 5), (7, 7, 7), (10, 6, 5)]
)
def test_chunks_have_one_length_where_more_than_half_of_the_allowed_one_divides_the_steps(
    full: int, most: int, length: int
) -> None:
    """Some backends compile for every length."""
    lengths = np.diff(bounds_of_chunks(8 * full, 8, most, 0))
    assert set(lengths[:-1]) <= {length} and lengths[0] == length
    assert bool(lengths[-1] == length) is (full % length == 0)

"""Streams of batches and frames: what counts as a source, what is sent together, and what is converted."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from mlp_xp import SoftmaxCrossEntropy, mlp
from mlp_xp.data import stream as streams
from mlp_xp.data.checks import is_frame, is_source
from mlp_xp.data.feed import Whole, gather
from mlp_xp.data.frames import frame_to_numpy
from mlp_xp.data.sources import BatchSource, arrow_batches, as_source
from mlp_xp.data.stream import Stream
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import ABSENT

CPU = get_backend("cpu")


def batch(rows: int, *, first: int = 0, weight: float | None = None) -> tuple[np.ndarray, ...]:
    """Rows with their number in the first column."""
    x = np.zeros((rows, 3), np.float32)
    x[:, 0] = np.arange(first, first + rows)
    return (x, np.zeros(rows, int)) if weight is None else (x, np.zeros(rows, int), np.full(rows, weight))


def stream_of(*sizes: int, weight: float | None = None, **options: Any) -> Stream:
    starts = np.cumsum([0, *sizes])
    batches = [batch(n, first=int(first), weight=weight) for n, first in zip(sizes, starts, strict=False)]
    return Stream(CPU, mlp(3, 2), SoftmaxCrossEntropy(), BatchSource(batches, **options), "float32")


class Sized:
    """An iterable with a length, like a loader."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        return iter([batch(4)] * self.n)


class Unsized(Sized):
    """As a loader of an iterable data set."""

    def __len__(self) -> int:
        raise TypeError("no length")


# Sources


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (BatchSource([1]), True),
        (Sized(3), True),
        (lambda: iter(()), True),
        (iter(()), True),
        ([[1.0]], False),
        ((1, 2), False),
        ({"x": 1}, False),
        ("text", False),
        (np.zeros((2, 2)), False),
        (3, False),
        (None, False),
        (list, False),
        (BatchSource, False),
    ],
)
def test_what_is_a_source(given: Any, expected: bool) -> None:
    assert is_source(given) is expected


def test_objects_that_convert_to_arrays_are_no_sources() -> None:
    class Rows:
        def __iter__(self) -> Iterator[Any]:
            return iter(())

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.zeros((2, 2))

    assert not is_source(Rows())


def test_the_length_of_a_source_is_that_of_its_batches_unless_it_is_given() -> None:
    assert BatchSource(Sized(3)).length == 3 and BatchSource(Unsized(3)).length is None
    assert BatchSource(Sized(3), length=2).length == 2 and len(list(BatchSource(Sized(3), length=2))) == 2
    assert BatchSource(lambda: Sized(3)).length is None and len(list(BatchSource(lambda: Sized(3)))) == 3
    with pytest.raises(ValueError, match=r"len\(\) of the source must be a positive integer, not 0"):
        BatchSource([])
    with pytest.raises(ValueError, match="length must be a positive integer, not 0"):
        BatchSource(Sized(3), length=0)
    source = BatchSource(Sized(3))
    assert as_source(source) is source and as_source(Sized(2)).length == 2


def test_what_can_be_read_once_is_no_source() -> None:
    with pytest.raises(TypeError, match=r"got <list_iterator.*, which can be read once: pass the generator function"):
        BatchSource(iter([1]))


# Streams


def windows(stream: Stream, most: int, start: int = 0) -> list[tuple[list[int], int]]:
    """The rows of each step, which are numbered, and the steps done after each window."""
    found = []
    for data, rows, end in stream.windows(Whole(np.arange(len(stream.weights)), 1), most, start):
        found.append(([gather(np, data, step).x[:, 0].astype(int).tolist() for step in rows], end))
    return found


def test_batches_of_one_shape_are_sent_together() -> None:
    stream = stream_of(2, 2, 2, 3, 2)
    expected = [([[0, 1], [2, 3], [4, 5]], 3), ([[6, 7, 8]], 4), ([[9, 10]], 5)]
    assert windows(stream, 1000) == expected
    assert stream.weights.tolist() == [2.0, 2.0, 2.0, 3.0, 2.0] and stream.rows == 11
    assert windows(stream, 1000, 1) == [([[2, 3], [4, 5]], 3), *expected[1:]]
    assert windows(stream, 1000, 4) == expected[2:]
    assert windows(stream, 1000, 5) == []
    assert stream.rows == 11, "the rows of the last pass"


@pytest.mark.parametrize(
    ("limits", "most", "stack"),
    [({}, 1000, 7), ({"STACK": 3}, 1000, 3), ({}, 6, 3), ({}, 7, 3), ({}, 1, 1), ({"WINDOW_BYTES": 100}, 1000, 3)],
)
def test_stacks_have_as_many_batches_as_allowed(
    limits: dict[str, int], most: int, stack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two rows with 12 bytes of x and 4 of y: ``most`` rows, ``STACK`` batches, or ``WINDOW_BYTES``."""
    for name, limit in limits.items():
        monkeypatch.setattr(streams, name, limit)
    ends = [end for _, end in windows(stream_of(*[2] * 7), most)]
    assert ends == [*range(stack, 7, stack), 7]


def test_weights_of_batches_are_sums_of_those_of_rows() -> None:
    stream = stream_of(2, 3, weight=0.5)
    assert stream.data.x.shape == (2,) and stream.data.w is stream.weights and stream.data.y is ABSENT
    assert [b.w.tolist() for b in stream.batches()] == [[0.5, 0.5], [0.5, 0.5, 0.5]]
    assert stream.weights.tolist() == [1.0, 1.5]


def test_blocks_are_batches_with_a_leading_axis() -> None:
    blocks = list(stream_of(2, 3).blocks())
    assert [(block.x.shape, block.y.shape) for block in blocks] == [((1, 2, 3), (1, 2)), ((1, 3, 3), (1, 3))]


def test_a_pass_ends_after_its_length_and_may_not_end_before() -> None:
    def batches() -> Iterator[Any]:
        for i in range(made[0]):
            taken.append(i)
            yield batch(2)

    made, taken = [4], []
    stream = Stream(CPU, mlp(3, 2), SoftmaxCrossEntropy(), BatchSource(batches), "float32")
    assert len(stream.weights) == len(taken) == 4, "they are counted once"
    made[0] = 9
    taken.clear()
    assert len(list(stream.batches())) == 4 and stream.rows == 8
    made[0] = 3
    with pytest.raises(ValueError, match="the source ended after 3 batches, but an epoch has 4: pass another length"):
        list(stream.batches())


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (3, TypeError, r"batch 1 of the source must be \(x, y\) or \(x, y, sample_weight\), not 3"),
        ((1,), TypeError, "batch 1 of the source must be"),
        ((1, 2, 3, 4), TypeError, "batch 1 of the source must be"),
        ((np.zeros((2, 4)), np.zeros(2, int)), ValueError, "batch 1 of the source: x has 4 columns"),
        ((len, np.zeros(2, int)), TypeError, "batch 1 of the source: x must be an array"),
        ((np.zeros((2, 3)), np.full(2, 5)), ValueError, r"batch 1 of the source: y must be integers from 0 to 1"),
        ((*batch(2), np.zeros(2)), ValueError, "batch 1 of the source: sample_weight must be finite and non-negative"),
    ],
)
def test_bad_batches_are_named_by_their_number(bad: Any, kind: type, message: str) -> None:
    source = BatchSource([batch(2), bad])
    stream = Stream(CPU, mlp(3, 2), SoftmaxCrossEntropy(), source, "float32")
    with pytest.raises(kind, match=message):
        list(stream.batches())


# Frames


def test_frames_are_recognized_by_what_they_offer() -> None:
    assert not any(map(is_frame, (np.zeros((2, 2)), [[1.0]], {"a": [1]}, 3, np.rec.array([(1, 2.0)]))))
    for name, frames in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")):
        library = pytest.importorskip(name)
        assert is_frame(getattr(library, frames)({"a": [1]}))


@pytest.mark.parametrize("extra", [5, 6, 9])
def test_five_columns_that_are_not_numeric_are_named_and_the_others_counted(extra: int) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({f"c{i}": ["a"] for i in range(extra)} | {"n": [1]})
    more = f" and {extra - 5} more" if extra > 5 else ""
    with pytest.raises(ValueError, match=rf"numeric: 'c0' \(\w+\), .*'c4' \(\w+\){more}; encode them"):
        frame_to_numpy(frame)


def test_types_of_polars_and_arrow() -> None:
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    numbers = {"a": [1, 2], "b": [True, False], "c": [0.5, 1.5]}
    for frame in (pl.DataFrame(numbers), pa.table(numbers)):
        np.testing.assert_array_equal(frame_to_numpy(frame), [[1, 1, 0.5], [2, 0, 1.5]])
    for frame in (
        pl.DataFrame({"d": [Decimal("1.5")]}),
        pl.DataFrame({"d": ["a"]}),
        pa.table({"d": [Decimal("1.5")]}),
        pa.table({"d": ["a"]}),
        pa.table({"d": [[1.0]]}),
    ):
        with pytest.raises(ValueError, match="x has columns that are not numeric: 'd'"):
            frame_to_numpy(frame)


def test_small_parts_of_arrow_data_make_whole_batches() -> None:
    """Parts of 7 and 4 rows, by batches of 5: two whole ones and a last row."""
    pa = pytest.importorskip("pyarrow")
    table = pa.concat_tables(
        [pa.table({"a": np.arange(7), "y": np.arange(7)}), pa.table({"a": [7, 8, 9, 10], "y": [7, 8, 9, 10]})]
    )
    for size, rows in ((5, [5, 5, 1]), (11, [11]), (4, [4, 4, 3]), (20, [11])):
        source = arrow_batches(table, "y", batch_size=size)
        found = list(source)
        assert [len(y) for _, y in found] == rows and source.length == len(rows)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), np.arange(11)[:, None])


def test_batches_of_arrow_data_have_1024_rows_by_default() -> None:
    pa = pytest.importorskip("pyarrow")
    source = arrow_batches(pa.table({"a": np.zeros(1500), "y": np.zeros(1500, int)}), "y")
    assert [len(y) for _, y in source] == [1024, 476]


def test_columns_of_arrow_data_may_serve_twice() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0], "w": [0.5, 1.5]})
    ((x, y, w),) = arrow_batches(table, "b", features=["b", "a"], sample_weight="w")
    assert (x.tolist(), y.tolist(), w.tolist()) == ([[3.0, 1.0], [4.0, 2.0]], [3.0, 4.0], [0.5, 1.5])
    ((x, y, w),) = arrow_batches(table, ["b"], sample_weight="w")
    assert (x.tolist(), y.tolist()) == ([[1.0], [2.0]], [[3.0], [4.0]])
    for columns in ({"features": ["a", "no"]}, {"sample_weight": "no"}):
        with pytest.raises(ValueError, match="the data have no column 'no'; their columns are a, b, w"):
            arrow_batches(table, "b", **columns)
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        arrow_batches(table, "b", batch_size=0)

"""The checks of data where they enter: what is accepted, up to the ends of each range, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlp_xp import BinaryCrossEntropy, Embedding, Poisson, SoftmaxCrossEntropy, SquaredError, mlp
from mlp_xp.data.checks import check_inputs, check_targets, check_weights, first_not_finite
from mlp_xp.data.class_weights import check_class_weight, weigh_classes
from mlp_xp_backends import get_backend
from mlp_xp_backends.trees import ABSENT

CPU = get_backend("cpu")
CLASSES, BINARY, COUNTS, REAL = SoftmaxCrossEntropy(), BinaryCrossEntropy(), Poisson(), SquaredError()
TINY, MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def targets(loss: Any, y: Any, n_out: int | None = 3) -> Any:
    return check_targets(CPU, loss, n_out, y, len(y))


# Inputs


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_real_numbers_of_every_dtype_are_inputs(dtype: str) -> None:
    x = np.ones((2, 3), dtype)
    assert check_inputs(CPU, mlp(3, 2), x) is x


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_floats_of_other_libraries_are_inputs(kind: str) -> None:
    """NumPy has no bfloat16."""
    torch = pytest.importorskip("torch")
    x = torch.zeros((2, 3), dtype=getattr(torch, kind))
    assert check_inputs(CPU, mlp(3, 2), x) is x
    with pytest.raises(ValueError, match="must hold real numbers"):
        check_inputs(CPU, mlp(3, 2), torch.zeros((2, 3), dtype=torch.complex64))


@pytest.mark.parametrize("x", [[[1.0, 2.0, 3.0]], ([1, 2, 3], [4, 5, 6])])
def test_lists_of_rows_are_inputs(x: Any) -> None:
    np.testing.assert_array_equal(check_inputs(CPU, mlp(3, 2), x), x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (iter([[1.0, 2.0, 3.0]]), "rows must be an array of shape .rows, features., not .*: stack its rows first"),
        (len, "rows must be an array .* stack its rows first"),
        (3.0, r"rows must be an array of shape \(rows, features\), not .*3\.0"),
        (np.zeros((2, 3, 1)), r"rows must have two axes, .* \(2, 3, 1\): use rows\.reshape\(len\(rows\), -1\)"),
        (np.zeros(3), r"its shape is \(3,\): for one row use rows\[None, :\]"),
        (np.zeros((0, 3)), "rows has no rows"),
        (np.zeros((2, 4)), "rows has 4 columns, which do not fit the network"),
    ],
)
def test_inputs_that_are_refused(x: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        check_inputs(CPU, mlp(3, 2), x, "rows")


def test_ids_lie_between_0_and_their_number() -> None:
    network = mlp(4, 2, first=Embedding(5, 4, ids_per_row=1))
    for dtype in ("int8", "uint8", "int64"):
        check_inputs(CPU, network, np.array([[0], [4]], dtype))
        with pytest.raises(ValueError, match=r"x must be integers from 0 to 4 for 5 ids, but contains 0 to 5"):
            check_inputs(CPU, network, np.array([[0], [5]], dtype))
    with pytest.raises(ValueError, match=r"but contains -1 to 4"):
        check_inputs(CPU, network, np.array([[-1], [4]]))
    for x in (np.zeros((2, 1)), np.zeros((2, 1), bool)):
        with pytest.raises(ValueError, match="must hold integer ids for the embedding"):
            check_inputs(CPU, network, x)


def test_the_first_row_that_is_not_finite_is_found_in_any_block() -> None:
    x = np.zeros((25, 2), np.float32)
    assert first_not_finite(CPU, x, 10) is None
    for row in (24, 20, 12, 10, 9, 0):
        x[row, row % 2] = (np.nan, np.inf)[row % 2]
        assert [first_not_finite(CPU, x, block) for block in (1, 10, 25, 100)] == [row] * 4
    assert first_not_finite(CPU, np.zeros((3, 2), int)) is None


# Targets


def test_labels_are_int32_from_0_to_the_number_of_outputs() -> None:
    for dtype in ("int8", "uint8", "int32", "int64"):
        y = targets(CLASSES, np.array([0, 2, 1], dtype))
        assert (y.dtype, y.tolist()) == (np.int32, [0, 2, 1])
    assert targets(CLASSES, np.array([0, 99]), None).tolist() == [0, 99]
    with pytest.raises(ValueError, match=r"y must be integers from 0 to 2 .* contains 0 to 3: number the"):
        targets(CLASSES, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"y must be integers of at least 0, but contains -1 to 0"):
        targets(CLASSES, np.array([0, -1]), None)


@pytest.mark.parametrize(
    ("y", "how"),
    [
        (np.array([0.0, 2.0]), r"but its dtype is float64: use y\.astype\(int\)"),
        (np.array([True, False]), r"but its dtype is bool: use y\.astype\(int\)"),
        (np.array([0.5, 2.0]), r"float64: number the classes: np\.unique\(y, return_inverse=True\)"),
        (
            np.array(["a", "b"]),
            r"must hold numbers, but its dtype is <U1: number the classes, for instance with np\.uniq",
        ),
    ],
)
def test_labels_of_other_kinds_are_refused_with_the_remedy(y: Any, how: str) -> None:
    with pytest.raises(ValueError, match=how):
        targets(CLASSES, y)


def test_distributions_are_not_negative_and_sum_to_1_within_a_thousandth() -> None:
    for row in ([0.2, 0.3, 0.5], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5009]):
        assert targets(CLASSES, np.array([row])).dtype == np.float64
    for row in ([0.2, 0.3, 0.502], [0.2, 0.3, 0.498], [-0.1, 0.6, 0.5]):
        with pytest.raises(ValueError, match="must contain one distribution per row: non-negative numbers"):
            targets(CLASSES, np.array([[0.0, 1.0, 0.0], row]))
    one_hot = targets(CLASSES, np.eye(3, dtype=np.int8))
    assert one_hot.dtype == np.float32


@pytest.mark.parametrize(
    ("loss", "fine", "bad", "message"),
    [
        (BINARY, [0.0, 0.5, 1.0], [-1e-9, 1.0 + 1e-9], r"y must be in \[0, 1\] for BinaryCrossEntropy, not "),
        (COUNTS, [0.0, 0.5, 1e9], [-1e-9], "y must not be negative for Poisson, but holds -1e-09"),
        (REAL, [-1e30, 0.0, 1e30], [np.nan, np.inf, -np.inf], "y holds NaN or infinity"),
        (BINARY, [1], [np.nan], "y holds NaN or infinity"),
    ],
)
def test_each_loss_has_its_range_of_targets(loss: Any, fine: list[float], bad: list[float], message: str) -> None:
    np.testing.assert_array_equal(targets(loss, np.array(fine), 1), np.array(fine)[:, None])
    for value in bad:
        with pytest.raises(ValueError, match=message):
            targets(loss, np.array([0.0, value]), 1)


def test_targets_have_a_row_per_row_and_a_column_per_output() -> None:
    for n_out in (1, None):
        assert targets(REAL, np.zeros(4), n_out).shape == (4, 1)
    assert targets(REAL, np.zeros((4, 3))).shape == (4, 3)
    assert targets(REAL, np.zeros((4, 5)), None).shape == (4, 5)
    for y in (np.zeros(4), np.zeros((4, 2)), np.zeros((4, 3, 1))):
        with pytest.raises(ValueError, match=r"y must have shape \(4, 3\) for SquaredError, not \(4,.*\)$"):
            targets(REAL, y)
    with pytest.raises(ValueError, match=r"y has shape \(3,\) but x has 4 rows: give one target per row"):
        check_targets(CPU, REAL, 1, np.zeros(3), 4)


# Weights


@pytest.mark.parametrize("w", [[0.0, TINY], [MAX / 2, MAX / 2], [0, 3], [True, False], [5e-324, 1.0]])
def test_weights_in_the_range_of_float32(w: list[float]) -> None:
    np.testing.assert_array_equal(check_weights(CPU, np.array(w), 2, "float32"), w)


@pytest.mark.parametrize("w", [[0.0, TINY / 2], [MAX, MAX / 2], [5e-324, 0.0]])
def test_weights_out_of_the_range_of_float32_are_refused_and_fit_float64(w: list[float]) -> None:
    with pytest.raises(ValueError, match="out of the range of float32: divide the weights by their mean"):
        check_weights(CPU, np.array(w), 2, "float32")
    if min(w, key=lambda v: v or 1.0) > 5e-324:
        check_weights(CPU, np.array(w), 2, "float64")


@pytest.mark.parametrize("w", [[1.0, -1.0], [1.0, np.nan], [1.0, np.inf], [0.0, 0.0]])
def test_weights_that_make_no_sense(w: list[float]) -> None:
    with pytest.raises(ValueError, match="must be finite and non-negative, with at least one positive"):
        check_weights(CPU, np.array(w), 2, "float32")


@pytest.mark.parametrize("w", [np.ones(3), np.ones((2, 1)), np.ones(()), np.array(["1", "2"])])
def test_weights_are_one_number_per_row(w: Any) -> None:
    with pytest.raises(ValueError, match="sample_weight must hold 2 numbers, one per row, not "):
        check_weights(CPU, w, 2, "float32")
    assert check_weights(CPU, None, 2, "float32") is ABSENT


# Class weights


def test_class_weights_multiply_the_weights_of_rows() -> None:
    y = np.array([0, 2, 2, 0])
    w = np.array([1.0, 2.0, 3.0, 4.0])
    assert weigh_classes(None, y, 3, w) is w
    for table in ([2.0, 1.0, 10.0], {0: 2.0, 2: 10.0}):
        np.testing.assert_array_equal(weigh_classes(table, y, 3), [2.0, 10.0, 10.0, 2.0])
        np.testing.assert_array_equal(weigh_classes(table, y, 3, w), [2.0, 20.0, 30.0, 8.0])


def test_balanced_classes_have_equal_totals_that_sum_to_the_rows() -> None:
    """Over all processes: this one has two rows of class 0 and one of class 2, the others six of class 2."""
    y = np.array([0, 2, 0])
    weights = weigh_classes("balanced", y, 4, total=lambda counts: counts + np.array([0, 0, 6, 0]))
    np.testing.assert_allclose(weights, [9 / 2 / 2, 9 / 2 / 7, 9 / 2 / 2])


def test_class_weights_need_labels() -> None:
    with pytest.raises(ValueError, match=r"integer class labels of shape \(rows,\), but y has shape \(3, 3\)"):
        weigh_classes("balanced", np.eye(3), 3)
    for unknown in (-1, 3):
        with pytest.raises(ValueError, match=rf"names class {unknown}, but the classes are 0 \.\.\. 2"):
            weigh_classes({unknown: 1.0}, np.array([0]), 3)
    with pytest.raises(ValueError, match="must hold 3 weights, one for each class, not 2"):
        weigh_classes([1.0, 2.0], np.array([0]), 3)


@pytest.mark.parametrize("bad", [True, "1", None, 0, -1.0, np.inf, np.nan, 1j])
def test_a_class_weight_is_a_finite_number_above_0(bad: Any) -> None:
    for given in ([1.0, bad], {0: bad}):
        with pytest.raises(ValueError, match="a class weight must be a finite number above 0, not "):
            check_class_weight(given)


def test_class_weights_become_numbers_of_python() -> None:
    assert check_class_weight(None) is None
    for given in ([1, 2.5], (np.int64(1), np.float32(2.5)), np.array([1.0, 2.5])):
        stored = check_class_weight(given)
        assert stored == [1.0, 2.5] and {type(v) for v in stored} == {float}
    stored = check_class_weight({np.int64(3): np.float32(0.5)})
    assert stored == {3: 0.5} and type(next(iter(stored))) is int
    for bad in (True, 1.0, "a"):
        with pytest.raises(TypeError, match="a class is an integer"):
            check_class_weight({bad: 1.0})
    for bad in ("even", 3, SimpleNamespace()):
        with pytest.raises(TypeError, match="class_weight must be 'balanced', a weight for each class in order, or"):
            check_class_weight(bad)

"""Unit tests of the compiler: BLAS on any layout, comparison of recordings, rules of programs, memory planning."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends.compiler.passes.picks import picks
from mlp_xp_backends.compiler.passes.separate import separate
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value, new_value
from mlp_xp_backends.compiler.recorder import Unrepeatable, record
from mlp_xp_backends.compiler.targets.cpu import libraries
from mlp_xp_backends.compiler.targets.cpu.libraries import mkl, openblas
from mlp_xp_backends.compiler.targets.cpu.memory import Place, Plan
from mlp_xp_backends.compiler.targets.cpu.run import Runner
from mlp_xp_backends.compiler.verify import InvalidProgram, verify, verify_memory
from tests.compiler_cases import (
    LIBRARIES,
    Library,
    assert_compiled,
    assert_same,
    compiled,
    copied,
    f,
    stepwise,
    verified,
)

needs_openblas = pytest.mark.skipif(openblas() is None, reason="NumPy has no OpenBLAS")

LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "rows apart": lambda a: np.pad(a, ((0, 0), (1, 2)))[:, 1:-2],
    "columns apart": lambda a: np.pad(a, ((1, 2), (0, 0))).T.copy().T[1:-2],
    "every other column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "rows reversed": lambda a: a[::-1].copy()[::-1],
    "columns reversed": lambda a: a[:, ::-1].copy()[:, ::-1],
    "one row many times": lambda a: np.broadcast_to(a[:1], a.shape),
}
READABLE = ("C", "Fortran", "rows apart", "columns apart")


@pytest.mark.parametrize("library", LIBRARIES[1:])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1)])
def test_products_of_matrices_in_any_layout(sizes: tuple[int, int, int], dtype: str, library: Library) -> None:
    found, (m, k, n) = library(), sizes
    assert found is not None
    alpha, beta = np.asarray(0.5, dtype), np.asarray(-2, dtype)
    for one, two in itertools.product(LAYOUTS, repeat=2):
        a, b = LAYOUTS[one](f((m, k), 1, dtype)), LAYOUTS[two](f((k, n), 2, dtype))
        c = np.pad(f((m, n), 3, dtype), 1)[1:-1, 1:-1]
        call = found.gemm(c, a, b, alpha, beta)
        readable = READABLE if min(sizes) > 1 else READABLE[:3]
        assert call is not None or not {one, two} <= set(readable)
        if call is not None:
            expected = 0.5 * (a @ b) - 2 * c
            call[0](*call[1])
            assert_same(c, expected, 10.0)


@needs_openblas
def test_no_product_into_what_is_not_in_rows() -> None:
    library, one = openblas(), np.ones((), np.float32)
    assert library is not None
    for c in (np.asfortranarray(f((3, 4))), f((3, 8))[:, ::2], f((3, 4))[::-1]):
        assert library.gemm(c, f((3, 5)), f((5, 4)), one, one) is None


@needs_openblas
@pytest.mark.parametrize("rows", [4, 40, 400])
@pytest.mark.parametrize("stack", [(), (3,)])
@pytest.mark.parametrize("is_fast", [False, True])
def test_transposed_factors_are_copied_if_the_copy_is_faster(
    stack: tuple[int, ...], rows: int, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is the one call more; products of few rows, and of more than a million multiplications, have none."""
    library = openblas()
    monkeypatch.setattr(library, "_has_avx512", is_fast)

    def body(xp: Any, carry: Any, w: Any, x: Any) -> Any:
        return carry, xp.matmul(x, w.mT)

    w, x = f((*stack, 60, 50), 1), f((5, *stack, rows, 50), 2)
    loop = compiled(body, openblas)
    _, out = loop((), w, x)
    assert_same(out, x @ w.mT, 10.0)
    (runner,) = loop.ready.values()
    assert len(runner.each) == 1 + (is_fast and rows == 40)


def test_no_product_of_other_dtypes() -> None:
    for find in (openblas, mkl):
        library, a, one = find(), np.ones((2, 2), np.float16), np.ones((), np.float16)
        assert library is None or library.gemm(a, a, a, one, one) is None


@needs_openblas
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_forked_inside_a_run_has_all_its_threads() -> None:
    threadpoolctl, library = pytest.importorskip("threadpoolctl"), openblas()
    assert library is not None
    with threadpoolctl.threadpool_limits(2), library.on_one_core(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer Pythons, about threads
        child = os.fork()
        if child == 0:  # never returns
            signal.alarm(60)
            os._exit(library.threads)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="MKL is used on Linux only")
def test_libraries_that_are_installed_are_found() -> None:
    """This test ensures that the tests of these libraries are not skipped by mistake."""
    assert (mkl() is not None) == any(d.name.lower() == "mkl" for d in metadata.distributions())
    bundled = Path(np.__file__).parent.parent / "numpy.libs"
    assert (openblas() is not None) == any(bundled.glob("*openblas*"))


def test_axes_of_length_1_have_any_stride() -> None:
    number = np.dtype("f")
    assert Value((1, 4), number, (999, 4)).is_contiguous
    assert Value((0, 4), number, (4, 999)).is_contiguous
    assert not Value((2, 4), number, (999, 4)).is_contiguous


def test_mkl_that_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLP_XP_BLAS", "mkl")
    monkeypatch.setattr(libraries, "mkl", lambda: None)
    with pytest.raises(ValueError, match="pip install mkl"):
        libraries.blas.__wrapped__()


SAME = {"c": f((2, 2)), "k": f((2, 2)), "x": f((3, 2, 2))}
BODIES = {
    "": lambda xp, c, k, x: (c + x, xp.sum(x, axis=0)),
    "another function": lambda xp, c, k, x: (c - x, xp.sum(x, axis=0)),
    "another order": lambda xp, c, k, x: (x + c, xp.sum(x, axis=0)),
    "another axis": lambda xp, c, k, x: (c + x, xp.sum(x, axis=1)),
    "another source": lambda xp, c, k, x: (c + k, xp.sum(x, axis=0)),
    "an array of its own": lambda xp, c, k, x: (c + OWN, xp.sum(x, axis=0)),
    "a copy of it": lambda xp, c, k, x: (c + OWN.copy(), xp.sum(x, axis=0)),
    "other numbers": lambda xp, c, k, x: (c + (OWN + 1), xp.sum(x, axis=0)),
    "another dtype": lambda xp, c, k, x: (c + OWN.astype("float16"), xp.sum(x, axis=0)),
    "another shape": lambda xp, c, k, x: (c + OWN[:1], xp.sum(x, axis=0)),
    "one operation more": lambda xp, c, k, x: (c + x, xp.sum(xp.exp(x), axis=0)),
    "one result more": lambda xp, c, k, x: (c + x, (xp.sum(x, axis=0), x)),
    "another result": lambda xp, c, k, x: (c + x, c + x),
}
OWN = f((2, 2), 5)
OWN[0, 0] = np.nan


def alternating(*bodies: Any) -> Any:
    turns = itertools.cycle(bodies)
    return lambda *given: next(turns)(*given)


def repeats(first: Any, second: Any) -> bool:
    """Whether a body that is ``first`` in one call and ``second`` in the next one can be recorded."""
    try:
        record(alternating(first, second), *SAME.values())
    except Unrepeatable:
        return False
    return True


def test_a_body_that_computes_something_else_at_its_next_call_is_not_recorded() -> None:
    pairs = {frozenset((a, b)) for a, b in itertools.product(BODIES, repeat=2) if repeats(BODIES[a], BODIES[b])}
    assert pairs == {*(frozenset((name,)) for name in BODIES), frozenset(("an array of its own", "a copy of it"))}


def test_what_has_no_effect_may_differ() -> None:
    """Here an operation on an array that is new in every call, and the order of two others."""
    bodies = (
        lambda xp, c, k, x: (c, (xp.exp(x), xp.tanh(x))),
        lambda xp, c, k, x: (c, (xp.tanh(x), xp.exp(x + f((2, 2))), xp.exp(x))[2::-2]),
    )
    assert repeats(*bodies)
    assert not repeats(bodies[0], lambda *given: (given[1], bodies[1](*given)[1][::-1]))


def test_equal_arrays_of_a_body_are_told_apart() -> None:
    """New arrays at every call, and the body's own, which may change after it is recorded."""
    a, b = f((2, 2)), f((2, 2))

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return c, (x + a, x + b, x + xp.zeros(2) + a.copy(), x * xp.zeros(2))

    for loop in (compiled(body), stepwise(body)):
        _, before = loop((), (), f((3, 2, 2)))
        b += 1
        _, after = loop((), (), f((3, 2, 2)))
        assert [np.array_equal(u, v) for u, v in zip(before, after, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize("plainly", [lambda xp, z: z[:1], lambda xp, z: z[:, ::2] * 1, lambda xp, z: z * 2])
def test_picks_need_a_row_for_every_id(plainly: Any) -> None:
    """Numbers that are broadcast against the one-hot rows are not picked by id."""
    n = 6000

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        z, ids = plainly(xp, k), x
        hot = xp.one_hot(ids, z.shape[1], dtype=z.dtype)
        return c, (xp.sum(hot * z, axis=-1), (z - hot)[:, :2])

    assert_compiled(body, (), f((3, n)), np.array([[0, 5, 2], [1, 1, 2999]]))
    program = record(body, (), f((3, n)), np.array([[0, 5, 2]]))
    left = Kind.ONE_HOT in {op.kind for op in picks(program).ops}
    assert left == (plainly(np, f((3, n))).shape[0] == 1)


@pytest.mark.parametrize(
    ("name", "hot"),
    [
        ("added to", lambda xp, h, z: z + h),
        ("subtracted from", lambda xp, h, z: h - z),
        ("kept", lambda xp, h, z: h),
        ("summed over ids", lambda xp, h, z: xp.sum(h * z, axis=0)),
        ("kept dimensions", lambda xp, h, z: xp.sum(h * z, axis=-1, keepdims=True)),
        ("largest", lambda xp, h, z: xp.max(h * z, axis=-1)),
        ("in another dtype", lambda xp, h, z: xp.sum(h * z, axis=-1, dtype=xp.float64)),
        ("in float64", lambda xp, h, z: z - xp.astype(h, xp.float64)),
        ("product read twice", lambda xp, h, z: xp.sum(h * z, axis=-1) + (h * z)[:, 0]),
        ("alone", lambda xp, h, z: xp.sum(h * h, axis=-1)),
        ("picked and added to", lambda xp, h, z: (xp.sum(h * z, axis=-1), z - h, z + h)),
    ],
)
def test_other_formulas_with_one_hot_rows(name: str, hot: Any) -> None:
    def body(xp: Any, c: Any, k: Any, ids: Any) -> Any:
        return c, hot(xp, xp.one_hot(ids, 2000, dtype=k.dtype), k)

    assert_compiled(body, (), f((3, 2000)), np.array([[0, 5, 1999], [1, 1, 7]]))


@pytest.mark.parametrize("ids", [[0, 5, 1999], [1, 200, 7]])
def test_row_numbers_that_a_cast_changes_are_those_after_it(ids: list[int]) -> None:
    """200 as int8 is -56, a row counted from the end: the range before the cast says nothing about the one after it."""

    def body(xp: Any, c: Any, k: Any, ids: Any) -> Any:
        return c, xp.take(k, xp.astype(ids, xp.int8), axis=0)

    assert_compiled(body, (), f((2000, 3)), np.array([ids]))


@pytest.mark.parametrize(("ids", "fits"), [([0, 8], True), ([0, -1], False), ([0, 9], False)])
def test_row_numbers_among_the_constants_are_checked_before_the_loop(ids: list[int], fits: bool) -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return c, xp.take(x, xp.astype(k, xp.int64), axis=0)

    k, x = np.array(ids, np.int32), f((2, 9, 4))
    loop = compiled(body)
    runner = loop.compiled((), k, x)
    assert runner is not None and runner.fits(k, x) == fits
    if 9 not in ids:
        assert_compiled(body, (), k, x)
        return
    for refusing in (loop, stepwise(body)):
        with pytest.raises(IndexError):
            refusing((), k, x)


FORMULAS = {
    "s + y is not s y": lambda xp, c, k, x: (2.0 + c) - k @ x,
    "s y + a b": lambda xp, c, k, x: c * 2.0 + k @ x,
    "y s - s (a b)": lambda xp, c, k, x: 2.0 * c - 0.5 * (k @ x),
    "a b - c": lambda xp, c, k, x: k @ x - c,
    "a b + c d": lambda xp, c, k, x: k @ x + c @ x,
    "c over itself": lambda xp, c, k, x: c - c @ x * 0.1,
    "s of the step": lambda xp, c, k, x: c - x[0, 0] * (k @ x),
    "a row": lambda xp, c, k, x: c + (k @ x)[0] + k[:1] @ x,
    "a number of another dtype": lambda xp, c, k, x: c + xp.astype((k @ x) * np.float64(0.5), xp.float32),
    "twice": lambda xp, c, k, x: (k @ x) * 2.0 + (k @ x) * 3.0 + c * 0.0,
    "a stack": lambda xp, c, k, x: (c + xp.stack([k, k * 2]) @ x)[1],
    "one more row than c": lambda xp, c, k, x: (c[:1] + k @ x) * 0.5,
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", FORMULAS)
def test_sums_of_products(name: str, library: Library) -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        c = c * 0.25 if name == "c over itself" else c
        return FORMULAS[name](xp, c, k, x) * 0.125, xp.sum(c * c)

    assert_compiled(body, f((4, 4)), f((4, 4), 1), f((3, 4, 4), 2), amplified=20.0, library=library)


def ill_formed() -> dict[str, Op]:
    """One operation each that breaks a rule, of float32 matrices (4, 4)."""
    a, b = (new_value((4, 4), "f", ("item", k)) for k in range(2))
    d, s = new_value((4, 4), "d", ("item", 4)), new_value((), "f", ("item", 5))
    i, long = new_value((4,), "i", ("item", 6)), new_value((5, 4), "f", ("item", 7))
    loop = {"loop": (np.dtype("f"), np.dtype("f"))}
    over = Value((4, 4), np.dtype("f"), (16, 4), base=a)
    return {
        "times": Op(Kind.MATMUL, "", (a, long), new_value((4, 4), "f")),
        "float32 (4, 4) times float64": Op(Kind.MATMUL, "", (a, d), new_value((4, 4), "f")),
        "a factor": Op(Kind.GEMM, "", (a, b, b), new_value((4, 4), "f")),
        "a factor ": Op(Kind.GEMM, "", (a, b, new_value((), "d", ("item", 8))), new_value((4, 4), "f")),
        "what is added": Op(
            Kind.GEMM, "", (a, b, s, s, new_value((2, 4, 4), "f", ("item", 9))), new_value((4, 4), "f")
        ),
        "indices": Op(Kind.TAKE, "", (a, s), new_value((4,), "f"), {"axis": 0}),
        "ids are not": Op(Kind.ONE_HOT, "", (s,), new_value((3,), "f"), {"n": 3}),
        "ids that do": Op(Kind.SEGMENT_SUM, "", (a, s), new_value((3, 4), "f"), {"n": 3}),
        "ids that do ": Op(Kind.SEGMENT_SUM, "", (long, i), new_value((3, 4), "f"), {"n": 3}),
        "shapes that": Op(Kind.CONCAT, "", (a, long), new_value((4, 8), "f"), {"axis": 1}),
        "axes": Op(Kind.REDUCE, "sum", (a,), new_value((), "f"), {"axes": (1, 0), "keepdims": False}),
        "the shape is": Op(Kind.REDUCE, "sum", (a,), new_value((4,), "f"), {"axes": (0, 1), "keepdims": False}),
        "the shape is ": Op(Kind.ARG, "argmax", (a,), new_value((4,), np.intp), {"axis": None, "keepdims": False}),
        "the dtype is": Op(Kind.ARG, "argmax", (a,), new_value((4,), "i"), {"axis": 0, "keepdims": False}),
        "the dtype is ": Op(Kind.SEGMENT_SUM, "", (a, i), new_value((3, 4), "d"), {"n": 3}),
        "the shape is (16": Op(Kind.PACK, "", (a, b), new_value((16,), "f")),
        "dtypes that differ": Op(Kind.PACK, "", (a, d), new_value((32,), "f")),
        "broadcast": Op(Kind.ELEMENTWISE, "add", (a, long), new_value((4, 4), "f"), loop),
        "broadcast ": Op(Kind.WHERE, "", (a, b, long), new_value((4, 4), "f")),
        "is not cast": Op(Kind.ELEMENTWISE, "add", (a, b), new_value((4, 4), "i"), loop),
        "has gaps": Op(Kind.COPY, "", (a,), Value((4, 4), np.dtype("f"), (4, 16))),
        "from nothing": Op(Kind.COPY, "", (a,), new_value((4, 4), "f", ("item", 1))),
        "another base": Op(Kind.VIEW, "index", (b,), over, {"args": ()}),
        "the dtype is int32": Op(Kind.VIEW, "index", (a,), replace(over, dtype=np.dtype("i")), {"args": ()}),
        "beyond the memory": Op(Kind.VIEW, "index", (a,), replace(over, offset=-4), {"args": ()}),
        "beyond the memory ": Op(Kind.VIEW, "index", (a,), replace(over, strides=(16, 8)), {"args": ()}),
        "missing 1 required": Op(Kind.GEMM, "", (a, b), new_value((4, 4), "f")),
        "takes 2 positional": Op(Kind.MATMUL, "", (a, b, a), new_value((4, 4), "f")),
        "missing 1 required ": Op(Kind.PACK, "", (), new_value((0,), "f")),
    }


@pytest.mark.parametrize("message", ill_formed())
def test_an_operation_that_breaks_its_rule_is_refused(message: str) -> None:
    op = ill_formed()[message]
    program = Program((op,), (), (), (), tuple(op.inputs), (), ((), ()))
    with pytest.raises(InvalidProgram, match=re.escape(message.strip())):
        verify(program)


@pytest.mark.parametrize(
    ("offset", "right"), [(0, True), (16, True), (4, False), (15, False), (-4, False), (48, True), (49, False)]
)
@pytest.mark.parametrize("kind", [Kind.ELEMENTWISE, Kind.COPY])
def test_a_result_overwrites_the_whole_of_an_operand_or_nothing_of_it(kind: Kind, offset: int, right: bool) -> None:
    """Plans of a buffer of 64 bytes, where an operand of 16 bytes is stored at its start."""
    item = new_value((4,), "f", ("item", 0))
    x, y = new_value((4,), "f"), new_value((4,), "f")
    last = {Kind.COPY: Op(kind, "", (x,), y), Kind.ELEMENTWISE: Op(kind, "exp", (x,), y, {"loop": (np.dtype("f"),)})}
    program = verify(Program((Op(Kind.COPY, "", (item,), x), last[kind]), (), (), (), (item,), (y,), ((), ())))
    plan = Plan({x: Place("buffer", 0, 0), y: Place("buffer", 0, offset)}, (64,), ())
    if right and (kind is Kind.ELEMENTWISE or offset):
        verify_memory(program, plan)
    else:
        with pytest.raises(InvalidProgram):
            verify_memory(program, plan)


def test_no_plan_that_computes_wrong_numbers_is_accepted() -> None:
    """Results of a plan change places, two by two; the plans that `verify_memory` accepts compute the same."""

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        a, b = xp.tanh(x), xp.exp(x)
        p = xp.matmul(a, b) + c[0]
        return (c[0] + xp.where(p > 0, a, p), c[1] * 0.5), (xp.sum(b, axis=0), p.mT - a[1])

    arrays = ((f((5, 5)), f((5, 5), 1)), (), f((3, 5, 5), 2))
    program, plan = verified(record(body, *arrays), [separate])
    expected, refused, accepted = stepwise(body)(copied(arrays[0]), *arrays[1:]), 0, 0
    for v, w in itertools.permutations(plan.places, 2):
        if v.nbytes > w.nbytes:
            continue
        wrong = replace(plan, places={**plan.places, v: plan.places[w]})
        try:
            verify_memory(program, wrong)
        except InvalidProgram:
            refused += 1
            continue
        accepted += 1
        runner = Runner(program, None, [])
        runner.plan = wrong
        runner.buffers = [np.empty(size, np.uint8) for size in wrong.buffers]
        assert_same(runner(copied(arrays[0]), *arrays[1:]), expected, 10.0)
    assert accepted + refused > 50
    assert 0 < accepted < refused


@pytest.mark.parametrize("joined", ["apart", "one after the other", "in another order", "with a gap", "read-only"])
def test_small_arrays_that_are_updated_alike(joined: str) -> None:
    """They are kept in one piece of memory, wherever they come from."""
    long = f((40,))
    parts = [long[8 * k : 8 * k + 8].reshape(2, 4) for k in range(4)]
    if joined == "apart":
        parts = [a.copy() for a in parts]
    elif joined == "in another order":
        parts = parts[::-1]
    elif joined == "with a gap":
        parts = [*parts[:3], long[32:].reshape(2, 4)]
    elif joined == "read-only":
        long.flags.writeable = False
        parts = [long[8 * k : 8 * k + 8].reshape(2, 4) for k in range(4)]

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return tuple(a * 0.5 + x for a in c), ()

    before = long.copy()
    expected, _ = stepwise(body)(copied(tuple(parts)), (), f((3, 2, 4)))
    loop = compiled(body)
    got, _ = loop(tuple(parts), (), f((3, 2, 4)))
    assert_same(got, expected)
    assert np.array_equal(long, before) == (joined != "one after the other")
    np.testing.assert_array_equal(long[32:], before[32:])
    again, _ = loop(got, (), f((3, 2, 4)))
    assert all(np.may_share_memory(a, b) for a, b in zip(got, again, strict=True))

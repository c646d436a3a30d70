"""Laws of the passes, of the memory plan and of `verify`."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends.compiler.passes import PASSES, rewritten
from mlp_xp_backends.compiler.passes.horizontal import horizontal_fusion
from mlp_xp_backends.compiler.passes.picks import picks
from mlp_xp_backends.compiler.passes.products import fused_products, sums_of_multiples
from mlp_xp_backends.compiler.passes.separate import separate
from mlp_xp_backends.compiler.passes.sums import sums_as_products
from mlp_xp_backends.compiler.program import Kind, Op, Program, new_value
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.report import report
from mlp_xp_backends.compiler.show import show
from mlp_xp_backends.compiler.targets.cpu.memory import Place, plan_memory
from mlp_xp_backends.compiler.verify import InvalidProgram, verify, verify_memory
from mlp_xp_backends.trees import leaves
from tests.compiler_cases import (
    LIBRARIES,
    NETWORKS,
    OPTIMIZERS,
    assert_compiled,
    assert_same,
    compiled,
    copied,
    f,
    training,
    verified,
)


@pytest.mark.parametrize("network", ["relu", "wide", "classes", "vocabulary"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize(
    ("rewrite", "rounded"),
    [
        (picks, False),
        (horizontal_fusion, False),
        (sums_as_products, True),
        (fused_products, True),
        (sums_of_multiples, True),
    ],
)
def test_a_pass_changes_no_bit_or_rounds_differently(network: str, optimizer: str, rewrite: Any, rounded: bool) -> None:
    case = training(network, OPTIMIZERS[optimizer])
    verified(record(*case), [rewrite, separate])
    with_it = compiled(case[0], passes=[rewrite, separate])(copied(case[1]), *case[2:])
    without = compiled(case[0], passes=[separate])(copied(case[1]), *case[2:])
    assert_same(with_it, without, amplified=1000)
    for a, b in zip(leaves(with_it), leaves(without), strict=True):
        assert rounded or np.array_equal(a, b)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_matrix_of_a_stack_has_its_own_factors(library: Any) -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return (k[0] * c[0] - k[1] * xp.matmul(x.mT, x),), ()

    carry, consts, items = (f((3, 20, 20)),), (f((3, 1, 1)), f((3, 1, 1), 1)), f((5, 3, 40, 20))
    assert kinds(body, carry, consts, items) == ["ELEMENTWISE:negative", "GEMM"]
    (together,), _ = compiled(body, library)(copied(carry), consts, items)
    for i in range(3):
        alone, numbers = (carry[0][i].copy(),), tuple(a[i, 0, 0] for a in consts)
        (single,), _ = compiled(body, library)(alone, numbers, items[:, i])
        np.testing.assert_array_equal(together[i], single)


def kinds(body: Any, *arrays: Any, passes: Any = PASSES) -> list[str]:
    program, _ = verified(record(body, *arrays), passes)
    return [op.kind.name + ":" * bool(op.name) + op.name for op in program.ops if op.kind is not Kind.VIEW]


X, K, W = f((2, 20, 30)), f((30, 30)), (f((30, 30)),)
LARGE, STACK = f((300, 300)), f((3, 300, 300))
SUMS: dict[str, tuple[Any, Any, list[str]]] = {
    "alpha x + beta y": (lambda x, y: 0.1 * x + 0.9 * y, LARGE, ["AXPBY"]),
    "alpha x + y": (lambda x, y: 0.1 * x + y, LARGE, ["AXPBY"]),
    "y + alpha x": (lambda x, y: y + 0.1 * x, LARGE, ["AXPBY"]),
    "y - alpha x": (lambda x, y: y - x * 0.1, LARGE, ["AXPBY"]),
    "a number for each matrix": (lambda x, y: y - x * y[:, :1, :1], STACK, ["negative", "AXPBY"]),
    "alpha x - y, which is not a multiple of y": (lambda x, y: 0.1 * x - y, LARGE, ["multiply", "subtract"]),
    "x + y": (lambda x, y: x + y, LARGE, ["add"]),
    "small arrays, which are packed": (lambda x, y: 0.1 * x + 0.9 * y, f((100, 100)), ["multiply", "multiply", "add"]),
    "small arrays of a stack": (lambda x, y: y - 0.1 * x, f((2, 256, 256)), ["multiply", "subtract"]),
    "vectors": (lambda x, y: y - 0.1 * x, f((70_000,)), ["multiply", "subtract"]),
    "a row": (lambda x, y: 0.1 * x[:1] + y, LARGE, ["multiply", "add"]),
    "transposed": (lambda x, y: 0.1 * x.T + y, LARGE, ["multiply", "add"]),
}


@pytest.mark.parametrize("name", SUMS)
def test_what_becomes_of_a_sum_of_multiples(name: str) -> None:
    formula, like, expected = SUMS[name]

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return c, formula(x, k)

    k, x = like, f((2, *like.shape), 1)
    assert [kind.removeprefix("ELEMENTWISE:") for kind in kinds(body, (), k, x)] == expected
    assert_compiled(body, (), k, x)


FORMULAS: dict[str, tuple[Any, list[str]]] = {
    "w - lr x'y": (
        lambda xp, c, k, x: ((c[0] - 0.1 * xp.matmul(x.mT, x),), ()),
        ["GEMM"],
    ),
    "mu v - lr x'y": (
        lambda xp, c, k, x: ((0.9 * c[0] - 0.1 * xp.matmul(x.mT, x),), ()),
        ["GEMM"],
    ),
    "x w + b": (lambda xp, c, k, x: (c, xp.matmul(x, k) + k[0]), ["GEMM"]),
    "s (x w)": (lambda xp, c, k, x: (c, xp.matmul(x, k) * 2.0), ["GEMM"]),
    "a product that two read": (
        lambda xp, c, k, x: (c, (xp.matmul(x, k) + k[0], xp.matmul(x, k))),
        ["MATMUL:matmul", "ELEMENTWISE:add"],
    ),
    "a sum over rows": (lambda xp, c, k, x: (c, xp.sum(x, axis=-2, keepdims=True)), ["MATMUL:matmul"]),
    "a sum of short rows": (lambda xp, c, k, x: (c, xp.sum(x, axis=-1, keepdims=True)), ["MATMUL:matmul"]),
    "a sum of squares": (lambda xp, c, k, x: (c, xp.sum(x * x, axis=(-2, -1))), ["MATMUL:matmul"]),
    "a sum of squares that are used": (
        lambda xp, c, k, x: (c, (x * x, xp.sum(x * x, axis=(-2, -1)))),
        ["ELEMENTWISE:multiply", "REDUCE:sum"],
    ),
    "a sum of vectors": (lambda xp, c, k, x: (c, xp.sum(x, axis=-1)), ["REDUCE:sum"]),
    "work for nothing": (lambda xp, c, k, x: (c, (xp.tanh(x), x)[1]), []),
    "the same twice": (lambda xp, c, k, x: (c, xp.tanh(x) + xp.tanh(x)), ["ELEMENTWISE:tanh", "ELEMENTWISE:add"]),
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_what_becomes_of(formula: str) -> None:
    body, expected = FORMULAS[formula]
    assert kinds(body, W, K, X) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 3), (100, 100), (784, 300), (211, 90), (2, 10_000), (3, 10_001)])
def test_sums_of_products_of_any_length(shape: tuple[int, int], dtype: str) -> None:
    """For one matrix and for a stack, in blocks that OpenBLAS does not divide between its threads, or not at all."""

    def body(xp: Any, c: Any, y: Any, x: Any) -> Any:
        return c, (xp.sum(x * y, axis=(-2, -1)), xp.sum(x * x, axis=(-2, -1), keepdims=True))

    x, y = f((2, 3, *shape), 1, dtype), f((3, *shape), 2, dtype)
    program, _ = verified(record(body, (), y, x), PASSES)
    vectors = [op.inputs[0].shape[-1] for op in program.ops if op.kind is Kind.MATMUL and op.inputs[0].shape[-2] == 1]
    assert all(n <= 10_000 for n in vectors)
    assert bool(vectors) == (shape[1] <= 10_000)
    _, (products, squares) = compiled(body)((), y, x)
    wide = np.float64(x)
    scale = np.abs(wide * y).sum(axis=(-2, -1)) * np.finfo(dtype).eps * 100
    assert np.all(np.abs(products - (wide * y).sum(axis=(-2, -1))) <= scale)
    np.testing.assert_allclose(squares, (wide**2).sum(axis=(-2, -1), keepdims=True), rtol=100 * np.finfo(dtype).eps)
    for k in range(3):
        _, alone = compiled(body)((), y[k], x[:, k])
        np.testing.assert_array_equal(alone[0], products[:, k])
        np.testing.assert_array_equal(alone[1], squares[:, k])


def test_losses_by_id_have_no_one_hot_rows() -> None:
    case = training("classes", OPTIMIZERS["sgd"])
    found = kinds(*case)
    assert "ONE_HOT" not in found and "LESSEN" in found
    assert rewritten(record(*case)).bounds == {("const", 1, 300), ("item", 0, 100)}  # labels, rows


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_memory_of_a_step_holds_what_lives_at_one_time(network: str, optimizer: str) -> None:
    """At least the largest operation, at most what all results together need."""
    program, plan = verified(record(*training(network, OPTIMIZERS[optimizer])))
    made = [op for op in program.ops if op.kind is not Kind.VIEW]
    assert sum(plan.buffers) <= sum(op.out.nbytes for op in made) / 2
    changed = [k for k, (a, b) in enumerate(zip(program.carry, program.carry_out, strict=True)) if a is not b]
    assert all(plan.places[program.carry_out[k]] == Place("carry", k) for k in changed) and not plan.copies


def test_swapped_places_are_found() -> None:
    """If two results of a plan swap or share a place, `verify_memory` accepts the plan only if it is still correct."""

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        a, b = xp.tanh(x), xp.exp(x)
        return (c[0] + xp.matmul(a, b),), xp.sum(a * 2.0) + xp.sum(b)

    program, plan = verified(record(body, (f((5, 5)),), (), f((3, 5, 5))), [separate])
    refused = 0
    results = [v for v in plan.places if v.nbytes == 100]
    for v, w in itertools.permutations(results, 2):
        wrong = replace(plan, places={**plan.places, v: plan.places[w]})
        try:
            verify_memory(program, wrong)
        except InvalidProgram:
            refused += 1
    assert refused >= 8


def broken(program: Program) -> dict[str, Program]:
    """Invalid programs."""
    first, second, *rest = program.ops
    wrong = new_value((9, 9), "float32")
    longer = replace(second.out, shape=(7, 7), strides=(28, 4))
    last = Op(Kind.COPY, "", (second.out,), new_value((5, 5), "float64"))
    return {
        "read before it is made": replace(program, ops=(second, first, *rest)),
        "made twice": replace(program, ops=(first, first, second, *rest)),
        "the shape is": replace(program, ops=(first, replace(second, out=longer), *rest)),
        "missing 1 required positional argument": replace(program, ops=(replace(last, inputs=()),)),
        "unexpected keyword argument": replace(program, ops=(replace(first, options={"axis": 1}), second, *rest)),
        "is not made": replace(program, outs=(wrong,)),
        "changes shape": replace(program, carry_out=program.items),
        "a view and only": replace(program, ops=(replace(first, out=replace(first.out, base=wrong)), second, *rest)),
        "as long as its members": replace(program, members=()),
        "has no loop": replace(program, ops=(replace(first, options={"loop": (np.dtype("int8"),)}), second, *rest)),
    }


@pytest.mark.parametrize(
    "message",
    ["read before it is made", "made twice", "the shape is", "missing 1 required positional argument",
     "unexpected keyword argument", "is not made", "changes shape", "a view and only",
     "as long as its members", "has no loop"],
)  # fmt: skip
def test_what_is_no_program_is_refused(message: str) -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return (xp.exp(xp.tanh(c[0])),), x

    program = verify(record(body, (f((5, 5)),), (), f((3, 5))))
    with pytest.raises(InvalidProgram, match=message):
        verify(broken(program)[message])


def test_a_view_beyond_its_memory_is_refused() -> None:
    program = record(lambda xp, c, k, x: (c, xp.exp(c.mT)), f((3, 4)), (), f((2, 1)))
    view, rest = program.ops
    beyond = replace(view.out, offset=8)
    wrong = Op(view.kind, view.name, view.inputs, beyond, view.options)
    with pytest.raises(InvalidProgram, match="beyond the memory"):
        verify(replace(program, ops=(wrong, replace(rest, inputs=(beyond,)))))


def test_show_has_a_line_for_every_operation() -> None:
    program, plan = verified(record(*training("relu", OPTIMIZERS["adam"])))
    text = show(program, plan.places).splitlines()
    assert len(text) == len(program.carry + program.consts + program.items + program.ops) + 2
    assert [line.split()[0] for line in text[:-2]] == [
        *(f"c{k}" for k in range(len(program.carry))),
        *(f"k{k}" for k in range(len(program.consts))),
        *(f"i{k}" for k in range(len(program.items))),
        *(f"%{k}" for k in range(len(program.ops))),
    ]
    assert sum(" @ " in line for line in text) == len(plan.places)
    assert any("gemm" in line and "float64[16, 40]" in line for line in text)


def test_a_report_is_the_program_with_a_summary() -> None:
    case = training("relu", OPTIMIZERS["sgd"])
    program, plan = verified(recorded := record(*case))
    *text, summary = report(*case, "cpu").splitlines()
    assert "\n".join(text) == show(program, plan.places)
    products = sum(op.kind in (Kind.MATMUL, Kind.GEMM) for op in program.ops)
    left = sum(op.kind is not Kind.VIEW for op in program.ops)
    assert summary == (
        f"{len(recorded.ops)} operations recorded, {left} left, of which {products} products; "
        f"{sum(plan.buffers):,} bytes of scratch memory"
    )


def test_plans_are_pure() -> None:
    program, plan = verified(record(*training("dropout", OPTIMIZERS["adamw"])))
    assert (plan_memory(program).places, plan_memory(program).buffers) == (plan.places, plan.buffers)

"""Products on several cores: the same bits on any number of cores, without side effects on other threads."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from mlp_xp import SGD, Adam, Trainer, mlp
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cpu import run, shares, team
from mlp_xp_backends.compiler.targets.cpu.libraries import blas, mkl, openblas
from mlp_xp_backends.compiler.targets.cpu.openblas import OpenBlas
from mlp_xp_backends.compiler.targets.cpu.parts import LEAST, TILE, multiplications, parts
from mlp_xp_backends.compiler.targets.cpu.shares import SHARES
from mlp_xp_backends.compiler.targets.cpu.team import TEAM, Team
from mlp_xp_backends.trees import leaves
from tests.compiler_cases import NETWORKS, OPTIMIZERS, Library, assert_compiled, compiled, copied, f, training

needs_openblas = pytest.mark.skipif(openblas() is None, reason="NumPy has no OpenBLAS")
always = pytest.mark.usefixtures("divide_always")


@pytest.fixture
def divide_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The team computes all products, and divides elementwise operations of any size."""
    monkeypatch.setattr(blas(), "in_parts", True)
    for name in ("LARGE", "ENOUGH", "FEWEST"):
        monkeypatch.setattr(shares, name, 2)


@pytest.mark.parametrize(
    ("shape", "most", "number"),
    [
        ((512, 784, 1000), 4, 4),
        ((128, 1000, 1000), 2, 2),
        ((128, 1000, 1000), 60, 60),
        ((1000, 128, 10), 4, 1),
        ((30, 3_000, 700), 3, 3),
        ((201, 200, 200), 1, 1),
        ((201, 200, 200), 8, 4),
        ((17, 60_000, 16), 4, 3),
        ((4, 1_000_000, 4), 4, 1),
    ],
)
def test_parts_cover_the_product_once(shape: tuple[int, int, int], most: int, number: int) -> None:
    rows, shared, columns = shape
    c, a, b = np.zeros((rows, columns)), np.ones((rows, shared)), np.ones((shared, columns))
    pieces = parts(c, a, b, most)
    assert len(pieces) == number and (number == 1 or number * LEAST <= multiplications(a, b) == rows * shared * columns)
    axis = int(columns > rows)
    sizes = [z.shape[axis] for z, _, _ in pieces]
    assert all(size % TILE == 0 for size in sizes[:-1]) and max(sizes) - min(sizes) < 2 * TILE
    for z, x, y in pieces:
        assert np.may_share_memory(z, c)
        z += x @ y
    np.testing.assert_array_equal(c, shared)


def lying(shape: tuple[int, int], dtype: Any, seed: int, transposed: bool) -> np.ndarray:
    return f(shape[::-1], seed).T.astype(dtype) if transposed else f(shape, seed).astype(dtype)


@needs_openblas
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_products_on_the_threads_of_the_library(
    threads: int, dtype: Any, transposed: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows and columns, inside a run alone, beside another one, and outside; with factors that change."""
    library = openblas()
    assert isinstance(library, OpenBlas)
    monkeypatch.setattr(OpenBlas, "threads", threads)
    for rows, columns in ((130, 210), (210, 130)):
        a, b = lying((rows, 701), dtype, 1, transposed[0]), lying((701, columns), dtype, 2, transposed[1])
        c, alpha, beta = f((rows, columns), 3).astype(dtype), np.asarray([[2]], dtype), np.asarray(0, dtype)
        function, args = library.divided(c, a, b, alpha, beta) or pytest.fail("BLAS can read all of them")
        before, product = library._get(), a @ b
        with library.on_one_core(), library.on_one_core():
            function(*args)
        np.testing.assert_allclose(c, 2 * product, rtol=1e-4, atol=1e-3)
        alpha[...], beta[...], bits = 1, -1, c.copy()
        with library.on_one_core():
            function(*args)
            assert library._get() == 1
        np.testing.assert_allclose(c, product - bits, rtol=1e-4, atol=1e-3)
        alpha[...], beta[...] = 2, 0
        function(*args)
        np.testing.assert_allclose(c, bits, rtol=1e-4, atol=1e-3)
        assert library._get() == before


@needs_openblas
def test_products_of_runs_side_by_side_do_not_wait_for_each_other() -> None:
    library = openblas()
    assert isinstance(library, OpenBlas)
    waiting: list[bool] = []
    call = (lambda: waiting.append(library._lock.locked()), ())
    with library.on_one_core():
        library._on_threads(call)
        with library.on_one_core():
            library._on_threads(call)
    assert waiting == [True, False]  # alone, no other run may begin meanwhile


@pytest.fixture
def threads_of_library() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads of OpenBLAS's own."""
    library = openblas()
    assert isinstance(library, OpenBlas)
    before = library._get()
    yield library._set
    library._set(before)


@needs_openblas
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("rows", "length", "columns"),
    [
        (77, 784, 133),
        (41, 1806, 57),
        (25, 1806, 57),  # other kernels compute parts of it
        (9, 9000, 47),  # two threads share it, three do not
        (300, 1000, 45),
    ],
)
def test_products_have_the_same_bits_on_any_number_of_threads(
    rows: int, length: int, columns: int, transposed: tuple[bool, bool], threads_of_library: Callable[[int], None]
) -> None:
    """In single precision with AVX-512."""
    library = openblas()
    if not isinstance(library, OpenBlas) or not library._has_avx512:
        pytest.skip("this processor has no AVX-512")
    a, b = lying((rows, length), np.float32, 1, transposed[0]), lying((length, columns), np.float32, 2, transposed[1])
    alpha, beta = np.asarray(0.7, np.float32), np.asarray(0.3, np.float32)
    found = []
    for count in (1, 2, 3, 4):
        threads_of_library(count)
        c = f((rows, columns), 3).astype(np.float32)
        function, args = library.divided(c, a, b, alpha, beta) or pytest.fail("BLAS can read all of them")
        with library.on_one_core():
            function(*args)
        found.append(c)
    for c in found[1:]:
        np.testing.assert_array_equal(c, found[0])


@needs_openblas
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_without_terms_are_left_to_numpy(dtype: Any) -> None:
    library, one = openblas(), np.ones((), dtype)
    a, b, c = (np.empty(shape, dtype) for shape in ((20, 0), (0, 30), (20, 30)))
    assert library is not None
    assert library.divided(c, a, b, one, one) is None


@needs_openblas
@pytest.mark.parametrize("rule", [SGD(0.1, momentum=0.9), Adam(0.001)], ids=["momentum", "adam"])
@pytest.mark.parametrize("hidden", [[400, 400], [1200]])
def test_the_same_bits_on_any_number_of_threads(rule: Any, hidden: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas(), "in_parts", True)  # products of middle size, too
    x, y = f((300, 300)), np.arange(300) % 10
    weights = []
    for threads in (1, 2, 4, 3):
        monkeypatch.setattr(OpenBlas, "threads", threads)
        trainer = Trainer(mlp(300, *hidden, 10), optimizer=rule, seed=1)
        trainer.fit(x, y, max_epochs=3, batch_size=100)
        weights.append([w.copy() for w in leaves(trainer.state.params)])
    assert TEAM.workers
    for others in weights[1:]:
        for a, b in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


STEPS = """
import hashlib, sys
import numpy as np
from mlp_xp import SGD, Trainer, mlp
from mlp_xp_backends.compiler.targets.cpu.libraries import openblas
from mlp_xp_backends.compiler.targets.cpu.openblas import OpenBlas
from mlp_xp_backends.trees import leaves

library, rng, calls = openblas(), np.random.default_rng(0), []
original = OpenBlas._on_threads
OpenBlas._on_threads = lambda *args: (calls.append(1), original(*args))
x, y = rng.standard_normal((208, 784)).astype("f"), np.arange(208) % 10
for hidden, *counts in (words.split(":") for words in sys.argv[1:]):
    found = []
    calls.clear()
    for threads in map(int, counts):
        library._set(threads)
        trainer = Trainer(mlp(784, int(hidden), 214, 10), optimizer=SGD(0.1, momentum=0.9), seed=1)
        trainer.fit(x, y, max_epochs=1, batch_size=104)
        found.append(hashlib.sha256(b"".join(w.tobytes() for w in leaves(trainer.state.params))).hexdigest())
    print(hidden, len(set(found)), bool(calls))
"""


@needs_openblas
def test_the_same_bits_on_any_number_of_threads_of_the_library() -> None:
    """At the default settings, in single precision with AVX-512.

    Of steps of middle size, and of large ones, which a team computes.
    """
    features = getattr(np._core._multiarray_umath, "__cpu_features__", {})
    if not features.get("AVX512_SKX"):
        pytest.skip("this processor has no AVX-512")
    env = {**os.environ, "OPENBLAS_CORETYPE": "SkylakeX"}
    env.pop("MLP_XP_BLAS", None)
    asked = ["300:1:2:3:4", "1000:1:2:4"]
    done = subprocess.run([sys.executable, "-c", STEPS, *asked], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "1", "True", "1000", "1", "False"]


@needs_openblas
@always
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_divided_rows_have_the_bits_of_the_whole(network: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SPLIT", 0)  # no program is small
    case = training(network, OPTIMIZERS[optimizer])
    monkeypatch.setattr(OpenBlas, "threads", 1)
    whole = compiled(case[0], openblas)(copied(case[1]), *case[2:])
    monkeypatch.setattr(OpenBlas, "threads", 3)
    called = count_shares(monkeypatch)
    divided = compiled(case[0], openblas)(copied(case[1]), *case[2:])
    assert called
    for a, b in zip(leaves(divided), leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def count_shares(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of shares of each divided call, in order."""
    counts: list[int] = []
    original = TEAM.call

    def call(found: Any) -> Any:
        counts.append(len(found))
        return original(found)

    monkeypatch.setattr(TEAM, "call", call)
    return counts


BODIES: dict[str, tuple[Any, int]] = {
    "rows": (lambda xp, c, k, x: (c, xp.tanh(x * 2.0 + k[0]) - x), 1),
    "rows and a number for each": (lambda xp, c, k, x: (c, x * x[:, :1] + 1.0), 1),
    "the transpose, made by other rows": (
        lambda xp, c, k, x: (c, xp.tanh(x) + xp.tanh(x).T * 1.0),
        3,
    ),
    "a column of what was made": (lambda xp, c, k, x: (c, xp.where(xp.exp(x) > k, x, 0.0)), 1),
    "other rows than those of the result": (lambda xp, c, k, x: (c, xp.exp(x) + xp.exp(x)[::-1]), 2),
    "rows reversed without being changed": (lambda xp, c, k, x: (c, xp.exp(x) + x[::-1]), 1),
    "sums between": (lambda xp, c, k, x: (c, xp.exp(x) / xp.sum(xp.exp(x), axis=-1, keepdims=True)), 2),
    "a product between": (lambda xp, c, k, x: (c, xp.tanh(xp.matmul(xp.exp(x), k))), 2),
    "in place": (lambda xp, c, k, x: (c + x * c, xp.sum(c)), 1),
    "memory used by two dtypes": (
        lambda xp, c, k, x: (c, xp.astype(xp.exp(x) > 1.0, xp.float64) * 2.0),
        2,
    ),
}


@needs_openblas
@always
@pytest.mark.parametrize("body", BODIES)
def test_what_is_divided(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, expected = BODIES[body]
    monkeypatch.setattr(OpenBlas, "threads", 3)
    monkeypatch.setattr(run, "SPLIT", 0)

    def body_with_product(xp: Any, c: Any, k: Any, x: Any) -> Any:  # without one, a program is small
        carry, out = function(xp, c, k, x)
        return carry, (out, xp.matmul(x, k))

    case = (f((40, 40)), f((40, 40), 1), f((5, 40, 40), 2))
    called = count_shares(monkeypatch)
    compiled(body_with_product, openblas)(copied(case[0]), *case[1:])
    assert called.count(3 * SHARES) == expected
    assert_compiled(body_with_product, *case, library=openblas)


@needs_openblas
@always
@pytest.mark.parametrize(
    ("limits", "divided"),
    [
        ({"LARGE": 1600, "ENOUGH": 1600, "FEWEST": 40}, True),
        ({"LARGE": 1601}, False),
        ({"ENOUGH": 1601}, False),
        ({"FEWEST": 41}, False),
    ],
)
def test_from_which_size_rows_are_divided(
    limits: dict[str, int], divided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in limits.items():
        monkeypatch.setattr(shares, name, limit)
    monkeypatch.setattr(OpenBlas, "threads", 2)
    monkeypatch.setattr(run, "SPLIT", 0)
    called = count_shares(monkeypatch)
    compiled(lambda xp, c, k, x: (c, (x * 2.0, xp.matmul(k, k))), openblas)((), f((40, 40)), f((2, 40, 40)))
    assert called == [2 * SHARES] * divided


def product_and(*others: Any) -> Any:
    return lambda xp, c, k, x: (c, (xp.matmul(x, k), *(other(xp, x, k) for other in others)))


def of_both(xp: Any, x: Any, k: Any) -> Any:
    return xp.exp(k) * 2.0


STEPS_THAT_PAY: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], bool]] = {
    "a huge product": (product_and(), (10, 100), (100, 10), True),
    "a smaller one": (product_and(), (10, 99), (99, 10), False),
    "a stack of huge products": (product_and(), (2, 10, 100), (2, 100, 10), True),
    "a huge product only as a stack": (product_and(), (2, 10, 99), (2, 99, 10), False),
    "a middle product and two large results": (product_and(of_both), (10, 10), (10, 10), True),
    "a smaller product": (product_and(of_both), (9, 10), (10, 10), False),
    "one large result": (product_and(lambda xp, x, k: xp.exp(k)), (10, 10), (10, 10), False),
    "results that are not large": (product_and(of_both, of_both), (15, 9), (9, 11), False),
    "large results only as a stack": (product_and(of_both, of_both), (2, 15, 9), (2, 9, 11), False),
    "vectors": (product_and(lambda xp, x, k: xp.exp(xp.reshape(k, (-1,))) * 2.0), (10, 20), (20, 10), False),
    "products": (product_and(lambda xp, x, k: xp.matmul(x, xp.matmul(k, x))), (10, 10), (10, 10), False),
    "no product": (lambda xp, c, k, x: (c, of_both(xp, x, k)), (10, 10), (10, 10), False),
}


@pytest.mark.parametrize("name", STEPS_THAT_PAY)
def test_for_which_steps_a_team_pays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, size in {"LARGE": 100, "ENOUGH": 200, "MIDDLE": 1000, "HUGE": 10_000}.items():
        monkeypatch.setattr(shares, limit, size)
    body, x, k, expected = STEPS_THAT_PAY[name]
    assert shares.pays(record(body, (), f(k), f((2, *x)))) is expected


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_each_thread_of_a_team_has_cores_of_its_own(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of seven cores, for threads that run on its third core."""
    cores, placed = set(range(10, 17)), dict[int, list[set[int]]]()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores if pid == 0 else {99}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, group: placed.setdefault(pid, []).append(set(group)), raising=False
    )
    monkeypatch.setattr(team, "_core_number", lambda: lambda: 12)
    crew = Team()
    with crew.led(4):
        assert len(crew.workers) == len(crew.called) == 3
    placed.clear()
    with crew.led(threads):
        pass
    assert all(worker.thread.daemon for worker in crew.workers)  # a process does not wait for them at its end
    groups = [placed[0][0], *(placed[worker.thread.native_id or 0][0] for worker in crew.called)]
    assert len(crew.called) == threads - 1 and 12 in groups[0]
    assert sorted(core for group in groups for core in group) == sorted(cores)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1 and placed[0][-1] == cores
    for worker in crew.workers:
        worker.retire()
        assert not worker.thread.is_alive()


@pytest.mark.parametrize("told", [-1, 12])
def test_threads_stay_where_they_are_if_there_are_too_few_cores_or_none_is_told(
    told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {11, 12, 13} if told < 0 else {12}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, group: pytest.fail("moved"), raising=False)
    monkeypatch.setattr(team, "_core_number", lambda: lambda: told)
    with Team().led(2):
        pass


def raising(error: type[Exception]) -> Any:
    def function(*args: Any) -> Any:
        raise error

    return function


def test_a_system_without_numbers_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError, TypeError, AttributeError):
        monkeypatch.setattr(ctypes, "CDLL", raising(error))
        assert team._core_number.__wrapped__()() == -1


def test_a_run_whose_threads_may_not_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {11, 12}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", raising(OSError), raising=False)
    monkeypatch.setattr(team, "_core_number", lambda: lambda: 12)
    done: list[int] = []
    with TEAM.led(2):
        function, args = TEAM.call([[(done.append, (1,))]] * 4)
        function(*args)
    assert len(done) == 4


@needs_openblas
def test_threads_of_the_team_are_on_different_cores_while_a_run_lasts() -> None:
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core, or the system does not tell")
    before = os.sched_getaffinity(0)
    with TEAM.led(2):
        here, there = os.sched_getaffinity(0), os.sched_getaffinity(TEAM.workers[0].thread.native_id or 0)
        assert here and there and not here & there and here | there == before
    assert os.sched_getaffinity(0) == before


@needs_openblas
def test_an_error_in_a_run_frees_the_team() -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with pytest.raises(ZeroDivisionError), TEAM.led(2):
        raise ZeroDivisionError
    assert before is None or os.sched_getaffinity(0) == before
    assert not TEAM.free.locked() and not TEAM.leader


def slowly(done: list[str]) -> None:
    time.sleep(0.05)
    done.append("worker")


def test_an_interruption_waits_for_the_workers() -> None:
    begun = threading.Event()

    def interrupt() -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(60)
            raise KeyboardInterrupt
        begun.set()
        slowly(done)

    done: list[str] = []
    function, args = TEAM.call([[(interrupt, ())], [(interrupt, ())], [(interrupt, ())]])
    with TEAM.led(2), pytest.raises(KeyboardInterrupt):
        function(*args)
    assert done == ["worker"]  # which has finished its share and takes no other
    function, args = TEAM.call([[(slowly, (done,))]] * 3)
    with TEAM.led(2):
        function(*args)
    assert len(done) == 4


def test_a_thread_that_is_late_leaves_its_shares_to_others() -> None:
    threads: list[int] = []
    function, args = TEAM.call([[(lambda: threads.append(threading.get_ident()), ())]] * 2)
    with TEAM.led(2):
        for _ in range(1000):
            function(*args)
    assert len(threads) == 2000 and threads.count(threading.get_ident()) > 1000


@pytest.mark.parametrize("shares_of_all", [2, 3])
def test_as_many_shares_run_at_a_time_as_there_are_threads(shares_of_all: int) -> None:
    meeting = threading.Barrier(shares_of_all, timeout=60)
    function, args = TEAM.call([[(meeting.wait, ())]] * shares_of_all)
    with TEAM.led(3):
        function(*args)


def test_errors_of_workers_are_raised() -> None:
    function, args = TEAM.call([[(time.sleep, (0.02,)), (divmod, (1, 0))]] * 2)
    for _ in range(2):
        with TEAM.led(2), pytest.raises(ZeroDivisionError):
            function(*args)


def test_an_error_that_only_a_worker_has_is_raised_once() -> None:
    failed = threading.Event()

    def fail() -> None:
        if threading.current_thread() is not threading.main_thread():
            failed.set()
            raise ZeroDivisionError
        assert failed.wait(60)

    failing, sound = (TEAM.call([[(function, ())]] * 2)[1] for function in (fail, partial(time.sleep, 0.02)))
    for _ in range(2):
        failed.clear()
        with TEAM.led(2):
            with pytest.raises(ZeroDivisionError):
                TEAM._run(*failing)
            TEAM._run(*sound)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_a_team_of_its_own() -> None:
    with TEAM.led(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer Pythons, about threads
        child = os.fork()
        if child == 0:  # never returns
            signal.alarm(60)
            function, args = TEAM.call([[(time.sleep, (0.02,))]] * 3)
            with TEAM.led(2):
                function(*args)
            os._exit(len(TEAM.workers))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@needs_openblas
@pytest.mark.parametrize(
    ("sizes", "batch", "rule", "expected"),
    [
        ([784, 1000, 10], 128, SGD(0.1), True),  # a product of 100 million multiplications
        ([784, 300, 10], 128, SGD(0.1, momentum=0.9), False),  # of 30 million
        ([784, 300, 10], 128, Adam(0.001), True),  # the same with eight passes over its weights
        ([784, 300, 10], 50, Adam(0.001), False),  # of 12 million
        ([20, 30, 10], 64, Adam(0.001), False),
    ],
)
def test_which_steps_are_divided(sizes: list[int], batch: int, rule: Any, expected: bool) -> None:
    before = set(run.ALIVE)
    trainer = Trainer(mlp(*sizes), optimizer=rule)
    trainer.fit(f((batch, sizes[0])), np.arange(batch) % 10, max_epochs=1, batch_size=batch)
    steps = [runner for runner in set(run.ALIVE) - before if runner.program.carry]
    assert [runner.pays for runner in steps] == [expected]


@needs_openblas
def test_loops_of_several_threads_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenBlas, "threads", 2)
    k, x = f((300, 300)), f((5, 300, 300), 1)
    found: list[np.ndarray] = []

    def train() -> None:
        found.extend(compiled(lambda xp, c, k, x: (c, xp.matmul(x, k)))((), k, x)[1] for _ in range(3))

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 12
    for y in found:  # kernels without AVX-512 round differently beside another run, which leaves the product one thread
        np.testing.assert_allclose(y, found[0], rtol=0, atol=0 if openblas()._has_avx512 else 1e-4)


@pytest.mark.parametrize(
    "find", [openblas, pytest.param(mkl, marks=pytest.mark.skipif(mkl() is None, reason="no MKL"))]
)
def test_a_step_leaves_the_number_of_threads_as_it_was(find: Library) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    if find() is None:
        pytest.skip("NumPy has no OpenBLAS")

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(2):
        before = threads()
        loop = compiled(lambda xp, c, k, x: (c, xp.matmul(x, k) * 2.0), find)
        loop((), f((20, 20)), f((5, 20, 20)))
        assert threads() == before


def test_mkl_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLP_XP_BLAS", raising=False)
    assert blas.__wrapped__() is openblas()
    monkeypatch.setenv("MLP_XP_BLAS", "accelerate")
    with pytest.raises(ValueError, match="MLP_XP_BLAS is 'accelerate': it can be openblas, openblas-parts or mkl"):
        blas.__wrapped__()

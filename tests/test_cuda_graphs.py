"""Steps replayed as a CUDA graph are bitwise the same steps, whatever else the program does in between."""

from __future__ import annotations

import gc
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from benchmarks.launches import arguments
from mlp_xp.nn.layers import Chain, Dense, Dropout, ReLU
from mlp_xp.nn.losses import SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import Adam
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.trees import leaves, tree_map

pytestmark = pytest.mark.gpu

SMALL = TrainStep(Chain(Dense(784, 12), ReLU(), Dropout(0.25), Dense(12, 10)), SoftmaxCrossEntropy(), Adam())


@pytest.fixture(scope="module")
def backend() -> Any:
    if find_spec("nvmath") is None:
        pytest.skip("nvmath-python is not installed")
    try:
        return get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])


def compiled(body: Any) -> Any:
    from mlp_xp_backends.compiler.loop import CompiledLoop
    from mlp_xp_backends.compiler.targets.cuda.launch import target

    return CompiledLoop(body, lambda *_: pytest.fail("the step was not recorded"), target)


def on_device(backend: Any, tree: Any) -> Any:
    return tree_map(lambda a: backend.asarray(np.array(a)), tree)


def bits(backend: Any, tree: Any) -> list[bytes]:
    return [backend.to_numpy(a).tobytes() for a in leaves(tree)]


def run(backend: Any, graphs: bool, chunks: int, monkeypatch: pytest.MonkeyPatch, between: Any = None) -> Any:
    """``chunks`` times 50 steps; the state and the losses, and the number of graphs made."""
    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0 if graphs else 10**9)
    body, carry, consts, items = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in (carry, consts, items))
    losses = []
    for chunk in range(chunks):
        carry, out = loop(carry, consts, items)
        losses.append(out)
        if between is not None:
            between(chunk, carry, consts)
    (plan,) = loop.ready.values()
    assert (plan.graphs is not None) == graphs
    return bits(backend, (carry, tuple(losses)))


def test_a_thousand_steps_as_graphs_are_the_same_to_the_bit(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    held: list[Any] = []
    evaluate = backend.compile(_prediction(SMALL.network))

    def disturb(chunk: int, carry: Any, consts: Any) -> None:
        """Allocations, evaluations on the state, and everything free given back to the driver."""
        held.append(cupy.full((chunk + 1, 999), np.nan, np.float32))
        predicted = evaluate((), (carry.params, consts.x), backend.asarray(np.zeros(2)))[1]
        assert np.isfinite(backend.to_numpy(predicted)).all()
        if chunk % 2:
            held.clear()
            cupy.get_default_memory_pool().free_all_blocks()

    without = run(backend, False, 20, monkeypatch)
    assert run(backend, True, 20, monkeypatch) == without
    assert run(backend, True, 20, monkeypatch, disturb) == without


def _prediction(network: Chain) -> Any:
    def predict(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        params, x = consts
        for layer, p in zip(network.layers, params, strict=True):
            if not layer.stateful:
                x = layer.forward(xp, p, x)[0]
        return carry, x + item

    return predict


def test_a_hundred_recordings_leak_nothing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0)
    body, carry, consts, items = arguments(SMALL, batch=8, n=4)
    loop = compiled(body)
    consts, items = on_device(backend, consts), on_device(backend, items)
    used, pool = [], cupy.get_default_memory_pool()
    for _ in range(100):
        loop(on_device(backend, carry), consts, items)  # other arrays: recorded anew
        if len(used) % 10 == 0:
            gc.collect()
        used.append((pool.used_bytes(), cupy.cuda.runtime.memGetInfo()[0]))
    assert used[-1] == used[9]


def test_streams_and_threads_of_the_user_keep_working(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread trains on a stream of its own, with a graph of its own, while others record theirs."""
    import cupy

    from mlp_xp_backends.compiler.targets.cuda import launch

    expected = run(backend, False, 2, monkeypatch)
    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=50)
    results: dict[int, Any] = {}

    def work(k: int) -> None:
        with cupy.cuda.Stream(non_blocking=k % 2 == 0):
            loop = compiled(body)
            carry, consts, items = (on_device(backend, tree) for tree in trees)
            carry, first = loop(carry, consts, items)
            carry, second = loop(carry, consts, items)
            results[k] = bits(backend, (carry, (first, second)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(map(results.get, range(3))) == [expected] * 3


def test_one_loop_on_two_streams_keeps_their_order(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda import launch

    expected = run(backend, False, 4, monkeypatch)
    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    cupy.cuda.runtime.deviceSynchronize()
    losses = []
    for k in range(4):
        with cupy.cuda.Stream(non_blocking=True) if k % 2 else cupy.cuda.Stream.null:
            carry, out = loop(carry, consts, items)
            losses.append(out)
    cupy.cuda.runtime.deviceSynchronize()
    assert bits(backend, (carry, tuple(losses))) == expected


def test_what_cuda_refuses_to_record_runs_without_graphs(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp_backends.compiler.targets.cuda import graph, launch

    expected = run(backend, False, 2, monkeypatch)
    body, *trees = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    monkeypatch.setattr(launch, "WORTH", 0)
    monkeypatch.setattr(graph, "_captured", lambda *_: (_ for _ in ()).throw(RuntimeError("no capture today")))
    with pytest.warns(UserWarning, match="without CUDA graphs: no capture today"):
        carry, first = loop(carry, consts, items)
    carry, second = loop(carry, consts, items)
    assert bits(backend, (carry, (first, second))) == expected


def test_a_step_that_fails_while_it_is_recorded_leaves_the_stream_usable(backend: Any) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda.graph import StepGraphs

    def fail() -> None:
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        StepGraphs(lambda stream: [(fail, (), None)])
    assert float(cupy.arange(4.0).sum()) == 6.0


def test_a_capture_that_another_thread_invalidates_is_repeated(backend: Any) -> None:
    import cupy

    from mlp_xp_backends.compiler.targets.cuda.graph import StepGraphs

    disturbed: list[str] = []

    def synchronize() -> None:
        if not disturbed:
            with pytest.raises(RuntimeError, match="capturing") as refused:
                cupy.cuda.Device().synchronize()
            disturbed.append(str(refused.value))

    graphs = StepGraphs(lambda stream: [(synchronize, (), None)])
    graphs.launch(9, cupy.cuda.get_current_stream())
    assert len(disturbed) == 1


def test_a_backend_synchronizes_while_another_thread_captures(backend: Any) -> None:
    from mlp_xp_backends.compiler.targets.cuda.graph import StepGraphs

    done, failed = threading.Event(), []

    def synchronize() -> None:
        try:
            backend.synchronize()
        except RuntimeError as error:
            failed.append(error)
        done.set()

    thread = threading.Thread(target=synchronize)

    def meanwhile() -> None:
        if thread.ident is None:
            thread.start()
            assert not done.wait(0.2)  # until the end of the capture

    StepGraphs(lambda stream: [(meanwhile, (), None)])
    thread.join(10)
    assert done.is_set()
    assert not failed


@pytest.mark.parametrize("name", ["LtProduct", "bindings"])
def test_products_that_cublaslt_refuses_run_without_graphs(
    backend: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Errors of NVIDIA's bindings are not RuntimeErrors."""
    from mlp_xp_backends.compiler.targets.cuda import launch, lt

    class RefusedError(Exception):
        pass

    expected = run(backend, False, 2, monkeypatch)
    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=50)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    monkeypatch.setattr(lt, name, lambda *_: (_ for _ in ()).throw(RefusedError("no algorithm")))
    with pytest.warns(UserWarning, match="without cuBLASLt and CUDA graphs: no algorithm"):
        carry, first = loop(carry, consts, items)
    carry, second = loop(carry, consts, items)
    for a, b in zip(bits(backend, (carry, (first, second))), expected, strict=True):
        np.testing.assert_allclose(np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), rtol=0, atol=1e-3)


def test_errors_of_cublaslt_in_a_capture_leave_the_loop_without_graphs(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp_backends.compiler.targets.cuda import graph, launch

    expected = run(backend, False, 1, monkeypatch)
    body, *trees = arguments(SMALL, batch=8, n=50)
    monkeypatch.setattr(launch, "WORTH", 0)
    monkeypatch.setattr(graph, "_captured", lambda *_: (_ for _ in ()).throw(Exception("NOT_SUPPORTED")))
    with pytest.warns(UserWarning, match="without CUDA graphs: NOT_SUPPORTED"):
        got = compiled(body)(*(on_device(backend, tree) for tree in trees))
    assert bits(backend, got) == expected[: len(leaves(got))]


def test_each_thread_computes_with_its_own_handle_of_cublas(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy destroys a thread's handle when the thread ends; the next thread may have the same number."""
    from cupy.cuda.device import get_cublas_handle
    from cupy_backends.cuda.libs import cublas

    from mlp_xp_backends.compiler.targets.cuda import launch

    real, handles = cublas.gemmEx, []

    def gemm(handle: int, *args: Any) -> None:
        handles.append((handle, get_cublas_handle()))
        real(get_cublas_handle(), *args)

    monkeypatch.setattr(cublas, "gemmEx", gemm)
    monkeypatch.setattr(launch, "available", lambda: False)
    body, *trees = arguments(SMALL, batch=8, n=4)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    loop = compiled(body)
    held = []  # takes the memory of the handle that was destroyed

    def work() -> None:
        held.append(cublas.create())
        loop(carry, consts, items)

    for _ in range(4):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        gc.collect()
    for handle in held:
        cublas.destroy(handle)
    assert len(handles) == 4 * 4 * 5
    assert all(used == own for used, own in handles)


def test_every_call_waits_for_the_one_before_even_on_streams_with_the_same_number(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the default streams of two threads have, and a stream made after another was destroyed."""
    import cupy

    body, *trees = arguments(SMALL, batch=8, n=4)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    loop, waits = compiled(body), []
    carry, _ = loop(carry, consts, items)
    (plan,) = loop.ready.values()

    class Stream:
        ptr = cupy.cuda.get_current_stream().ptr

        def wait_event(self, event: Any) -> None:
            waits.append(event)

    monkeypatch.setattr(cupy.cuda, "get_current_stream", Stream)
    loop(carry, consts, items)
    assert waits == [plan.done]


def test_the_loop_keeps_no_data_alive(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    from mlp_xp_backends.compiler.targets.cuda import launch

    monkeypatch.setattr(launch, "WORTH", 0)
    body, *trees = arguments(SMALL, batch=8, n=4)
    loop = compiled(body)
    carry, consts, items = (on_device(backend, tree) for tree in trees)
    after, _ = loop(carry, consts, items)
    watched = [weakref.ref(a) for a in leaves((carry, consts, items, after))]
    del carry, consts, items, after, _
    gc.collect()
    assert not any(there() is not None for there in watched)

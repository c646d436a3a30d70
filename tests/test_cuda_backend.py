"""CuPy's backend beside other devices, streams and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp import Trainer, mlp
from mlp_xp_backends import BackendError, get_backend

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def backend() -> Any:
    try:
        return get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])


def test_a_copy_from_another_device_waits_for_its_work(backend: Any) -> None:
    """In streams of the user's own, which CuPy does not order with each other."""
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    for _ in range(5):
        with cupy.cuda.Device(1):
            stream = cupy.cuda.Stream(non_blocking=True)
            x = cupy.zeros(200_000)
            cupy.cuda.runtime.deviceSynchronize()
            stream.use()
            for _ in range(20):
                x += 1.0
        try:
            with cupy.cuda.Device(0), cupy.cuda.Stream(non_blocking=True) as here:
                copied = backend.asarray(x)
                here.synchronize()
                assert copied.device.id == 0
                assert float(copied.min()) == float(copied.max()) == 20.0
        finally:
            with cupy.cuda.Device(1):
                cupy.cuda.Stream.null.use()


def test_training_on_another_device_than_the_current_one(backend: Any) -> None:
    """If devices cannot read each other's memory, as on most desktops, nothing may run on the current device."""
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    x, y = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 3
    with cupy.cuda.Device(0):
        runs = [Trainer(mlp(4, 5, 3), device=device, dtype="float64") for device in ("cpu", "cuda:1")]
        first, second = (run.fit(x, y, max_epochs=2, batch_size=7, validation_data=(x, y)) for run in runs)
        np.testing.assert_allclose(first["valid_loss"], second["valid_loss"], rtol=1e-12)
        np.testing.assert_allclose(runs[1].predict_proba(x), runs[0].predict_proba(x), rtol=1e-9)
        assert runs[1].model.params[0].W.device.id == 1


def test_memory_keeps_to_the_limit_of_the_pool(backend: Any) -> None:
    import cupy

    pool = cupy.get_default_memory_pool()
    held = cupy.zeros(2**20, np.uint8)
    pool.set_limit(size=pool.used_bytes() + 3 * 2**20)
    try:
        free, total = backend.memory()
        assert free <= 3 * 2**20
        assert total == pool.get_limit()
    finally:
        pool.set_limit(size=0)
    assert backend.memory().total > total
    del held


def test_large_arrays_take_no_pinned_memory(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    from mlp_xp_backends import cupy_backend

    taken: list[int] = []

    def allocate(size: int) -> Any:
        taken.append(size)
        return cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(size), 0)

    monkeypatch.setattr(cupy_backend, "STAGED", 10_000)
    cupy.cuda.set_pinned_memory_allocator(allocate)
    try:
        for x in (np.arange(100.0), np.arange(12_000.0).reshape(60, 200).T):
            np.testing.assert_array_equal(backend.to_numpy(backend.asarray(x)), x)
    finally:
        cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)
    assert taken == [800]

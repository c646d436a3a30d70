"""Selection of a backend by name, detection of the backends of a machine, and messages about missing ones."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mlp_xp_backends
from mlp_xp_backends import (
    BackendError,
    Memory,
    available_backends,
    cuda,
    get_backend,
    get_backend_or_cpu,
    info,
    registry,
)
from mlp_xp_backends.probe import BACKENDS, probe
from mlp_xp_backends.protocol import Device, Status

# From words to a backend


@pytest.mark.parametrize(
    ("spec", "name", "device"),
    [
        ("cpu", "numpy", "cpu"),
        ("numpy", "numpy", "cpu"),
        ("numpy:plain", "numpy", "cpu"),
        ("torch:cpu", "torch", "cpu"),
        ("jax:cpu", "jax", "cpu"),
        ("array_api_strict", "array_api_strict", "cpu"),
    ],
)
def test_the_same_words_give_the_same_backend(spec: str, name: str, device: str) -> None:
    backend = get_backend(spec)
    assert (backend.name, backend.device) == (name, device)
    assert get_backend(spec) is backend


def forget() -> None:
    registry._built.cache_clear()
    registry._usable.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine of the test's choice: ``machine(driver=(13, 0), cupy=fake_cupy(), wheels={...})``."""

    def build(driver: tuple[int, int] | None = None, wheels: dict[str, str] | None = None, **modules: Any) -> None:
        monkeypatch.setattr(cuda, "driver_version", lambda: driver)
        monkeypatch.setattr(cuda, "installed_wheels", lambda: wheels or {"cupy-cuda13x": "14.2.0"})
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    forget()
    yield build
    forget()


class CUDAError(RuntimeError):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def module(name: str, **attributes: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(attributes)
    return made


def fake_cupy(
    devices: int | Exception = 1, runtime: int = 13020, nvrtc: Exception | None = None, capability: float = 9.0
) -> ModuleType:
    """A fake CuPy with the functions that are called before the first array is created."""

    def answer(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    run = SimpleNamespace(
        runtimeGetVersion=lambda: runtime,
        getDeviceCount=lambda: answer(devices),
        getDeviceProperties=lambda i: {
            "name": b"NVIDIA H200" if capability >= 9 else b"Tesla V100",
            "major": int(capability),
            "minor": round(10 * capability) % 10,
        },
    )
    current: list[int] = []
    handles: list[int] = []

    @contextmanager
    def device(index: int) -> Iterator[None]:
        current.append(index)
        yield
        current.pop()

    made = SimpleNamespace(
        runtime=run,
        nvrtc=SimpleNamespace(getVersion=lambda: answer(nvrtc)),
        device=SimpleNamespace(get_cublas_handle=lambda: handles.append(current[-1])),
        Device=device,
    )
    return module("cupy", __version__="14.2.0", cuda=made, handles=handles)


def fake_torch(cuda_version: str | None, devices: int = 0, capability: tuple[int, int] = (9, 0)) -> ModuleType:
    return module(
        "torch",
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda_version),
        cuda=SimpleNamespace(
            is_available=lambda: devices > 0,
            device_count=lambda: devices,
            get_device_name=lambda i: "NVIDIA H200" if capability >= (9, 0) else "Tesla V100",
            get_device_capability=lambda i: capability,
            get_arch_list=lambda: ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"],
        ),
    )


def fake_jax(devices: list[Any] | Exception) -> ModuleType:
    def find(kind: str) -> list[Any]:
        if isinstance(devices, Exception):
            raise devices
        return devices

    return module("jax", __version__="0.10.2", devices=find)


TWO_WHEELS = {"cupy-cuda12x": "14.1.0", "cupy-cuda13x": "14.2.0"}
BROKEN = [
    ("cuda", {"driver": (13, 0), "cupy": None}, "cupy is not installed", 'Run: pip install "mlp-xp[cuda13]"'),
    ("cuda", {"driver": (12, 4), "cupy": None}, "cupy is not installed", 'Run: pip install "mlp-xp[cuda12]"'),
    ("cuda", {"cupy": None}, "cupy is not installed", "install NVIDIA's driver"),
    (
        "cuda:1",
        {"driver": (12, 8), "cupy": fake_cupy(), "wheels": TWO_WHEELS},
        "two CuPy wheels overwrite each other: cupy-cuda12x 14.1.0 and cupy-cuda13x 14.2.0",
        'Run: pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install "mlp-xp[cuda12]"',
    ),
    ("cuda", {"cupy": fake_cupy()}, "no NVIDIA driver was found", "sudo ubuntu-drivers install"),
    (
        "cuda",
        {"driver": (12, 4), "cupy": fake_cupy()},
        "the installed CuPy needs CUDA 13; the driver runs CUDA 12.4",
        'Run: pip uninstall -y cupy-cuda13x && pip install "mlp-xp[cuda12]"',
    ),
    (
        "cuda",
        {"driver": (13, 0), "cupy": fake_cupy(CUDAError(100, "cudaErrorNoDevice: no CUDA-capable device"))},
        "CuPy finds the NVIDIA driver but no CUDA device",
        "nvidia-smi",
    ),
    ("cuda", {"driver": (13, 0), "cupy": fake_cupy(0)}, "but no CUDA device", "nvidia-smi"),
    (
        "cuda",
        {"driver": (13, 0), "cupy": fake_cupy(CUDAError(46, "cudaErrorDevicesUnavailable: busy"))},
        "cupy fails to start: CUDAError: cudaErrorDevicesUnavailable: busy",
        'See: python -c "import cupy"',
    ),
    (
        "cuda",
        {"driver": (13, 0), "cupy": fake_cupy(nvrtc=ImportError('Failure finding "libnvrtc.so.13"\nmore'))},
        'CuPy does not find the CUDA 13 libraries: Failure finding "libnvrtc.so.13"',
        'Run: pip install "cupy-cuda13x[ctk]"',
    ),
    (
        "cuda",
        {"driver": (13, 0), "cupy": fake_cupy(runtime=12090, nvrtc=ImportError("no libnvrtc.so.12"))},
        "CuPy does not find the CUDA 12 libraries: no libnvrtc.so.12",
        'Run: pip install "cupy-cuda12x[ctk]"',
    ),
    (
        "cuda",
        {"driver": (13, 0), "cupy": fake_cupy(nvrtc=CUDAError(2, "cudaErrorMemoryAllocation: out of memory"))},
        "cupy fails to start: CUDAError: cudaErrorMemoryAllocation: out of memory",
        "import cupy",
    ),
    (
        "cuda",
        {"driver": (13, 0), "cupy": fake_cupy(capability=7.0)},
        "CuPy needs a GPU of compute capability 7.5 or higher; cuda:0 (Tesla V100) has 7.0",
        'Run: pip uninstall -y cupy-cuda13x && pip install "mlp-xp[cuda12]"',
    ),
    (
        "cuda",
        {"driver": (12, 4), "cupy": fake_cupy(runtime=12090, capability=3.7)},
        "CuPy needs a GPU of compute capability 5.0 or higher; cuda:0 (Tesla V100) has 3.7",
        'Use device="cpu", or a newer GPU.',
    ),
    (
        "torch:cuda",
        {"driver": (13, 0), "torch": fake_torch("13.0", 1, (7, 0))},
        "torch needs a GPU of compute capability 7.5 or higher; cuda:0 (Tesla V100) has 7.0",
        "Run: pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
    ),
    ("torch:cuda", {"torch": None}, "torch is not installed", "Run: pip install --force-reinstall torch --index-url"),
    ("torch:cpu", {"torch": None}, "torch is not installed", 'Run: pip install "mlp-xp[torch]"'),
    (
        "torch:cuda",
        {"driver": (13, 0), "torch": fake_torch(None)},
        "torch 2.13.0 is a build without CUDA",
        "Run: pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130",
    ),
    ("torch:cuda", {"torch": fake_torch("13.0")}, "no NVIDIA driver was found", "sudo ubuntu-drivers install"),
    (
        "torch:cuda",
        {"driver": (12, 8), "torch": fake_torch("13.0")},
        "the installed torch needs CUDA 13; the driver runs CUDA 12.8",
        "Run: pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
    ),
    ("torch:cuda", {"driver": (13, 0), "torch": fake_torch("13.0")}, "no CUDA device", "nvidia-smi"),
    ("jax", {"jax": None}, "jax is not installed", 'Run: pip install "mlp-xp[jax]"'),
    ("jax:cuda", {"driver": (12, 8), "jax": None}, "jax is not installed", 'Run: pip install "jax[cuda12]"'),
    ("jax:cuda", {"jax": fake_jax([])}, "no NVIDIA driver was found", "sudo ubuntu-drivers install"),
    (
        "jax:cuda:3",
        {"driver": (13, 0), "jax": fake_jax(RuntimeError("Unknown backend cuda"))},
        "jax finds no CUDA device: Unknown backend cuda",
        'Run: pip install "jax[cuda13]"',
    ),
    (
        "array_api_strict",
        {"array_api_strict": None},
        "array_api_strict is not installed",
        "Run: pip install array-api-strict",
    ),
]


@pytest.mark.parametrize(("spec", "world", "reason", "remedy"), BROKEN)
def test_what_is_missing_is_told_with_its_remedy(
    machine: Any, spec: str, world: dict[str, Any], reason: str, remedy: str
) -> None:
    machine(**world)
    with pytest.raises(BackendError) as caught:
        get_backend(spec)
    first, _, rest = str(caught.value).partition("\n")
    assert reason in first
    assert remedy in rest


def test_hidden_devices_are_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=(13, 0), cupy=fake_cupy(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES is '-1'" in probe("cupy").reason


def test_a_device_number_too_high_names_those_there(machine: Any) -> None:
    machine(driver=(13, 0), cupy=fake_cupy(2))
    with pytest.raises(BackendError, match=r"no device cuda:2: found cuda:0 \(NVIDIA H200\), cuda:1"):
        get_backend("cuda:2")


def test_probing_a_device_uses_no_other(machine: Any) -> None:
    cupy = fake_cupy(3)
    machine(driver=(13, 0), cupy=cupy)
    assert probe("cupy", 1).usable
    assert cupy.handles == [1]
    assert probe("cupy").usable
    assert cupy.handles == [1, 0]


def test_gpus_that_cuda_12_supports_pass_with_cuda_12(machine: Any) -> None:
    machine(driver=(13, 0), cupy=fake_cupy(runtime=12090, capability=7.0))
    assert probe("cupy").usable


def test_a_broken_installation_is_a_status_not_an_error(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    def broken(name: str) -> ModuleType:
        raise ImportError("libtorch.so: cannot open shared object file\nand more")

    monkeypatch.setattr(importlib, "import_module", broken)
    status = probe("torch:cpu")
    assert status.reason == "the installed torch is broken: libtorch.so: cannot open shared object file"
    assert status.command == 'pip install "mlp-xp[torch]"'


def test_real_cupy_without_a_driver() -> None:
    pytest.importorskip("cupy")
    if cuda.driver_version() is not None:
        pytest.skip("there is a driver")
    with pytest.raises(BackendError, match="CuPy is installed, but no NVIDIA driver was found"):
        get_backend("cuda")
    assert get_backend("auto").name == "numpy"


class Library:
    def __init__(self, version: int, status: int) -> None:
        self.version, self.status = version, status

    def cuDriverGetVersion(self, pointer: Any) -> int:  # noqa: N802
        pointer._obj.value = self.version
        return self.status


@pytest.mark.parametrize(
    ("version", "status", "expected"), [(13000, 0, (13, 0)), (12040, 0, (12, 4)), (0, 0, None), (13000, 34, None)]
)
def test_driver_version(
    monkeypatch: pytest.MonkeyPatch, version: int, status: int, expected: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Library(version, status))
    assert cuda.driver_version() == expected


def test_no_driver_version_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    assert cuda.driver_version() is None


@pytest.mark.parametrize(
    ("spec", "near"),
    [("gpu", "cuda"), ("pytorch", "torch"), ("nunpy", "numpy"), ("Cuda", "cuda"), ("torch:cdua", "torch:cuda")],
)
def test_unknown_words_are_met_with_the_nearest(spec: str, near: str) -> None:
    with pytest.raises(BackendError, match=rf"unknown backend or device '{spec}'. Did you mean '{near}'\?\n.*cuda:N"):
        get_backend(spec)


@pytest.mark.parametrize(
    "spec",
    ["", "numpy:", "cpu:plain", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "numpy:cuda", "cupy:cpu", "tensorflow", 3],
)
def test_other_words_are_refused(spec: Any) -> None:
    with pytest.raises(BackendError, match="unknown backend or device"):
        get_backend(spec)


def test_programs_fall_back_to_the_cpu_in_one_visible_line(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(cupy=None)
    for spec in ("cuda", "cuda:1", "cupy", "torch:cuda"):
        assert get_backend_or_cpu(spec).name == "numpy"
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "running on the CPU instead" in err
    stream = io.StringIO()
    get_backend_or_cpu("cuda", stream=stream)
    assert stream.getvalue().startswith("cupy cannot be used here: no NVIDIA driver was found, and cupy")


def test_the_fall_back_is_for_missing_gpus_alone(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(cupy=None, jax=None)
    with pytest.raises(BackendError, match="cupy is not installed"):
        get_backend_or_cpu("cuda", strict=True)
    for spec in ("jax:cpu", "gpu"):
        with pytest.raises(BackendError):
            get_backend_or_cpu(spec)
    assert get_backend_or_cpu("auto", strict=True).name == "numpy"
    assert capsys.readouterr() == ("", "")


def test_auto_tells_who_has_a_gpu_what_it_lacks(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(driver=(13, 0), cupy=None)
    assert get_backend("auto").name == "numpy"
    assert capsys.readouterr().err == ""
    assert get_backend_or_cpu("auto", strict=True).name == "numpy"
    assert "cupy is not installed; running on the CPU instead" in capsys.readouterr().err


def test_auto_is_decided_once(machine: Any) -> None:
    machine(cupy=None)
    cpu = get_backend("auto")
    machine(driver=(13, 0), cupy=fake_cupy())
    assert get_backend("auto") is cpu


def test_no_name_means_auto() -> None:
    assert get_backend() is get_backend(None) is get_backend("auto")


def test_plain_numpy_runs_the_body_in_every_step() -> None:
    calls = []

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> tuple[Any, Any]:
        calls.append(type(carry))
        return carry + item, item

    backend = get_backend("numpy:plain")
    total, _ = backend.compile(body)(np.zeros(()), (), np.arange(4.0))
    assert total == 6
    assert len(calls) == 4
    assert backend is not get_backend("numpy")


# What was found


def test_every_backend_has_a_status() -> None:
    statuses = available_backends()
    assert [status.name for status in statuses] == list(BACKENDS)
    for status in statuses:
        assert status.usable == bool(status.devices)
        assert status.usable or (status.reason and status.remedy)
        assert all(device.memory.total > 0 for device in status.devices if device.memory)


def test_no_status_raises(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("jax")

    def broken(name: str) -> Any:
        raise OSError("disk on fire")

    machine(driver=(13, 0), cupy=fake_cupy())
    monkeypatch.setattr(importlib, "import_module", broken)
    reasons = {status.name: status.reason for status in available_backends()}
    assert reasons.pop("numpy") == reasons.pop("numpy:plain") == ""
    assert all("OSError: disk on fire" in reason for reason in reasons.values())


def test_report_reads_at_100_columns_and_keeps_commands_whole() -> None:
    found = info.Report(
        {"Python": "3.13.1"},
        (
            Status("cupy", "14.2.0", (Device("cuda:0", "NVIDIA H200", Memory(2**37, 3 * 2**36)),)),
            Status("torch:cuda", "", (), "r " * 80 + ".", "a " * 90 + "\nRun: pip install " + "x" * 120, "pip"),
        ),
    )
    lines = info.render(found).splitlines()
    assert "    cuda:0, NVIDIA H200, 128.0 GiB of 192.0 GiB free" in lines
    assert "    Run: pip install " + "x" * 120 in lines
    assert all(len(line) <= 100 for line in lines if "Run: " not in line)


def test_report_names_every_backend_and_remedy() -> None:
    text = info.report()
    assert re.search(r"^NumPy engine +(calls (MKL|OpenBLAS)|no BLAS)", text, re.MULTILINE)
    for status in available_backends():
        assert f"  {status.name} " in text
        assert status.command in text


# Importing


def test_backends_know_nothing_of_networks() -> None:
    """The package can be used, and understood, without `mlp_xp`."""
    folder = Path(mlp_xp_backends.__file__).parent
    naming = [path.name for path in folder.rglob("*.py") if re.search(r"\bmlp_xp\b", path.read_text())]
    assert naming == []


@pytest.mark.parametrize(
    "code",
    [
        "import mlp_xp_backends",
        "import mlp_xp_backends as b; b.get_backend('cpu'); assert b.get_backend('auto')",
    ],
)
def test_array_libraries_are_imported_when_asked_for(code: str) -> None:
    if "auto" in code and cuda.driver_version() is not None:
        pytest.skip("auto takes the GPU")
    libraries = {"cupy", "torch", "jax", "array_api_strict", "array_api_compat"}
    check = f"import sys; print({libraries} & set(sys.modules))"
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=True, env=paths
    )
    assert ran.stdout.strip() == "set()"

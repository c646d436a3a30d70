"""What importing costs and brings along, and that the math names no array library."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlp_xp
import mlp_xp_backends

PACKAGE = Path(mlp_xp.__file__).parent
LIBRARIES = {"numpy", "cupy", "cupyx", "torch", "jax", "array_api_compat", "array_api_strict", "scipy", "sklearn"}
HEAVY = sorted(
    LIBRARIES - {"numpy"}
    | {"matplotlib", "tqdm", "pooch", "safetensors", "pandas", "polars", "pyarrow", "onnx", "keras", "tensorboardX"}
)
HOST_SIDE = {"initializers.py", "gradient_check.py"}  # which draw numbers with NumPy
MATH = sorted(str(p.relative_to(PACKAGE)) for p in (PACKAGE / "nn").rglob("*.py") if p.name not in HOST_SIDE)


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after ``code``."""
    paths = os.pathsep.join(str(Path(package.__file__).parent.parent) for package in (mlp_xp, mlp_xp_backends))
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import mlp_xp",
        "import mlp_xp_backends",
        "import mlp_xp; mlp_xp.mlp(4, 3, 2); mlp_xp.Adam(), mlp_xp.SoftmaxCrossEntropy()",
        "import mlp_xp; mlp_xp.get_backend('cpu')",
    ],
)
def test_import_brings_no_heavy_library(code):
    assert not loaded_after(code) & set(HEAVY)


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("name", MATH)
def test_math_names_no_array_library_and_no_backend(name):
    modules = imported(PACKAGE / name) - {"mlp_xp_backends.trees", "mlp_xp_backends.typing"}
    assert not {module.partition(".")[0] for module in modules} & (LIBRARIES | {"mlp_xp_backends"})


def test_backends_know_nothing_of_networks():
    for path in Path(mlp_xp_backends.__file__).parent.rglob("*.py"):
        assert not any(module.partition(".")[0] == "mlp_xp" for module in imported(path)), path


@pytest.mark.parametrize("module", [mlp_xp, mlp_xp_backends])
def test_every_public_name_is_there(module):
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_the_math_imports_nothing_above_it():
    for path in (PACKAGE / "nn").rglob("*.py"):
        inside = {module for module in imported(path) if module.startswith("mlp_xp.")}
        assert all(module.startswith(("mlp_xp.nn", "mlp_xp._checks")) for module in inside), path


def test_all_of_the_math_is_public():
    from mlp_xp import nn

    assert set(nn.__all__) <= set(mlp_xp.__all__)
    assert all(getattr(nn, name) is getattr(mlp_xp, name) for name in nn.__all__)
    assert {name for name in vars(mlp_xp.schedules) if name[0].isupper()} >= {"OneCycle", "LossRatio", "Moment"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mlp_xp.nothing  # noqa: B018


def test_type_checkers_and_run_time_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(mlp_xp.__all__)

"""Imports: their cost, the modules that they load, their layers, and that the math names no array library."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
# Lowest first: a module imports only from its own line and from the lines above it.
FLOORS = [
    {"mlp_xp_backends"},
    {"_checks", "_optional"},
    {"nn"},
    {"files", "data"},
    {"forward"},
    {"model"},
    {"training", "interop"},
    {"sweep", "sklearn"},
    {"parity", "show"},
    {"__main__"},
]
MATH = sorted(str(p.relative_to(PACKAGE)) for p in (PACKAGE / "nn").rglob("*.py") if p.name not in HOST_SIDE)


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after ``code``."""
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


def modules() -> dict[str, Path]:
    """The files of both packages by the names under which they are imported."""
    found = {}
    for package in (mlp_xp, mlp_xp_backends):
        folder = Path(package.__file__).parent
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from executed(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            for part in ("body", "orelse", "finalbody"):
                yield from executed(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from executed(handler.body)


def import_graph() -> dict[str, set[str]]:
    """For each module the modules of this project that it imports when it is imported itself."""
    files = modules()
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in executed(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{name}: imports are absolute"
                for full in (f"{node.module}.{alias.name}" for alias in node.names):
                    graph[name] |= {full if full in files else node.module} & files.keys()
    return graph


def test_no_circle_of_imports():
    TopologicalSorter(import_graph()).prepare()  # raises CycleError, which names the circle


def test_imports_point_downwards():
    floors = {name: level for level, names in enumerate(FLOORS) for name in names}

    def floor(module: str) -> int:
        package, _, rest = module.partition(".")
        return floors[package if package == "mlp_xp_backends" else rest.partition(".")[0]]

    graph = {module: below for module, below in import_graph().items() if module != "mlp_xp"}
    upwards = [(module, other) for module, below in graph.items() for other in below if floor(other) > floor(module)]
    assert not upwards


@pytest.mark.parametrize("name", MATH)
def test_math_names_no_array_library_and_no_backend(name):
    modules = imported(PACKAGE / name) - {"mlp_xp_backends.trees", "mlp_xp_backends.typing"}
    assert not {module.partition(".")[0] for module in modules} & (LIBRARIES | {"mlp_xp_backends"})


def test_backends_know_nothing_of_networks():
    for path in Path(mlp_xp_backends.__file__).parent.rglob("*.py"):
        assert not any(module.partition(".")[0] == "mlp_xp" for module in imported(path)), path
        assert not re.search(r"\bmlp_xp\b", path.read_text(encoding="utf-8")), path


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


def test_packages_are_attributes_before_they_are_imported():
    loaded_after("import mlp_xp; mlp_xp.nn.Dense, mlp_xp.parity.run, mlp_xp.schedules.OneCycle")


def test_type_checkers_and_run_time_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(mlp_xp.__all__)

"""README and pages are true: links lead somewhere, quoted code exists, Python blocks run, commands exist."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import mlp_xp
from mlp_xp.__main__ import _parser
from mlp_xp_backends import BackendError, get_backend

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "benchmarks/README.md")]
PAGES = [*FRONT, *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[(?P<text>`[^`\n]+`|[^\]]*)\]\((?P<target>[^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
MATH = re.compile(r"\$[^$\n]+\$")
OPTIONAL = {
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "mpi4py",
    "onnx",
    "onnxruntime",
    "keras",
    "tensorboardX",
    "polars",
    "pyarrow",
    "dask",
    "torch",
    "jax",
}


def has_cuda() -> bool:
    try:
        return get_backend("cuda").name == "cupy"
    except BackendError:
        return False


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site give to the headings."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


pages = pytest.mark.parametrize("page", PAGES, ids=name)


class TestLinks:
    @pages
    def test_links_lead_somewhere(self, page):
        for link in LINK.finditer(MATH.sub("", text_of(page))):
            file, _, anchor = link["target"].partition("#")
            if file.startswith(("http:", "https:", "mailto:")):
                continue
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{name(page)} links to {file}, which does not exist"
            if anchor and target.suffix == ".md":
                assert anchor in anchors(target), f"{name(page)} links to {file}#{anchor}, but no heading has that name"

    @pages
    def test_a_quoted_line_is_in_the_file_that_it_links_to(self, page):
        for link in LINK.finditer(text_of(page)):
            quote, target = link["text"].strip("`"), page.parent / link["target"]
            if link["text"].startswith("`") and " " in quote and target.suffix == ".py":
                lines = [line for line in text_of(target).splitlines() if quote in line]
                assert len(lines) == 1, f"{name(page)} quotes {quote!r}: {target.name} has it in {len(lines)} lines"

    @pages
    def test_images_exist(self, page):
        for file in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text_of(page)):
            assert (page.parent / file).is_file()


class TestMathematics:
    @pages
    def test_formulas_are_what_github_renders(self, page):
        text = text_of(page)
        displayed = re.findall(r"^```math\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        text = CODE.sub("", text)
        inline = MATH.findall(text)
        assert "$" not in MATH.sub("", text), "a formula stays in one line"
        for formula in [*displayed, *inline]:
            assert formula.count("{") == formula.count("}")
            assert formula.count(r"\begin{") == formula.count(r"\end{")
            assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula))
            assert "\n\n" not in formula
        for formula in inline:
            assert not re.search(r"\\[^a-zA-Z]", formula), f"Markdown removes the backslash: {formula}"


class TestPrograms:
    @pytest.mark.parametrize("page", [page for page in PAGES if PYTHON.search(text_of(page))], ids=name)
    def test_python_blocks_run_in_order(self, page, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MPLBACKEND", "agg")  # figures open no windows
        blocks = "\n".join(PYTHON.findall(text_of(page)))
        if not has_cuda():
            blocks = blocks.replace('device="cuda"', 'device="cpu"')
        program = compile(blocks, name(page), "exec", dont_inherit=True)
        try:
            exec(program, {"__name__": page.stem, "__file__": str(page)})
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"{error.name} is not installed")

    def test_the_gradient_that_the_readme_shows_is_in_the_source(self):
        block = next(block for block in PYTHON.findall(text_of(ROOT / "README.md")) if "def gradient" in block)
        source = text_of(ROOT / "mlp_xp/nn/layers/dense.py")
        for line in block.splitlines()[1:]:
            assert line.strip() in source


def commands(page: Path) -> list[list[str]]:
    """The shell commands of a page as words, without comments and assignments in front."""
    found = []
    for block in SHELL.findall(text_of(page)):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", re.sub(r"\s#.*", "", f" {line}")):
                words = shlex.split(part)
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                found += [words] if words else []
    return found


COMMANDS = [pytest.param(words, id=f"{name(page)}: {shlex.join(words)}") for page in PAGES for words in commands(page)]
KNOWN = {"git", "cd", "ruff", "mypy", ".", "source", "export"}
TOOLS = {"pytest", "venv", "sphinx", "build"}


class TestCommands:
    @pytest.mark.parametrize("words", COMMANDS)
    def test_a_command_exists_and_has_its_options(self, words, capsys):
        if words[0] in ("mpiexec", "srun"):
            words = [word for word in words[words.index("python") :] if word not in ("-m", "mpi4py")]
        if words[0] == "torchrun":
            words = ["python", *words[[word.endswith(".py") for word in words].index(True) :]]
        if words[:2] == ["pip", "install"]:
            self.check_extras(words)
        elif words[0] == "python" and words[1] == "-m":
            self.check_module(words[2], words[3:])
        elif words[0] == "python":
            self.check_script(ROOT / words[1], words[2:])
        elif words[0] == "bash":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[0] in KNOWN

    def check_extras(self, words):
        metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for word in words:
            if "[" in word and word.startswith((".", "mlp-xp")):
                assert set(re.search(r"\[(.*)\]", word)[1].split(",")) <= set(metadata["optional-dependencies"])

    def check_module(self, module, arguments):
        if module == "mlp_xp":
            _parser().parse_args(arguments)
        elif module == "benchmarks":
            if arguments:
                source = text_of(ROOT / f"benchmarks/{arguments[0]}.py")
                assert all(f'"{word}"' in source for word in arguments if word.startswith("--"))
        else:
            assert module in TOOLS

    def check_script(self, script, arguments):
        assert script.is_file()
        if script.parent.name == "examples":
            importlib.import_module(script.stem).parser().parse_args(arguments)


class TestFigures:
    """Pages quote the speed from one report: ``python -m benchmarks speed`` writes it, and these tests compare."""

    REPORTS = sorted((ROOT / "benchmarks/results").glob("cpu-*.md"))
    SMALL = ("2-100-100-2@64", "250-16x3-128-250@100")
    LARGE = ("784-1000-10@1000", "784-1000-1000-10@128", "784-2048-2048-10@512")
    TORCH, JAX, SKLEARN, PLAIN = (
        "PyTorch / numpy",
        "JAX scan / best of ours",
        "scikit-learn / numpy",
        "numpy plain / numpy",
    )

    @pytest.fixture
    def rows(self) -> list[dict[str, str]]:
        """The table of the steps: one row for each network and optimizer, then the summary."""
        (report,) = self.REPORTS  # pages quote one machine: remove the results of another
        table = text_of(report).partition("## Ratios of a step")[2].partition("\n## ")[0]
        header, _, *rows = ([*map(str.strip, line.split("|"))] for line in table.splitlines() if line.startswith("|"))
        return [dict(zip(header, [cell.strip("*") for cell in row], strict=True)) for row in rows]

    @pytest.fixture
    def summary(self, rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
        return {row["network@batch"]: row for row in rows[-3:]}

    def spread(self, rows, peer, networks, optimizers=("sgd", "momentum", "adam"), digits=2) -> str:
        """The range of a ratio, as pages write it."""
        found = [float(r[peer]) for r in rows if r["network@batch"] in networks and r["optimizer"] in optimizers]
        return f"{min(found):.{digits}f} to {max(found):.{digits}f}"

    def test_the_readme_quotes_the_report(self, rows, summary):
        mean, least, largest = (summary[name] for name in ("geometric mean", "least", "largest"))
        text = " ".join(text_of(ROOT / "README.md").split())
        assert f"{float(mean[self.SKLEARN]):.1f} times as fast" in text
        assert f"{float(least[self.SKLEARN]):.1f} to {float(largest[self.SKLEARN]):.1f} times" in text
        assert f"PyTorch needs {float(mean[self.TORCH]):.1f} times as long" in text
        assert f"on the largest networks, {self.spread(rows, self.TORCH, self.LARGE)} times as long" in text

    def test_the_comparison_of_libraries_quotes_the_report(self, rows, summary):
        mean, least, largest = (summary[name] for name in ("geometric mean", "least", "largest"))
        text = text_of(DOCS / "choose.md")
        for name, peer in (("scikit-learn", self.SKLEARN), ("PyTorch", self.TORCH)):
            assert f"| {name} | {mean[peer]} | {least[peer]} to {largest[peer]} |" in text
        assert f"PyTorch then needs {self.spread(rows, self.TORCH, self.LARGE)} times our time" in text

    @pytest.mark.parametrize("row", ["geometric mean", "least", "largest"])
    def test_the_table_on_speed_quotes_the_report(self, row, summary):
        found = [summary[row][peer] for peer in (self.TORCH, self.JAX, self.SKLEARN, self.PLAIN)]
        assert f"| {row} | {' | '.join(found)} |" in text_of(DOCS / "speed.md")

    def test_the_page_on_speed_quotes_the_report(self, rows, summary):
        least, largest = (float(summary[name][self.SKLEARN]) for name in ("least", "largest"))
        text = " ".join(text_of(DOCS / "speed.md").split())
        assert f"PyTorch takes {self.spread(rows, self.TORCH, self.SMALL, digits=1)} times as long" in text
        assert f"PyTorch takes {self.spread(rows, self.TORCH, self.LARGE, ['sgd', 'momentum'])} times as long" in text
        assert f"with Adam, {self.spread(rows, self.TORCH, self.LARGE, ['adam'])} times" in text
        assert f"**scikit-learn** takes {least:.1f} to {largest:.1f} times as long" in text


def test_every_public_name_is_in_the_reference():
    text = text_of(DOCS / "reference.md")
    missing = [name for name in mlp_xp.__all__ if not re.search(rf":: mlp_xp\.(\w+\.)*{name}$", text, re.MULTILINE)]
    assert not missing, f"docs/reference.md lacks {', '.join(missing)}"


def test_the_pages_do_not_name_this_machine():
    for page in PAGES:
        assert str(Path(sys.prefix)) not in text_of(page)

"""The documentation says what the code does: quoted lines are where links lead, and code on the pages runs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mlp_xp

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
MATH = re.compile(r"\$[^$\n]+\$")


def renewer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("renew", DOCS / "renew.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


renew = renewer()
QUOTATIONS = [
    pytest.param(page, link["quote"], link["file"], int(link["line"]), id=f"{page.stem}: {link['quote']}")
    for page in PAGES
    for link in renew.QUOTING.finditer(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "quote", "file", "line"), QUOTATIONS)
def test_a_quoted_line_is_where_its_link_leads(page, quote, file, line):
    lines = (page.parent / file).resolve().read_text(encoding="utf-8").splitlines()
    there = lines[line - 1].strip() if line <= len(lines) else "nothing: the file is shorter"
    assert quote in there, f"{page.name} quotes {quote!r}, but {file}#L{line} has {there!r}: python docs/renew.py"


def test_the_derivations_quote_every_formula_they_derive():
    text = (DOCS / "derivations.md").read_text(encoding="utf-8")
    for file in ("dense", "embedding", "activations", "chain"):
        assert f"../mlp_xp/nn/layers/{file}.py#L" in text
    for file in ("losses", "optimizers", "step"):
        assert f"../mlp_xp/nn/{file}.py#L" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    anchors = {heading_anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for link in LINK.finditer(MATH.sub("", text)):
        file, _, anchor = link["target"].partition("#")
        if file.startswith(("http:", "https:")):
            continue
        assert (page.parent / file).exists(), f"{page.name} links to {file}, which is not there"
        assert file or anchor in anchors, f"{page.name} links to #{anchor}, which is no heading of it"


def heading_anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mathematics_is_what_github_renders(page):
    text = page.read_text(encoding="utf-8")
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
        assert not re.search(r"\\[^a-zA-Z]", formula), f"Markdown takes the backslash away: {formula}"


@pytest.mark.parametrize("name", ["architecture.md", "derivations.md"])
def test_programs_on_a_page_run(name):
    blocks = PYTHON.findall((DOCS / name).read_text(encoding="utf-8"))
    code = compile("\n".join(blocks), name, "exec", dont_inherit=True)
    exec(code, {"__name__": name})


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    missing = [name for name in mlp_xp.__all__ if f"[`{name}`]" not in text and f"mlp_xp.nn.{name}`" not in text]
    assert not missing, "python docs/renew.py adds them"


class TestRenewing:
    """A quotation holds; the number follows it."""

    @pytest.fixture
    def page(self, tmp_path):
        (tmp_path / "code.py").write_text("\n\nx = 1\ny = 2 * x\n", encoding="utf-8")
        return tmp_path

    def test_a_number_follows_its_line(self, page):
        assert renew.relinked("see [`y = 2 * x`](code.py#L77).", page) == "see [`y = 2 * x`](code.py#L4)."

    def test_it_can_be_done_again(self, page):
        once = renew.relinked("[`x = 1`](code.py#L0)", page)
        assert renew.relinked(once, page) == once

    @pytest.mark.parametrize("quote", ["z = 3", "x"], ids=["gone", "ambiguous"])
    def test_a_quotation_that_is_not_one_line_is_an_error(self, page, quote):
        with pytest.raises(renew.StaleError, match=re.escape(repr(quote))):
            renew.relinked(f"[`{quote}`](code.py#L3)", page)

    def test_a_missing_file_is_an_error(self, page):
        with pytest.raises(renew.StaleError, match=r"no file .*gone\.py"):
            renew.relinked("[`x = 1`](gone.py#L3)", page)

    def test_other_links_stay(self, page):
        text = "[a page](code.py#L9) and [`code.py`](code.py) and [`f(x)`](https://example.org/#L1x)"
        assert renew.relinked(text, page) == text


def test_the_pages_do_not_name_this_machine():
    for page in PAGES:
        assert str(Path(sys.prefix)) not in page.read_text(encoding="utf-8")

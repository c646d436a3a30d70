"""Sphinx configuration: ``python -m sphinx -W -n -c docs . build/docs``, from the root of the repository.

Links of the pages to files of code lead to pages with the highlighted file. A link whose text is a quoted line of code,
such as [`y = x`](../mlp_xp/file.py), leads to that line, wherever it is. Notebooks are executed, and their pages show
the output of each cell.
"""

from __future__ import annotations

import inspect
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = list((ROOT / "docs/notebooks").glob("*.md"))
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

project = "mlp_xp"
copyright = "the authors of mlp_xp"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.linkcode", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "examples/README.md", "benchmarks/**.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "benchmarks/results/passes*", "benchmarks/results/ranks*"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "code": {"url": "{{path}}#{{fragment}}"}}

nb_custom_formats = {f"notebooks/{file.name}": ["jupytext.reads", {"fmt": "md"}] for file in NOTEBOOKS}
nb_execution_in_temp = True
nb_execution_timeout = 300  # seconds for a cell

default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
nitpick_ignore_regex = [("py:class", ".*"), ("py:obj", r"(numpy|pandas|matplotlib|sklearn|scipy)\..*")]

html_theme = "furo"
html_title = "mlp_xp"
html_extra_path = ["redirect"]
copybutton_exclude = ".linenos, .gp, .go"

LINK = re.compile(r"\[(?P<text>`[^`\n]+`|[^\]\[`]*)\]\((?P<file>(?:\.\./)+[^)#\s:]+)\)")
CODE = ("mlp_xp", "backends", "examples", "benchmarks", "tests")


def line_of(file: Path, quote: str) -> int:
    """The number of the first line that contains ``quote``, 1 if there is none."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((n for n, line in enumerate(lines, 1) if quote in line), 1)


def code_url(file: Path, line: int, page: str) -> str:
    """The address of a line on its page of code, relative to ``page``."""
    path = posixpath.relpath(f"code/{file.relative_to(ROOT).as_posix()}.html", posixpath.dirname(page))
    return f"{path}#L-{line}"


def link_code(app: Any, page: str, source: list[str]) -> None:
    """Turn links to files of code into links to their pages."""

    def linked(link: re.Match[str]) -> str:
        file = (ROOT / page).parent.joinpath(link["file"]).resolve()
        if file.suffix in (".md", ".png", ".gif") or not file.is_file():
            return link[0]
        return f"[{link['text']}](code:{code_url(file, line_of(file, link['text'].strip('`')), page)})"

    source[0] = LINK.sub(linked, source[0])


def code_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file of code, with an anchor at each line."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    files = [ROOT / "pyproject.toml", ROOT / ".ci/run", *(f for d in CODE for f in sorted((ROOT / d).rglob("*.py")))]
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        try:
            lexer = get_lexer_for_filename(file.name)
        except ClassNotFound:
            lexer = TextLexer()
        body = highlight(file.read_text(encoding="utf-8"), lexer, formatter)
        yield f"code/{name}", {"title": name, "body": f"<h1>{name}</h1>{body}"}, "page.html"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The line on which a documented object begins."""
    thing: Any = sys.modules.get(info["module"])
    try:
        for name in info["fullname"].split("."):
            thing = getattr(thing, name)
        thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
        file, (_, line) = inspect.getsourcefile(thing), inspect.getsourcelines(thing)
    except (AttributeError, TypeError, OSError):
        return None
    inside = file is not None and Path(file).is_relative_to(ROOT)
    return code_url(Path(file), line, "docs/reference") if inside else None


def resolve_public_name(app: Any, env: Any, node: Any, text: Any) -> Any:
    """`Dense` in a docstring of another module than `mlp_xp` means `mlp_xp.Dense`."""
    if node.get("refdomain") != "py":
        return None
    resolve = env.domains["py"].resolve_xref
    targets = (f"{module}.{node['reftarget']}" for module in ("mlp_xp", "mlp_xp_backends.groups"))
    found = (resolve(env, node["refdoc"], app.builder, "obj", target, node, text) for target in targets)
    return next(filter(None, found), None)


def plain_roles(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Descriptions of parameters that come from scikit-learn refer to its own pages: keep their text alone."""
    if name.startswith("mlp_xp.sklearn."):
        text = re.sub(r":(?:ref|term|class|func|meth):`~?([^`<]+?)(?: <[^>]+>)?`", r"\1", "\n".join(lines))
        lines[:] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text).splitlines()


def no_signature_of_protocols(app: Any, what: str, name: str, thing: Any, *rest: Any) -> tuple[str, str] | None:
    """Protocols are inherited from, not called."""
    return ("", "") if getattr(thing, "_is_protocol", False) else None


def setup(app: Any) -> None:
    """Connect the handlers."""
    app.connect("autodoc-process-signature", no_signature_of_protocols)
    app.connect("autodoc-process-docstring", plain_roles, priority=400)
    app.connect("missing-reference", resolve_public_name)
    app.connect("source-read", link_code)
    app.connect("html-collect-pages", code_pages)

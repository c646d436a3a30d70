"""Renew what the pages of this folder say about the code: ``python docs/renew.py``, after any change of it.

A link such as [`y = 2 * x`](../mlp_xp/double.py#L7) quotes a line of code and leads to it. The quotation is what
holds: it must occur in exactly one line of the file, and the number is made to follow it. The page of public names
is written anew from the code. ``python docs/renew.py --check`` changes nothing and lists what is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
QUOTING = re.compile(r"\[`(?P<quote>[^`]+)`\]\((?P<file>[^)#\s]+)#L(?P<line>\d+)\)")
SECTIONS = {  # and where the objects of each are defined: parts of the package, by name
    "Networks": ("networks", "layers"),
    "Losses": ("losses",),
    "Optimizers": ("optimizers",),
    "Initial weights": ("initializers",),
    "Training": (
        "trainer",
        "history",
        "early_stopping",
        "callbacks",
        "loggers",
        "lr_finder",
        "sources",
        "step",
        "gradient_check",
    ),
    "Trained models and files": ("model", "paths"),
    "Devices": ("registry", "protocol"),
}
WITH_METHODS = ("Trainer", "Model", "Callback", "Schedule", "Backend")
MODULES = {  # what is imported from modules of its own
    "mlp_xp.nn.schedules": "Learning-rate schedules, taken by every optimizer in place of a number.",
    "mlp_xp.nn.metrics": "Metrics, measured by the losses that name them.",
    "example_data": "Data sets: loaders that find files, download them, or fall back on data that is always there.",
    "mlp_xp.sklearn": "scikit-learn's estimators on any device; needs the extra `sklearn`.",
}


class StaleError(ValueError):
    """A page quotes code that is no longer there, or not in one place alone."""


def line_of(quote: str, file: Path) -> int:
    """The number of the one line of ``file`` that holds ``quote``; raises `StaleError` if it is not one."""
    if not file.is_file():
        raise StaleError(f"there is no file {file}")
    found = [n for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if quote in line]
    if len(found) != 1:
        raise StaleError(f"{file} must hold {quote!r} in one line, but has it in {len(found)}: {found}")
    return found[0]


def relinked(text: str, folder: Path = DOCS) -> str:
    """A page in ``folder`` with the line number of every quoting link as it is now."""

    def renew(link: re.Match[str]) -> str:
        quote, file = link["quote"], link["file"]
        return f"[`{quote}`]({file}#L{line_of(quote, (folder / file).resolve())})"

    return QUOTING.sub(renew, text)


def reference() -> str:
    """The page of public names: signature, first paragraph of the docstring, and the file that has the rest."""
    import mlp_xp

    names = {name: getattr(mlp_xp, name) for name in mlp_xp.__all__ if name not in ("metrics", "schedules")}
    parts = [
        "# Public names\n",
        "Written by `python docs/renew.py` from the code. The docstring in the linked file says the rest: shapes, "
        "errors, and where a formula comes from. Sections without a module's name are imported from `mlp_xp` itself.\n",
    ]
    for title, modules in SECTIONS.items():
        parts.append(_section(title, {n: thing for n, thing in names.items() if _part(thing) in modules}))
    for module, text in MODULES.items():
        parts.append(_section(f"`{module}`", _offered(import_module(module)), f"{text}\n"))
    return "\n".join(parts)


def _offered(module: ModuleType) -> dict[str, Any]:
    """The functions and classes that ``module`` lists in ``__all__``, or that are defined in it."""
    listed = getattr(module, "__all__", None)
    return {
        name: thing
        for name, thing in sorted(vars(module).items())
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and (name in listed if listed is not None else thing.__module__ == module.__name__ and name[0] != "_")
    }


def _section(title: str, objects: dict[str, Any], text: str = "") -> str:
    rows = []
    for name, thing in objects.items():
        rows.append(f"| {_entry(name, thing)} | {_sentence(thing)} |")
        rows += [f"| `.{name}{_signature(f)}` | {_sentence(f)} |" for name, f in _methods(name, thing)]
    return "\n".join([f"## {title}\n", *filter(None, [text]), "| name | what it is |", "| --- | --- |", *rows, ""])


def _entry(name: str, thing: Any) -> str:
    file = Path(inspect.getfile(thing)).resolve().relative_to(ROOT)
    return f"[`{name}`](../{file.as_posix()}) <br> `{name}{_signature(thing)}`"


def _methods(name: str, thing: Any) -> list[tuple[str, Any]]:
    """The public methods of what is called or written by users."""
    if name not in WITH_METHODS:
        return []
    members = ((key, getattr(f, "__func__", f)) for key, f in vars(thing).items() if key[0] != "_")
    return [(key, f) for key, f in members if inspect.isfunction(f)]


def _signature(thing: Any) -> str:
    """The parameters without their types, which the docstring tells better."""
    if inspect.isclass(thing) and (issubclass(thing, Exception) or getattr(thing, "_is_protocol", False)):
        return ""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return ""
    bare = inspect.Signature(
        [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name not in ("self", "cls")]
    )
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", str(bare)).replace("|", "\\|")


def _sentence(thing: Any) -> str:
    """The first paragraph of the docstring, in one line of Markdown."""
    text = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return text.replace("``", "`").replace("|", "\\|")


def _part(thing: Any) -> str:
    """The file or folder of its package that ``thing`` is from: ``layers`` for ``mlp_xp.nn.layers.dense``."""
    folders = {"mlp_xp", "mlp_xp_backends", "nn", "data", "files", "training"}
    return next(part for part in str(thing.__module__).split(".") if part not in folders)


def pages() -> dict[Path, str]:
    """Every page of this folder as it should be."""
    renewed = {page: relinked(page.read_text(encoding="utf-8")) for page in sorted(DOCS.glob("*.md"))}
    return renewed | {DOCS / "reference.md": reference()}


def main(check: bool) -> int:
    """Renew, or with ``check`` only tell; the exit code is 1 where something was out of date."""
    stale = [
        (page, text) for page, text in pages().items() if not page.exists() or page.read_text(encoding="utf-8") != text
    ]
    for page, text in stale:
        if not check:
            page.write_text(text, encoding="utf-8")
        print(f"{page.relative_to(ROOT)} {'is out of date: python docs/renew.py' if check else 'renewed'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "backends")]
    try:
        sys.exit(main("--check" in sys.argv[1:]))
    except StaleError as error:
        sys.exit(f"docs/renew.py: {error}")

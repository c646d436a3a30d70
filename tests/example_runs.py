"""Functions that run examples in the process of the tests, on the CPU, in the current folder."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from example_tools.run import run_example


def run(name: str, *argv: object) -> int:
    """Run the example ``name``; its exit code. With subcommands, the first of ``argv`` is the command."""
    example = importlib.import_module(name)
    words = [str(word) for word in argv]
    place = 1 if name == "language_model" else 0
    try:
        return run_example(example.main, example.parser(), [*words[:place], "--device", "cpu", *words[place:]])
    except SystemExit as stop:
        return int(stop.code or 0)


def report(name: str, *argv: object) -> dict[str, Any]:
    """Run the example ``name`` with --json; the report."""
    assert run(name, *argv, "--json", "report.json") == 0
    found: dict[str, Any] = json.loads(Path("report.json").read_text(encoding="utf-8"))
    return found

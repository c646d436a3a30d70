"""The example that trains many models at once."""

from __future__ import annotations

from pathlib import Path

import example_runs
import pytest

pytest.importorskip("mlp_xp.sklearn", exc_type=ImportError)


def test_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--dataset", "digits", "--rates", 0.1, 0.001, "--repeats", 2, "--epochs", 3)
    result = example_runs.report("sweep", *arguments, "--out", tmp_path)["result"]
    assert result["models"] == 4
    assert result["chosen_rate"] == 0.1
    assert result["search_accuracy"] > 0.95
    assert {path.name for path in tmp_path.glob("*.png")} == {"sweep-curves.png", "sweep-rates.png"}

"""The example that compares both on a table."""

from __future__ import annotations

from pathlib import Path

import example_runs
import pytest

pytest.importorskip("mlp_xp.sklearn", exc_type=ImportError)


@pytest.mark.parametrize("dataset", ["cancer", "digits"])
def test_tabular(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = example_runs.report("tabular", "--dataset", dataset, "--epochs", 3, "--repeats", 1)["result"]
    assert result["largest_weight_difference"] < 1e-9
    assert result["test_accuracy"] == result["scikit_learn_test_accuracy"]
    assert "times as fast" in capsys.readouterr().out

"""The example that compares both on a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn", "1.7")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("dataset", ["cancer", "digits"])
def test_tabular(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import tabular

    report = tmp_path / "report.json"
    options = ["--dataset", dataset, "--epochs", "3", "--repeats", "1", "--device", "cpu", "--json", str(report)]
    assert tabular.tell(tabular.story, tabular.parser(), options) == 0
    result = json.loads(report.read_text())["result"]
    assert result["largest_weight_difference"] < 1e-9
    assert result["test_accuracy"] == result["scikit_learn_test_accuracy"]
    assert "times as fast" in capsys.readouterr().out

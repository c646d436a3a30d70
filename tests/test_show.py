"""``python -m mlp_xp show``."""

from __future__ import annotations

import pytest

from mlp_xp.__main__ import main
from mlp_xp.show import OPTIMIZERS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_show_prints_the_compiled_step(optimizer: str, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "20-30-4", "--optimizer", optimizer, "--batch", "16", "--dtype", dtype]) == 0
    text = capsys.readouterr().out
    assert f"{dtype}[16, 30] @ buffer" in text and "gemm(" in text
    assert "products; " in text.splitlines()[-1]


@pytest.mark.parametrize("widths", ["784", "3-0-2", "3-x", "-3-4"])
def test_widths_that_are_none(widths: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["show", widths])
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["0", "-1", "x", "1.5"])
def test_rows_that_are_none(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["show", "4-3", "--batch", rows])
    assert f"give a positive number of rows, not {rows}" in capsys.readouterr().err


def test_a_step_that_does_not_fit_into_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "4-3", "--batch", "999999999999"]) == 2
    assert "python -m mlp_xp show: Unable to allocate" in capsys.readouterr().err

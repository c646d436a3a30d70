"""All figures of the README and the documentation are drawn on small data, with labeled axes; pages show no others."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import figures
from example_tools import class_plots, plots, run, word_plots

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), ROOT / "examples" / "README.md"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of all figures, drawn on small data, and the matplotlib figures by name."""
    folder, kept = tmp_path_factory.mktemp("figures"), {}
    draw = run.Run.draw

    def keep(self: Any, name: str, plot: Any, *args: Any, **settings: Any) -> None:
        kept[name] = plot(*args, **settings)
        draw(self, name, lambda: kept[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLP_XP_DATA", raising=False)
        patch.setenv("MLP_XP_CACHE", str(folder / "cache"))
        patch.setattr("example_data.notmnist.EMBEDDED", 600)  # letters
        patch.setattr(run.Run, "draw", keep)
        assert figures.main(["--out", str(folder / "out"), "--quick", "--device", "cpu"]) == 0
    return folder / "out", kept


@pytest.mark.slow
def test_every_figure_is_drawn(drawn: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = drawn
    assert {path.name for path in folder.iterdir()} == set(figures.FIGURES)
    for path in folder.iterdir():
        assert path.read_bytes().startswith({".png": b"\x89PNG\r\n", ".gif": b"GIF89a"}[path.suffix])


@pytest.mark.slow
def test_the_animation_has_a_frame_before_training_and_one_per_epoch(drawn: tuple[Path, dict[str, Any]]) -> None:
    from PIL import Image

    with Image.open(drawn[0] / "moons.gif") as animation:
        assert animation.n_frames == 3  # --quick trains two epochs


@pytest.mark.slow
def test_axes_and_figures_are_named(drawn: tuple[Path, dict[str, Any]]) -> None:
    for name, figure in drawn[1].items():
        assert figure.get_suptitle() or any(ax.get_title() for ax in figure.axes), name
        for ax in figure.axes:
            named = (ax.get_xlabel() or ax.get_label() == "<colorbar>") and ax.get_ylabel()
            assert not ax.axison or named or (figure.get_supxlabel() and figure.get_supylabel()), name


@pytest.mark.slow
def test_no_text_is_cut_off(drawn: tuple[Path, dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for name, figure in drawn[1].items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        page = figure.bbox.padded(1.0)
        for text in filter(lambda text: text.get_text(), texts(figure)):
            box = text.get_window_extent(renderer)
            assert page.contains(*box.min) and page.contains(*box.max), f"{name}: {text.get_text()!r}"


def texts(figure: Any) -> list[Any]:
    """Titles, labels of axes, legends and annotations."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for ax in figure.axes:
        legend = ax.get_legend()
        found += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *(legend.get_texts() if legend else [])]
    return found


def test_the_pages_show_figures_that_the_command_draws() -> None:
    shown = {name for page in PAGES if page.exists() for name in re.findall(r"figures/([\w.-]+)", page.read_text())}
    assert shown <= set(figures.FIGURES)
    assert {path.name for path in (ROOT / "docs" / "figures").iterdir()} == set(figures.FIGURES)


def test_without_data_the_command_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLP_XP_DATA", raising=False)
    with pytest.raises(SystemExit):
        figures.main(["--out", str(tmp_path)])
    assert "--data-dir, MLP_XP_DATA or --quick" in capsys.readouterr().err
    assert figures.main(["--out", str(tmp_path), "--data-dir", str(tmp_path), "--only", "mnist-curves.png"]) == 2


def test_a_confusion_matrix_counts_every_row_once() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(3, size=(2, 50))
    (ax, _) = class_plots.confusion_matrix(true, predicted, "abc").axes
    counts = {tuple(map(round, text.get_position())): int(text.get_text()) for text in ax.texts}
    assert sum(counts.values()) == 50
    assert counts[1, 2] == np.sum((predicted == 1) & (true == 2))


def test_the_sheet_of_mistakes_begins_with_the_most_confident() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    (ax,) = class_plots.mistakes(np.zeros((4, 4)), np.array([0, 0, 1, 1]), (2, 2), p, "ab").axes
    assert [text.get_text() for text in ax.texts] == ["a → b  80 %", "b → a  60 %"]


def test_two_curves_that_coincide_are_shown_with_their_difference() -> None:
    losses = np.array([1.0, 0.5, 0.25])
    left, right = plots.two_curves(losses, losses + np.array([0.0, 1e-15, 0.0]), ("ours", "theirs"), "title").axes
    assert len(left.lines) == 2
    np.testing.assert_allclose(right.lines[0].get_ydata(), [plots.EQUAL, 1e-15, plots.EQUAL], rtol=0.2)


def test_labels_overlap_neither_each_other_nor_the_frame() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(40)]
    figure = word_plots.word_map(rng.uniform(size=(40, 2)), words, "a map")
    (ax,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer).padded(-0.5) for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == words
    assert not [(i, j) for (i, a), (j, b) in combinations(enumerate(boxes), 2) if a.overlaps(b)]
    frame = ax.get_window_extent()
    assert all(frame.contains(*box.min) and frame.contains(*box.max) for box in boxes)

"""Each example tells its story on data that is always there: a report in one layout, figures with named axes, and
one line for a mistake."""

from __future__ import annotations

import importlib
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from example_data import load_digits
from mlp_xp import load
from mlp_xp_backends import BackendError, get_backend

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PNG, GIF = b"\x89PNG\r\n", b"GIF89a"

RUNS = {
    "mnist": ("mnist", "--dataset digits --epochs 1"),
    "digits_study": ("digits_study", "--dataset digits --epochs 1 --rates 0.1 0.01 --seeds 2"),
    "digits_study, published": (
        "digits_study",
        "--dataset digits --epochs 1 --rates 0.1 0.01 --seeds 2 --recipe published",
    ),
    "from_scratch": ("from_scratch", "--points 500 --epochs 2"),
    "from_scratch, published": ("from_scratch", "--points 500 --epochs 2 --recipe published"),
    "moons": ("moons", "--points 300 --epochs 2 --seeds 2"),
    "moons, published": ("moons", "--points 300 --epochs 2 --recipe published"),
}
FIGURES = {
    "mnist": {"digits-curves.png", "digits-confusion.png", "digits-mistakes.png"},
    "digits_study": {f"digits_study-{name}.png" for name in ("curves", "losses", "rates", "seeds")},
    "from_scratch": {"from_scratch-loss.png", "from_scratch-decision.png"},
    "moons": {"moons-decision.png", "moons-curves.png"},
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def run_example(name: str, *argv: object) -> int:
    """Run an example in this process; its exit code."""
    example = module(name)
    repeat = {"repeat": False} if name == "digits_study" else {}
    try:
        return int(run.run_example(example.main, example.parser(), ["--device", "cpu", *map(str, argv)], **repeat))
    except SystemExit as stop:
        return int(stop.code or 0)


def report(name: str, *argv: object) -> dict[str, Any]:
    assert tell(name, *argv, "--json", "report.json") == 0
    found: dict[str, Any] = json.loads(Path("report.json").read_text(encoding="utf-8"))
    return found


def finite(value: Any) -> bool:
    """Whether all numbers in it are."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that an example draws, by name."""
    drawn: dict[str, Any] = {}
    common = module("common")
    draw = common.Run.draw

    def keep(self: Any, name: str, plot: Callable[..., Any], *args: Any, **settings: Any) -> None:
        def kept(*args: Any, **settings: Any) -> Any:
            drawn[name] = plot(*args, **settings)
            return drawn[name]

        draw(self, name, kept, *args, **settings)

    monkeypatch.setattr(common.Run, "draw", keep)
    return drawn


@pytest.mark.parametrize("run", RUNS)
def test_an_example_reports_and_draws(run: str, figures: dict[str, Any]) -> None:
    name, options = RUNS[run]
    found = report(name, *options.split(), "--out", "pictures")
    assert list(found) == ["example", "settings", "device", "versions", "epochs", "result", "seconds"]
    assert found["example"] == name
    assert found["settings"]["seed"] == 0 and found["settings"]["epochs"] == len(found["epochs"])
    assert found["device"] == {"backend": "numpy", "device": "cpu"}
    assert {"python", "mlp_xp", "numpy"} <= set(found["versions"])
    assert all(record["epoch"] == i for i, record in enumerate(found["epochs"], 1))
    assert {"test_accuracy", "test_loss"} <= set(found["result"]) and finite(found["result"])
    assert {"load", "train", "total"} <= set(found["seconds"])
    assert found["seconds"]["total"] >= found["seconds"]["train"] > 0.0
    assert name == "mnist" or {"recipe", "valid_accuracy"} <= set(found["result"])

    assert set(figures) == FIGURES[name] == {file.name for file in Path("pictures").iterdir()}
    for file in Path("pictures").iterdir():
        assert file.read_bytes().startswith(PNG)
    for figure in figures.values():
        for ax in figure.axes:
            assert not ax.axison or ((ax.get_xlabel() or ax.get_label() == "<colorbar>") and ax.get_ylabel())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd", "momentum", "nesterov"])
def test_the_rate_that_suits_an_optimizer_makes_it_learn(optimizer: str) -> None:
    found = report("mnist", "--dataset", "digits", "--epochs", 10, "--optimizer", optimizer)
    assert found["result"]["test_accuracy"] > 0.95


@pytest.mark.parametrize(
    "schedule", ["constant", "step", "exponential", "invscaling", "cosine", "plateau", "lossratio"]
)
def test_every_schedule_can_be_had(schedule: str) -> None:
    found = report("mnist", "--dataset", "digits", "--epochs", 2, "--schedule", schedule, "--hidden", 20)
    assert found["epochs"][1]["loss"] < found["epochs"][0]["loss"]


def test_a_resumed_run_ends_like_one_that_was_not_stopped() -> None:
    options = ("--dataset", "digits", "--schedule", "constant", "--dropout", "0.1")
    whole = report("mnist", *options, "--epochs", 3)
    report("mnist", *options, "--epochs", 1, "--save", "run.safetensors")
    resumed = report("mnist", "--dataset", "digits", "--epochs", 3, "--resume", "run.safetensors")
    assert resumed["result"] == whole["result"]
    assert [e["loss"] for e in resumed["epochs"]] == [e["loss"] for e in whole["epochs"]]


def test_what_save_writes_is_the_model_too() -> None:
    found = report("mnist", "--dataset", "digits", "--epochs", 1, "--save", "run.safetensors")
    test = load_digits(np.random.default_rng(0)).test
    assert load("run.safetensors", "cpu").evaluate(*test)["accuracy"] == found["result"]["test_accuracy"]


@pytest.mark.parametrize(("name", "options"), [("moons", "--points 300"), ("digits_study", "--dataset digits")])
def test_a_saved_model_is_as_good_when_it_is_loaded(name: str, options: str) -> None:
    extra = ["--rates", "0.1", "--runs", "1"] if name == "digits_study" else []
    saved = report(name, *options.split(), *extra, "--epochs", 1, "--save", "model.safetensors")
    loaded = report(name, *options.split(), "--load", "model.safetensors")
    assert loaded["epochs"] == []
    for key in ("test_accuracy", "test_loss", "valid_accuracy"):
        assert loaded["result"][key] == saved["result"][key]


def test_the_animation_has_a_picture_for_each_epoch_and_one_before() -> None:
    from PIL import Image

    assert tell("moons", "--points", 200, "--epochs", 2, "--animate", "moons.gif") == 0
    assert Path("moons.gif").read_bytes().startswith(GIF)
    with Image.open("moons.gif") as picture:
        assert picture.n_frames == 3


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("--epochs 0", "an integer from 1, not '0'"),
        ("--lr nan", "a number above 0, not 'nan'"),
        ("--dropout 1", "a number from 0 to below 1, not '1'"),
        ("--hidden 3 -1", "an integer from 1, not '-1'"),
        ("--activation step", "invalid choice: 'step'"),
        ("--no-such-option", "unrecognized arguments"),
        ("--device tpu", "unknown backend or device 'tpu'"),
        ("--dataset digits --resume nowhere", "cannot read nowhere"),
        ("--dataset digits --resume text", "text is "),
        ("--data-dir empty", "no mnist data in empty"),
        ("--dataset digits --epochs 1 --json empty", "empty is a folder"),
        ("--dataset digits --epochs 1 --save empty", "empty is a folder"),
        ("--dataset digits --epochs 1 --out text", "text"),
        ("--dataset digits --lr 1e30 --optimizer sgd", "try a rate ten times smaller"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
def test_a_mistake_is_told_in_one_line(argv: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("text").write_text("no checkpoint", encoding="utf-8")
    assert tell("mnist", *argv.split()) == 2
    error = capsys.readouterr().err
    assert wanted in error and error.count("\n") == 1 and "Traceback" not in error


def test_without_a_gpu_the_examples_run_on_the_cpu_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        get_backend("cuda")
    except BackendError:
        pass
    else:
        pytest.skip("there is a GPU")
    assert report("moons", "--points", 200, "--epochs", 1, "--device", "cuda")["device"]["backend"] == "numpy"
    assert "running on the CPU instead" in capsys.readouterr().err
    assert tell("moons", "--points", 200, "--epochs", 1, "--device", "cuda", "--strict-device") == 2
    assert "cupy cannot be used here" in capsys.readouterr().err


def python(*argv: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"} | variables
    return subprocess.run(
        [sys.executable, *map(str, argv)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_mnist_runs_from_anywhere_and_imports_what_it_needs(tmp_path: Path) -> None:
    """On files like MNIST's: no plotting, no scikit-learn, no downloads, no bars where none is asked for."""
    rng = np.random.default_rng(0)
    for part, rows in (("train", 64), ("t10k", 32)):
        pixels, labels = rng.integers(256, size=(rows, 28, 28), dtype=np.uint8), np.arange(rows, dtype=np.uint8) % 10
        head = struct.pack(">4i", 0x803, rows, 28, 28), struct.pack(">2i", 0x801, rows)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head[0] + pixels.tobytes())
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(head[1] + labels.tobytes())
    script = EXAMPLES / "mnist.py"
    done = python("-X", "importtime", script, "--data-dir", tmp_path, "--epochs", 1, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "MNIST from" in done.stdout and "test accuracy" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"matplotlib", "sklearn", "scipy", "pooch", "tqdm", "PIL", "cupy", "torch", "jax"}


def test_the_derivatives_in_loops_are_those_of_the_loss() -> None:
    scratch = module("from_scratch")
    rng = np.random.default_rng(0)
    weights = scratch.Weights(*(rng.normal(size=s).tolist() for s in ((2, 3), 3, (3, 2), 2)))
    x, y, h = [0.3, -1.2], 1, 1e-6
    _, slope = scratch.derivatives(weights, x, y)
    for name in weights._fields:
        w, dw = np.array(getattr(weights, name)), np.array(getattr(slope, name))
        for place in np.ndindex(w.shape):
            step = np.zeros_like(w)
            step[place] = h
            ahead, behind = (
                scratch.derivatives(weights._replace(**{name: (w + sign * step).tolist()}), x, y)[0] for sign in (1, -1)
            )
            assert dw[place] == pytest.approx((ahead - behind) / (2 * h), abs=1e-8)


def test_the_published_derivatives_are_those_of_the_formulas() -> None:
    scratch = module("from_scratch")
    _, slope = scratch.derivatives(scratch.SIMPLE, scratch.POINT, scratch.LABEL)
    assert scratch.largest_difference(slope, scratch.PUBLISHED) < 5e-5


def test_loops_and_library_descend_alike() -> None:
    found = report("from_scratch", "--points", 500, "--epochs", 2, "--recipe", "published")
    losses = [record["loss"] for record in found["epochs"]]
    np.testing.assert_allclose(found["result"]["loops_losses"], losses, rtol=1e-9)


def test_a_confusion_matrix_counts_every_row_once() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(3, size=(2, 50))
    (ax, _) = module("plots").confusion_matrix(true, predicted, "abc").axes
    counts = {tuple(map(round, text.get_position())): int(text.get_text()) for text in ax.texts}
    assert sum(counts.values()) == 50
    assert counts[1, 2] == np.sum((predicted == 1) & (true == 2))


def test_the_sheet_of_mistakes_shows_the_surest_first() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    figure = module("plots").mistakes(np.zeros((4, 4)), np.array([0, 0, 1, 1]), (2, 2), p, "ab")
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["a → b  80 %", "b → a  60 %"]

"""Each example on data that is always available: a report in one layout, and one line for a mistake."""

from __future__ import annotations

import importlib
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from example_runs import report, run

from example_data import load_digits
from example_tools.options import given_options
from example_tools.seeds import spread
from mlp_xp import load
from mlp_xp_backends import BackendError, get_backend

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

RUNS = {
    "mnist": ("mnist", "--dataset digits --epochs 1"),
    "digits_study": ("digits_study", "--dataset digits --epochs 1 --rates 0.1 0.01 --seeds 2"),
    "digits_study, published": (
        "digits_study",
        "--dataset digits --epochs 1 --rates 0.1 --seeds 1 --recipe published",
    ),
    "from_scratch": ("from_scratch", "--points 500 --epochs 2"),
    "from_scratch, published": ("from_scratch", "--points 500 --epochs 2 --recipe published"),
    "moons": ("moons", "--points 300 --epochs 2 --seeds 2"),
    "moons, published": ("moons", "--points 300 --epochs 2 --recipe published"),
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def finite(value: Any) -> bool:
    """Whether all numbers in it are."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("case", RUNS)
def test_an_example_reports(case: str) -> None:
    name, options = RUNS[case]
    found = report(name, *options.split())
    assert list(found) == ["example", "settings", "device", "versions", "epochs", "result", "seconds"]
    assert found["example"] == name
    assert found["settings"]["seed"] == 0 and found["settings"]["epochs"] == len(found["epochs"])
    assert found["device"] == {"backend": "numpy", "device": "cpu"}
    assert {"python", "mlp_xp", "numpy"} <= set(found["versions"])
    assert all(record["epoch"] == i for i, record in enumerate(found["epochs"], 1))
    assert {"test_accuracy", "test_loss", "valid_accuracy"} <= set(found["result"]) and finite(found["result"])
    assert {"load", "train", "total"} <= set(found["seconds"])
    assert found["seconds"]["total"] >= found["seconds"]["train"] > 0.0
    assert name == "mnist" or "recipe" in found["result"]
    assert {file.name for file in Path.cwd().iterdir()} == {"report.json"}


@pytest.mark.parametrize("name", NAMES)
def test_help_names_data_and_time(name: str) -> None:
    example = module(name)
    text = " ".join(example.parser().format_help().split())
    assert "Data: " in text and "Time: " in text
    if "published" in (example.__doc__ or "") and name not in ("figures", "mnist"):
        assert re.search(r"Source: .*(course report|homework)", text)


def test_several_seeds_give_median_and_range(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--points", 200, "--epochs", 1)
    found = report("moons", *options, "--seeds", 3, "--seed", 4, "--save", "m.safetensors")["result"]
    singles = [report("moons", *options, "--seed", seed)["result"]["test_loss"] for seed in (4, 5, 6)]
    assert found["seeds"]["test_loss"]["values"] == singles and found["test_loss"] == singles[0]
    assert found["seeds"]["test_loss"]["median"] == sorted(singles)[1]
    assert load("m.safetensors", device="cpu").extra == {} and "3 seeds:" in capsys.readouterr().out
    assert run("moons", "--load", "m.safetensors", "--seeds", 2) == 2
    assert "omit --seeds" in capsys.readouterr().err


def test_the_spread_of_losses_and_accuracies() -> None:
    found = spread([{"a_loss": x, "recipe": "default", "n": 3} for x in (4.0, 1.0, 2.0)])
    assert found == {"a_loss": {"median": 2.0, "lowest": 1.0, "highest": 4.0, "values": [4.0, 1.0, 2.0]}}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd", "momentum", "nesterov"])
def test_the_rate_that_suits_an_optimizer_makes_it_learn(optimizer: str) -> None:
    found = report("mnist", "--dataset", "digits", "--epochs", 10, "--optimizer", optimizer, "--hidden", 100)
    assert found["result"]["test_accuracy"] > 0.95


@pytest.mark.parametrize(
    "schedule", ["constant", "step", "exponential", "invscaling", "cosine", "plateau", "lossratio"]
)
def test_every_schedule_trains(schedule: str) -> None:
    found = report("mnist", "--dataset", "digits", "--epochs", 2, "--schedule", schedule, "--hidden", 20)
    assert found["epochs"][1]["loss"] < found["epochs"][0]["loss"]


def test_a_resumed_run_ends_like_one_that_was_not_stopped() -> None:
    options = ("--dataset", "digits", "--schedule", "constant", "--dropout", "0.1")
    whole = report("mnist", *options, "--epochs", 3)
    report("mnist", *options, "--epochs", 1, "--checkpoint", "run.safetensors")
    resumed = report("mnist", "--dataset", "digits", "--epochs", 3, "--resume", "run.safetensors")
    assert resumed["result"] == whole["result"]
    assert [e["loss"] for e in resumed["epochs"]] == [e["loss"] for e in whole["epochs"]]


def test_the_best_epoch_on_the_validation_part_is_the_model_that_is_saved_and_tested() -> None:
    constant = ("--schedule", "constant", "--lr", 0.05)
    found = report("mnist", "--dataset", "digits", "--epochs", 8, *constant, "--save", "model.safetensors")
    best = min(record["valid_loss"] for record in found["epochs"])
    assert best < found["epochs"][-1]["valid_loss"]
    assert found["result"]["valid_loss"] == pytest.approx(best, rel=1e-6)
    assert not any(key.startswith("test") for record in found["epochs"] for key in record)
    test = load_digits(np.random.default_rng(0)).test
    assert load("model.safetensors", device="cpu").evaluate(*test)["accuracy"] == found["result"]["test_accuracy"]


def test_resume_refuses_what_the_checkpoint_holds(capsys: pytest.CaptureFixture[str]) -> None:
    report("mnist", "--dataset", "digits", "--epochs", 1, "--hidden", 20, "--checkpoint", "run.safetensors")
    resume = ("--dataset", "digits", "--resume", "run.safetensors")
    for option, value in (("--hidden", 20), ("--lr", 0.1), ("--seed", 0), ("--dtype", "float32")):
        assert run("mnist", *resume, option, value) == 2
        assert f"--resume takes {option} from the checkpoint" in capsys.readouterr().err
    settings = report("mnist", *resume, "--epochs", 2)["settings"]
    assert settings["hidden"] is None and settings["batch_size"] == 32


def test_given_options_are_those_on_the_command_line() -> None:
    assert given_options(module("mnist").parser(), ["--seed", "0", "--hidden", "300"]) == {"seed", "hidden"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("moons", "--points 300"), ("mnist", "--dataset digits"), ("digits_study", "--dataset digits")],
)
def test_a_saved_model_is_as_good_when_it_is_loaded(name: str, options: str) -> None:
    extra = ["--rates", "0.1", "--seeds", "1"] if name == "digits_study" else []
    saved = report(name, *options.split(), *extra, "--epochs", 1, "--save", "model.safetensors")
    loaded = report(name, *options.split(), "--load", "model.safetensors")
    assert loaded["epochs"] == []
    for key in ("test_accuracy", "test_loss", "valid_accuracy"):
        assert loaded["result"][key] == saved["result"][key]


@pytest.mark.parametrize(("file", "wanted"), [("m.mp4", "needs ffmpeg"), ("m.mov", "*.gif or *.mp4, got m.mov")])
def test_an_animation_that_cannot_be_written_is_refused_before_training(
    file: str, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.animation import writers

    monkeypatch.setattr(writers, "is_available", lambda name: False)
    assert run("moons", "--points", 200, "--animate", file) == 2
    shown = capsys.readouterr()
    assert wanted in shown.err and "accuracy" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("--epochs 0", "a positive integer, not '0'"),
        ("--lr nan", "a number above 0, not 'nan'"),
        ("--dropout 1", "a number in [0, 1), not '1'"),
        ("--hidden 3 -1", "a positive integer, not '-1'"),
        ("--activation step", "invalid choice: 'step'"),
        ("--no-such-option", "unrecognized arguments"),
        ("--device tpu", "unknown backend or device 'tpu'"),
        ("--dataset digits --resume nowhere", "cannot read nowhere"),
        ("--dataset digits --resume text", "cannot read text: it is truncated, or not a safetensors file"),
        ("--data-dir empty", "no mnist data in empty"),
        ("--dataset digits --epochs 1 --json empty", "empty is a folder"),
        ("--dataset digits --epochs 1 --save empty", "empty is a folder"),
        ("--dataset digits --epochs 1 --checkpoint empty", "empty is a folder"),
        ("--dataset digits --epochs 1 --out text", "text"),
        ("--dataset digits --lr 1e30 --optimizer sgd", "try a rate ten times smaller"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
def test_a_mistake_is_reported_in_one_line(argv: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("text").write_text("no checkpoint", encoding="utf-8")
    assert run("mnist", *argv.split()) == 2
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
    assert run("moons", "--points", 200, "--epochs", 1, "--device", "cuda", "--strict-device") == 2
    assert "cupy cannot be used here" in capsys.readouterr().err


def python(*argv: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"} | variables
    return subprocess.run(
        [sys.executable, *map(str, argv)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_mnist_runs_from_any_folder_and_imports_what_it_needs(tmp_path: Path) -> None:
    """On files in MNIST's format, in a process without the test's paths: no plotting, no scikit-learn, no downloads."""
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

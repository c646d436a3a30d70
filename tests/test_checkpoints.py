"""Files: what is saved comes back, killed runs end with the same bits, and no file can do harm."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mlp_xp import (
    GELU,
    SGD,
    Adam,
    BatchNorm,
    BinaryCrossEntropy,
    Chain,
    Checkpoint,
    CSVLog,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    FileError,
    LayerNorm,
    LeakyReLU,
    Rescale,
    SoftmaxCrossEntropy,
    Trainer,
    load,
    mlp,
)
from mlp_xp.files.config import KNOWN, Decoder, encode
from mlp_xp.nn.initializers import Constant, He, Normal
from mlp_xp.nn.schedules import LossRatio, OneCycle
from mlp_xp_backends.trees import leaves

NETWORK = Chain(
    Rescale(shift=1.0, scale=0.5),
    Dense(4, 8, init_W=He("uniform"), init_b=Constant(0.1)),
    BatchNorm(8),
    LeakyReLU(0.2),
    Dropout(0.2),
    Dense(8, 3),
)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((200, 4)), rng.integers(0, 3, 200)


def bits(trainer: Trainer) -> list[bytes]:
    return [trainer.backend.to_numpy(leaf).tobytes() for leaf in leaves(trainer.state)]


def trained(**options: object) -> Trainer:
    trainer = Trainer(NETWORK, optimizer=Adam(OneCycle(0.01)), device="cpu", **options)
    trainer.fit(*data(), max_epochs=2, batch_size=32)
    return trainer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_predicts_the_same(tmp_path: Path, dtype: str) -> None:
    model = trained(dtype=dtype).model
    model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", device="cpu")
    assert (again.network, again.loss, again.dtype) == (model.network, model.loss, dtype)
    np.testing.assert_array_equal(again.predict_proba(data()[0]), model.predict_proba(data()[0]))


def test_a_checkpoint_is_a_model_too_but_a_model_is_no_checkpoint(tmp_path: Path) -> None:
    trainer = trained()
    trainer.save_checkpoint(tmp_path / "c")
    np.testing.assert_array_equal(load(tmp_path / "c", device="cpu").predict(data()[0]), trainer.predict(data()[0]))
    trainer.model.save(tmp_path / "m")
    with pytest.raises(FileError, match="is a model, not a checkpoint"):
        Trainer.resume(tmp_path / "m", device="cpu")


def test_a_model_carries_what_belongs_to_it(tmp_path: Path) -> None:
    from dataclasses import replace

    replace(trained().model, extra={"words": ["a", "ü"]}).save(tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").extra == {"words": ["a", "ü"]}


@pytest.mark.parametrize(
    "config",
    [
        NETWORK,
        Chain(
            Embedding(5, 2, ids_per_row=3, combine="sum", init_E=Normal(std=0.5)),
            mlp(2, 4, 3, activation=GELU(), norm="layer"),
        ),
        LayerNorm(3, eps=1e-3),
        BinaryCrossEntropy(reduction="sum"),
        SGD(LossRatio(0.1, window=50), momentum=0.9, nesterov=True),
        Adam(OneCycle(0.01, warmup=0.2)),
    ],
)
def test_a_configuration_survives_json(config: object) -> None:
    assert Decoder(KNOWN)(json.loads(json.dumps(encode(config)))) == config


@pytest.mark.parametrize("engine", ["cpu", "torch:cpu", "jax:cpu"])
def test_a_run_resumes_on_every_engine(tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"cpu": "numpy"}.get(engine, engine.partition(":")[0]))
    network = mlp(4, 8, 3, activation="tanh", dropout=0.2, first=Rescale(shift=1.0, scale=0.5))
    trainer = Trainer(network, optimizer=Adam(OneCycle(0.01)), device="cpu")
    trainer.fit(*data(), max_epochs=4, batch_size=32, callbacks=[stop_after(2)])
    trainer.save_checkpoint(tmp_path / "c")
    trainer.fit(*data(), max_epochs=4, batch_size=32)
    resumed = Trainer.resume(tmp_path / "c", device=engine)
    resumed.fit(*data(), max_epochs=4, batch_size=32)
    assert [record["lr"] for record in resumed.history] == [record["lr"] for record in trainer.history]
    for a, b in zip(leaves(resumed.state.params), leaves(trainer.state.params), strict=True):
        np.testing.assert_allclose(resumed.backend.to_numpy(a), b, rtol=1e-4, atol=1e-5)
    if engine == "cpu":
        assert bits(resumed) == bits(trainer)


def stop_after(epochs: int) -> object:
    return lambda trainer, record: record["epoch"] == epochs


RUN = """
    import sys
    import numpy as np
    from mlp_xp import *
    from mlp_xp.nn.schedules import OneCycle
    from pathlib import Path
    path = Path(sys.argv[1])
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3000, 4)), rng.integers(0, 3, 3000)
    network = Chain(Dense(4, 8), BatchNorm(8), LeakyReLU(0.2), Dropout(0.2), Dense(8, 3))
    import mlp_xp.training.epoch
    import mlp_xp.training.trainer
    mlp_xp.training.epoch.CHUNK_WORK = 1e5
    if path.exists():
        trainer = Trainer.resume(path, device="cpu")
    else:
        trainer = Trainer(network, optimizer=Adam(OneCycle(0.01)), device="cpu", seed=5)
    print("ready", flush=True)
    trainer.fit(x, y, max_epochs=6, batch_size=20, validation_data=(x[:500], y[:500]),
                early_stopping=EarlyStopping(patience=6), callbacks=[Checkpoint(path, seconds=0.0)])
    trainer.save_checkpoint(path.with_suffix(".end"))
"""


def finished(path: Path) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """The arrays at the end of a run and its history, the seconds apart."""
    end = path.with_suffix(".end")
    header = end.read_bytes()[8 : 8 + int.from_bytes(end.read_bytes()[:8], "little")]
    history = json.loads(json.loads(header)["__metadata__"]["header"])["history"]
    return load_file(end), [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at ten random moments; the file is whole each time, and the end is that of a run never stopped."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    began = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    lasts = time.perf_counter() - began
    kills, moment = 0, random.Random(0)
    while kills < 10:
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment.uniform(0.0, 0.1 * lasts))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        if process.wait() != -signal.SIGKILL:
            break
        kills += 1
    subprocess.run([*command, str(tmp_path / "killed")], check=True, env=environment)
    arrays, history = finished(tmp_path / "killed")
    expected, expected_history = finished(tmp_path / "whole")
    assert kills >= 5
    assert history == expected_history
    assert arrays.keys() == expected.keys()
    assert all(arrays[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_diverged_run_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    x, y = data()
    trainer = Trainer(mlp(4, 8, 3), optimizer=SGD(0.1), device="cpu")
    trainer.fit(x, y, max_epochs=1, callbacks=[Checkpoint(tmp_path / "c")])
    good = (tmp_path / "c").read_bytes()
    x[3] = np.nan
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError):
        trainer.fit(x, y, max_epochs=2, callbacks=[Checkpoint(tmp_path / "c", seconds=0.0)])
    assert (tmp_path / "c").read_bytes() == good


def test_the_log_holds_a_row_per_epoch_also_after_a_resumption(tmp_path: Path) -> None:
    trainer = trained()
    trainer.fit(*data(), max_epochs=4, batch_size=32, callbacks=[CSVLog(tmp_path / "log.csv")])
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,loss") and [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m"
    trained().model.save(path)
    return path.read_bytes()


def rewritten(path: Path, content: bytes, **changes: object) -> None:
    """The file with other arrays, metadata or header entries."""
    path.write_bytes(content)
    arrays = load_file(path)
    meta = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    header = json.loads(meta["header"])
    for key, value in changes.items():
        if key in meta:
            meta[key] = value
        elif key in header:
            header[key] = value
        else:
            arrays[key.replace("__", ".")] = value
            if value is None:
                del arrays[key.replace("__", ".")]
    if "header" not in changes:
        meta["header"] = json.dumps(header)
    save_file(arrays, path, metadata=meta)


HUGE = {
    **encode(Chain(Dense(4, 3))),
    "layers": [{**encode(Dense(4, 3)), "n_in": 10**9, "n_out": 10**9}],
}  # would be 8 exabytes
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params__1__W": np.zeros((4, 9), np.float32)}, r"params\.1\.W must be .* of shape \(4, 8\)"),
        ({"params__1__W": np.zeros((4, 8), np.int32)}, "not int32"),
        ({"params__1__W": None}, r"params\.1\.W is missing"),
        ({"layers__4__step": np.zeros((1, 1), np.float32)}, r"layers\.4\.step"),
        ({"mlp_xp": "99"}, "format 99"),
        ({"kind": "recipe"}, "is a recipe, not a model or checkpoint"),
        ({"header": "{"}, "damaged"),
        ({"header": DEEP}, "damaged"),
        ({"network": {"type": "os.system"}}, "unknown type"),
        ({"network": {"type": "Dense", "n_in": 4}}, "has the fields"),
        ({"network": encode(Dense(4, 3))}, "not a Chain"),
        ({"network": HUGE}, "missing"),
        ({"network": {"type": "Chain", "layers": [3]}}, "cannot be"),
        ({"network": {"type": "Chain", "layers": []}}, "at least one layer"),
        ({"network": "rm -rf"}, "not a Chain"),
        ({"loss": {"type": "SoftmaxCrossEntropy", "reduction": "max"}}, "cannot be"),
        ({"loss": encode(Dense(4, 3))}, "loss"),
        ({"models": [-1]}, "of shape"),
        ({"models": "x"}, "does not hold"),
        ({"extra": 3}, "does not hold"),
    ],
)
def test_a_hostile_file_gets_one_clear_error(tmp_path: Path, good: bytes, changes: dict, message: str) -> None:
    rewritten(tmp_path / "m", good, **changes)
    with pytest.raises(FileError, match=message):
        load(tmp_path / "m", device="cpu")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_gets_one_clear_error(tmp_path: Path, good: bytes, cut: float) -> None:
    (tmp_path / "m").write_bytes(good[: int(cut * len(good))])
    with pytest.raises(FileError):
        load(tmp_path / "m", device="cpu")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_corrupted_file_loads_or_gets_one_clear_error(tmp_path: Path, good: bytes, where: float, byte: int) -> None:
    """One byte changed: in the numbers it cannot be seen, anywhere else it must not surface as another error."""
    content = bytearray(good)
    content[int(where * len(good))] = byte
    (tmp_path / "m").write_bytes(content)
    try:
        load(tmp_path / "m", device="cpu")
    except FileError as error:
        assert str(tmp_path / "m") in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"short", (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}", pickle.dumps([1] * 99)],
)
def test_a_foreign_file_gets_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(FileError, match="m"):
        load(tmp_path / "m", device="cpu")
    with pytest.raises(FileError):
        Trainer.resume(tmp_path / "m", device="cpu")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        load(tmp_path / "nowhere", device="cpu")
    with pytest.raises(FileError, match="cannot write"):
        trained().model.save(tmp_path / "no" / "folder")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained().model
    model.save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, FileError), match="no space"):
        model.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == before


def test_a_layer_of_ones_own_needs_to_be_known(tmp_path: Path) -> None:
    from dataclasses import dataclass

    from mlp_xp.nn.layers import Layer

    @dataclass(frozen=True)
    class Square(Layer):
        def forward(self, xp, params, x):
            return x * x, x

        def backward(self, xp, params, x, dy):
            return 2.0 * x * dy, ()

    trainer = Trainer(Chain(Dense(4, 3), Square()), SoftmaxCrossEntropy(), device="cpu")
    trainer.model.save(tmp_path / "m")
    with pytest.raises(FileError, match="Square"):
        load(tmp_path / "m", device="cpu")
    assert load(tmp_path / "m", device="cpu", known=(Square,)).network == trainer.step.network


def test_early_stopping_survives_a_resumption(tmp_path: Path) -> None:
    x, y = data()
    options = {"max_epochs": 8, "batch_size": 32, "validation_data": (x[:50], (y[:50] + 1) % 3)}
    rule = EarlyStopping(patience=5)
    whole = Trainer(NETWORK, optimizer=Adam(0.01), device="cpu")
    whole.fit(x, y, **options, early_stopping=rule)
    part = Trainer(NETWORK, optimizer=Adam(0.01), device="cpu")
    part.fit(x, y, **options, early_stopping=rule, callbacks=[Checkpoint(tmp_path / "c"), Interrupted(2)])
    resumed = Trainer.resume(tmp_path / "c", device="cpu")
    resumed.fit(x, y, **options, early_stopping=rule)
    assert bits(resumed) == bits(whole)


class Interrupted:
    """Presses Ctrl-C in the chunk after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def start(self, trainer: Trainer) -> None: ...
    def epoch(self, trainer: Trainer, record: dict[str, float]) -> None: ...
    def end(self, trainer: Trainer) -> None: ...
    def chunk(self, trainer: Trainer) -> None:
        if trainer.epoch == self.epochs:
            os.kill(os.getpid(), signal.SIGINT)

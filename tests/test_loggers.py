"""Logs of epochs: what they hold, and that a resumed run continues them."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest

from mlp_xp import FileError, Progress, Trainer, mlp
from mlp_xp.training import epoch, loggers
from mlp_xp.training.loggers import JSONLines, TensorBoard
from mlp_xp_backends import get_backend


@pytest.fixture(name="data")
def classes(rng):
    x = rng.standard_normal((60, 4)).astype(np.float32)
    return x, (x[:, 0] > 0.0).astype(int)


def trained(data, epochs, log, trainer=None):
    trainer = trainer or Trainer(mlp(4, 2), device="cpu")
    trainer.fit(*data, max_epochs=epochs, validation_data=data, callbacks=[log])
    return trainer


class TestProgress:
    def test_without_a_bar_each_epoch_is_a_line(self, data):
        stream = io.StringIO()
        trained(data, 2, Progress(stream))
        assert [line.split()[:2] for line in stream.getvalue().splitlines()] == [["epoch", "1/2"], ["epoch", "2/2"]]

    def test_a_long_epoch_reports_its_steps(self, data, monkeypatch):
        monkeypatch.setattr(loggers, "SILENCE", -1.0)
        monkeypatch.setattr(epoch, "CHUNK_WORK", 2 * epoch.STEP_WORK)
        stream = io.StringIO()
        Trainer(mlp(4, 2), device="cpu").fit(*data, max_epochs=1, batch_size=20, callbacks=[Progress(stream)])
        steps = [line for line in stream.getvalue().splitlines() if "step" in line]
        assert steps == ["epoch 1/1  step 1/3", "epoch 1/1  step 2/3", "epoch 1/1  step 3/3"]

    def test_small_steps_do_not_delay_callbacks(self):
        backend = get_backend("cpu")
        assert epoch.chunk_steps(backend, mlp(2, 3, 2).init(np.random.default_rng(0)), batch_size=1) <= 10_000


class TestJSONLines:
    def test_a_line_is_a_record(self, data, tmp_path):
        trainer = trained(data, 3, JSONLines(tmp_path / "log.jsonl"))
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == list(trainer.history)

    def test_a_resumed_run_continues_the_file(self, data, tmp_path):
        trainer = trained(data, 2, JSONLines(tmp_path / "log.jsonl"))
        trainer.save_checkpoint(tmp_path / "run")
        trained(data, 3, JSONLines(tmp_path / "log.jsonl"), trainer)  # an epoch that is lost
        resumed = trained(data, 4, JSONLines(tmp_path / "log.jsonl"), Trainer.resume(tmp_path / "run", device="cpu"))
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == list(resumed.history)

    def test_numbers_that_json_lacks(self, data, tmp_path):
        log = JSONLines(tmp_path / "log.jsonl")
        log.start(Trainer(mlp(4, 2), device="cpu"))
        log.epoch(None, {"epoch": 1, "score": float("nan")})
        assert json.loads((tmp_path / "log.jsonl").read_text()) == {"epoch": 1, "score": None}

    def test_a_folder_that_is_not_there(self, data, tmp_path):
        with pytest.raises(FileError, match="folder"):
            trained(data, 1, JSONLines(tmp_path / "none" / "log.jsonl"))


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("tensorboardX")

    def test_events_are_the_records(self, data, tmp_path):
        trainer = trained(data, 2, TensorBoard(tmp_path))
        found = events(tmp_path)
        for name in set(trainer.history.columns) - {"epoch"}:
            np.testing.assert_allclose([found[name, epoch] for epoch in (1, 2)], trainer.history[name], rtol=1e-6)

    def test_a_resumed_run_purges_repeated_epochs(self, data, tmp_path):
        trainer = trained(data, 2, TensorBoard(tmp_path / "a"))
        trained(data, 3, TensorBoard(tmp_path / "b"), trainer)
        assert {step for _, step in events(tmp_path / "b")} == {3}

    def test_without_the_library_the_extra_is_named(self, data, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        with pytest.raises(ImportError, match=r"pip install 'mlp-xp\[tensorboard\]'"):
            trained(data, 1, TensorBoard(tmp_path))


def events(folder):
    """The scalars of all event files: ``{(tag, step): value}``. A record is length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            at += 16 + length
    return found


def test_any_other_tracker_is_a_function(data):
    logged = []
    history = Trainer(mlp(4, 2), device="cpu").fit(
        *data, max_epochs=2, callbacks=[lambda trainer, record: logged.append(record)]
    )
    assert logged == list(history)

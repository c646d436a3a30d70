"""Reading: any file yields either a valid object or one `FileError`, within a short time."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from golden import make
from surgery import assembled, parts, raw, with_entry, with_header, without_array

from mlp_xp.files import container, generators
from mlp_xp.files.checkpoints import read_model, read_snapshot
from mlp_xp.files.config import encode
from mlp_xp.files.disk import FileError
from mlp_xp.nn.layers import Chain, Dense, ReLU
from mlp_xp.nn.losses import SquaredError

GOLDEN = Path(__file__).parent / "golden"
MODEL = (GOLDEN / "Dropout.safetensors").read_bytes()
CHECKPOINT = (GOLDEN / "Adam.safetensors").read_bytes()
DEEP = 100_000


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """A test takes at most two seconds, or six on a machine that is slow or busy."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < 6.0


def refused(tmp_path: Path, content: bytes, message: str, read: Callable[[Path], object] = read_model) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_missing_file_a_folder_a_pipe_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path / "nowhere", "cannot read .*nowhere: No such file"),
        (tmp_path / "nowhere" / "at all", "cannot read"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        ("/dev/null", "a pipe or a device"),
        ("/proc/self/status", "truncated"),
        ("", "expected the path"),
        ("a\0b", "expected the path"),
    ]:
        for read in (read_model, read_snapshot):
            with pytest.raises(FileError, match=message):
                read(path)


@pytest.mark.parametrize("path", [None, 3, b"bytes", Path, 0.5])
def test_a_path_must_be_a_path(path: object) -> None:
    with pytest.raises(TypeError, match=r"expected the path of a file, such as 'net\.safetensors', got"):
        read_model(path)


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(MODEL)

    def denied(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(FileError, match="f: Permission denied") as caught:
        read_model(tmp_path / "f")
    assert caught.value.errno == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"short", "truncated"),
        ((2**40).to_bytes(8, "little") + b"{}", "truncated"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "truncated"),
        (raw(b"{" + b" " * 5_000_000 + b"}"), "its index has 5000002 bytes"),
        (raw(b"{}"), "another program"),
        (raw(b"[]"), "it is damaged"),
        (raw(b"3"), "it is damaged"),
        (raw(b"\xff\xfe{}"), "utf-8"),
        (raw('{"a":1}'.encode("utf-16")), "utf-8"),
        (raw(b"[" * DEEP + b"]" * DEEP), "nested too deeply"),
        (raw(b'{"a":' * DEEP + b"1" + b"}" * DEEP), "nested too deeply"),
        (raw(b'{"__metadata__":{},"__metadata__":{}}'), "a key occurs twice"),
        (raw(b'{"__metadata__":[1]}'), "it is damaged"),
        (raw(b'{"a":' + b"9" * 100_000 + b"}"), "limit"),
        (raw(json.dumps({str(i): 0 for i in range(200_000)}).encode()), "it is damaged"),
        (raw(b'{"a":[' + b"{}," * 1_200_000 + b"{}]}"), "it is damaged"),
        (pickle.dumps([1] * 99), "truncated"),
        (MODEL[:-1], "it is damaged"),
        (MODEL + b"\0", "it is damaged"),
    ],
)
def test_a_damaged_index_gets_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    refused(tmp_path, content, message)
    refused(tmp_path, content, message, read_snapshot)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "F8"}, "it is damaged"),
        ({"dtype": []}, "it is damaged"),
        ({"shape": [3, -2]}, "it is damaged"),
        ({"shape": [3.0, 2]}, "it is damaged"),
        ({"shape": [True, 2]}, "it is damaged"),
        ({"shape": "32"}, "it is damaged"),
        ({"shape": [1] * 65 + [3, 2]}, "must be float64 of shape"),
        ({"shape": [10**400, 2]}, "it is damaged"),
        ({"shape": [2**62, 2**62]}, "it is damaged"),
        ({"shape": [2, 3]}, r"must be float64 of shape \(3, 2\), not float64 of shape \(2, 3\)"),
        ({"dtype": "I64"}, "must be float64 of shape .* not int64"),
        ({"data_offsets": [0, 8]}, "it is damaged"),
        ({"data_offsets": [48, 0]}, "it is damaged"),
        ({"data_offsets": [1000, 1048]}, "it is damaged"),
        ({"data_offsets": [8, 56]}, "it is damaged"),
        ({"data_offsets": [0]}, "it is damaged"),
        ({"data_offsets": None}, "it is damaged"),
    ],
)
def test_a_damaged_entry_gets_one_clear_error(tmp_path: Path, changes: dict, message: str) -> None:
    refused(tmp_path, with_entry(MODEL, "params.1.W", **changes), message)


def test_missing_and_unknown_arrays_are_named(tmp_path: Path) -> None:
    refused(tmp_path, without_array(MODEL, "params.1.b"), r"the array params\.1\.b is missing")
    refused(tmp_path, with_entry(MODEL, "virus"), "unknown array 'virus'")
    refused(tmp_path, without_array(CHECKPOINT, "slots.0.m"), r"slots\.0\.m is missing", read_snapshot)
    refused(tmp_path, without_array(CHECKPOINT, "best.params.0.W"), r"best\.params\.0\.W is missing", read_snapshot)
    for name in ("history", "losses"):
        refused(tmp_path, without_array(CHECKPOINT, name), f"the array {name} is missing", read_snapshot)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_xp": "2"}, "has format '2', and this mlp_xp reads format 1: update mlp_xp"),
        ({"mlp_xp": "1" * 10_000}, "format"),
        ({"kind": "recipe"}, "is a recipe, not a model or checkpoint"),
        ({"kind": ["model"]}, "it is damaged"),
        ({"header": "{"}, "damaged"),
        ({"header": 3}, "it is damaged"),
        ({"header": "[" * DEEP}, "nested too deeply"),
        ({"header": '{"dtype": "float64", "dtype": "float32"}'}, "a key occurs twice"),
        ({"header": "[]"}, "not a JSON object"),
        ({"header": '"\\ud800"'}, "not a JSON object"),
    ],
)
def test_damaged_metadata_get_one_clear_error(tmp_path: Path, changes: dict, message: str) -> None:
    index, _, data = parts(MODEL)
    index["__metadata__"] |= changes
    refused(tmp_path, raw(json.dumps(index).encode(), data), message)


def test_a_model_is_not_a_checkpoint_but_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    refused(tmp_path, MODEL, "it is a model, not a checkpoint", read_snapshot)
    saved, run = read_model(GOLDEN / "Adam.safetensors"), read_snapshot(GOLDEN / "Adam.safetensors")
    assert (saved.network, saved.loss, saved.dtype) == (run.step.network, run.step.loss, "float32")
    np.testing.assert_array_equal(saved.params[0].W, run.state.params[0].W)


def layer(**fields: object) -> dict:
    return {"type": "Chain", "layers": [{"type": "Dense", "n_in": 4, "n_out": 3} | fields]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": ...}, "the field network of its header is missing"),
        ({"loss": ...}, "the field loss of its header is missing"),
        ({"network": {"type": "os.system"}}, "unknown type 'os.system'"),
        ({"network": {"type": ["Dense"]}}, "unknown type"),
        ({"network": {"n_in": 4}}, "unknown type None"),
        ({"network": layer(n_in=10**9, n_out=10**9)}, "missing"),
        ({"network": layer(n_in=10**400)}, "Dense|missing"),
        ({"network": layer(n_in=0)}, "Dense: n_in must be"),
        ({"network": layer(n_in=1.5)}, "Dense.n_in cannot be 1.5"),
        ({"network": layer(n_in=True)}, "Dense.n_in cannot be True"),
        ({"network": layer(n_in=float("nan"))}, "Dense.n_in cannot be nan"),
        ({"network": layer(n_in="x" * 100_000)}, "Dense.n_in cannot be 'xxx"),
        ({"network": layer(init_W={"type": "Dense", "n_in": 3, "n_out": 3})}, "Dense.init_W cannot be"),
        ({"network": layer(init_W=None)}, "Dense.init_W cannot be None"),
        ({"network": layer(color="red")}, "Dense has no field 'color'"),
        ({"network": encode(Dense(4, 3))}, "not a Chain"),
        ({"network": {"type": "Chain", "layers": [3]}}, "cannot be"),
        ({"network": {"type": "Chain", "layers": []}}, "at least one layer"),
        ({"network": {"type": "Chain", "layers": [encode(SquaredError())]}}, "cannot be"),
        ({"network": encode(Chain(ReLU()))}, "has no parameters"),
        ({"network": "rm -rf"}, "not a Chain"),
        ({"network": [[]]}, "not a Chain"),
        ({"loss": {"type": "SoftmaxCrossEntropy", "reduction": "max"}}, "cannot be"),
        ({"loss": encode(Dense(4, 3))}, "its loss is"),
        ({"loss": None}, "its loss is None"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
        ({"dtype": "float32"}, "must be float32"),
        ({"dtype": 3}, "dtype must be 'float32' or"),
        ({"models": [2]}, r"of shape \(2,"),
        ({"models": [0]}, "must be an integer from 1"),
        ({"models": [-1]}, "must be an integer from 1"),
        ({"models": "x"}, "short list"),
        ({"models": [1] * 8}, r"must be float64 of shape \(1, 1, 1, 1, 1, 1, 1, 1, "),
        ({"models": [1] * 9}, "short list"),
        ({"color": 3}, "its header has no field 'color'"),
    ],
)
def test_a_hostile_header_of_a_model_gets_one_clear_error(tmp_path: Path, changes: dict, message: str) -> None:
    refused(tmp_path, with_header(MODEL, **changes), message)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (b"[]", "its extra is not a JSON object"),
        (b"{", "malformed"),
        (b"\xff", "utf-8"),
        (b'{"a":1,"a":2}', "a key occurs twice"),
        (b"[" * DEEP, "nested too deeply"),
        (b"", "malformed"),
    ],
)
def test_a_hostile_extra_gets_one_clear_error(tmp_path: Path, extra: bytes, message: str) -> None:
    index, header, data = parts(without_array(MODEL, "extra"))
    index["extra"] = {"dtype": "U8", "shape": [len(extra)], "data_offsets": [len(data), len(data) + len(extra)]}
    refused(tmp_path, assembled(index, header, data + extra), message)


PLAN = {"max_epochs": 5, "batch_size": 4, "shuffle": True, "rows": 18}
BEST = {"epoch": 2, "score": 0.5, "monitor": "valid_loss", "mode": "min"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": ...}, "the field step of its header is missing"),
        ({"generator": ...}, "the field generator of its header is missing"),
        ({"step": encode(Chain(Dense(3, 2)))}, "not a TrainStep"),
        ({"step": None}, "not a TrainStep"),
        ({"updates": 10**400}, r"updates must be an integer from 0 to 2\^53"),
        ({"updates": 2**53}, "updates must be"),
        ({"updates": -1}, "updates must be"),
        ({"updates": 2.0}, "updates must be"),
        ({"updates": float("nan")}, "updates must be"),
        ({"updates": True}, "updates must be"),
        ({"updates": 1}, "2 steps in the current epoch, but 1 in all"),
        ({"samples": float("inf")}, "samples must be"),
        ({"samples": None}, "samples must be"),
        ({"position": 1}, r"losses must be float32 of shape \(1,\)"),
        ({"position": 0}, "unknown array 'losses'"),
        ({"position": 6, "updates": 6}, "of a run with the plan"),
        ({"plan": None}, "of a run with the plan None"),
        ({"plan": []}, "plan must be a JSON object"),
        ({"plan": {**PLAN, "rows": 0}}, "rows must be an integer from 1"),
        ({"plan": {**PLAN, "batch_size": 0}}, "batch_size must be an integer from 1"),
        ({"plan": {**PLAN, "max_epochs": -1}}, "max_epochs must be an integer from 1"),
        ({"plan": {**PLAN, "shuffle": "no"}}, "shuffle must be True or False"),
        ({"plan": {"max_epochs": 5}}, "the field batch_size of plan is missing"),
        ({"best": {**BEST, "score": "high"}}, "score must be a number"),
        ({"best": {**BEST, "epoch": -1}}, "epoch must be"),
        ({"best": {**BEST, "mode": "median"}}, "mode must be 'min' or 'max'"),
        ({"best": {**BEST, "monitor": 3}}, "monitor must be a string"),
        ({"best": {**BEST, "color": 3}}, "best has no field 'color'"),
        ({"best": None}, "unknown array 'best"),
        ({"class_weight": "equal"}, "class_weight must be"),
        ({"class_weight": [1, 0]}, "finite numbers above 0"),
        ({"class_weight": [10**400]}, "out of range"),
        ({"class_weight": {"pairs": [[0, float("nan")]]}}, "finite numbers above 0"),
        ({"class_weight": {"pairs": [[-1, 1]]}}, "class_weight must be an integer from 0"),
        ({"class_weight": {"pairs": [[1]]}}, "pairs of class and weight"),
        ({"stopped": 1}, "stopped must be True or False"),
        ({"history": [{}]}, "history must be a JSON object"),
        ({"history": {}}, "unknown array 'history'"),
        ({"history": {"epoch": "int"}}, r"history(\.present)? must be"),
        ({"history": dict.fromkeys("abcde", "float")}, "lacks 'epoch'"),
        ({"history": dict.fromkeys(["epoch", "lr", "loss", "seconds", "valid_loss"], "int")}, "integers"),
        ({"history": {"epoch": "str"}}, "epoch must be 'int' or 'float'"),
    ],
)
def test_a_hostile_header_of_a_checkpoint_gets_one_clear_error(tmp_path: Path, changes: dict, message: str) -> None:
    refused(tmp_path, with_header(CHECKPOINT, **changes), message, read_snapshot)
    refused(tmp_path, with_header(CHECKPOINT, **changes), message)


def test_the_ends_of_every_range_belong_to_it(tmp_path: Path) -> None:
    changes = {
        **{"updates": 2**53 - 1, "samples": 2**53 - 1, "plan": {**PLAN, "rows": 1, "batch_size": 1, "max_epochs": 1}},
        **{"position": 0, "best": {**BEST, "epoch": 0}, "class_weight": {"pairs": [[0, 5e-324], [2**53 - 1, 1e308]]}},
    }
    (tmp_path / "c").write_bytes(with_header(without_array(CHECKPOINT, "losses"), **changes))
    run = read_snapshot(tmp_path / "c")
    assert (run.updates, run.samples, run.plan) == (2**53 - 1, 2**53 - 1, (1, 1, True, 1))
    assert (run.best.epoch, run.class_weight) == (0, {0: 5e-324, 2**53 - 1: 1e308})


def test_a_position_is_at_most_the_steps_of_an_epoch_and_of_the_run(tmp_path: Path) -> None:
    """18 rows in batches of 9 or 10 are two steps, in batches of 18 one."""
    for size in (9, 10, 17):
        (tmp_path / "c").write_bytes(with_header(CHECKPOINT, plan={**PLAN, "batch_size": size}, updates=2))
        assert read_snapshot(tmp_path / "c").position == 2
    refused(tmp_path, with_header(CHECKPOINT, plan={**PLAN, "batch_size": 18}), "of a run with", read_snapshot)


def test_an_index_has_at_most_four_mebibytes(tmp_path: Path) -> None:
    data = parts(MODEL)[2]
    size = int.from_bytes(MODEL[:8], "little")
    greatest = MODEL[8 : 8 + size].rstrip().ljust(4 * 2**20)
    (tmp_path / "m").write_bytes(raw(greatest, data))
    assert read_model(tmp_path / "m").network
    refused(tmp_path, raw(greatest + b" ", data), "its index has 4194305 bytes, more than 4194304")


def test_fields_that_are_missing_in_a_checkpoint_have_defaults(tmp_path: Path) -> None:
    content = without_array(CHECKPOINT, "losses")
    for name in ("best.params.0.W", "best.params.0.b", "best.params.1.gamma", "best.params.1.beta"):
        content = without_array(content, name)
    for name in ("best.layers.1.mean", "best.layers.1.var", "history", "history.present"):
        content = without_array(content, name)
    optional = parts(content)[1].keys() - {"step", "generator"}
    (tmp_path / "c").write_bytes(with_header(content, **dict.fromkeys(optional, ...)))
    run = read_snapshot(tmp_path / "c")
    assert run[3:4] + run[5:7] + run[8:] == ([], None, 0, 0, 0, None, False, None)


def state(kind: str) -> dict:
    return parts((GOLDEN / f"generator.{kind}.safetensors").read_bytes())[1]["generator"]


def changed(kind: str, *keys: str, to: object) -> dict:
    """The state of a generator with one entry changed."""
    whole = state(kind)
    part = whole
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    return whole


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (None, "bit generator None is unknown"),
        ({}, "bit generator None is unknown"),
        ({"bit_generator": "dice"}, "bit generator 'dice' is unknown"),
        ({"bit_generator": ["PCG64"]}, r"bit generator \['PCG64'\] is unknown"),
        ({"bit_generator": "PCG64"}, "generator must have the fields bit_generator, state, has_uint32, uinteger"),
        (changed("PCG64", "state", to=3), "state must have the fields state, inc"),
        (changed("PCG64", "state", to={}), "state must have the fields state, inc"),
        (changed("PCG64", "state", to={"state": 1, "inc": 1, "more": 1}), "state must have the fields state, inc"),
        (changed("PCG64", "state", "state", to=2**128), f"state must be an integer from 0 to {2**128 - 1}"),
        (changed("PCG64", "state", "state", to=-1), "state must be an integer from 0"),
        (changed("PCG64", "state", "state", to=True), "state must be an integer from 0"),
        (changed("PCG64", "state", "inc", to=4), "inc must be odd"),
        (changed("PCG64DXSM", "state", "inc", to=float("nan")), "inc must be an integer from 0"),
        (changed("PCG64DXSM", "state", "inc", to="1"), "inc must be an integer from 0"),
        (changed("PCG64", "has_uint32", to=2), "has_uint32 must be an integer from 0 to 1, not 2"),
        (changed("PCG64", "uinteger", to=2**32), "uinteger must be an integer from 0 to 4294967295"),
        (changed("MT19937", "state", "pos", to=10**6), "pos must be an integer from 0 to 624"),
        (changed("MT19937", "state", "pos", to=625), "pos must be an integer from 0 to 624, not 625"),
        (changed("MT19937", "state", "key", to=[1] * 623), "key must be a list of 624 integers"),
        (changed("MT19937", "state", "key", to={}), "key must be a list of 624 integers"),
        (changed("MT19937", "state", "key", to=[2**32] * 624), "key must be an integer from 0 to 4294967295"),
        (changed("MT19937", "state", "key", to=[0] * 624), "key must not be 0 throughout"),
        (changed("MT19937", "state", "key", to=[[]] * 624), "key must be an integer from 0"),
        (changed("Philox", "buffer", to=[1, 2, 3]), "buffer must be a list of 4 integers"),
        (changed("Philox", "buffer_pos", to=5), "buffer_pos must be an integer from 0 to 4, not 5"),
        (changed("Philox", "state", "key", to=[1, 2**64]), "key must be an integer from 0 to 18446744073709551615"),
        (changed("SFC64", "state", "state", to="1234"), "state must be a list of 4 integers"),
    ],
)
def test_a_hostile_generator_gets_one_clear_error(tmp_path: Path, generator: object, message: str) -> None:
    refused(tmp_path, with_header(CHECKPOINT, generator=generator), message, read_snapshot)


@pytest.mark.parametrize(
    ("kind", "keys", "greatest"),
    [
        ("PCG64", ("state", "state"), 2**128 - 1),
        ("PCG64", ("state", "inc"), 2**128 - 1),
        ("PCG64", ("has_uint32",), 1),
        ("PCG64", ("uinteger",), 2**32 - 1),
        ("MT19937", ("state", "pos"), 624),
        ("MT19937", ("state", "key"), [2**32 - 1] * 624),
        ("Philox", ("buffer_pos",), 4),
        ("Philox", ("buffer",), [2**64 - 1] * 4),
    ],
)
def test_the_greatest_numbers_of_a_generator_are_read_and_accepted_by_numpy(
    tmp_path: Path, kind: str, keys: tuple[str, ...], greatest: object
) -> None:
    """Each is the limit of NumPy's own C type or, for a position, the length of its array."""
    given = changed(kind, *keys, to=greatest)
    (tmp_path / "c").write_bytes(with_header(CHECKPOINT, generator=given))
    bits = generators.KINDS[kind](0)
    bits.state = read_snapshot(tmp_path / "c").generator
    assert generators.encode(bits.state) == given


def many(layers: int) -> dict:
    return {"type": "Chain", "layers": [{"type": "ReLU"}] * layers + [encode(Dense(4, 3))]}


def test_a_huge_network_is_refused_at_once(tmp_path: Path) -> None:
    content = with_header(MODEL, network=many(100_000))
    assert len(content) > 1.5e6
    refused(tmp_path, content, "use fewer layers")
    nested = encode(Dense(4, 3))
    for _ in range(200):
        nested = {"type": "Chain", "layers": [nested]}
    refused(tmp_path, with_header(MODEL, network=nested), "levels")
    wide: dict = {"type": "ReLU"}
    for _ in range(20):
        wide = {"type": "Chain", "layers": [wide] * 3}
        if len(json.dumps(wide)) > 8e5:
            break
    refused(tmp_path, with_header(MODEL, network=wide), "use fewer layers")


def test_the_largest_network_is_read_in_time(tmp_path: Path) -> None:
    """Thousands of layers, most of which are missing their arrays."""
    refused(tmp_path, with_header(MODEL, network=many(24_000)), "missing")
    refused(tmp_path, with_header(MODEL, network={**many(0), "layers": [encode(Dense(3, 3))] * 3_000}), "missing")


def test_a_file_that_is_replaced_while_it_is_read_is_read_from_one_version(tmp_path: Path) -> None:
    """The header, the entries and the arrays come from the same open file."""
    (tmp_path / "m").write_bytes(MODEL)
    with container.opened(tmp_path / "m") as content:
        (tmp_path / "n").write_bytes(CHECKPOINT)
        (tmp_path / "n").replace(tmp_path / "m")
        arrays = content.arrays(content.entries)
    np.testing.assert_array_equal(arrays["params.1.W"], make.model(*make.networks()["Dropout"]).params[1].W)

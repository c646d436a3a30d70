"""Models as files: saved models are read again, bit for bit; others are rejected before anything is written."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from golden import make
from safetensors.numpy import load_file, save_file
from surgery import parts, with_header
from test_files_golden import same

from mlp_xp.files import container
from mlp_xp.files.checkpoints import read_model
from mlp_xp.files.config import Decoder, encode, encode_checked
from mlp_xp.files.disk import FileError
from mlp_xp.files.models import SavedModel, write_model
from mlp_xp.nn.initializers import He
from mlp_xp.nn.layers import Chain, Dense, Dropout, Layer, LayerNorm, ReLU
from mlp_xp.nn.losses import Huber, SquaredError
from mlp_xp.nn.optimizers import SGD, Adam
from mlp_xp.nn.schedules import StepDecay
from mlp_xp.nn.step import TrainStep


@dataclass(frozen=True)
class Square(Layer):
    """A custom layer."""

    scale: float = 1.0

    def forward(self, xp, params, x):
        return self.scale * x * x, x

    def backward(self, xp, params, x, dy):
        return 2.0 * self.scale * x * dy, ()


@dataclass(frozen=True)
class Cubic(SquaredError):  # noqa: N818  a loss, not an exception
    """A custom loss."""


def model(**changes: object) -> SavedModel:
    return make.model(Chain(Dense(3, 2)), SquaredError())._replace(**changes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["Dropout", "Embedding", "BatchNorm"])
def test_a_model_survives(tmp_path: Path, name: str, dtype: str) -> None:
    saved = make.model(*make.networks()[name], dtype)
    write_model(tmp_path / "m", saved)
    assert same(read_model(tmp_path / "m"), saved)


def test_the_container_is_safetensors(tmp_path: Path) -> None:
    """The reference implementation reads our files and writes files that we read."""
    saved = make.model(*make.networks()["Dropout"])
    write_model(tmp_path / "m", saved)
    arrays = load_file(tmp_path / "m")
    np.testing.assert_array_equal(arrays["params.1.W"], saved.params[1].W)
    save_file(arrays, tmp_path / "n", metadata=parts((tmp_path / "m").read_bytes())[0]["__metadata__"])
    assert same(read_model(tmp_path / "n"), saved)


@pytest.mark.parametrize("dtype", sorted(container.DTYPES.values()))
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 0, 1)])
def test_arrays_of_every_dtype_and_shape_survive(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    a = (np.arange(math.prod(shape)) % 2).astype(dtype).reshape(shape)
    arrays = {"a": a, "swapped": a.astype(a.dtype.newbyteorder(">")), "fortran": a.copy(order="F")}
    container.write(tmp_path / "f", "model", arrays, {})
    with container.opened(tmp_path / "f") as content:
        again = content.arrays(container.entries(arrays))
    for name in arrays:
        assert (again[name].shape, again[name].dtype.name) == (a.shape, dtype)
        np.testing.assert_array_equal(again[name], a)
    np.testing.assert_array_equal(load_file(tmp_path / "f")["a"], a)


@pytest.mark.parametrize("extra", [{}, {"words": ["a", "ü", "\udc80"]}, {"a": [None, True, 1, 0.1, {"b": []}]}])
def test_extra_survives(tmp_path: Path, extra: dict) -> None:
    write_model(tmp_path / "m", model(extra=extra))
    assert read_model(tmp_path / "m").extra == extra


def test_a_large_extra_survives(tmp_path: Path) -> None:
    extra = {"words": [f"word{i}" for i in range(500_000)]}
    write_model(tmp_path / "m", model(extra=extra))
    assert read_model(tmp_path / "m").extra == extra


def test_extra_has_at_most_100_levels(tmp_path: Path) -> None:
    extra: dict = {"a": []}
    for _ in range(98):
        extra = {"a": [extra["a"]]}
    write_model(tmp_path / "m", model(extra=extra))
    assert read_model(tmp_path / "m").extra == extra
    with pytest.raises(ValueError, match=r"extra.* is nested too deeply to be saved: at most 100 levels"):
        write_model(tmp_path / "m", model(extra={"a": [extra["a"]]}))


def test_numpy_scalars_and_tuples_in_extra_are_converted(tmp_path: Path) -> None:
    write_model(tmp_path / "m", model(extra={"n": np.int64(3), "x": (np.float32(0.5), np.True_)}))
    assert read_model(tmp_path / "m").extra == {"n": 3, "x": [0.5, True]}


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"a": {1, 2}}, r"extra\['a'\]"),
        ({"a": [{"b": object()}]}, r"extra\['a'\]\[0\]\['b'\]"),
        ({"a": {1: 2}}, "a key of JSON is a string, not 1"),
        ({"a": np.zeros(3)}, "tolist"),
        ({"a": b"x"}, "convert it"),
        ({"a": LOOP}, "nested too deeply"),
        (3, "extra must be a dict"),
    ],
)
def test_extra_that_json_cannot_hold_is_refused(tmp_path: Path, extra: object, message: str) -> None:
    write_model(tmp_path / "m", model())
    before = (tmp_path / "m").read_bytes()
    with pytest.raises((TypeError, ValueError), match=message):
        write_model(tmp_path / "m", model(extra=extra))
    assert (tmp_path / "m").read_bytes() == before


def test_numpy_scalars_in_options_are_converted(tmp_path: Path) -> None:
    net = Chain(Dense(3, 2), LayerNorm(2, eps=np.float64(0.5)), Dropout(np.float64(0.25)))
    saved = make.model(net, Huber(delta=np.float64(0.5)))
    write_model(tmp_path / "m", saved)
    again = read_model(tmp_path / "m")
    assert (again.network, again.loss) == (net, Huber(delta=0.5))
    assert type(again.loss.delta) is float
    assert type(encode(StepDecay(0.1, every=np.int64(3)))["every"]) is int


def test_classes_of_ones_own_must_be_known(tmp_path: Path) -> None:
    saved = make.model(Chain(Dense(3, 2), Square(0.5)), Cubic())
    write_model(tmp_path / "m", saved)
    with pytest.raises(FileError, match=r"Square is not a class of mlp_xp: pass your class as known=\(Square,\)"):
        read_model(tmp_path / "m")
    with pytest.raises(FileError, match="Cubic"):
        read_model(tmp_path / "m", known=[Square])
    assert same(read_model(tmp_path / "m", known=(Square, Cubic)), saved)


def test_a_class_of_ones_own_may_have_a_name_of_this_library(tmp_path: Path) -> None:
    own = dataclass(frozen=True)(type("ReLU", (Square,), {}))
    write_model(tmp_path / "m", make.model(Chain(Dense(3, 2), own(2.0), ReLU()), SquaredError()))
    assert read_model(tmp_path / "m", known=(own,)).network.layers[1:] == (own(2.0), ReLU())
    with pytest.raises(FileError, match="ReLU is not a class of mlp_xp"):
        read_model(tmp_path / "m")


@pytest.mark.parametrize("known", [Square, (3,), ("Square",), (object,), None])
def test_known_must_be_dataclasses(tmp_path: Path, known: object) -> None:
    with pytest.raises(TypeError, match="known must be a tuple of dataclasses"):
        read_model(tmp_path / "m", known=known)


def test_two_known_classes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two classes in known have the name Square"):
        Decoder((Square, dataclass(frozen=True)(type("Square", (Layer,), {}))))


def test_a_layer_that_could_not_be_read_is_refused() -> None:
    class Loose(Layer):
        def __init__(self) -> None:
            self.scale = 1.0

        forward, backward = Square.forward, Square.backward

    @dataclass(frozen=True)
    class Hidden(Square):
        other: float = field(default=0.0, init=False)

    @dataclass(frozen=True)
    class Mistyped(Square):
        scale: str = ""

    with pytest.raises(TypeError, match="must be frozen dataclasses"):
        encode(Chain(Dense(3, 2), Loose()))
    odd = Hidden()
    object.__setattr__(odd, "other", 1.0)
    with pytest.raises(ValueError, match="do not describe it completely"):
        encode_checked(Chain(Dense(3, 2), odd))
    with pytest.raises(ValueError, match=r"Mistyped\.scale cannot be 3\.0"):
        encode_checked(Chain(Dense(3, 2), Mistyped(3.0)))


def test_arrays_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"params\.0\.W must be float64 of shape \(4, 2\)"):
        write_model(tmp_path / "m", model(network=Chain(Dense(4, 2))))
    with pytest.raises(ValueError, match="must be float32"):
        write_model(tmp_path / "m", model(dtype="float32"))
    assert not list(tmp_path.iterdir())


def test_a_network_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without parameters"):
        write_model(tmp_path / "m", SavedModel(Chain(ReLU()), SquaredError(), ((),), ((),), {}, "float32"))
    write_model(tmp_path / "m", model())
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(with_header(content, network=encode(Chain(ReLU()))))
    with pytest.raises(FileError, match="has no parameters"):
        read_model(tmp_path / "m")


def test_a_missing_field_takes_its_default_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    step = TrainStep(Chain(Dense(3, 2)), Huber(delta=2.0), Adam(0.1, b1=0.5), l2=0.25)
    config = encode(step)
    del config["l2"], config["loss"]["delta"], config["optimizer"]["b1"], config["network"]["layers"][0]["init_W"]
    assert Decoder()(config) == replace(step, l2=0.0, loss=Huber(), optimizer=Adam(0.1))
    for part in (config, config["loss"], config["network"]["layers"][0]):
        part["from_the_future"] = 3
        with pytest.raises(ValueError, match="has no field 'from_the_future'"):
            Decoder()(config)
        del part["from_the_future"]
    del config["network"]["layers"][0]["n_in"]
    with pytest.raises(ValueError, match="the field n_in of Dense is missing"):
        Decoder()(config)


def test_fields_of_the_header_have_defaults_too(tmp_path: Path) -> None:
    write_model(tmp_path / "m", model(dtype="float32", params=make.model(Chain(Dense(3, 2)), None, "float32").params))
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(with_header(content, models=..., dtype=...))
    assert read_model(tmp_path / "m").dtype == "float32"
    (tmp_path / "m").write_bytes(with_header(content, color="red"))
    with pytest.raises(FileError, match="its header has no field 'color'"):
        read_model(tmp_path / "m")


def test_a_stack_of_models_survives(tmp_path: Path) -> None:
    saved = model(params=(type(model().params[0])(np.ones((4, 3, 2)), np.zeros((4, 1, 2))),))
    write_model(tmp_path / "m", saved)
    assert same(read_model(tmp_path / "m"), saved)


@pytest.mark.parametrize("value", [SGD(0.5, momentum=0.25), Chain(Dense(3, 2), Chain(ReLU()))])
def test_a_configuration_survives_json(value: object) -> None:
    assert Decoder()(json.loads(json.dumps(encode(value)))) == value


def nested(levels: int, innermost: Layer) -> Chain:
    """A configuration of that many levels; a chain is an object with a list in it."""
    return Chain(innermost if levels == 3 else nested(levels - 2, innermost))


def test_writing_and_reading_have_the_same_limits() -> None:
    """64 levels, of which a layer with an initializer has 2; 50,000 values: a chain 3, a ReLU 2, a Dropout 3."""
    for config in (nested(63, Dense(3, 2)), Chain(*[ReLU()] * 24_997, Dropout(0.5))):
        assert Decoder()(encode(config)) == config
    deep, wide = nested(63, ReLU()), Chain(*[ReLU()] * 24_998)
    with pytest.raises(ValueError, match="at most 64 levels"):
        encode(Chain(deep))
    with pytest.raises(ValueError, match="at most 64 levels"):
        Decoder()({"type": "Chain", "layers": [encode(deep)]})
    with pytest.raises(ValueError, match="at most 50000 values"):
        encode(Chain(*wide.layers, ReLU()))
    with pytest.raises(ValueError, match="at most 50000 values"):
        Decoder()({"type": "Chain", "layers": [*encode(wide)["layers"], {"type": "ReLU"}]})


def test_fields_that_are_tuples_are_checked_entry_by_entry() -> None:
    @dataclass(frozen=True)
    class Own(Layer):
        any: tuple = ()
        sizes: tuple[int, ...] = ()
        pair: tuple[int, str] = (0, "")

    decode = Decoder((Own,))
    for value in (Own((1, "a"), (1, 2, 3), (1, "b")), Own()):
        assert decode(encode(value)) == value
    for name, wrong in (("any", 3), ("sizes", ["a"]), ("sizes", [1, 2.5]), ("pair", [1]), ("pair", ["b", 1])):
        with pytest.raises(ValueError, match=f"Own.{name} cannot be"):
            decode(encode(Own()) | {name: wrong})


def test_fields_of_a_class_of_ones_own_are_of_their_declared_types() -> None:
    """A class of this library checks its fields itself; other classes need not."""

    @dataclass(frozen=True)
    class Own(Layer):
        part: Layer
        real: float = 0.5
        whole: int = 1
        flag: bool = False
        word: str = ""
        choice: Literal["a", 1] = "a"
        maybe: float | None = None
        free: Any = None

    right: dict[str, list[Any]] = {
        **{"real": [1, 2.5], "whole": [0, -3], "flag": [True], "word": ["b"], "choice": ["a", 1]},
        **{"maybe": [None, 1.5], "part": [encode(ReLU()), encode(Dropout(0.1))], "free": [None, 3, "c", [1, [True]]]},
    }
    wrong: dict[str, list[Any]] = {
        **{"real": ["x", True, None, [1.0]], "whole": [1.0, True, "1"], "flag": [1, "yes", None], "word": [1, None]},
        **{"choice": ["b", True, 1.0, None], "maybe": ["x", True], "part": [None, 3, "ReLU", encode(He())]},
    }
    decode, plain = Decoder((Own,)), encode(Own(ReLU()))
    for name, values in right.items():
        for value in values:
            assert encode(decode(plain | {name: value})) == plain | {name: value}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"Own.{name} cannot be"):
                decode(plain | {name: value})

"""The public interface: options are passed by keyword, ``repr`` is short, and bad input ends in a sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlp_xp
from mlp_xp import (
    SGD,
    Adam,
    BatchSource,
    Chain,
    Checkpoint,
    CSVLog,
    Dense,
    EarlyStopping,
    JSONLines,
    Model,
    Progress,
    ReLU,
    SoftmaxCrossEntropy,
    Sweep,
    TensorBoard,
    Trainer,
    TrainStep,
    arrow_batches,
    check_gradients,
    get_backend,
    mlp,
    parity,
)
from mlp_xp_backends.groups import get_group

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 4)).astype(np.float32), RNG.integers(0, 3, 20)
NETWORK = mlp(4, 8, 3)
CONTRACTS = {
    mlp_xp.Layer,
    mlp_xp.StatefulLayer,
    mlp_xp.Loss,
    mlp_xp.Optimizer,
    mlp_xp.Schedule,
    mlp_xp.Callback,
    parity.Bounds,
}
OBVIOUS = {
    *("y", "sample_weight"),  # as in validation_data=(x, y, sample_weight)
    *("loss", "optimizer"),  # as in Trainer(network, loss, optimizer)
    *("lr", "rate", "slope", "value", "distribution"),  # the one number or word of a configuration
    *("records", "stream", "spec", "model", "setting", "column", "names"),  # the one argument of a function
    *("losses", "fixed", "dtype", "run", "reason"),  # the last field of a record
}


def options() -> Iterator[Any]:
    """Every optional parameter that may be passed by position, with the function that has it."""
    for module in (mlp_xp, parity):
        for name in module.__all__:
            thing = getattr(module, name)
            methods = {n: f for n, f in vars(thing).items() if n[0] != "_"} if inspect.isclass(thing) else {}
            if inspect.isclass(thing) and {*thing.__mro__} & CONTRACTS:  # whose methods are called by the library
                methods = {}
            for key, f in {name: thing, **{f"{name}.{n}": f for n, f in methods.items()}}.items():
                yield from ((key, p.name) for p in _by_position(getattr(f, "__func__", f)))


def _by_position(f: Any) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(f).parameters.values() if callable(f) else ()
    except ValueError:  # errors
        return []
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]


def test_options_are_passed_by_keyword() -> None:
    assert [(key, name) for key, name in options() if name not in OBVIOUS] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: Trainer(NETWORK, device="cpu").predict(X, 5),
        lambda: Trainer(NETWORK, device="cpu").evaluate(X, Y, None, 5),
        lambda: Trainer(NETWORK, device="cpu").model.outputs(X, 5),
        lambda: mlp_xp.load("m.safetensors", "cpu"),
        lambda: Trainer.resume("c.safetensors", "cpu"),
        lambda: parity.run(["cpu"], print),
    ],
)
def test_an_option_in_the_place_of_an_argument_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        call()


def trained() -> Trainer:
    trainer = Trainer(NETWORK, device="cpu")
    trainer.fit(X, Y, max_epochs=1, validation_data=(X, Y), early_stopping=EarlyStopping())
    return trainer


SHOWN: dict[str, Callable[[], Any]] = {
    "state": lambda: trained().state,
    "snapshot": lambda: trained().snapshot(),
    "best": lambda: trained().snapshot().best,
    "trainer": trained,
    "model": lambda: trained().model,
    "history": lambda: trained().history,
    "progress": lambda: trained().progress,
    "rates": lambda: trained().find_lr(X, Y, steps=10),
    "sweep": lambda: Sweep(NETWORK, grid={"lr": [0.1, 0.01]}, device="cpu"),
    "result": lambda: Sweep(NETWORK, grid={"lr": [0.1]}, device="cpu").fit(X, Y, max_epochs=1, progress=False),
    "case": lambda: parity.cases()[0],
    "checkpoint": lambda: Checkpoint("c"),
    "table": lambda: CSVLog("log.csv"),
    "lines": lambda: JSONLines("log.jsonl"),
    "scalars": lambda: TensorBoard("runs"),
    "bar": Progress,
    "lines in memory": lambda: Progress(StringIO()),
    "source": lambda: BatchSource([(X, Y)]),
    "stream": lambda: BatchSource(lambda: iter([(X, Y)])),
    "numpy": lambda: get_backend("cpu"),
    "strict": lambda: get_backend("array_api_strict"),
    "namespace": lambda: get_backend("cpu").xp,
    "strict namespace": lambda: get_backend("array_api_strict").xp,
    "group": lambda: get_group(None),
}


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_shows_weights_or_addresses(name: str) -> None:
    thing = SHOWN[name]()
    for text in (repr(thing), str(thing)):
        assert " at 0x" not in text and "array(" not in text and len(text) < 500


def test_callbacks_show_their_configuration() -> None:
    callbacks = [Checkpoint("c", seconds=60), CSVLog(Path("a.csv")), JSONLines("a"), TensorBoard("runs"), Progress()]
    expected = "[Checkpoint('c', seconds=60.0), CSVLog('a.csv'), JSONLines('a'), TensorBoard('runs'), Progress()]"
    assert repr(callbacks) == expected


def check(**changed: Any) -> Any:
    given = {"network": mlp(4, 3), "loss": SoftmaxCrossEntropy(), "x": X[:5], "y": Y[:5]} | changed
    return check_gradients(given.pop("network"), given.pop("loss"), given.pop("x"), given.pop("y"), **given)


def fit(**options: Any) -> Any:
    return Trainer(NETWORK, device="cpu").fit(X, Y, **{"max_epochs": 1, **options})


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no parameters": (lambda: Trainer(Chain(ReLU())), "no parameters to train: at least one layer must have some"),
    "a flag for a count": (lambda: fit(max_epochs=True), "max_epochs must be a positive integer, not True"),
    "a flag for rows": (lambda: fit(batch_size=np.True_), "batch_size must be a positive integer, not .*True"),
    "a set without a name": (lambda: fit(validation_data={"": (X, Y)}), "strings such as 'valid', not ''"),
    "a wrong set": (lambda: fit(validation_data=(X[:, :2], Y)), "^validation data 'valid': x has 2 columns"),
    "a set of other rows": (
        lambda: fit(validation_data={"a": (X, Y), "b": (X[:3], Y)}),
        r"^validation data 'b': y has shape \(20,\) but x has 3 rows",
    ),
    "ragged rows": (lambda: Trainer(NETWORK).predict([[1, 2], [3]]), "rows of x must have equal shapes, but those of"),
    "a word": (lambda: Trainer(NETWORK).predict("abc"), "x must be an array .* not 'abc'$"),
    "a snapshot": (
        lambda: Trainer.from_snapshot(3),
        r"snapshot must be a Snapshot, such as trainer.snapshot",
    ),
    "a frozen layer": (lambda: TrainStep(NETWORK, SoftmaxCrossEntropy(), SGD(0.1), frozen=0), "frozen must be posit"),
    "a model": (lambda: Model(3, 3, 3, 3, 3), "network must be a Chain of layers"),
    "a loss of a model": (lambda: Model(NETWORK, 3, 3, 3, 3), "loss must be an object such as"),
    "a backend of a model": (lambda: Model(NETWORK, SoftmaxCrossEntropy(), (), (), "cpu"), "backend must be an object"),
    "a folder": (lambda: TensorBoard(3), "expected the path"),
    "a stream": (lambda: Progress("x"), "stream must be an object such as sys.stdout, not 'x'"),
    "a column": (lambda: trained().history[1.5], "expected a position, a slice or the name of a column, got 1.5"),
    "check: network": (lambda: check(network=Dense(4, 3)), "network must be a Chain of layers, such as mlp"),
    "check: loss": (lambda: check(loss=SoftmaxCrossEntropy), "loss must be .* the class SoftmaxCrossEntropy: call it"),
    "check: no rows": (lambda: check(x=X[:0], y=Y[:0]), r"at least one row, but its shape is \(0, 4\)"),
    "check: no x": (lambda: check(x=None), "x must be an array of real numbers, but its dtype is object"),
    "check: words": (lambda: check(y=Y[:5].astype(str)), "y must be an array of real numbers, but its dtype is <U"),
    "check: weights": (lambda: check(sample_weight="a"), "sample_weight must be an array of real numbers"),
    "check: entries": (lambda: check(entries=0), "entries must be a positive integer, not 0"),
    "check: tolerance": (lambda: check(tolerance="a"), "tolerance must be a finite number"),
    "check: rng": (lambda: check(rng=3), r"rng must be an object such as np.random.default_rng\(0\), not 3"),
    "check: params": (lambda: check(params=()), r"params must have the shapes {'0.W': \(4, 3\), .* not {}"),
    "parity: one name": (lambda: parity.run("cpu"), r"expected a list of names, such as \['cpu'\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_a_sentence(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_state_dict_needs_a_network() -> None:
    pytest.importorskip("torch")
    with pytest.raises(TypeError, match="network must be a Chain of layers"):
        Model.from_torch({"weight": X}, network=3)


def test_columns_of_files_are_a_name_or_names(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    pq.write_table(pa.table({"age": [1.0, 2.0], "bought": [0, 1]}), tmp_path / "t.parquet")
    ((x, y),) = arrow_batches(tmp_path / "t.parquet", "bought", features="age")
    assert x.shape == (2, 1) and y.tolist() == [0, 1]
    with pytest.raises(TypeError, match="expected the name of a column, or several names, got 3"):
        arrow_batches(tmp_path / "t.parquet", 3)


def test_any_positions_of_layers_may_be_frozen() -> None:
    model = Trainer(mlp(4, 5, 6, 3), device="cpu").model
    for positions in ([0, 2], (2, 0, 0), {0, 2}, range(0, 4, 2), np.array([0, 2])):
        assert Trainer.from_model(model, Adam(), frozen=positions).step.frozen == (0, 2)


def test_a_missing_array_has_one_public_name() -> None:
    from mlp_xp_backends.trees import ABSENT

    assert mlp_xp.ABSENT is ABSENT
    assert Dense(3, 2, bias=False).init(np.random.default_rng(0)).b is ABSENT

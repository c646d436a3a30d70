"""Export of models to ONNX files, which run without Python and without this library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp_xp._checks import OneOf
from mlp_xp._optional import need
from mlp_xp.files import disk
from mlp_xp.interop.onnx_namespace import Graph, Traced
from mlp_xp.nn.layers import Chain, Layer, StatefulLayer
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.trees import leaves
from mlp_xp_backends.typing import HostArray, Tree

if TYPE_CHECKING:
    from mlp_xp.model import Model

OPSET, IR_VERSION = 20, 10
"""Versions that onnxruntime 1.18 and newer accept; it refuses the newer ones that `onnx` writes by default."""
LIMIT = 2**31 - 2**20
"""The largest size of all parameters, in bytes: a protobuf message is limited to 2 GiB."""
INPUTS = {"floats": None, "ids": "int64", "numbers": None}
INPUT_DTYPE = OneOf("float32", "float64", "uint8", "int8", "int16", "int32", "int64")
EXAMPLE_ROWS = 3


def write_onnx(
    path: str | Path, models: Sequence[Model], *, classes: Any = None, input_dtype: str | None = None
) -> None:
    """Write one graph that averages the predictions of ``models``; a single model is an ensemble of one.

    The input is ``X``, (rows, n_in). Classifiers have the outputs ``label`` and ``probabilities``, regressions
    ``values``, (rows, n_out). Opset 20, IR version 10.

    Parameters
    ----------
    path
        The file to write.
    models
        Models with the same kind of loss, dtype, and numbers of inputs and outputs.
    classes
        The labels of the outputs. For a single binary output, pass two labels: the graph then returns both
        probabilities. By default, labels are the numbers that `Model.predict` returns.
    input_dtype
        The dtype of ``X``: by default that of the network, and int64 for ids. Pass ``uint8`` if the network begins with
        `Rescale` and reads pixels.

    Raises
    ------
    ValueError
        A layer or label cannot be expressed in ONNX, or the models do not match; the message names the cause.
    FileError
        The file cannot be written.
    ImportError
        The extra ``onnx`` is not installed.
    """
    onnx = need("onnx", "onnx")
    graph, n_in = Graph(), _common_width(models)
    first = models[0]
    dtype = INPUTS[first.network.first.takes] or first.dtype
    dtype = dtype if input_dtype is None else INPUT_DTYPE("input_dtype", input_dtype)
    X = graph.input("X", np.zeros((EXAMPLE_ROWS, n_in), dtype))
    with np.errstate(all="ignore"):
        outputs = _decide(graph, [(m, _outputs(graph, m, X)) for m in models], classes)
    size = sum(a.nbytes for a in graph.constants.values())
    if size > LIMIT:
        raise ValueError(
            f"the parameters take {size / 2**30:.1f} GiB, but an ONNX file holds at most 2 GiB: "
            "export a smaller network, or one in float32"
        )
    content = _proto(onnx, graph, X, outputs)
    onnx.checker.check_model(content)
    disk.write(path, lambda file: file.write_bytes(content.SerializeToString()))


def _common_width(models: Sequence[Model]) -> int:
    """The number of input features. Raises `ValueError` if the models cannot be averaged."""
    if not models:
        raise ValueError("expected at least one model to export, got none")
    for m in models:
        if any(p.ndim > 2 for p in leaves(m.params)):
            raise ValueError("the parameters have an axis of models in front: export each model, or a list of them")
    kinds = {(m.loss.target, n_in := input_width(m.network), m.network.width(n_in), m.dtype) for m in models}
    if len(kinds) > 1:
        raise ValueError(
            f"expected models with the same kind of target, inputs, outputs and dtype, got {sorted(kinds)}"
        )
    return kinds.pop()[1]


def input_width(network: Chain) -> int:
    """The number of features that the network reads. Raises `ValueError` if it accepts any number."""
    for layer in network.layers:
        for name in ("ids_per_row", "n_in", "n"):
            if hasattr(layer, name):
                return int(getattr(layer, name))
        if isinstance(layer, Chain):
            return input_width(layer)
        if leaves(layer.specs()):
            return int(leaves(layer.specs())[0].rows)
    raise ValueError("the network accepts any number of features: begin it with a Dense layer")


def _outputs(graph: Graph, model: Model, x: Traced) -> Any:
    """The outputs of the last layer (logits)."""
    params, state = to_host(model.backend, (model.params, model.state))
    return _forward(graph, model.network, params, state, graph.cast(x, _input_dtype(model)))


def _input_dtype(model: Model) -> Any:
    """The dtype in which the first layer computes."""
    return np.dtype("int64" if model.network.first.takes == "ids" else model.dtype)


def _forward(graph: Graph, network: Chain, params: Tree, state: Tree, x: Any) -> Any:
    """Record the forward pass, layer by layer, so that an error can name the layer."""
    for layer, p, s in zip(network.layers, params, state, strict=True):
        try:
            x = _forward(graph, layer, p, s, x) if isinstance(layer, Chain) else _apply(graph, layer, p, s, x)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(f"{layer!r} cannot be exported to ONNX: {error}") from error
    return x


def _apply(graph: Graph, layer: Layer | StatefulLayer, params: Tree, state: Tree, x: Any) -> Any:
    if layer.stateful:
        return layer.forward(graph, params, state, x, False)[0]  # type: ignore[call-arg]
    return layer.forward(graph, params, x)[0]  # type: ignore[call-arg]


def _decide(graph: Graph, members: list[tuple[Model, Traced]], classes: Any) -> dict[str, Traced]:
    """The outputs of the graph, by name: predictions, and labels for a classifier."""
    loss = members[0][0].loss
    p = _mean(graph, [m.loss.output(graph, z) for m, z in members])
    if loss.target not in ("class", "binary"):
        return {"values": _named(graph, "values", p)}
    by_outputs = classes is None and len(members) == 1  # as `Model.predict` does
    scores, threshold = (members[0][1], 0.0) if by_outputs else (p, 0.5)
    if loss.target == "class":
        label = graph.argmax(scores, axis=-1)
    else:
        label = graph.astype(graph.greater(scores, threshold), np.dtype("int64"))
    if classes is not None and loss.target == "binary" and p.shape[1] == 1:
        label, p = graph.squeeze(label, axis=1), graph.concat([1.0 - p, p], axis=1)
    if classes is not None and label.ndim == 1:
        label = graph.take(_labels(classes, p.shape[1]), label, axis=0)
    return {"label": _named(graph, "label", label), "probabilities": _named(graph, "probabilities", p)}


def _mean(graph: Graph, outputs: list[Any]) -> Any:
    """The mean of the predictions of all members."""
    if len(outputs) == 1:
        return outputs[0]
    return graph.mean(graph.concat([graph.expand_dims(p, axis=0) for p in outputs], axis=0), axis=0)


def _labels(classes: Any, n: int) -> HostArray:
    """The labels as an ONNX tensor of integers, floats, booleans or strings."""
    labels = np.asarray(classes)
    if labels.shape != (n,):
        raise ValueError(f"expected {n} classes, one for each probability, got {labels.tolist()}")
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if labels.dtype.kind in "UO" and all(isinstance(label, str) for label in labels.tolist()):
        return labels.astype(object)
    if labels.dtype.kind not in "bf":
        raise ValueError(
            f"expected labels that are numbers or strings, as ONNX requires, got {labels.dtype}: {labels.tolist()}"
        )
    return labels


def _named(graph: Graph, name: str, x: Any) -> Traced:
    """``x`` under that name."""
    graph.nodes.append(("Identity", [x.name], name, {}))
    return Traced(graph, name, x.value)


def _proto(onnx: Any, graph: Graph, x: Traced, outputs: dict[str, Traced]) -> Any:
    """The graph as an ONNX protobuf message."""
    from mlp_xp import __version__

    helper = onnx.helper

    def info(name: str, t: Traced) -> Any:
        kind = onnx.TensorProto.STRING if t.dtype == object else helper.np_dtype_to_tensor_dtype(t.dtype)
        return helper.make_tensor_value_info(name, kind, ["rows", *t.shape[1:]])

    def attribute(value: Any) -> Any:
        return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value

    nodes = [
        helper.make_node(operator, inputs, [output], **{k: attribute(v) for k, v in attributes.items()})
        for operator, inputs, output, attributes in graph.nodes
    ]
    constants = [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()]
    body = helper.make_graph(nodes, "mlp_xp", [info("X", x)], [info(*o) for o in outputs.items()], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mlp_xp", producer_version=__version__
    )

"""An Array API namespace that records ONNX nodes: running the forward pass of a layer on it yields the layer's graph.

Layers and losses are written against ``xp``, so none of them needs a second definition, and layers of your own are
exported like those of the library. Operations on constants are computed at once: the graph contains their results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlp_xp_backends.numpy_namespace import xp as host
from mlp_xp_backends.typing import HostArray

UNARY = {
    "abs": "Abs",
    "cos": "Cos",
    "cosh": "Cosh",
    "exp": "Exp",
    "log": "Log",
    "logical_not": "Not",
    "negative": "Neg",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
BINARY = {
    "add": "Add",
    "divide": "Div",
    "equal": "Equal",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "matmul": "MatMul",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "pow": "Pow",
    "subtract": "Sub",
}
REDUCTIONS = {"max": "ReduceMax", "mean": "ReduceMean", "min": "ReduceMin", "prod": "ReduceProd", "sum": "ReduceSum"}

ARITHMETIC = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow", "matmul": "matmul"}
COMPARISONS = {"gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal", "eq": "equal"}


class Traced:
    """A tensor of the graph: its name, and an example of its value, computed from an example of the input."""

    __array_priority__ = 1000.0
    __array_ufunc__ = None  # so that NumPy defers to the operators of this class

    def __init__(self, graph: Graph, name: str, value: HostArray) -> None:
        self.graph, self.name, self.value = graph, name, value
        self.shape, self.dtype, self.ndim = value.shape, value.dtype, value.ndim

    def __bool__(self) -> bool:
        raise TypeError("an `if` on a value cannot be exported: use xp.where")

    def __neg__(self) -> Any:
        return self.graph.negative(self)

    __hash__ = object.__hash__


def _operator(name: str, reflected: bool = False) -> Callable[[Traced, Any], Any]:
    def apply(self: Traced, other: Any) -> Any:
        return getattr(self.graph, name)(*((other, self) if reflected else (self, other)))

    return apply


for _symbol, _name in ARITHMETIC.items():
    setattr(Traced, f"__{_symbol}__", _operator(_name))
    setattr(Traced, f"__r{_symbol}__", _operator(_name, reflected=True))
for _symbol, _name in COMPARISONS.items():
    setattr(Traced, f"__{_symbol}__", _operator(_name))


class Graph:
    """The namespace. ``nodes`` contains ``(operator, inputs, output, attributes)``, ``constants`` arrays by name."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, HostArray] = {}

    def __getattr__(self, name: str) -> Any:
        """A function of the namespace, which computes with NumPy if no argument is a tensor of the graph."""
        known = getattr(host, name, None)
        if known is not None and (not callable(known) or isinstance(known, type)):
            return known  # a dtype or a number
        rule = _rule(name)

        def call(*arguments: Any, **options: Any) -> Any:
            if not any(isinstance(a, Traced) for a in _flat(arguments)) and known is not None:
                return known(*arguments, **options)
            if rule is None:
                raise NotImplementedError(f"xp.{name} has no counterpart in ONNX here")
            return rule(self, *arguments, **options)

        return call

    def input(self, name: str, example: HostArray) -> Traced:
        """Add an input to the graph."""
        return Traced(self, name, example)

    def node(self, operator: str, value: HostArray, *inputs: Any, **attributes: Any) -> Traced:
        """Add a node and return its output, with ``example`` as the example of its value."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append((operator, [self.name(i) for i in inputs], name, attributes))
        return Traced(self, name, np.asarray(value))

    def name(self, x: Any) -> str:
        """The name of a tensor; an array becomes a new constant."""
        if isinstance(x, Traced):
            return x.name
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(x).reshape(np.shape(x))  # it makes 0-d arrays 1-d
        return name

    def cast(self, x: Any, dtype: Any) -> Any:
        """``x`` converted to ``dtype``."""
        if not isinstance(x, Traced):
            return np.asarray(x, dtype)
        return x if x.dtype == dtype else self.node("Cast", x.value.astype(dtype), x, to=np.dtype(dtype))


def _flat(arguments: tuple[Any, ...]) -> list[Any]:
    return [a for argument in arguments for a in (argument if isinstance(argument, (list, tuple)) else (argument,))]


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Traced) else x


def _rule(name: str) -> Callable[..., Traced] | None:
    """The function that records ``xp.name``."""
    if name in UNARY:
        return lambda graph, x: graph.node(UNARY[name], getattr(host, name)(x.value), x)
    if name in BINARY:
        return lambda graph, a, b: _binary(graph, name, a, b)
    if name in REDUCTIONS:
        return lambda graph, x, **options: _reduce(graph, name, x, **options)
    return RULES.get(name)


def _binary(graph: Graph, name: str, a: Any, b: Any) -> Traced:
    """An operation on two tensors; Python numbers and arrays become constants of the common dtype."""
    value = getattr(host, name)(_value(a), _value(b))
    if name == "maximum" and isinstance(b, (int, float)) and b == 0.0:
        return graph.node("Relu", value, a)
    a, b = (_spread(graph.cast(x, np.result_type(_value(a), _value(b))), value) for x in (a, b))
    return graph.node(BINARY[name], value, a, b)


def _spread(x: Any, value: HostArray) -> Any:
    """A float64 number, repeated for each feature, because onnxruntime rounds a scalar factor to float32."""
    if isinstance(x, Traced) or x.size != 1 or x.dtype != np.float64 or not value.ndim:
        return x
    return np.full(value.shape[-1:], x.reshape(()))


def _reduce(graph: Graph, name: str, x: Traced, *, axis: Any = None, keepdims: bool = False) -> Traced:
    value = getattr(host, name)(x.value, axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis)
    return graph.node(REDUCTIONS[name], value, x, np.array(axes, np.int64), keepdims=int(keepdims))


def _argmax(graph: Graph, x: Traced, *, axis: int, keepdims: bool = False) -> Traced:
    return graph.node("ArgMax", np.argmax(x.value, axis=axis, keepdims=keepdims), x, axis=axis, keepdims=int(keepdims))


def _astype(graph: Graph, x: Traced, dtype: Any, *, copy: bool = True) -> Any:
    return graph.cast(x, dtype)


def _clip(graph: Graph, x: Traced, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else graph.maximum(x, min)
    return x if max is None else graph.minimum(x, max)


def _concat(graph: Graph, arrays: Any, *, axis: int = 0) -> Traced:
    return graph.node("Concat", np.concatenate([_value(a) for a in arrays], axis=axis), *arrays, axis=axis)


def _expand_dims(graph: Graph, x: Traced, *, axis: int) -> Traced:
    return graph.node("Unsqueeze", np.expand_dims(x.value, axis), x, np.array([axis], np.int64))


def _log1p(graph: Graph, x: Any) -> Any:
    """``x log(w) / (w - 1)`` with ``w = 1 + x``, accurate for small x (Higham 2002, sec. 1.14.1); ONNX has no log1p."""
    w = x + 1.0
    d = w - 1.0
    exact = graph.equal(d, 0.0)
    return graph.where(exact, x, x * graph.log(w) / graph.where(exact, 1.0, d))


def _matrix_transpose(graph: Graph, x: Traced) -> Traced:
    perm = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
    return graph.node("Transpose", np.transpose(x.value, perm), x, perm=perm)


def _reshape(graph: Graph, x: Traced, shape: tuple[int, ...]) -> Traced:
    return graph.node("Reshape", np.reshape(x.value, shape), x, np.array(shape, np.int64))


def _squeeze(graph: Graph, x: Traced, *, axis: int) -> Traced:
    return graph.node("Squeeze", np.squeeze(x.value, axis), x, np.array([axis], np.int64))


def _take(graph: Graph, x: Any, indices: Any, *, axis: int) -> Traced:
    return graph.node("Gather", np.take(_value(x), _value(indices), axis=axis), x, indices, axis=axis)


def _where(graph: Graph, condition: Any, a: Any, b: Any) -> Traced:
    value = np.where(_value(condition), _value(a), _value(b))
    dtype = np.result_type(_value(a), _value(b))
    return graph.node("Where", value.astype(dtype), condition, graph.cast(a, dtype), graph.cast(b, dtype))


RULES: dict[str, Callable[..., Any]] = {
    "argmax": _argmax,
    "astype": _astype,
    "clip": _clip,
    "concat": _concat,
    "expand_dims": _expand_dims,
    "log1p": _log1p,
    "matrix_transpose": _matrix_transpose,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "take": _take,
    "where": _where,
}

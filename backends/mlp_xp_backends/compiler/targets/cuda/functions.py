"""NumPy's elementwise functions and reductions as expressions of CUDA C++."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlp_xp_backends.compiler.program import Unrecordable

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "float32": "float", "float64": "double",
}  # fmt: skip
"""The C types of the dtypes that the target supports."""

WRAPPING = {"add": "+", "subtract": "-", "multiply": "*", "left_shift": "<<"}
"""Operations on integers that can overflow; they are computed on unsigned types, for which C defines the result."""
OPERATORS = WRAPPING | {
    "divide": "/", "right_shift": ">>", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "less": "<",
    "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
    "logical_and": "&&", "logical_or": "||", "logical_xor": "!=",
}  # fmt: skip
LOGICAL = {"logical_and", "logical_or", "logical_xor"}
SAME_NAME = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh",
    "floor", "ceil", "trunc", "rint", "hypot", "copysign", "nextafter", "isnan", "isinf", "isfinite", "signbit",
)  # fmt: skip
FUNCTIONS = {name: name for name in SAME_NAME} | {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "arctan2": "atan2", "power": "pow", "fabs": "fabs", "logaddexp": "logaddexp",
}  # fmt: skip
"""Functions of real numbers; C++ selects the overload by the type of the argument."""


def c_type(dtype: Any) -> str:
    """The C type of ``dtype``. Raises `Unrecordable` for a dtype that the target does not support."""
    name = np.dtype(dtype).name
    if name not in C_TYPES:
        raise Unrecordable(f"{name} on CUDA")
    return C_TYPES[name]


def literal(x: Any) -> str:
    """The number as a C literal that is exact to the last bit."""
    kind, number = np.asarray(x).dtype.kind, x.item()
    if kind == "f":
        text = number.hex() if np.isfinite(number) else {"inf": INFINITY, "-inf": f"-{INFINITY}"}.get(str(number), NAN)
    elif kind == "b":
        text = "true" if number else "false"
    elif number >= 2**63:
        text = f"{number}ULL"
    else:
        text = f"{number}LL" if number > -(2**63) else "(-9223372036854775807LL - 1)"
    return f"(({c_type(x.dtype)})({text}))"


INFINITY = "(1e300 * 1e300)"
NAN = f"({INFINITY} - {INFINITY})"


def expression(name: str, loop: list[np.dtype[Any]], args: list[str]) -> str:
    """NumPy's ufunc ``name``, applied to arguments with the dtypes in ``loop``, as an expression."""
    dtype = loop[0]
    kind, a, b = dtype.kind, args[0], args[-1]
    if name in LOGICAL:
        return f"((bool){a} {OPERATORS[name]} (bool){b})"
    if name in WRAPPING and kind == "i":
        unsigned = "unsigned long long" if dtype.itemsize == 8 else "unsigned int"
        return f"({c_type(dtype)})(({unsigned}){a} {OPERATORS[name]} ({unsigned}){b})"
    if name in ("add", "multiply") and kind == "b":
        return f"({a} {'||' if name == 'add' else '&&'} {b})"
    mixed = len(set(loop)) > 1  # int64 < uint64, which C would compute on unsigned numbers
    if name in OPERATORS and (name != "divide" or kind == "f") and not mixed:
        return f"({a} {OPERATORS[name]} {b})"
    if name in FUNCTIONS and kind == "f":
        return f"{FUNCTIONS[name]}({', '.join(args)})"
    if name in ("maximum", "minimum"):
        return f"{name}({a}, {b})"
    if name == "absolute":
        return f"fabs({a})" if kind == "f" else a if kind in "bu" else f"({a} < 0 ? -{a} : {a})"
    if name == "sign" and kind in "fiu":
        return f"sign({a})"
    if name == "invert":
        return f"!{a}" if kind == "b" else f"~{a}"
    simple = {"negative": f"-{a}", "positive": a, "square": f"({a} * {a})", "logical_not": f"!(bool){a}"}
    simple |= {"reciprocal": f"(1 / {a})"} if kind == "f" else {}
    if name in simple and not (name == "negative" and kind == "b"):
        return simple[name]
    raise Unrecordable(f"{name} of {dtype} on CUDA")


def start(name: str, dtype: np.dtype[Any]) -> str:
    """The neutral element of the reduction ``name``."""
    if name.startswith("arg"):
        return f"Place<{c_type(dtype)}>{{0, -1}}"
    if name in ("max", "min"):
        low, high = (-np.inf, np.inf) if dtype.kind == "f" else (False, True) if dtype.kind == "b" else _ends(dtype)
        return literal(np.asarray(low if name == "max" else high, dtype))
    return literal(np.asarray(name in ("prod", "all"), dtype))


def _ends(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)

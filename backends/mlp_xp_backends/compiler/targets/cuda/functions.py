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
"""The types of C for the dtypes that the target computes with."""

WRAPPING = {"add": "+", "subtract": "-", "multiply": "*", "left_shift": "<<"}
"""What overflows in integers: computed without sign, where C defines the result."""
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
"""Functions of real numbers; C++ chooses by the type of the argument."""

PRELUDE = """
template <class T> __device__ T logaddexp(T a, T b) {
    const T high = a > b ? a : b, low = a > b ? b : a;
    return a == b ? a + (T)0.69314718055994530942 : a != a || b != b ? a + b : high + log1p(exp(low - high));
}
"""


def c_type(dtype: Any) -> str:
    """The type of C; `Unrecordable` for a dtype that the target does not compute with."""
    name = np.dtype(dtype).name
    if name not in C_TYPES:
        raise Unrecordable(f"{name} on CUDA")
    return C_TYPES[name]


def literal(x: Any) -> str:
    """The number as C writes it, to the last bit."""
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
    """NumPy's ufunc ``name`` of arguments that have the dtypes of ``loop``."""
    dtype = loop[0]
    kind, a, b = dtype.kind, args[0], args[-1]
    if name in LOGICAL:
        return f"((bool){a} {OPERATORS[name]} (bool){b})"
    if name in WRAPPING and kind == "i":
        unsigned = "unsigned long long" if dtype.itemsize == 8 else "unsigned int"
        return f"({c_type(dtype)})(({unsigned}){a} {OPERATORS[name]} ({unsigned}){b})"
    if name in ("add", "multiply") and kind == "b":
        return f"({a} {'||' if name == 'add' else '&&'} {b})"
    if name in OPERATORS and (name != "divide" or kind == "f"):
        return f"({a} {OPERATORS[name]} {b})"
    if name in FUNCTIONS and kind == "f":
        return f"{FUNCTIONS[name]}({', '.join(args)})"
    if name in ("maximum", "minimum"):
        return extremum(name, a, b)
    if name == "absolute":
        return f"fabs({a})" if kind == "f" else a if kind in "bu" else f"({a} < 0 ? -{a} : {a})"
    if name == "sign" and kind in "fi":
        return f"({a} != {a} ? {a} : ({c_type(dtype)})(({a} > 0) - ({a} < 0)))"
    if name == "invert":
        return f"!{a}" if kind == "b" else f"~{a}"
    simple = {"negative": f"-{a}", "positive": a, "square": f"({a} * {a})", "logical_not": f"!(bool){a}"}
    simple |= {"reciprocal": f"(1 / {a})"} if kind == "f" else {}
    if name in simple and not (name == "negative" and kind == "b"):
        return simple[name]
    raise Unrecordable(f"{name} of {dtype} on CUDA")


def extremum(name: str, a: str, b: str) -> str:
    """The larger or the smaller of two, NaN if one of them is."""
    return f"({a} {'>' if name.startswith('max') else '<'} {b} || {a} != {a} ? {a} : {b})"


def combination(name: str, dtype: np.dtype[Any]) -> tuple[str, Any]:
    """How a reduction joins two results ``{a}`` and ``{b}``, and what changes nothing."""
    if name in ("max", "min"):
        low, high = (-np.inf, np.inf) if dtype.kind == "f" else (False, True) if dtype.kind == "b" else _ends(dtype)
        return extremum(name, "{a}", "{b}"), low if name == "max" else high
    table = {
        "sum": ("({a} + {b})", 0),
        "prod": ("({a} * {b})", 1),
        "any": ("({a} || {b})", 0),
        "all": ("({a} && {b})", 1),
    }
    return table[name]


def _ends(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)

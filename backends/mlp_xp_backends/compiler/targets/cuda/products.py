"""Products of matrices by cuBLAS, with arguments that are made once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from mlp_xp_backends.compiler.program import Op, Value
from mlp_xp_backends.compiler.targets.cuda.lower import stack_stride

Call = tuple[Callable[..., Any], tuple[Any, ...], Any]
"""A function, its arguments, and what has to live as long as they do."""
Address = Callable[[Value], int]

REAL = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
"""CUDA's numbers for the dtypes (``cudaDataType``)."""


def numbers(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """1 and 0 in the memory of the host."""
    of = ctypes.c_double if dtype.itemsize == 8 else ctypes.c_float
    return of(1.0), of(0.0)


def operand(v: Value, address: Address) -> tuple[bool, int, int, int]:
    """Whether the stored matrix is the transpose, its leading dimension, elements to the next one, and its address.

    cuBLAS stores columns, so it reads the rows of a row-major matrix as columns: ``a b`` is computed as ``b' a'``.
    """
    rows, columns = (s // v.dtype.itemsize for s in v.strides[-2:])
    m, n = v.shape[-2:]
    plain = (columns == 1 or n == 1) and (rows >= n or m == 1)
    leading = (rows if m > 1 else n) if plain else (columns if n > 1 else m)
    stride = stack_stride(v)
    assert stride is not None
    return not plain, leading, stride, address(v.root) + v.offset


def product(op: Op, address: Address) -> Call:
    """The call that computes the product ``op`` on the current stream."""
    a, b = op.inputs
    (ta, lda, sa, pa), (tb, ldb, sb, pb) = operand(a, address), operand(b, address)
    (*lead, m, n), k = op.out.shape, a.shape[-1]
    count, kind = int(np.prod(lead)), REAL[op.out.dtype]
    one, zero = numbers(op.out.dtype)
    compute = cublas.CUBLAS_COMPUTE_64F if kind else cublas.CUBLAS_COMPUTE_32F
    head = (int(tb), int(ta), n, m, k, ctypes.addressof(one))
    tail = (compute, cublas.CUBLAS_GEMM_DEFAULT)
    left, right, out = (pb, kind, ldb), (pa, kind, lda), (address(op.out), kind, n)
    if count == 1:
        args: tuple[Any, ...] = (*head, *left, *right, ctypes.addressof(zero), *out, *tail)
        f = cublas.gemmEx
    else:
        args = (*head, *left, sb, *right, sa, ctypes.addressof(zero), *out, m * n, count, *tail)
        f = cublas.gemmStridedBatchedEx
    return f, (cupy.cuda.device.get_cublas_handle(), *args), (one, zero)

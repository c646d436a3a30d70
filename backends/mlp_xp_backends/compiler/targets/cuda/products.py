"""Products of matrices by cuBLAS, with arguments that are made once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import cupy
import numpy as np
from cupy._core._routines_linalg import COMPUTE_TYPE_TF32, get_compute_type
from cupy_backends.cuda.libs import cublas

from mlp_xp_backends.compiler.program import Op, Value
from mlp_xp_backends.compiler.targets.cuda.lower import stack_stride

Call = tuple[Callable[..., Any], tuple[Any, ...], Any]
"""A function, its arguments, and what has to live as long as they do."""
Address = Callable[[Value], int]

REAL = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
"""CUDA's numbers for the dtypes (``cudaDataType``)."""


@dataclass(frozen=True)
class Matrix:
    """A stored matrix, or a stack of them, as cuBLAS sees it: by columns."""

    transposed: bool
    """Whether the product takes its transpose."""
    rows: int
    columns: int
    leading: int
    """Elements from one column to the next."""
    stride: int
    """Elements from one matrix of the stack to the next."""
    address: int


@dataclass(frozen=True)
class Product:
    """``a b`` with all arguments of cuBLAS; as it stores columns, ``(a b)' = b' a'`` is computed."""

    left: Matrix
    right: Matrix
    out: Matrix
    inner: int
    count: int
    kind: int
    compute: int
    one: Any
    zero: Any

    def call(self, stream: int) -> Call:
        """The call that computes it by CuPy's cuBLAS, on ``stream`` while that is the current one."""
        a, b, c, kind = self.left, self.right, self.out, self.kind
        sizes = (int(a.transposed), int(b.transposed), c.rows, c.columns, self.inner, ctypes.addressof(self.one))
        first, second = (a.address, kind, a.leading), (b.address, kind, b.leading)
        zero, out = ctypes.addressof(self.zero), (c.address, kind, c.leading)
        end = (self.compute, cublas.CUBLAS_GEMM_DEFAULT)
        head = (cupy.cuda.device.get_cublas_handle(), *sizes)
        if self.count == 1:
            return cublas.gemmEx, (*head, *first, *second, zero, *out, *end), self
        stacks = (*first, a.stride, *second, b.stride, zero, *out, c.stride, self.count)
        return cublas.gemmStridedBatchedEx, (*head, *stacks, *end), self


def product(op: Op, address: Address) -> Product:
    """The product ``op`` of the matrices at these addresses."""
    a, b = op.inputs
    *lead, m, n = op.out.shape
    of = ctypes.c_double if op.out.dtype.itemsize == 8 else ctypes.c_float
    kind = REAL[op.out.dtype]
    out = Matrix(False, n, m, n, m * n, address(op.out))
    return Product(
        _stored(b, address), _stored(a, address), out, a.shape[-1], prod(lead), kind, _compute(kind), of(1.0), of(0.0)
    )


def _stored(v: Value, address: Address) -> Matrix:
    rows, columns = (s // v.dtype.itemsize for s in v.strides[-2:])
    m, n = v.shape[-2:]
    place, stride = address(v.root) + v.offset, stack_stride(v)
    assert stride is not None
    if (columns == 1 or n == 1) and (rows >= n or m == 1):
        return Matrix(False, n, m, rows if m > 1 else n, stride, place)
    return Matrix(True, m, n, columns if n > 1 else m, stride, place)


def _compute(kind: int) -> int:
    """How cuBLAS adds: in the dtype of the matrices, or as CuPy is configured (``CUPY_TF32=1``)."""
    if kind == REAL[np.dtype(np.float64)]:
        return int(cublas.CUBLAS_COMPUTE_64F)
    tf32 = get_compute_type(np.dtype(np.float32)) == COMPUTE_TYPE_TF32
    return int(cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F)

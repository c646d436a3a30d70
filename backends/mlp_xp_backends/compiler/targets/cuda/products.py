"""Matrix products by cuBLAS, with arguments that are prepared once."""

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
"""A function, its arguments, and the objects that have to live as long as the arguments."""
Address = Callable[[Value], int]

REAL = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
"""CUDA's numbers for the dtypes (``cudaDataType``)."""


@dataclass(frozen=True)
class Matrix:
    """A stored matrix, or a stack of matrices, in the column-major form of cuBLAS."""

    transposed: bool
    """Whether the product uses its transpose."""
    rows: int
    columns: int
    leading: int
    """The distance between columns, in elements."""
    stride: int
    """The distance between matrices of the stack, in elements."""
    address: int


@dataclass(frozen=True)
class Product:
    """``a b`` with all arguments of cuBLAS, which computes ``(a b)' = b' a'`` because it is column-major."""

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
        """Return the call that computes the product by CuPy's cuBLAS on ``stream``, the current stream."""
        a, b, c, kind = self.left, self.right, self.out, self.kind
        sizes = (int(a.transposed), int(b.transposed), c.rows, c.columns, self.inner, ctypes.addressof(self.one))
        first, second = (a.address, kind, a.leading), (b.address, kind, b.leading)
        zero, out = ctypes.addressof(self.zero), (c.address, kind, c.leading)
        end = (self.compute, cublas.CUBLAS_GEMM_DEFAULT)
        if self.count == 1:
            return _with_handle, (cublas.gemmEx, *sizes, *first, *second, zero, *out, *end), self
        stacks = (*first, a.stride, *second, b.stride, zero, *out, c.stride, self.count)
        return _with_handle, (cublas.gemmStridedBatchedEx, *sizes, *stacks, *end), self


def _with_handle(f: Callable[..., Any], *args: Any) -> None:
    """Call ``f`` with the cuBLAS handle of this thread, which CuPy destroys when the thread ends."""
    f(cupy.cuda.device.get_cublas_handle(), *args)


def product(op: Op, address: Address) -> Product:
    """Return the product ``op`` of the matrices at these addresses."""
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
    """The precision in which cuBLAS computes: the dtype of the matrices, or as configured in CuPy (``CUPY_TF32=1``)."""
    if kind == REAL[np.dtype(np.float64)]:
        return int(cublas.CUBLAS_COMPUTE_64F)
    tf32 = get_compute_type(np.dtype(np.float32)) == COMPUTE_TYPE_TF32
    return int(cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F)

"""Products by cuBLASLt through NVIDIA's bindings in nvmath-python, which a CUDA graph can capture, unlike CuPy's."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any

import cupy
import numpy as np

from mlp_xp_backends.compiler.targets.cuda.graph import CAPTURING
from mlp_xp_backends.compiler.targets.cuda.products import Call, Product

WORKSPACE = 32 * 2**20
"""The size of the workspace of a product, in bytes, that NVIDIA recommends for its largest devices."""
ALIGNED = 256
"""The largest alignment, in bytes, that cuBLASLt distinguishes."""


def bindings() -> Any:
    """Import the module of nvmath-python on first use."""
    return importlib.import_module("nvmath.bindings.cublasLt")


@cache
def available() -> bool:
    """Whether nvmath-python is installed and finds cuBLASLt."""
    if importlib.util.find_spec("nvmath") is None:
        return False
    try:
        bindings().get_version()
    except Exception:  # mismatched bindings and libraries raise errors of many kinds
        return False
    return True


@cache
def handle(device: int) -> int:
    """cuBLASLt's handle for a device; it lives as long as the process."""
    with cupy.cuda.Device(device):
        return int(bindings().create())


class LtProduct:
    """A product whose algorithm is chosen once, for the addresses of its matrices."""

    def __init__(self, product: Product) -> None:
        lt = bindings()
        self.product, self.space = product, cupy.empty(0, np.uint8)
        made: list[Any] = []
        weakref.finalize(self, _destroy, made)
        real, compute = product.kind, product.compute
        self.descriptor = lt.matmul_desc_create(compute, real)
        made.append((lt.matmul_desc_destroy, self.descriptor))
        attribute = lt.MatmulDescAttribute
        for name, matrix in ((attribute.TRANSA, product.left), (attribute.TRANSB, product.right)):
            _set(lt.matmul_desc_set_attribute, self.descriptor, name, np.int32(matrix.transposed))
        matrices = (product.left, product.right, product.out)
        self.layouts = [lt.matrix_layout_create(real, m.rows, m.columns, m.leading) for m in matrices]
        made += [(lt.matrix_layout_destroy, layout) for layout in self.layouts]
        for layout, m in zip(self.layouts, matrices, strict=True) if product.count > 1 else ():
            kinds = lt.MatrixLayoutAttribute
            _set(lt.matrix_layout_set_attribute, layout, kinds.BATCH_COUNT, np.int32(product.count))
            _set(lt.matrix_layout_set_attribute, layout, kinds.STRIDED_BATCH_OFFSET, np.int64(m.stride))
        preference = lt.matmul_preference_create()
        made.append((lt.matmul_preference_destroy, preference))
        about = lt.MatmulPreferenceAttribute
        _set(lt.matmul_preference_set_attribute, preference, about.MAX_WORKSPACE_BYTES, np.uint64(WORKSPACE))
        letters = (*zip("ABC", matrices, strict=True), ("D", product.out))
        for letter, m in letters:
            name = getattr(about, f"MIN_ALIGNMENT_{letter}_BYTES")
            _set(lt.matmul_preference_set_attribute, preference, name, np.uint32(min(ALIGNED, m.address & -m.address)))
        self.algorithm, found = np.zeros(1, lt.matmul_heuristic_result_dtype), np.zeros(1, np.int32)
        self.handle = handle(cupy.cuda.runtime.getDevice())
        a, b, c = self.layouts
        pointers = self.algorithm.ctypes.data, found.ctypes.data
        lt.matmul_algo_get_heuristic(self.handle, self.descriptor, a, b, c, c, preference, 1, *pointers)
        if not found[0]:
            raise RuntimeError("cuBLASLt has no algorithm for a product")
        self.workspace = int(self.algorithm["workspace_size"][0])

    def call(self, stream: int) -> Call:
        """The call that computes the product on ``stream``."""
        p, (a, b, c), space = self.product, self.layouts, self.space.data.ptr if self.workspace else 0
        left, right, out = (p.left.address, a), (p.right.address, b), (p.out.address, c)
        one, zero = ctypes.addressof(p.one), ctypes.addressof(p.zero)
        algorithm = (self.algorithm.ctypes.data, space, self.workspace)
        args = (self.handle, self.descriptor, one, *left, *right, zero, *out, *out, *algorithm, stream)
        return bindings().matmul, args, self


def lt_products(products: Mapping[int, Product]) -> dict[int, LtProduct]:
    """Convert ``products`` to cuBLASLt. They run one after the other and share one workspace."""
    with CAPTURING:  # cuBLASLt of CUDA 13.3 chooses no algorithm while a stream captures
        made = {k: LtProduct(p) for k, p in products.items()}
    space = cupy.empty(max((p.workspace for p in made.values()), default=0), np.uint8)
    for p in made.values():
        p.space = space
    return made


def _set(setter: Any, what: int, name: Any, value: Any) -> None:
    number = np.asarray([value])
    setter(what, int(name), number.ctypes.data, number.nbytes)


def _destroy(made: list[tuple[Any, int]]) -> None:
    for destroy, what in made:
        destroy(what)

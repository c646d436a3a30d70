"""Stand-ins for arrays: they have a shape and a dtype but no elements, and record the operations on them."""

from __future__ import annotations

from types import EllipsisType
from typing import Any, Self

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from mlp_xp_backends.compiler.program import Value
from mlp_xp_backends.typing import HostArray, Namespace


class StandIn(NDArrayOperatorsMixin):
    """An array that records the operations on it: the mixin turns operators into ufuncs, and ``xp`` records these.

    ``xp`` is a `Recorder`. A view of another stand-in refers to it as ``of``.
    """

    __array_priority__ = 1000.0  # other libraries defer to the operators of a stand-in

    def __init__(self, xp: Namespace, value: Value, of: StandIn | None = None, writable: bool = True) -> None:
        self._xp, self._value, self._writable = xp, value, writable and of is None
        self._base: StandIn | None = of if of is None or of._base is None else of._base
        self._seen = None if self._base is None else self._base._value

    def value(self) -> Value:
        """The current value."""
        if self._base is not None and self._base._value is not self._seen:
            raise self._xp.tape.refuse("a view is read after its array was written to")
        return self._value

    def write(self, value: Value) -> Self:
        """Assign ``value`` to this array."""
        if not self._writable:
            raise self._xp.tape.refuse("a write to a view or to an array that is not carried")
        if (value.shape, value.dtype) != (self.shape, self.dtype):
            raise self._xp.tape.refuse("an augmented assignment that changes shape or dtype")
        self._value = value
        return self

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: len(self._value.shape))
    size = property(lambda self: self._value.size)
    mT = property(lambda self: self._xp.matrix_transpose(self))
    T = property(lambda self: self._xp.transpose(self))
    device = "cpu"  # of NumPy's arrays, whatever array this stands for

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        if isinstance(key, StandIn) and key.ndim == 1 and key.dtype.kind in "iu" and self.ndim:
            return self._xp.take(self, key, axis=0)
        if not all(k is None or (isinstance(k, (int, slice, EllipsisType)) and not isinstance(k, bool)) for k in keys):
            raise self._xp.tape.refuse(f"indexing with {key!r}")
        return self._xp.index(self, *((k.start, k.stop, k.step) if isinstance(k, slice) else k for k in keys))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return int(self.shape[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._xp.tape.refuse(f"attribute {name}")

    def __array_ufunc__(self, f: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        if method != "__call__" or options:
            raise self._xp.tape.refuse(f"{f.__name__} {method} with {sorted(options)}")
        return getattr(self._xp, f.__name__)(*inputs, **({"out": out[0]} if out else {}))

    def __array_function__(self, f: Any, types: Any, args: Any, keywords: Any) -> Any:
        return getattr(self._xp, f.__name__)(*args, **keywords)

    def __copy__(self, memo: Any = None) -> Any:
        return self._xp.copy(self)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise self._xp.tape.refuse("an element of an array is read on the host inside a step")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __iter__ = __setitem__ = __array__ = _refuse
    __deepcopy__ = __copy__
    __hash__ = object.__hash__


def index(x: HostArray, *keys: Any) -> HostArray:
    """``x[keys]`` with slices as triples: always a view, even of a single element."""
    whole = keys if Ellipsis in keys else (*keys, ...)
    return x[tuple(slice(*k) if isinstance(k, tuple) else k for k in whole)]

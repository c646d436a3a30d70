"""Random bodies for the compiler: layouts, dtypes, views and writes of all kinds.

All numbers are small integers, whatever their dtype, so that every order of additions gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Rng = np.random.Generator
DTYPES = ("float32", "float64", "int32", "int64", "bool")


class Case(NamedTuple):
    """A body and the arrays to run it on."""

    body: Callable[..., Any]
    carry: Any
    consts: Any
    items: Any


def draw(seed: int) -> Case:
    """The program number ``seed``."""
    rng = np.random.default_rng(seed)
    rows, columns = (int(n) for n in rng.choice([1, 2, 3, 5, 9, 70], 2, p=[0.15, 0.2, 0.3, 0.2, 0.1, 0.05]))
    shapes = [(rows, columns), (columns, rows), (1, columns), (2, rows, columns), (), (rows,)]

    def array(*front: int) -> np.ndarray:
        shape = shapes[int(rng.integers(len(shapes)))]
        return rng.integers(-3, 4, (*front, *shape)).astype(rng.choice(DTYPES[:3]))

    carry = tuple(array() for _ in range(rng.integers(1, 4)))
    consts = (*(laid_out(rng, array()) for _ in range(2)), rng.integers(0, rows, 4))
    items = (array(3), rng.integers(0, columns, (3, rows)).astype("int32"), rng.integers(-2, 3, 3).astype("float32"))

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        return _Writer(np.random.default_rng(seed), xp, list(carry), consts, item).run()

    return Case(body, carry, consts, items)


def laid_out(rng: Rng, x: np.ndarray) -> np.ndarray:
    """The same numbers, stored in a randomly chosen memory layout."""
    match rng.integers(6):
        case 0:
            return np.asfortranarray(x)
        case 1:
            return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
        case 2:
            return np.flip(x.copy()) if x.ndim else x
        case 3:
            return np.broadcast_to(x[..., :1], x.shape) if x.ndim else x
        case 4:
            return np.pad(x, 1)[(slice(1, -1),) * x.ndim]
    return x


class _Writer:
    """Draws operations and carries them out."""

    def __init__(self, rng: Rng, xp: Any, carry: list[Any], consts: Any, item: Any) -> None:
        self.rng, self.xp, self.carry = rng, xp, carry
        self.rows_of, self.ids = consts[2], item[1]
        self.pool = [*carry, *consts[:2], item[0], item[2]]

    def run(self) -> Any:
        drawn = [getattr(type(self), name) for name in sorted(vars(type(self))) if name.startswith("op_")]
        for _ in range(self.rng.integers(2, 16)):
            f = drawn[int(self.rng.integers(len(drawn)))]
            made = f(self, self.pick())
            if made is not None:
                self.pool.append(self.small(made))
        out = self.pick()
        return tuple(self.carry), (out * 1 if out.dtype != bool else out)

    def pick(self, fits: Callable[[Any], bool] = lambda x: True) -> Any:
        found = [x for x in self.pool if fits(x)]
        return found[int(self.rng.integers(len(found)))] if found else None

    def small(self, x: Any) -> Any:
        return x if x.dtype == bool else self.xp.clip(x, -9, 9)

    def beside(self, x: Any) -> Any:
        """An array that broadcasts with ``x``."""

        def fits(y: Any) -> bool:
            pairs = zip(x.shape[::-1], y.shape[::-1], strict=False)
            return all(m == n or 1 in (m, n) for m, n in pairs)

        return self.pick(fits)

    def others(self, k: int) -> list[Any]:
        """The carried arrays but one."""
        return [x for j, x in enumerate(self.carry) if j != k]

    def number(self, x: Any) -> Any:
        """``x`` as something to calculate with."""
        return self.xp.astype(x, self.xp.int32) if x.dtype == bool else x

    def axis(self, x: Any) -> int:
        return int(self.rng.integers(-x.ndim, x.ndim))

    def op_arithmetic(self, x: Any) -> Any:
        x, y, xp = self.number(x), self.number(self.beside(x)), self.xp
        choices = [xp.add, xp.subtract, xp.multiply, xp.maximum, np.minimum, np.add, lambda a, b: 2 * a - b * 3]
        return choices[int(self.rng.integers(len(choices)))](x, y)

    def op_unary(self, x: Any) -> Any:
        x = self.number(x)
        return (self.xp.abs(x), -x, self.xp.square(x), self.xp.sign(x), 1 - x)[int(self.rng.integers(5))]

    def op_divide(self, x: Any) -> Any:
        quotient, rest = divmod(self.number(x), 3)
        return quotient if self.rng.integers(2) else rest

    def op_compare(self, x: Any) -> Any:
        y = self.beside(x)
        return (x > y, x == y, x <= 0, self.xp.logical_not(x))[int(self.rng.integers(4))]

    def op_where(self, x: Any) -> Any:
        return self.xp.where(x > 0, self.beside(x), 0)

    def op_cast(self, x: Any) -> Any:
        dtype = DTYPES[int(self.rng.integers(len(DTYPES)))]
        return self.xp.astype(x, getattr(self.xp, dtype), copy=bool(self.rng.integers(2)))

    def op_reduce(self, x: Any) -> Any:
        f = (self.xp.sum, self.xp.max, self.xp.min, self.xp.any)[int(self.rng.integers(4))]
        axis = None if self.rng.integers(3) == 0 or not x.ndim else self.axis(x)
        return f(x, axis=axis, keepdims=bool(self.rng.integers(2)))

    def op_argmax(self, x: Any) -> Any:
        return self.xp.argmax(x, axis=self.axis(x)) if x.ndim and x.size else None

    def op_matmul(self, x: Any) -> Any:
        xp = self.xp
        if x.ndim < 2:
            return None
        x = xp.astype(x, xp.float32)
        y = self.pick(lambda y: y.ndim >= 2 and y.shape[-2] == x.shape[-1] and (y.ndim == 2 or x.ndim == 2))
        y = xp.matrix_transpose(x) if y is None else xp.astype(y, xp.float32)
        scale = (1, 2, -1)[int(self.rng.integers(3))]
        product = scale * xp.matmul(x, y)
        c = self.pick(lambda c: c.shape == product.shape and c.dtype == product.dtype)
        return product if c is None else c - product

    def op_view(self, x: Any) -> Any:
        xp = self.xp
        views = [xp.reshape(x, (-1,)), xp.expand_dims(x, axis=0), xp.ravel(x)]
        if x.ndim:
            views += [xp.flip(x, axis=self.axis(x)), x[..., ::2], x[:1], x[..., None], x[-1], xp.squeeze(x[None])]
        if x.ndim >= 2:
            views += [xp.matrix_transpose(x), x[:, 0], xp.permute_dims(x, tuple(range(x.ndim))[::-1]), x.mT]
        return views[int(self.rng.integers(len(views)))]

    def op_join(self, x: Any) -> Any:
        if not x.ndim:
            return self.xp.stack([x, x])
        y = self.pick(lambda y: y.shape == x.shape)
        return self.xp.concat([x, y], axis=self.axis(x)) if self.rng.integers(2) else self.xp.stack([x, y], axis=-1)

    def op_take(self, x: Any) -> Any:
        rows = self.pick(lambda y: y.dtype.kind == "i" and y.ndim == 1)
        rows = self.rows_of if rows is None else abs(rows) % x.shape[0] if x.ndim else rows
        if not x.ndim or x.shape[0] == 0:
            return None
        return self.xp.take(x, abs(rows) % x.shape[0], axis=0)

    def op_one_hot(self, x: Any) -> Any:
        n = int(self.rng.choice([80, 7000]))
        return self.xp.one_hot(self.ids, n, dtype=self.xp.float32)[:, :5]

    def op_segment_sum(self, x: Any) -> Any:
        if x.ndim < 2 or x.shape[-2] != self.ids.shape[0] or x.dtype.kind != "f":
            return None
        return self.xp.segment_sum(x, self.ids, 80)[..., :3, :]

    def op_pick_by_id(self, x: Any) -> Any:
        """The operations of a loss on labels, large enough to be computed by id."""
        if x.ndim != 2 or x.shape[0] != self.ids.shape[0] or x.dtype != self.xp.float32:
            return None
        xp = self.xp
        z = xp.concat([x, xp.zeros((x.shape[0], 7000), dtype=x.dtype)], axis=1)
        hot = xp.one_hot(self.ids, z.shape[1], dtype=z.dtype)
        rest = z - hot
        return rest[:, :3] + xp.sum(hot * z, axis=-1)[:, None]

    def op_call(self, x: Any) -> Any:
        return self.xp.cumulative_sum(x, axis=self.axis(x)) if x.ndim else None

    def op_fresh(self, x: Any) -> Any:
        y = self.xp.zeros_like(self.number(x))
        y += self.number(x)
        self.xp.add(y, y, out=y)
        return y

    def op_write(self, x: Any) -> Any:
        """Write in place to a carried array; rarely, an earlier view of it is used again, which cannot be recorded."""
        k = int(self.rng.integers(len(self.carry)))
        c = self.carry[k]
        y = self.pick(lambda y: y.shape in (c.shape, ()) and y.dtype == c.dtype)
        if y is None or y is c:
            return None
        y = y * 1
        self.pool = [x for x in self.pool if x is not c] if self.rng.integers(4) == 0 else self.others(k)
        match self.rng.integers(4 if c.ndim else 3):
            case 0:
                c += y
            case 1:
                c -= 2 * y
            case 2:
                c *= 0
            case 3:
                if self.rng.integers(4) == 0:
                    c[0, ...] = 1
        self.carry[k] = c  # a number is replaced instead of written to
        return c * 1

    def op_replace(self, x: Any) -> Any:
        """Another array is carried on."""
        k = int(self.rng.integers(len(self.carry)))
        c = self.carry[k]
        y = self.pick(lambda y: y.shape == c.shape and y.dtype == c.dtype)
        self.carry[k] = y * 1
        return None

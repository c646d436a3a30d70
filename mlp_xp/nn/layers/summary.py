"""The table that ``print(network)`` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlp_xp_backends.trees import leaves

if TYPE_CHECKING:
    from mlp_xp.nn.layers.chain import Chain

Row = tuple[str, str, str, str]


def summary(network: Chain) -> str:
    """Position, class, output shape and number of parameters of every layer, and their total."""
    total = sum(spec.rows * spec.columns for spec in leaves(network.specs()))
    table = [
        ("position", "layer", "output", "parameters"),
        *_rows(network, None, ""),
        ("total", "", "", f"{total:,}"),
    ]
    widths = [max(len(row[k]) for row in table) for k in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}" for row in table
    )


def _rows(network: Chain, n_in: int | None, prefix: str) -> Iterator[Row]:
    """One row per layer; layers of a nested chain have positions such as ``1.0``."""
    for i, layer in enumerate(network.layers):
        n_out = layer.width(n_in)
        if isinstance(layer, type(network)):
            yield from _rows(layer, n_in, f"{prefix}{i}.")
        else:
            parameters = sum(spec.rows * spec.columns for spec in leaves(layer.specs()))
            shape = f"(rows, {'any' if n_out is None else n_out})"
            yield f"{prefix}{i}", type(layer).__name__, shape, f"{parameters:,}"
        n_in = n_out

"""The report of ``python -m mlp_xp parity`` on every operation, dtype and backend, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from typing import Any

from mlp_xp.parity.cases import cases
from mlp_xp.parity.judge import Verdict, judge
from mlp_xp_backends import Backend, available_backends, get_backend

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Report:
    """The verdicts on each backend, under the name by which it was requested. Printing a report shows a table.

    >>> report = Report({}, {"cpu": judge(cases()[0], get_backend("cpu"), "float32")})
    >>> report.ok, sorted(report.as_json())
    (True, ['backends', 'ok', 'results'])
    """

    backends: dict[str, dict[str, str]]
    """The library, its version and the device of each name."""
    verdicts: dict[str, list[Verdict]]

    @property
    def ok(self) -> bool:
        """Whether every operation is within its bound on every backend."""
        return all(v.ok for verdicts in self.verdicts.values() for v in verdicts)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; an infinite error becomes ``null`` and has a reason."""
        return {
            "ok": self.ok,
            "backends": self.backends,
            "results": [
                {
                    "operation": v.operation,
                    "backend": name,
                    "dtype": v.dtype,
                    "error": v.error if math.isfinite(v.error) else None,
                    "ok": v.ok,
                    "reason": v.reason,
                }
                for name, verdicts in self.verdicts.items()
                for v in verdicts
            ],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        names = list(self.verdicts)
        columns = [max(12, len(name)) for name in names]
        table = list(zip(*self.verdicts.values(), strict=True))
        first = max(len(row[0].operation) for row in table)

        def line(operation: str, dtype: str, cells: Sequence[str]) -> str:
            padded = (f"{cell:>{width}}" for cell, width in zip(cells, columns, strict=True))
            return "  ".join((f"{operation:<{first}}", f"{dtype:<7}", *padded)).rstrip()

        yield "Largest error in units of its bound; above 1 is a failure."
        yield line("operation", "dtype", names)
        for row in table:
            yield line(row[0].operation, row[0].dtype, [_cell(v) for v in row])
        for name, verdicts in self.verdicts.items():
            yield from _summary(name, verdicts)


def run(names: Sequence[str] | None = None, *, progress: Callable[[str], Any] = lambda line: None) -> Report:
    """Judge the backends ``names``, by default all usable ones, on all operations in float32 and float64.

    ``progress`` is called with a line of text before each backend. Raises `BackendError` if a backend cannot be used.

    >>> run(["cpu"]).ok
    True
    """
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, such as [{names!r}], got {names!r}")
    names = names or [status.name for status in available_backends() if status.usable]
    backends = {name: get_backend(name) for name in dict.fromkeys(names)}
    verdicts = {}
    for name, backend in backends.items():
        progress(f"judging {name} ...")
        verdicts[name] = [v for case in cases() for dtype in DTYPES for v in judge(case, backend, dtype)]
    return Report({name: _described(backend) for name, backend in backends.items()}, verdicts)


def _described(backend: Backend) -> dict[str, str]:
    distribution = packages_distributions()[backend.name][0]
    return {"library": backend.name, "version": version(distribution), "device": backend.device}


def _cell(v: Verdict) -> str:
    """A cell of the table, such as ``0.42 pass``."""
    return f"{v.error:.2f} {'pass' if v.ok else 'FAIL'}"


def _summary(name: str, verdicts: list[Verdict]) -> Iterator[str]:
    failed = [v for v in verdicts if not v.ok]
    if failed:
        yield f"\n{name}: {len(failed)} of {len(verdicts)} FAIL"
        yield from (f"  {v.operation}, {v.dtype}: {v.reason or f'{v.error:.3g} times its bound'}" for v in failed)
    else:
        worst = max(verdicts, key=lambda v: v.error)
        where = f"{worst.operation}, {worst.dtype}"
        yield f"\n{name}: all {len(verdicts)} pass, at most {worst.error:.2f} of a bound ({where})"

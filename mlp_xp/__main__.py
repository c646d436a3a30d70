"""``python -m mlp_xp``: list the backends of this machine and check that they compute correctly."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mlp_xp import show
from mlp_xp_backends import BackendError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 1 if a parity check fails, or 2 if the command cannot run."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "show":
            return _show(arguments)
        return _info() if arguments.command == "info" else _parity(arguments.backends, arguments.json)
    except (BackendError, OSError, MemoryError) as error:
        print(f"python -m mlp_xp {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mlp_xp", description="Inspect the array libraries of this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{info,parity,show}")
    commands.add_parser("info", help="list the usable backends and their memory, and what the others lack")
    parity = commands.add_parser(
        "parity",
        help="compare backends with float64 NumPy, operation by operation",
        description="Compare every layer, every loss, every optimizer, a training step and a short run with float64 "
        "NumPy. Each error is given in units of its bound; the exit code is 1 if an error exceeds its bound.",
    )
    parity.add_argument(
        "--backends",
        type=_names,
        metavar="NAME,NAME",
        help="backends to compare, such as numpy,cupy or cuda:1,torch:cpu; by default all usable ones",
    )
    parity.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    show.add_parser(commands)
    return parser


def _show(arguments: argparse.Namespace) -> int:
    print(show.show(arguments.network, arguments.optimizer, arguments.batch, arguments.dtype, arguments.device))
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("give one or more names, such as numpy,cupy")
    return names


def _info() -> int:
    from mlp_xp_backends.info import report

    print(report())
    return 0


def _parity(names: list[str] | None, path: Path | None) -> int:
    from mlp_xp.parity import run

    if path is not None:
        path.touch()  # fail before the work if the path is not writable
    report = run(names, progress=lambda line: print(line, file=sys.stderr))
    print(report)
    if path is not None:
        path.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())

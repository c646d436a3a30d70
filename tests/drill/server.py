"""Forks a process for each run, so that none has to import anything.

Reads lines ``kind;path;streamed;steps``, answers each with the process's id and later with its exit status.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import safetensors.numpy  # noqa: F401  before the forks: interruptions rarely meet an import then
from drill.runs import train


def serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        kind, path, streamed, steps = line.rstrip("\n").split(";")
        pid = os.fork()
        if pid == 0:
            run(kind, Path(path), streamed == "True", int(steps))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(kind: str, path: Path, streamed: bool, steps: int) -> None:
    """Train and end this process: 0 if the run ended or was interrupted, 1 after an error."""
    status = 0  # also if another Ctrl-C interrupts the handling of the first
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        train(kind, path, streamed, steps)
    except Exception as error:
        if not interrupted(error):
            status = 1
            traceback.print_exc()
    finally:
        os._exit(status)


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused the error: inside an import, Python turns it into errors of other types."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


if __name__ == "__main__":
    serve()

"""Messages between the ranks of a run. An error on one rank is raised on all, so none waits for an absent rank."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np  # noqa: TID251  messages between ranks are host arrays

from mlp_xp_backends.groups import Group
from mlp_xp_backends.typing import HostArray

T = TypeVar("T")
LENGTH = 1000
"""Bytes of an error's text that the other ranks receive."""


class RankError(RuntimeError):
    """Another rank of the group raised an error; the message gives the number of the rank and its error.

    >>> raise RankError("rank 2 raised ValueError: x has no rows")
    Traceback (most recent call last):
    mlp_xp.training.messages.RankError: rank 2 raised ValueError: x has no rows
    """


class Messages:
    """Sums and broadcasts of host arrays over a group of two processes or more.

    Before each message, the ranks count how many of them have failed. When a rank raises an error inside `together`, it
    joins the next message of the others, which then raise a `RankError`.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.rank, self.size = group, group.rank, group.size
        self._announced: BaseException | None = None

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank. Raises `RankError` if another rank has failed."""
        flags, failures = self.group.sum(np.asarray([flag, 0], np.int32)).tolist()
        if failures:
            raise RankError(self._failure(None))
        return bool(flags)

    def sum(self, x: HostArray) -> HostArray:
        """The sum of ``x`` over the ranks."""
        self.any(False)
        with self._sending():
            total: HostArray = self.group.sum(x)
        return total

    def broadcast(self, x: HostArray) -> HostArray:
        """The ``x`` of rank 0."""
        self.any(False)
        with self._sending():
            first: HostArray = self.group.broadcast(x)
        return first

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context whose body ends with an error on all ranks or on none.

        A rank that raises an error reports it to the others, which raise a `RankError` at their next message, at the
        latest at the end of the body. An exception that is not an `Exception`, such as a second Ctrl-C, ends all ranks.
        """
        try:
            yield
            self.any(False)
        except RankError:
            raise
        except Exception as error:
            if error is not self._announced:
                self._announced = error
                self.group.sum(np.asarray([0, 1], np.int32))  # matches the call of ``any`` on the others
                self._failure(f"{type(error).__name__}: {error}")
            raise
        except BaseException as error:
            self._end(error)
            raise

    def steps(self, chunks: Iterable[T]) -> Iterator[T]:
        """Yield ``chunks``, computed by loops that sum over the ranks. An error inside one ends all ranks.

        The others would wait for the gradients of this rank, and no other message can reach them there.
        """
        self.any(False)
        with self._sending():
            yield from chunks

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """End the processes of all ranks after an error here, because the others wait for a message of this rank."""
        try:
            yield
        except Exception as error:
            self._end(error)
            raise

    def _end(self, error: BaseException) -> None:
        traceback.print_exception(error)
        self.group.abort(f"ended by {type(error).__name__}: {error}")

    def _failure(self, own: str | None) -> str:
        """The error of the first rank that has one; ``own`` is the error of this rank."""
        failed, text = np.zeros(self.size, np.int32), np.zeros(LENGTH, np.uint8)
        if own is not None:
            failed[self.rank] = 1
            sent = own.encode()[:LENGTH]
            text[: len(sent)] = np.frombuffer(sent, np.uint8)
        first = int(np.argmax(self.group.sum(failed)))
        received = self.group.broadcast(text, first).tobytes().rstrip(b"\0")
        return f"rank {first} raised {received.decode(errors='ignore')}"

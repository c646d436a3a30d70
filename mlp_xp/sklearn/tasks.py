"""Support for scikit-learn's callbacks: a fit is a task with one subtask for each epoch or iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """An empty base class: there are no callbacks."""


class Tasks:
    """Calls the hooks of the callbacks that are set on an estimator (``set_callbacks``) or on one around it.

    Calls nothing unless ``on``: a `partial_fit` is not a task. scikit-learn before 1.9 has no callbacks.
    """

    def __init__(self, estimator: Any, x: Any, y: Any, sample_weight: Any, on: bool) -> None:
        self.estimator, self.on = estimator, on and hasattr(estimator, "_init_callback_context")
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.given = {"X": x, "y": y, "metadata": metadata}
        self.open: Any = None

    def __enter__(self) -> Self:
        if self.on:
            one_more = self.estimator.solver == "lbfgs"  # it may end in the middle of an iteration
            self.root = self.estimator._init_callback_context(max_subtasks=self.estimator.max_iter + one_more)
            self.root.call_on_fit_task_begin(estimator=self.estimator, **self.given)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.on and kind is None:
            self.end()
            self.root.call_on_fit_task_end(estimator=self.estimator, reconstruction_attributes={}, **self.given)

    def begin(self, name: str) -> None:
        """Begin a subtask, unless one is open."""
        if self.on and self.open is None:
            self.open = self.root.subcontext(task_name=name)
            self.open.call_on_fit_task_begin(estimator=self.estimator, **self.given)

    def end(self, fitted: Callable[[], dict[str, Any]] | None = None) -> bool:
        """End the subtask; return whether a callback asks to stop. ``fitted`` gives the attributes learned so far."""
        task, self.open = self.open, None
        return task is not None and bool(
            task.call_on_fit_task_end(estimator=self.estimator, reconstruction_attributes=fitted, **self.given)
        )

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

    def __init__(self, e: Any, x: Any, y: Any, sample_weight: Any, on: bool) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.told = {"estimator": e, "X": x, "y": y, "metadata": metadata}
        self.root: Any = None
        self.open: Any = None
        if on and hasattr(e, "_init_callback_context"):
            one_more = e.solver == "lbfgs"  # it may end in the middle of an iteration
            self.root = e._init_callback_context(max_subtasks=e.max_iter + one_more)

    def __enter__(self) -> Self:
        if self.root is not None:
            self.root.call_on_fit_task_begin(**self.told)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.root is not None and kind is None:
            self.end()
            self.root.call_on_fit_task_end(reconstruction_attributes={}, **self.told)

    def begin(self, name: str) -> None:
        """Begin a subtask, unless one is open."""
        if self.root is not None and self.open is None:
            self.open = self.root.subcontext(task_name=name)
            self.open.call_on_fit_task_begin(**self.told)

    def end(self, fitted: Callable[[], dict[str, Any]] | None = None) -> bool:
        """End the subtask; return whether a callback asks to stop. ``fitted`` gives the attributes learned so far."""
        task, self.open = self.open, None
        return task is not None and bool(task.call_on_fit_task_end(reconstruction_attributes=fitted, **self.told))

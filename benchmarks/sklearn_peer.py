"""scikit-learn's ``MLPClassifier.partial_fit``, which walks through the rows of a call in batches."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.networks import Array, Task
from benchmarks.peers import NotComparableError, Peer


class Sklearn(Peer):
    """A run is one call on rows in the order of the run, so scikit-learn needs only one gather for all batches."""

    def __init__(self, task: Task) -> None:
        if task.net.words:
            raise NotComparableError("has no embedding")
        if task.net.widths[-1] == 2:
            raise NotComparableError("has one output for two classes")
        weights, self.rng = task.start()
        self.task, rule = task, task.rule
        if task.optimizer == "adam":
            solver = {"solver": "adam", "beta_1": rule.b1, "beta_2": rule.b2, "epsilon": rule.eps}
        else:
            solver = {"solver": "sgd", "momentum": rule.momentum, "nesterovs_momentum": False}
        self.model = MLPClassifier(
            task.net.widths[1:-1],
            alpha=0.0,
            batch_size=task.net.batch,
            learning_rate_init=rule.lr,
            shuffle=False,
            **solver,
        )
        x, y = task.data
        self.model.partial_fit(x[: task.net.batch], y[: task.net.batch], classes=np.arange(task.net.widths[-1]))
        self.model.coefs_ = weights[::2]
        self.model.intercepts_ = [b[0] for b in weights[1::2]]
        del self.model._optimizer  # which refers to other weights and has already taken a step

    def place(self, order: Array) -> Array:
        return order.ravel()

    def steps(self, placed: Array) -> Array:
        x, y = self.task.data
        self.model.partial_fit(x[placed], y[placed])
        return np.array([self.model.loss_])

"""JAX as its users write it: a function of the parameters, ``jax.value_and_grad``, a jitted step or a scanned epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks import Array, Task
from benchmarks.peers import Peer

State = tuple[Any, Any, Any]
"""Parameters, the optimizer's running means, and the number of steps taken."""


class Jax(Peer):
    """Plain JAX: one jitted call for each step, or a scan over all steps; the state is donated."""

    def __init__(self, device: str, task: Task, scan: bool) -> None:
        weights, self.rng = task.start()
        self.task, self.scan = task, scan
        self.device = jax.devices(device)[0]
        self.x, self.y = jax.device_put(task.data, self.device)
        slots = {"sgd": 0, "momentum": 1, "adam": 2}[task.optimizer]
        means = [[np.zeros_like(w) for w in weights] for _ in range(slots)]
        self.state: State = jax.device_put((weights, means, np.int32(0)), self.device)
        step = train_step(task)

        def epoch(state: State, x: Any, y: Any, order: Any) -> tuple[State, Any]:
            return jax.lax.scan(lambda state, rows: step(state, x, y, rows), state, order)

        self.call = jax.jit(epoch if scan else step, donate_argnums=0)

    def place(self, order: Array) -> Any:
        return jax.device_put(order if self.scan else list(order), self.device)

    def steps(self, placed: Any) -> Array:
        with jax.default_matmul_precision("highest"):  # float32 even where a GPU would round to fewer bits
            if self.scan:
                self.state, losses = self.call(self.state, self.x, self.y, placed)
            else:
                losses = []
                for rows in placed:
                    self.state, loss = self.call(self.state, self.x, self.y, rows)
                    losses.append(loss)
        jax.block_until_ready(self.state)
        return np.array(jax.device_get(losses))


def train_step(task: Task) -> Callable[..., tuple[State, Any]]:
    """The step of a task: ``step(state, x, y, rows) -> (state, loss)``."""
    words, lr = task.net.words, task.rule.lr
    activation = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[task.net.activation]

    def loss_of(params: list[Any], x: Any, y: Any) -> Any:
        if words:
            table, *params = params
            x = table[x].reshape(len(x), -1)
        *hidden, W, b = params
        for V, c in zip(hidden[::2], hidden[1::2], strict=True):
            x = activation(x @ V + c)
        logs = jax.nn.log_softmax(x @ W + b)
        return -jnp.take_along_axis(logs, y[:, None], axis=1).mean()

    def step(state: State, x: Any, y: Any, rows: Any) -> tuple[State, Any]:
        params, means, t = state
        loss, grads = jax.value_and_grad(loss_of)(params, x[rows], y[rows])
        t = t + 1
        if task.optimizer == "sgd":
            params = [w - lr * g for w, g in zip(params, grads, strict=True)]
        elif task.optimizer == "momentum":
            mu = task.rule.momentum
            means = [[mu * v + g for v, g in zip(means[0], grads, strict=True)]]
            params = [w - lr * v for w, v in zip(params, means[0], strict=True)]
        else:
            params, means = adam(task.rule, params, means, grads, t)
        return (params, means, t), loss

    return step


def adam(
    rule: Any, params: list[Any], means: list[list[Any]], grads: list[Any], t: Any
) -> tuple[list[Any], list[list[Any]]]:
    """Kingma and Ba 2015, algorithm 1."""
    m = [rule.b1 * m + (1 - rule.b1) * g for m, g in zip(means[0], grads, strict=True)]
    v = [rule.b2 * v + (1 - rule.b2) * g * g for v, g in zip(means[1], grads, strict=True)]
    c1, c2 = 1 - rule.b1**t, 1 - rule.b2**t
    stepped = [w - rule.lr * (a / c1) / (jnp.sqrt(b / c2) + rule.eps) for w, a, b in zip(params, m, v, strict=True)]
    return stepped, [m, v]

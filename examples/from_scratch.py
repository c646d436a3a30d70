"""Backpropagation from scratch: a 2-3-2 network in plain Python loops, then the same network in the library.

    python examples/from_scratch.py                           # derivatives side by side, then both learn an ellipse
    python examples/from_scratch.py --recipe published        # both by the same steps: they end with the same numbers
    python examples/from_scratch.py --out pictures            # the decision boundary and the loss of each epoch

The network takes a point x = (x_1, x_2) to the probabilities p = (p_1, p_2) of two classes:

    a = x W + b        three hidden units
    h = s(a)           s(a) = 1 / (1 + exp(-a)), so that s'(a) = h (1 - h)
    z = h V + c        two outputs
    p_k = exp(z_k) / sum_l exp(z_l)
    loss = -log p_y    for a point of class y
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

import plots
from common import Run, add_recipe_option, add_run_options, measured, new_parser, percent, say, tell
from mlp_xp import SGD, Adam, Progress, SoftmaxCrossEntropy, Trainer, TrainStep, mlp
from mlp_xp.datasets import ELLIPSE_LEVEL, ellipse, ellipse_form
from mlp_xp.layers.dense import Affine
from mlp_xp.schedules import LossRatio, OneCycle

Row = list[float]
Matrix = list[Row]


class Weights(NamedTuple):
    """What the network learns, and, number for number, the derivatives of the loss by it."""

    W: Matrix  # 2 x 3
    b: Row  # 3
    V: Matrix  # 3 x 2
    c: Row  # 2


def derivatives(weights: Weights, x: Row, y: int) -> tuple[float, Weights]:
    """The loss at one point of class ``y`` and its derivatives, one number after the other."""
    W, b, V, c = weights
    inputs, hidden, outputs = range(len(W)), range(len(V)), range(len(c))

    # Forward: from the point to the loss.
    a = [sum(x[i] * W[i][j] for i in inputs) + b[j] for j in hidden]
    h = [1.0 / (1.0 + math.exp(-a[j])) for j in hidden]
    z = [sum(h[j] * V[j][k] for j in hidden) + c[k] for k in outputs]
    top = max(z)  # taken off every z_k: p stays the same and exp cannot overflow
    e = [math.exp(z[k] - top) for k in outputs]
    p = [e[k] / sum(e) for k in outputs]
    loss = -math.log(p[y])

    # Backward: the chain rule, from the loss to the weights.
    dz = [p[k] - (1.0 if k == y else 0.0) for k in outputs]
    dV = [[h[j] * dz[k] for k in outputs] for j in hidden]
    dh = [sum(V[j][k] * dz[k] for k in outputs) for j in hidden]
    da = [dh[j] * h[j] * (1.0 - h[j]) for j in hidden]
    dW = [[x[i] * da[j] for j in hidden] for i in inputs]
    return loss, Weights(dW, da, dV, dz)  # a and z move with b and c one to one: db = da, dc = dz


def descend(weights: Weights, slope: Weights, rate: float) -> None:
    """``w <- w - rate dloss/dw`` for every number."""
    for w, dw in ((weights.W, slope.W), (weights.V, slope.V), ([weights.b], [slope.b]), ([weights.c], [slope.c])):
        for row, drow in zip(w, dw, strict=True):
            for i, d in enumerate(drow):
                row[i] -= rate * d


def train(weights: Weights, points: Matrix, labels: list[int], epochs: int) -> Iterable[float]:
    """Descend at one point after the other; the mean loss of each epoch.

    The rate starts at 0.1. After every 100 points it is multiplied by their mean loss over that of the 100 before.
    """
    rate, recent, before, seen = 0.1, 0.0, 0.0, 0
    for _ in range(epochs):
        total = 0.0
        for x, y in zip(points, labels, strict=True):
            loss, slope = derivatives(weights, x, y)
            descend(weights, slope, rate)
            total, recent, seen = total + loss, recent + loss, seen + 1
            if seen % 100 == 0:
                rate *= recent / before if before else 1.0
                recent, before = 0.0, recent
        yield total / len(points)


# A point of class 0 with simple weights, and the derivatives that were published for it.
POINT, LABEL = [1.0, -1.0], 0
SIMPLE = Weights(
    W=[[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], b=[0.0] * 3, V=[[1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]], c=[0.0] * 2
)
PUBLISHED = Weights(W=[[0.0] * 3] * 2, b=[0.0] * 3, V=[[-0.4404, 0.4404]] * 3, c=[-0.5, 0.5])
PUBLISHED_LOSSES = (0.1613, 0.1002, 0.0932, 0.0899, 0.0882)


def library_derivatives(run: Run, weights: Weights, x: Row, y: int) -> Weights:
    """The same derivatives by the library: the forward and backward pass of its layers on a batch of one row."""
    xp = run.backend.xp
    network, cross_entropy = mlp(2, 3, 2, activation="sigmoid"), SoftmaxCrossEntropy()
    params = as_params(run, weights)
    z, caches, _ = network.forward(xp, params, ((), (), ()), run.backend.asarray(np.array([x])), True)
    _, cache = cross_entropy.forward(xp, z, run.backend.asarray(np.array([y], np.int32)), ())
    first, _, last = network.gradient(xp, params, caches, cross_entropy.backward(xp, cache))
    W, b, V, c = (run.backend.to_numpy(g).tolist() for g in (*first, *last))
    return Weights(W, b[0], V, c[0])


def as_params(run: Run, weights: Weights) -> tuple[Affine, tuple[()], Affine]:
    """The weights as the library holds them: one entry per layer, biases as rows, float64."""
    W, b, V, c = (run.backend.asarray(np.atleast_2d(w)) for w in weights)
    return Affine(W, b), (), Affine(V, c)


def largest_difference(a: Weights, b: Weights) -> float:
    """Of any two numbers at the same place."""
    return max(float(np.abs(np.subtract(u, v)).max()) for u, v in zip(a, b, strict=True))

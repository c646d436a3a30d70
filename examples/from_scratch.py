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
from typing import NamedTuple

import numpy as np

import plots
from common import Run, add_recipe_option, add_run_options, measured, new_parser, percent, positive_int, say, tell
from example_data import ELLIPSE_LEVEL, Split, ellipse, ellipse_form
from mlp_xp import SGD, Adam, Normal, Progress, SoftmaxCrossEntropy, Trainer, mlp
from mlp_xp.nn.layers import Affine
from mlp_xp.nn.schedules import LossRatio, OneCycle
from mlp_xp_backends.trees import ABSENT

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
    """The same derivatives by the library: forward and backward through its layers, for a batch of one row."""
    xp, asarray = run.backend.xp, run.backend.asarray
    W, b, V, c = (asarray(np.array(w, ndmin=2)) for w in weights)  # biases are rows
    network, cross_entropy = mlp(2, 3, 2, activation="sigmoid"), SoftmaxCrossEntropy()
    params = (Affine(W, b), (), Affine(V, c))  # one entry per layer; the sigmoid learns nothing
    outputs, caches, _ = network.forward(xp, params, (ABSENT, ABSENT, ABSENT), asarray(np.array([x])), True)
    _, cache = cross_entropy.forward(xp, outputs, asarray(np.array([y], np.int32)), ABSENT)
    first, _, last = network.gradient(xp, params, caches, cross_entropy.backward(xp, cache))
    return as_lists(run, first, last)


def as_lists(run: Run, first: Affine, last: Affine) -> Weights:
    """What two layers hold, as lists of numbers."""
    W, b, V, c = (run.backend.to_numpy(g).tolist() for g in (*first, *last))
    return Weights(W, b[0], V, c[0])


def compare_derivatives(run: Run) -> None:
    """Print the derivatives at the point by both, beside the published ones, and check that they are equal."""
    _, loops = derivatives(SIMPLE, POINT, LABEL)
    library = library_derivatives(run, SIMPLE, POINT, LABEL)
    say(f"Derivatives of the loss at x = {tuple(POINT)}, class {LABEL}:\n")
    say(f"{'':6}{'published':>10}{'loops':>10}{'library':>10}")
    for name, *columns in zip(Weights._fields, PUBLISHED, loops, library, strict=True):
        tables = [np.array(column, ndmin=2) for column in columns]
        for i, j in np.ndindex(tables[0].shape):
            index = f"{i + 1}{j + 1}" if name in "WV" else f"{j + 1}"
            say(f"d{name}_{index:<4}" + "".join(f"{table[i, j] + 0.0:10.4f}" for table in tables))
    run.result["derivatives"] = library._asdict()
    run.result["derivatives_differ"] = {
        "loops - published": largest_difference(loops, PUBLISHED),
        "library - loops": largest_difference(library, loops),
    }
    if largest_difference(loops, PUBLISHED) > 5e-5 or largest_difference(library, loops) > 1e-12:
        raise ArithmeticError(f"these derivatives should be equal, but differ: {run.result['derivatives_differ']}")
    say("\nEqual: to the four published decimals, and the loops and the library to 12 decimals.\n")


def largest_difference(a: Weights, b: Weights) -> float:
    """Of any two numbers at the same place."""
    return max(float(np.abs(np.array(u) - np.array(v)).max()) for u, v in zip(a, b, strict=True))


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add_recipe_option(parser)
    parser.add_argument("--points", type=positive_int, default=60_000, metavar="N", help="points of the training set")
    add_run_options(parser, epochs=5, data=False)
    parser.set_defaults(dtype="float64")
    return parser


def story(run: Run) -> None:
    """Compare the derivatives, then let both learn which points lie outside an ellipse."""
    options = run.options
    compare_derivatives(run)

    with run.timed("load"):
        rng = np.random.default_rng(options.seed)
        data, valid, test = (ellipse(n, rng) for n in (options.points, 10_000, 10_000))
    say(f"{options.points:,} points from N(0, I); class 1 is outside the ellipse x Q x' = {ELLIPSE_LEVEL}")

    published = options.recipe == "published"
    optimizer = SGD(LossRatio(0.1, window=100)) if published else Adam(OneCycle(0.2))
    network = mlp(2, 3, 2, activation="sigmoid", init=Normal(std=1.0))
    trainer = Trainer(network, optimizer=optimizer, device=run.backend, dtype=options.dtype, seed=options.seed)
    first, _, last = trainer.state.params
    weights = as_lists(run, first, last)  # both start from the same

    with run.timed("train"):
        trainer.fit(
            *data,
            max_epochs=options.epochs,
            batch_size=1 if published else 32,
            shuffle=not published,
            validation_data={"valid": valid},
            callbacks=[Progress()],
        )
    with run.timed("loops"):
        losses = list(train(weights, data.x.tolist(), data.y.tolist(), options.epochs))

    say(f"\nMean loss of each epoch:\n\nepoch{'published':>10}{'loops':>10}{'library':>10}")
    for epoch, (loss, record) in enumerate(zip(losses, trainer.history, strict=False), 1):
        known = f"{PUBLISHED_LOSSES[epoch - 1]:10.4f}" if epoch <= len(PUBLISHED_LOSSES) else " " * 10
        say(f"{epoch:5}{known}{loss:10.4f}{record['loss']:10.4f}")
    if published:
        apart = max(abs(loss - record["loss"]) for loss, record in zip(losses, trainer.history, strict=False))
        say(f"\nThe same {options.epochs * options.points:,} steps by both: their losses are equal within {apart:.0e}.")

    tested = trainer.evaluate(*test)
    run.epochs = trainer.history
    run.result |= {
        "recipe": options.recipe,
        **measured("valid", trainer.evaluate(*valid)),
        **measured("test", tested),
        "loops_losses": losses,
        "published_losses": PUBLISHED_LOSSES,
    }
    say(f"\ntest accuracy of the library's network {percent(tested['accuracy'])}, test loss {tested['loss']:.4f}")
    draw(run, trainer, test)


def draw(run: Run, trainer: Trainer, test: Split) -> None:
    """The losses, and the decision over the plane beside the true ellipse."""
    epochs = range(1, len(run.epochs) + 1)
    series = {
        "published": plots.Line(range(1, 6), PUBLISHED_LOSSES),
        "plain loops": plots.Line(epochs, run.result["loops_losses"][: len(run.epochs)]),
        f"library, {run.options.recipe} recipe": plots.Line(epochs, [record["loss"] for record in run.epochs]),
    }
    run.draw("from_scratch-loss.png", plots.lines, series, "epoch", plots.CROSS_ENTROPY, "2-3-2 network")
    plane = plots.Plane.around(np.array([[-3.0, -3.0], [3.0, 3.0]]))
    run.draw(
        "from_scratch-decision.png",
        plots.decision,
        plane,
        trainer.predict_proba(plane.points)[:, 1],
        test.x[:400],
        test.y[:400],
        ("inside", "outside"),
        f"{percent(run.result['test_accuracy'])} of {len(test.y):,} test points right",
        truth=ellipse_form(plane.points) - ELLIPSE_LEVEL,
    )


if __name__ == "__main__":
    sys.exit(tell(story, parser()))

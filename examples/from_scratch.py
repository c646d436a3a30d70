"""Backpropagation from scratch: a 2-3-2 network in plain Python loops, then the same network in the library.

    python examples/from_scratch.py                           # derivatives side by side, then the library trains
    python examples/from_scratch.py --recipe published        # loops and library take the same steps
    python examples/from_scratch.py --out figures            # the decision boundary and the loss of each epoch

The network maps a point x = (x_1, x_2) to the probabilities p = (p_1, p_2) of two classes:

    a = x W + b        three hidden units
    h = s(a)           s(a) = 1 / (1 + exp(-a)), so that s'(a) = h (1 - h)
    z = h V + c        two outputs
    p_k = exp(z_k) / sum_l exp(z_l)
    loss = -log p_y    for a point of class y

Data: points drawn at random, 60,000 for training, 10,000 for validation and 10,000 for the test; no files.

Time: about a second on two cores; 15 for the published recipe (300,000 steps of one point each, in loops and in the
library).

Source: derivatives and losses are published in a course report ("Implementing MLP using NumPy", 2022).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from example_data import ELLIPSE_LEVEL, Split, ellipse, ellipse_form
from example_tools import plane_plots, plots
from example_tools.options import add_recipe_option, add_run_options, new_parser, positive_int
from example_tools.run import Run, measured, percent, run_example
from mlp_xp import SGD, Adam, Normal, Progress, SoftmaxCrossEntropy, Trainer, mlp
from mlp_xp.nn.layers import Affine
from mlp_xp.nn.schedules import LossRatio, OneCycle
from mlp_xp_backends.trees import ABSENT

Row = list[float]
Matrix = list[Row]


class Weights(NamedTuple):
    """The parameters of the network, or the derivatives of the loss with respect to them."""

    W: Matrix  # 2 x 3
    b: Row  # 3
    V: Matrix  # 3 x 2
    c: Row  # 2


def derivatives(weights: Weights, x: Row, y: int) -> tuple[float, Weights]:
    """Return the loss at one point of class ``y`` and its derivatives, computed one number at a time."""
    W, b, V, c = weights
    inputs, hidden, outputs = range(len(W)), range(len(V)), range(len(c))

    # Forward: from the point to the loss.
    a = [sum(x[i] * W[i][j] for i in inputs) + b[j] for j in hidden]
    h = [1.0 / (1.0 + math.exp(-a[j])) for j in hidden]
    z = [sum(h[j] * V[j][k] for j in hidden) + c[k] for k in outputs]
    top = max(z)  # subtracted from every z_k: p stays the same and exp cannot overflow
    e = [math.exp(z[k] - top) for k in outputs]
    p = [e[k] / sum(e) for k in outputs]
    loss = -math.log(p[y])

    # Backward: the chain rule, from the loss to the weights.
    dz = [p[k] - (1.0 if k == y else 0.0) for k in outputs]
    dV = [[h[j] * dz[k] for k in outputs] for j in hidden]
    dh = [sum(V[j][k] * dz[k] for k in outputs) for j in hidden]
    da = [dh[j] * h[j] * (1.0 - h[j]) for j in hidden]
    dW = [[x[i] * da[j] for j in hidden] for i in inputs]
    return loss, Weights(dW, da, dV, dz)  # a = ... + b and z = ... + c, so that db = da and dc = dz


def descend(weights: Weights, slope: Weights, rate: float) -> None:
    """``w <- w - rate dloss/dw`` for every number."""
    for w, dw in ((weights.W, slope.W), (weights.V, slope.V), ([weights.b], [slope.b]), ([weights.c], [slope.c])):
        for row, drow in zip(w, dw, strict=True):
            for i, d in enumerate(drow):
                row[i] -= rate * d


def train(weights: Weights, points: Matrix, labels: list[int], epochs: int) -> Iterable[float]:
    """Take a step for each point in turn; yield the mean loss of each epoch.

    The rate starts at 0.1. After every 100 points it is multiplied by the ratio of their mean loss to that of the 100
    points before.
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


# A point of class 0, simple weights, and the published derivatives.
POINT, LABEL = [1.0, -1.0], 0
SIMPLE = Weights(
    W=[[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], b=[0.0] * 3, V=[[1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]], c=[0.0] * 2
)
PUBLISHED = Weights(W=[[0.0] * 3] * 2, b=[0.0] * 3, V=[[-0.4404, 0.4404]] * 3, c=[-0.5, 0.5])
PUBLISHED_LOSSES = (0.1613, 0.1002, 0.0932, 0.0899, 0.0882)


def library_derivatives(run: Run, weights: Weights, x: Row, y: int) -> Weights:
    """Compute the same derivatives with the layers of the library, for a batch of one row."""
    xp, asarray = run.backend.xp, run.backend.asarray
    W, b, V, c = (asarray(np.array(w, ndmin=2)) for w in weights)  # biases are rows
    network, cross_entropy = mlp(2, 3, 2, activation="sigmoid"), SoftmaxCrossEntropy()
    params = (Affine(W, b), ABSENT, Affine(V, c))  # one entry per layer; the sigmoid has no parameters
    outputs, caches, _ = network.forward(xp, params, (ABSENT, ABSENT, ABSENT), asarray(np.array([x])), True)
    _, cache = cross_entropy.forward(xp, outputs, asarray(np.array([y], np.int32)), ABSENT)
    first, _, last = network.gradient(xp, params, caches, cross_entropy.backward(xp, cache))
    return as_lists(run, first, last)


def as_lists(run: Run, first: Affine, last: Affine) -> Weights:
    """Convert the parameters of the two dense layers to lists of numbers."""
    W, b, V, c = (run.backend.to_numpy(g).tolist() for g in (*first, *last))
    return Weights(W, b[0], V, c[0])


def compare_derivatives(run: Run) -> None:
    """Print the derivatives of loops and library beside the published ones, and check that they are equal."""
    _, loops = derivatives(SIMPLE, POINT, LABEL)
    library = library_derivatives(run, SIMPLE, POINT, LABEL)
    print(f"Derivatives of the loss at x = {tuple(POINT)}, class {LABEL}:\n")
    print(f"{'':6}{'published':>10}{'loops':>10}{'library':>10}")
    for name, *columns in zip(Weights._fields, PUBLISHED, loops, library, strict=True):
        tables = [np.array(column, ndmin=2) for column in columns]
        for i, j in np.ndindex(tables[0].shape):
            index = f"{i + 1}{j + 1}" if name in "WV" else f"{j + 1}"
            print(f"d{name}_{index:<4}" + "".join(f"{table[i, j] + 0.0:10.4f}" for table in tables))
    run.result["derivatives"] = library._asdict()
    run.result["derivatives_differ"] = {
        "loops - published": largest_difference(loops, PUBLISHED),
        "library - loops": largest_difference(library, loops),
    }
    if largest_difference(loops, PUBLISHED) > 5e-5 or largest_difference(library, loops) > 1e-12:
        raise ArithmeticError(f"these derivatives should be equal, but differ: {run.result['derivatives_differ']}")
    print("\nEqual: to the four published decimals, and the loops and the library to 12 decimals.\n")


def largest_difference(a: Weights, b: Weights) -> float:
    """The largest difference between corresponding numbers."""
    return max(float(np.abs(np.array(u) - np.array(v)).max()) for u, v in zip(a, b, strict=True))


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = new_parser(__doc__)
    add_recipe_option(parser)
    parser.add_argument("--points", type=positive_int, default=60_000, metavar="N", help="points of the training set")
    add_run_options(parser, epochs=5, data=False)
    parser.set_defaults(dtype="float64")
    return parser


def main(run: Run) -> None:
    """Compare the derivatives, then train loops and library to decide whether points are outside an ellipse."""
    options = run.options
    compare_derivatives(run)

    with run.timed("load"):
        rng = np.random.default_rng(options.seed)
        data, valid, test = (ellipse(n, rng) for n in (options.points, 10_000, 10_000))
    print(f"{options.points:,} points from N(0, I); class 1 is outside the ellipse x Q x' = {ELLIPSE_LEVEL}\n")

    published = options.recipe == "published"
    trainer = new_trainer(run)
    first, _, last = trainer.state.params
    weights = as_lists(run, first, last)  # both start from the same weights
    with run.timed("train"):
        trainer.fit(
            *data,
            max_epochs=options.epochs,
            batch_size=1 if published else 32,
            shuffle=not published,
            validation_data={"valid": valid},
            callbacks=[Progress()],
        )
    run.epochs = list(trainer.history)
    run.result |= {"recipe": options.recipe, "last_train_loss": run.epochs[-1]["loss"]}
    run.result |= measured("valid", trainer.evaluate(*valid)) | measured("test", trainer.evaluate(*test))
    if published:
        run_loops(run, weights, data)
    accuracy, loss = run.result["test_accuracy"], run.result["test_loss"]
    print(f"test accuracy of the library's network {percent(accuracy)}, test loss {loss:.4f}")
    draw(run, trainer, test)


def new_trainer(run: Run) -> Trainer:
    """Return a trainer of the 2-3-2 network with the optimizer of the recipe."""
    options = run.options
    optimizer = SGD(LossRatio(0.1, window=100)) if options.recipe == "published" else Adam(OneCycle(0.2))
    network = mlp(2, 3, 2, activation="sigmoid", init=Normal(std=1.0))
    return Trainer(network, optimizer=optimizer, device=run.backend, dtype=options.dtype, seed=options.seed)


def run_loops(run: Run, weights: Weights, data: Split) -> None:
    """Take the steps of the published recipe in loops, too, and print both losses beside the published ones."""
    print(f"epoch{'published':>10}{'loops':>10}{'library':>10}   mean loss of the epoch")
    losses = []
    with run.timed("loops"):
        for loss in train(weights, data.x.tolist(), data.y.tolist(), len(run.epochs)):
            losses.append(loss)
            epoch = len(losses)
            known = f"{PUBLISHED_LOSSES[epoch - 1]:10.4f}" if epoch <= len(PUBLISHED_LOSSES) else " " * 10
            print(f"{epoch:5}{known}{loss:10.4f}{run.epochs[epoch - 1]['loss']:10.4f}")
    apart = max(abs(loss - record["loss"]) for loss, record in zip(losses, run.epochs, strict=True))
    print(f"\n{len(losses) * len(data.y):,} steps by both: their losses agree within {apart:.0e}.\n")
    run.result |= {"loops_losses": losses, "published_losses": PUBLISHED_LOSSES}


def draw(run: Run, trainer: Trainer, test: Split) -> None:
    """Draw the losses of the recipe, and the decision in the plane beside the true ellipse."""
    name = "from_scratch-loss.png"
    if run.options.recipe == "published":
        epochs = range(1, len(run.epochs) + 1)
        series = {
            "published": plots.Line(range(1, 6), PUBLISHED_LOSSES),
            "plain loops": plots.Line(epochs, run.result["loops_losses"], wide=True),
            "library": plots.Line(epochs, [record["loss"] for record in run.epochs]),
        }
        run.draw(
            name, plots.lines, series, "epoch", plots.CROSS_ENTROPY, "2-3-2 network, recipe of a course report (2022)"
        )
    else:
        run.draw(name, plots.curves, run.epochs, "2-3-2 network, Adam with one cycle")
    plane = plane_plots.Plane.around(np.array([[-2.6, -2.6], [2.6, 2.6]]))
    run.draw(
        "from_scratch-decision.png",
        plane_plots.decision,
        plane,
        trainer.predict_proba(plane.points)[:, 1],
        test.x[:400],
        test.y[:400],
        ("inside", "outside"),
        f"2-3-2 network: {percent(run.result['test_accuracy'])} of {len(test.y):,} test points correct",
        truth=ellipse_form(plane.points) - ELLIPSE_LEVEL,
    )


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

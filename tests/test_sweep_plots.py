"""Plots of a sweep show its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mlp_xp import SGD, Sweep, mlp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
Y = (X[:, 0] > 0.0).astype(int)


@pytest.fixture(scope="module")
def drawn():
    pytest.importorskip("matplotlib")
    grid = {"lr": [0.01, 0.1, 1e30], "momentum": [0.5, 0.9], "seed": [0, 1]}
    return Sweep(mlp(3, 4, 2), optimizer=SGD(), grid=grid, device="numpy:plain").fit(
        X[:40], Y[:40], max_epochs=4, batch_size=20, validation_data=(X[40:], Y[40:])
    )


def test_curves_are_the_histories_with_the_best_in_red(drawn):
    axes = drawn.plot_curves().axes[0]
    *others, best = axes.lines
    assert best.get_color() == "C3" and best.get_zorder() > max(line.get_zorder() for line in others)
    assert list(best.get_xdata()) == [1, 2, 3, 4]
    assert list(best.get_ydata()) == drawn.history(drawn.best["model"])["valid_loss"]
    assert len(others) == 7  # eight models have not diverged
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("epoch", "validation loss", "log")
    assert axes.get_title() == "12 models, that with the lowest validation loss in red"
    setting = drawn.setting(drawn.best["model"])
    assert axes.get_legend().get_texts()[0].get_text() == ", ".join(f"{k} {v:g}" for k, v in setting.items())
    assert drawn.plot_curves("valid_accuracy").axes[0].get_yscale() == "linear"


def test_a_heatmap_has_the_mean_over_everything_else(drawn):
    axes, bar = drawn.plot_heatmap("lr", "momentum").axes
    table = axes.images[0].get_array()
    for i, momentum in enumerate([0.5, 0.9]):
        for j, lr in enumerate([0.01, 0.1]):
            found = [r["valid_loss"] for r in drawn.records if (r["lr"], r["momentum"]) == (lr, momentum)]
            assert len(found) == 2
            assert table[i, j] == pytest.approx(np.mean(found))
    texts = [text.get_text() for text in axes.texts]
    assert texts == [*(f"{v:.3g}" for v in table[0, :2]), "diverged", *(f"{v:.3g}" for v in table[1, :2]), "diverged"]
    middle = (table[:, :2].min() + table[:, :2].max()) / 2
    dark = [text.get_color() == "white" for text in axes.texts if text.get_text() != "diverged"]
    assert dark == (np.ravel(table[:, :2]) < middle).tolist()  # white on the dark colors of small values
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.1", "1e+30"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.5", "0.9"]
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("lr", "momentum", "mean validation loss")


def test_a_spread_has_every_model_the_mean_and_the_deviation(drawn):
    axes = drawn.plot_spread("momentum", column="loss").axes[0]
    finite = [[r["loss"] for r in drawn.records if r["momentum"] == m and r["lr"] < 1.0] for m in (0.5, 0.9)]
    for line, values in zip(axes.lines, finite, strict=False):
        assert sorted(y for y in line.get_ydata() if not np.isnan(y)) == sorted(values)
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("linear", "momentum", "loss")
    axes = drawn.plot_spread("seed").axes[0]
    assert axes.get_legend().get_texts()[-1].get_text() == "mean ± standard deviation"
    assert axes.get_xscale() == "linear"  # a seed of 0 has no logarithm


def test_a_spread_over_words_has_a_place_for_each():
    pytest.importorskip("matplotlib")
    grid = {"activation": ["tanh", "relu"], "seed": [0, 1]}
    result = Sweep(
        lambda activation: mlp(3, 4, 2, activation=activation), optimizer=SGD(), grid=grid, device="cpu"
    ).fit(X, Y, max_epochs=3, batch_size=20)
    axes = result.plot_spread("activation").axes[0]
    assert list(zip(axes.get_xticks(), (t.get_text() for t in axes.get_xticklabels()), strict=True)) == [
        (0, "relu"),
        (1, "tanh"),
    ]
    losses = [[r["loss"] for r in result.records if r["activation"] == name] for name in ("relu", "tanh")]
    points, errors = axes.lines[:2], axes.containers[0]
    assert [list(line.get_ydata()) for line in points] == losses
    np.testing.assert_allclose(errors.lines[0].get_ydata(), np.mean(losses, axis=1))
    low, high = errors.lines[1]
    np.testing.assert_allclose(high.get_ydata() - low.get_ydata(), 2 * np.std(losses, axis=1))


def test_a_heat_map_is_empty_where_no_model_was_trained():
    pytest.importorskip("matplotlib")
    settings = [{"lr": 0.1, "momentum": 0.5}, {"lr": 0.2, "momentum": 0.9}, {"lr": 1e30, "momentum": 0.9}]
    models = Sweep(mlp(3, 4, 2), optimizer=SGD(), settings=settings, device="numpy:plain")
    axes = models.fit(X, Y, max_epochs=4, batch_size=20).plot_heatmap("lr", "momentum").axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert set(shown) == {(0, 0), (1, 1), (2, 1)}
    assert [position for position, text in shown.items() if text == "diverged"] == [(2, 1)]

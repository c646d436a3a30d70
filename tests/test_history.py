"""The history of a run as a sequence, as columns, as a figure, and as what schedules monitor."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlp_xp import History
from mlp_xp.training.history import monitored

RECORDS = [
    {"epoch": 1, "loss": 0.5, "lr": 0.1, "seconds": 2.0},
    {"epoch": 2, "loss": 0.25, "lr": 0.1, "seconds": 2.0, "valid_loss": 0.3, "valid_accuracy": 0.75},
    {"epoch": 3, "loss": 0.125, "lr": 0.05, "seconds": 2.0, "valid_accuracy": 0.8, "valid_loss": 0.2},
]


def test_a_history_is_a_sequence_of_records() -> None:
    history = History(RECORDS)
    assert list(history) == RECORDS and history == RECORDS and history != RECORDS[:2] and history != 3
    assert (history[0], history[-1], history[1:]) == (RECORDS[0], RECORDS[2], RECORDS[1:])
    assert isinstance(history[::2], History) and history[::-1] == RECORDS[::-1]
    for key in (3, -4):
        with pytest.raises(IndexError, match=f"no record at position {key}: the history has 3"):
            history[key]
    with pytest.raises(TypeError, match="unhashable"):
        hash(history)


def test_its_records_and_length_do_not_change_with_what_it_was_made_of() -> None:
    records = [dict(record) for record in RECORDS]
    history = History(records)
    records.append({"epoch": 4})
    history[0]["loss"] = 9.0
    for record in history:
        record["loss"] = 9.0
    assert history == RECORDS and len(history) == 3


def test_columns_are_in_the_order_in_which_they_appear_with_nan_for_what_is_missing() -> None:
    history = History(RECORDS)
    assert history.columns == ("epoch", "loss", "lr", "seconds", "valid_loss", "valid_accuracy")
    assert history["lr"] == [0.1, 0.1, 0.05]
    assert math.isnan(history["valid_loss"][0]) and history["valid_loss"][1:] == [0.3, 0.2]
    with pytest.raises(KeyError, match="no epoch recorded 'f1'; the columns are epoch, loss, lr, "):
        history["f1"]
    with pytest.raises(KeyError, match="no epoch recorded 'loss'; the columns are none"):
        History()["loss"]


def test_a_history_prints_its_last_record() -> None:
    assert repr(History()) == "History of 0 epochs"
    assert repr(History(RECORDS[:1])) == "History of 1 epoch; the last: epoch 1, loss 0.5, lr 0.1, seconds 2"


def drawn(history: History, *names: str) -> list[list[str]]:
    """The columns in each panel of the figure, whose lines are checked."""
    pytest.importorskip("matplotlib")
    figure = history.plot(*names)
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch"
        for line in axes.lines:
            np.testing.assert_array_equal(line.get_xdata(), history["epoch"])
            np.testing.assert_array_equal(line.get_ydata(), history[line.get_label()])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [a.get_label() for a in axes.lines]
    heights = [axes.get_subplotspec().rowspan.start for axes in figure.axes]
    assert heights == list(range(len(figure.axes))), "one below the other"
    return [[line.get_label() for line in axes.lines] for axes in figure.axes]


def test_losses_are_drawn_above_metrics_or_the_columns_that_are_named() -> None:
    history = History(RECORDS)
    assert drawn(history) == [["loss", "valid_loss"], ["valid_accuracy"]]
    assert drawn(History(RECORDS[:1])) == [["loss"]]
    assert drawn(history, "lr", "seconds") == [["lr", "seconds"]]
    assert drawn(History()) == []
    assert history.plot().get_figheight() == 2 * history.plot("lr").get_figheight()


def test_schedules_monitor_the_validation_loss_if_every_epoch_has_one() -> None:
    assert monitored(RECORDS[1:]) == ("valid_loss", [0.3, 0.2])
    assert monitored(RECORDS) == ("loss", [0.5, 0.25, 0.125])
    assert monitored([]) == ("loss", [])

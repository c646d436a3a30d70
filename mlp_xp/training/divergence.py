"""The error of a training whose values became infinite or NaN, and the search for the cause in the data."""

from __future__ import annotations

from mlp_xp.data.checks import first_not_finite
from mlp_xp.data.feed import Batch, Feed
from mlp_xp.data.stream import Stream
from mlp_xp.training.ranks import Ranks
from mlp_xp_backends import Backend


class TrainingDivergedError(ArithmeticError):
    """The loss or the parameters became infinite or NaN; the message says where and what to try.

    >>> trainer = Trainer(mlp(1, 1), SquaredError(), SGD(1e9), device="cpu")
    >>> trainer.fit(np.ones((4, 1)), np.zeros((4, 1)), max_epochs=10)
    Traceback (most recent call last):
    mlp_xp.training.divergence.TrainingDivergedError: ...
    """


def diverged(what: str, place_of_nan: str = "") -> TrainingDivergedError:
    """Return the error, with advice."""
    advice = (
        f"{place_of_nan}: drop these rows or fill them in"
        if place_of_nan
        else "try a rate ten times smaller, clip_norm=1.0, or look for very large numbers in x"
    )
    return TrainingDivergedError(f"{what}: {advice}")


def place_of_nan(backend: Backend, feed: Feed | Stream, data: Batch, ranks: Ranks) -> str:
    """A clause that locates NaN or infinity in the data of this rank or another one, or an empty string."""
    if isinstance(feed, Stream):
        return feed.place_of_nan()
    row = first_not_finite(backend, data.x)
    rows = ranks.gather(-1 if row is None else row)
    if row is not None:
        return f"x holds NaN or infinity, the first in row {row}"
    rank = next((rank for rank, found in enumerate(rows) if found >= 0), None)
    return "" if rank is None else f"x of rank {rank} holds NaN or infinity, the first in its row {rows[rank]}"

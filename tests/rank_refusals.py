"""The program of every rank under mpiexec: one rank raises an error, all ranks catch one, and all continue together."""

from __future__ import annotations

import errno
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rank_cases

from mlp_xp import SGD, Callback, Checkpoint, CSVLog, Trainer, mlp
from mlp_xp.data import feed
from mlp_xp.training import callbacks, epoch
from mlp_xp_backends.groups import get_group

group = get_group("mpi")
x, labels = rank_cases.x[group.rank :: group.size], rank_cases.labels[group.rank :: group.size]
SHARD = {"x": x, "y": labels, "max_epochs": 2, "batch_size": 17, "sharded": True}


class Failing(Callback):
    """A callback that raises an error at one of its calls, as with a full disk; only rank 0 calls it."""

    def __init__(self, where: str) -> None:
        setattr(self, where, self.fail)

    def fail(self, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class Schedule:
    """A rate that cannot be computed on rank 2."""

    def rate(self, at: Any) -> float:
        if group.rank == 2:
            raise ZeroDivisionError("no rate")
        return 0.1


def broken(x: np.ndarray, labels: np.ndarray) -> Callable[[], Iterator[Any]]:
    """A source of validation batches that ends with an error on rank 1."""

    def batches() -> Iterator[Any]:
        yield x, labels
        if group.rank == 1:
            raise ConnectionError("the server is gone")

    return batches


def trainer(**options: Any) -> Trainer:
    return Trainer(mlp(7, 8, 3), device="cpu", dtype="float64", group="mpi", **options)


def fit_on(rank: int, **bad: Any) -> None:
    """Train on shards; one rank passes other arguments."""
    trainer().fit(**SHARD | (bad if group.rank == rank else {}))


def with_nan() -> np.ndarray:
    spoiled = x.copy()
    spoiled[3, 2] = np.nan
    return spoiled


def estimator(X: Any, y: Any) -> Any:
    from mlp_xp.sklearn import MLPClassifier

    return MLPClassifier(4, group="mpi", max_iter=2, random_state=0).fit(X, y)


CASES: dict[str, Callable[[], Any]] = {
    "columns": lambda: fit_on(2, x=x[:, :5]),
    "a label": lambda: fit_on(0, y=labels + 1),
    "weights": lambda: fit_on(1, sample_weight=-np.ones(len(x))),
    "no rows": lambda: fit_on(1, x=x[:0], y=labels[:0]),
    "validation rows": lambda: trainer().fit(**SHARD, validation_data=(x[:, :2] if group.rank == 1 else x, labels)),
    "an option": lambda: fit_on(2, max_epochs="ten"),
    "residence": lambda: fit_on(2, resident=False),
    "optimizers": lambda: trainer(optimizer=SGD(0.1 + group.rank)).fit(**SHARD),
    "NaN": lambda: fit_on(1, x=with_nan()),
    "a rate": lambda: trainer(optimizer=SGD(Schedule())).fit(**SHARD),
    "a source": lambda: trainer().fit(**SHARD, validation_data=broken(x, labels)),
    "a folder": lambda: trainer().fit(**SHARD, callbacks=[CSVLog("missing/log.csv")]),
    **{
        f"a callback at {where}": lambda where=where: trainer().fit(**SHARD, callbacks=[Failing(where)])
        for where in ("start", "chunk", "epoch", "end")
    },
    "an estimator": lambda: estimator(with_nan() if group.rank == 2 else x, labels),
}


def caught(case: Callable[[], Any]) -> str:
    try:
        case()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def check_full_disk() -> None:
    """A checkpoint that cannot be written is a warning on rank 0, and all ranks finish."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    callbacks.write_snapshot = full
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(trainer().fit(**SHARD, callbacks=[Checkpoint("run.ckpt")])) == 2
    assert ["No space left" in str(warning.message) for warning in told] == [True, True] * (group.rank == 0)


def check_retry() -> None:
    """After an error at the end of an epoch, the same trainer continues, with the same parameters on all ranks."""
    trained = trainer()
    assert caught(lambda: trained.fit(**SHARD, callbacks=[Failing("epoch")])) != "nothing"
    trained.fit(**SHARD)
    assert trained.epoch == 2
    weights = np.concatenate([np.ravel(a) for a in trained.model.params[0]])
    assert (group.broadcast(weights) == weights).all()


def check_streams() -> None:
    """Rows of different dtypes on the ranks are cut into the same chunks."""
    feed.WINDOW_BYTES = 2**11
    own = x.astype("float32") if group.rank else x
    trainer().fit(**SHARD | {"x": own, "resident": False})


def main(folder: Path) -> None:
    epoch.CHUNK_WORK = 0  # every step is a chunk
    found = {name: caught(case) for name, case in CASES.items()}
    check_full_disk()
    check_retry()
    check_streams()
    (folder / f"refused-{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

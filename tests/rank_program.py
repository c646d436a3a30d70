"""The program of every rank under mpiexec: it runs the checks that need several ranks and saves their results."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rank_cases
from rank_cases import CASES, result, sharded

from mlp_xp import EarlyStopping, Trainer, mlp
from mlp_xp.training import epoch
from mlp_xp_backends.groups import get_group
from mlp_xp_backends.trees import leaves

group = get_group("mpi")
x, labels = rank_cases.x, rank_cases.labels


class Watching:
    """A group that inspects the trainer when the ranks exchange a flag after a chunk of steps."""

    rank, size, local_rank, native = group.rank, group.size, group.local_rank, group.native
    broadcast, barrier, abort = group.broadcast, group.barrier, group.abort

    def __init__(self, interrupt_at: int = -1) -> None:
        self.interrupt_at, self.seen, self.trainer, self.step = interrupt_at, [], None, None

    def sum(self, x: Any, out: Any = None) -> Any:
        if x.dtype == np.int32 and self.step != (step := self.trainer.progress[:3]):
            self.step = step
            if len(self.seen) == self.interrupt_at and self.rank == self.size - 1:
                os.kill(os.getpid(), signal.SIGINT)
            self.seen.append(digest(self.trainer))
        return group.sum(x, out)


def digest(trainer: Trainer) -> int:
    state = b"".join(a.tobytes() for a in leaves(trainer.snapshot().state))
    return int.from_bytes(hashlib.sha256(state).digest()[:7], "big")


def everywhere_equal(numbers: list[int]) -> bool:
    own = np.asarray(numbers)
    return len(own) > 0 and bool((group.broadcast(own) == own).all())


def watched(name: str, interrupt_at: int = -1, **more: Any) -> tuple[Trainer, dict[str, Any], Watching]:
    watching = Watching(interrupt_at)
    trainer, fit = CASES[name](group=watching, **more)
    watching.trainer = trainer
    return trainer, fit, watching


def run_cases(names: list[str]) -> dict[str, np.ndarray]:
    found = {}
    for name in names:
        trainer, fit, watching = watched(name)
        found |= {f"{name} {key}": value for key, value in result(trainer, trainer.fit(**fit)).items()}
        steps = trainer.epoch * epoch.step_count(len(fit["x"]), fit["batch_size"])
        assert group.size == 1 or len(watching.seen) >= steps, f"{name}: a chunk has more than one step"
        assert everywhere_equal(watching.seen or [0]), f"{name}: the bits of the ranks differ"
    return found


def check_interruption() -> dict[str, np.ndarray]:
    """Ctrl-C on the last rank stops all ranks after the same step, and the run can be continued."""
    trainer, fit, _ = watched("dropout", interrupt_at=9)
    trainer.fit(**fit)
    assert trainer.interrupted and trainer.epoch == 1, trainer.epoch
    assert everywhere_equal([trainer.progress.step, digest(trainer)])
    trainer.fit(**fit)
    return {f"interrupted {key}": value for key, value in result(trainer, trainer.history).items()}


def check_callbacks() -> None:
    """Rank 0 calls the callbacks, and a request to stop takes effect on all ranks."""
    calls = []
    trainer, fit, _ = watched("dropout")
    trainer.fit(**fit, callbacks=[lambda trainer, record: calls.append(1) or trainer.epoch == 2])
    assert trainer.epoch == 2
    assert len(calls) == (2 if group.rank == 0 else 0)
    seconds = trainer.history["seconds"]
    assert (group.broadcast(np.asarray(seconds)) == seconds).all()


def check_checkpoints(folder: Path) -> dict[str, np.ndarray]:
    """Resume a checkpoint that a single process wrote, and write one that a single process resumes."""
    trainer, fit, _ = watched("dropout")
    trainer.fit(**fit | {"max_epochs": 2})
    trainer.save_checkpoint(folder / f"by-{group.size}.ckpt")
    resumed = Trainer.resume(folder / "by-none.ckpt", device="cpu", group="mpi")
    return {f"resumed {key}": value for key, value in result(resumed, resumed.fit(**fit)).items()}


def run_shards() -> dict[str, np.ndarray]:
    """Every rank has rows of its own."""
    bounds, _ = sharded(group.size)
    own = slice(*bounds[group.rank : group.rank + 2])
    network = mlp(7, 8, 3, norm="batch", dropout=0.2)
    rule = {"optimizer": rank_cases.momentum, "class_weight": "balanced"}
    trainer = Trainer(network, device="cpu", dtype="float64", group="mpi", **rule)
    data, weights = (x[own], labels[own]), rank_cases.weights[own]
    options = {"max_epochs": 3, "batch_size": 10, "shuffle": False, "sharded": True}
    trainer.fit(*data, **options, sample_weight=weights, validation_data=(*data, weights))
    shuffled = Trainer(mlp(7, 8, 3), device="cpu", group="mpi")
    shuffled.fit(*data, max_epochs=2, batch_size=7, sharded=True, early_stopping=EarlyStopping(monitor="loss"))
    assert everywhere_equal([digest(shuffled), shuffled.epoch])
    return {f"shards {key}": value for key, value in result(trainer, trainer.history).items()}


def check_agreement() -> None:
    """If the ranks run different programs, an error is raised on all of them."""
    for trainer, options in (
        (Trainer(mlp(7, 3), device="cpu", group="mpi", seed=group.rank), {"max_epochs": 1}),
        (Trainer(mlp(7, 3), device="cpu", group="mpi"), {"max_epochs": 1 + group.rank}),
    ):
        try:
            trainer.fit(x, labels, **options)
        except ValueError as error:
            assert "they differ in" in str(error)
        else:
            assert group.size == 1


def check_estimators() -> None:
    """Estimators train the same model on all ranks, with any random state."""
    from mlp_xp.sklearn import MLPClassifier

    options = {"early_stopping": True, "max_iter": 4, "batch_size": 17, "solver": "sgd", "dropout": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone, shared = (MLPClassifier(8, random_state=1, group=g, **options).fit(x, labels) for g in (None, "mpi"))
        drawn = MLPClassifier(8, group="mpi", **options).fit(x, labels)
    for one, other in zip(alone.coefs_, shared.coefs_, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)
    own = np.concatenate([W.ravel() for W in (*shared.coefs_, *drawn.coefs_)])
    assert (group.broadcast(own) == own).all()


def main(folder: Path, names: list[str]) -> None:
    epoch.CHUNK_WORK = 0  # every step is a chunk
    found = run_cases(names)
    if "dropout" in names:
        found |= check_checkpoints(folder) | run_shards() | (check_interruption() if group.size > 1 else {})
        check_callbacks()
        check_agreement()
    if group.size in (2, 3) and find_spec("sklearn"):
        check_estimators()
    np.savez(folder / f"found-{group.size}-{group.rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

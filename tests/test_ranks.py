"""Training on several processes: the result does not depend on their number."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import rank_cases
from rank_cases import CASES, ROWS, SHARDS, result, sharded
from test_groups import END, LIMIT, MPIEXEC, environment, needs_mpi

from mlp_xp import Trainer, mlp
from mlp_xp.data.feed import Batch, Whole
from mlp_xp.data.shares import Shards, Slices, share
from mlp_xp.files.snapshot import Plan
from mlp_xp.training.group_ranks import _digest, ranks_of
from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.groups import Solo
from mlp_xp_backends.trees import ABSENT, leaves

TESTS = Path(__file__).parent
SIZES = [1, 3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4))]


def mpi_run(program: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", str(program), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """Every case without a group, and a checkpoint in the middle of one of them."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}
    for name, make in CASES.items():
        trainer, fit = make()
        found[name] = result(trainer, trainer.fit(**fit))
    trainer, fit = CASES["dropout"]()
    trainer.fit(**fit | {"max_epochs": 1})
    trainer.save_checkpoint(folder / "by-none.ckpt")
    return folder, found


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size}-ranks")
def ranks(request: pytest.FixtureRequest, alone: Any) -> tuple[int, dict[str, np.ndarray]]:
    """What rank 0 computed in each case; the program checks that the others have the same bits after every step."""
    folder, _ = alone
    ran = mpi_run(TESTS / "rank_program.py", request.param, str(folder), *CASES)
    assert ran.returncode == 0, ran.stderr
    return request.param, dict(np.load(folder / f"found-{request.param}-0.npz"))


@needs_mpi
@pytest.mark.parametrize("name", CASES)
def test_a_run_does_not_depend_on_the_number_of_ranks(alone: Any, ranks: Any, name: str) -> None:
    size, found = ranks
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if name == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    for key, expected in alone[1][name].items():
        actual = found[f"{name} {key}"]
        if size == 1:
            np.testing.assert_array_equal(actual, expected)
        np.testing.assert_allclose(actual, expected, **tolerance)


@needs_mpi
def test_an_interrupted_run_goes_on(alone: Any, ranks: Any) -> None:
    size, found = ranks
    if size > 1:
        for key in ("state", "history"):
            np.testing.assert_array_equal(found[f"interrupted {key}"], found[f"dropout {key}"])


@needs_mpi
def test_a_run_resumes_on_another_number_of_ranks(alone: Any, ranks: Any) -> None:
    (folder, without), (size, found) = alone, ranks
    _, fit = CASES["dropout"]()
    resumed = Trainer.resume(folder / f"by-{size}.ckpt", device="cpu")
    back = result(resumed, resumed.fit(**fit))
    for key, expected in without["dropout"].items():
        np.testing.assert_allclose(found[f"resumed {key}"], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(back[key], expected, rtol=1e-12, atol=1e-12)


@needs_mpi
def test_shards_are_one_data_set(ranks: Any) -> None:
    size, found = ranks
    _, order = sharded(size)
    data, weights = (rank_cases.x[order], rank_cases.labels[order]), rank_cases.weights[order]
    network = mlp(7, 8, 3, norm="batch", dropout=0.2)
    rule = {"optimizer": rank_cases.momentum, "class_weight": "balanced"}
    trainer = Trainer(network, device="cpu", dtype="float64", **rule)
    options = {"max_epochs": 3, "batch_size": 10, "shuffle": False, "validation_data": (*data, weights)}
    history = trainer.fit(*data, sample_weight=weights, **options)
    for key, expected in result(trainer, history).items():
        np.testing.assert_allclose(found[f"shards {key}"], expected, rtol=1e-12, atol=1e-12)


# A rank that ends


def run_ended(folder: Path, ranks: int, max_epochs: int, how: str, victim: int = 0, when: float = 0.0) -> Any:
    """Run until the victim ends it, or to the end; the error output and the exit code."""
    ended = folder / "ended"
    ended.unlink(missing_ok=True)
    ran = mpi_run(TESTS / "rank_ended.py", ranks, str(folder), str(max_epochs), how, str(victim), str(when))
    assert not ended.exists() or time.time() - float(ended.read_text()) < END
    return ran


def found_in(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "found.npz"))


def undisturbed(max_epochs: int) -> dict[str, np.ndarray]:
    trainer, fit = CASES["dropout"]()
    return result(trainer, trainer.fit(**fit | {"max_epochs": max_epochs}))


@needs_mpi
@pytest.mark.parametrize(
    ("how", "call"), [("dies", None), ("raises", 8), pytest.param("raises", None, marks=pytest.mark.slow)]
)
def test_a_rank_that_ends_ends_the_job_which_then_resumes(tmp_path: Path, how: str, call: int | None) -> None:
    """The rank ends at a call of the group in the midst of the run, or inside one in which the others already wait."""
    ended = run_ended(tmp_path, 2, 5, how, victim=1, when=call or 29)
    assert ended.returncode != 0
    assert (tmp_path / "ended").exists()
    assert ("row 7 is bad" if how == "raises" else "signal 9") in ended.stderr + ended.stdout
    goes_on = run_ended(tmp_path, 3, 5, "goes on")
    assert goes_on.returncode == 0, goes_on.stderr
    for key, expected in undisturbed(5).items():
        np.testing.assert_allclose(found_in(tmp_path)[key], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@needs_mpi
def test_a_checkpoint_of_4_ranks_resumes_on_3_and_then_on_1(tmp_path: Path) -> None:
    for ranks, max_epochs in ((4, 2), (3, 4), (1, 5)):
        ran = run_ended(tmp_path, ranks, max_epochs, "goes on")
        assert ran.returncode == 0, ran.stderr
    for key, expected in undisturbed(5).items():
        np.testing.assert_allclose(found_in(tmp_path)[key], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@needs_mpi
@pytest.mark.parametrize("sizes", [(2,), (1, 2, 3, 4)], ids=["2-ranks", "1-to-4-ranks"])
def test_25_kills_at_random_moments_do_not_change_the_run(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    rng, kills, runs, max_epochs = np.random.default_rng(len(sizes)), 0, 0, 12
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    assert run_ended(folder, sizes[-1], max_epochs, "goes on").returncode == 0
    expected = found_in(folder)
    while kills < 25:
        folder, runs = tmp_path / str(runs), runs + 1
        folder.mkdir()
        while not (folder / "found.npz").exists():
            how, victim, when = (
                "killed" if kills < 25 else "goes on",
                int(rng.integers(4)),
                float(rng.uniform(0.0, 0.5)),
            )
            ended = run_ended(folder, int(rng.choice(sizes)), max_epochs, how, victim, when)
            kills += ended.returncode != 0
        tolerance = 0.0 if len(sizes) == 1 else 1e-10
        for key, found in found_in(folder).items():
            np.testing.assert_allclose(found, expected[key], rtol=tolerance, atol=tolerance)


# One process


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_slices_make_up_each_batch(size: int) -> None:
    order = np.random.default_rng(1).permutation(ROWS)
    whole, parts = Whole(order, 17), [Slices(order, 17, rank, size) for rank in range(size)]
    bounds = whole.bounds(2, 1)
    assert all(part.bounds(2, 1) == bounds for part in parts)
    for a, b in pairwise(bounds):
        rows = whole.rows(a, b)
        np.testing.assert_array_equal(np.concatenate([part.rows(a, b) for part in parts], axis=1), rows)
        places = [part.place(a, b) for part in parts]
        widths = [part.rows(a, b).shape[1] for part in parts]
        assert [int(place.first[0]) for place in places] == [sum(widths[:rank]) for rank in range(size)]
        assert {float(n) for place in places for n in place.rows} == {float(rows.shape[1])}


@pytest.mark.parametrize("counts", [(50, 30), (7, 0, 94), (1, 1, 1), *SHARDS.values()])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_shards_use_every_row_once_in_steps_that_agree(counts: tuple[int, ...], most: int) -> None:
    parts = [Shards(np.arange(n), 7, rank, counts) for rank, n in enumerate(counts)]
    steps = -(-sum(counts) // 7)
    bounds = parts[0].bounds(most, 0)
    assert all(part.bounds(most, 0) == bounds for part in parts)
    assert bounds[0] == 0
    assert bounds[-1] == steps
    assert max(np.diff(bounds)) <= max(most, 1)
    for part, n in zip(parts, counts, strict=True):
        rows = [part.rows(a, b) for a, b in pairwise(bounds)]
        np.testing.assert_array_equal(np.concatenate([chunk.ravel() for chunk in rows]), np.arange(n))
    for a, b in pairwise(bounds):
        widths, places = [part.rows(a, b).shape[1] for part in parts], [part.place(a, b) for part in parts]
        assert [int(place.first[-1]) for place in places] == [sum(widths[:rank]) for rank in range(len(counts))]
        assert all((place.rows == sum(widths)).all() for place in places)
        assert 1 <= sum(widths) <= 7 + len(counts)


def test_shares_are_contiguous_and_nearly_equal() -> None:
    for n in range(12):
        for size in range(1, 6):
            cuts = [share(n, rank, size) for rank in range(size)]
            assert [a for a, _ in cuts] == [0, *(b for _, b in cuts[:-1])]
            assert cuts[-1][1] == n
            assert {b - a for a, b in cuts} <= {n // size, n // size + 1}


class Two(Solo):
    """Rank 1 of a group of two, without a rank 0."""

    rank, size, local_rank = 1, 2, 1


class Mapped(np.memmap):  # type: ignore[type-arg]
    """A memory-mapped array that remembers which of its rows were taken."""

    def __getitem__(self, key: Any) -> Any:
        self.taken.append(np.asarray(key))
        return np.asarray(super().__getitem__(key))


def test_mapped_data_are_read_for_the_rows_of_the_rank(tmp_path: Path) -> None:
    x = np.memmap(tmp_path / "x", np.float64, "w+", shape=(40, 3)).view(Mapped)
    x.taken = []
    y = np.zeros(40, np.int32)
    Trainer(mlp(3, 2), device="cpu", group=Two()).fit(x, y, max_epochs=1, batch_size=10, shuffle=False)
    taken = np.concatenate([np.ravel(rows) for rows in x.taken])
    np.testing.assert_array_equal(np.sort(taken), [10 * batch + i for batch in range(4) for i in range(5, 10)])


class Counting(Two):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def sum(self, x: Any, out: Any = None) -> Any:
        self.sizes.append(x.size)
        return super().sum(x, out)


@pytest.mark.parametrize(("norm", "messages"), [(None, 1), ("batch", 4)])
def test_a_step_takes_one_sum_of_all_gradients(norm: Any, messages: int) -> None:
    """And three more for each layer of batch norm. What else ranks send does not depend on the number of steps."""
    sent = {}
    for steps in (4, 9):
        x, group = np.ones((10 * steps, 3)), Counting()
        Trainer(mlp(3, 5, 2, norm=norm), device="cpu", group=group).fit(
            x, np.zeros(len(x), int), max_epochs=1, batch_size=10
        )
        sent[steps] = group.sizes
    parameters = 3 * 5 + 5 + 5 * 2 + 2 + (2 * 5 if norm else 0)
    assert len(sent[9]) - len(sent[4]) == 5 * messages
    assert sent[9].count(parameters + 2) == 9


def test_jax_names_the_alternative() -> None:
    pytest.importorskip("jax")
    with pytest.raises(BackendError, match=r"jax cannot run with a group(.|\n)*group=\"mpi\""):
        Trainer(mlp(3, 2), device="jax:cpu", group=Two())


@pytest.mark.parametrize("group", [3, "mpi4py", np])
def test_a_group_is_a_name_or_a_group(group: Any) -> None:
    with pytest.raises((TypeError, BackendError), match="group"):
        Trainer(mlp(3, 2), group=group)


def test_whole_batches_have_no_place() -> None:
    assert Whole(np.arange(5), 2).place(0, 1) is ABSENT


class Named(NamedTuple):
    """A backend, by its library and device."""

    name: str
    device: str


GPU, TORCH_GPU = Named("cupy", "cuda:0"), Named("torch", "cuda:0")
BACKENDS = {None: GPU, "auto": GPU, "cuda": GPU, "cuda:0": GPU, "torch:cuda": TORCH_GPU, "torch:cuda:0": TORCH_GPU}
BACKENDS |= {"cpu": Named("numpy", "cpu"), "cuda:1": Named("cupy", "cuda:1"), "torch:cuda:1": Named("torch", "cuda:1")}


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (None, "cuda:1"),
        ("auto", "cuda:1"),
        ("cuda", "cuda:1"),
        ("torch:cuda", "torch:cuda:1"),
        ("cuda:0", "cuda:0"),
        ("torch:cuda:0", "torch:cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
        (GPU, "cuda:0"),
    ],
)
def test_each_rank_of_a_machine_has_a_gpu_of_its_own_unless_it_is_numbered(
    device: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_backend(device: Any) -> Named:
        return device if isinstance(device, Named) else BACKENDS[device]

    monkeypatch.setattr("mlp_xp.training.ranks.as_backend", as_backend)
    monkeypatch.setattr("mlp_xp.training.group_ranks.as_backend", as_backend)
    monkeypatch.setattr("mlp_xp.training.group_ranks.probe", lambda name: SimpleNamespace(devices=[0, 1]))
    monkeypatch.setattr("mlp_xp.training.group_ranks._bound", lambda backend, group: backend)
    assert ranks_of(Two()).backend(device) == BACKENDS[expected]
    first, alone = Two(), Two()
    first.local_rank, alone.size = 0, 1  # type: ignore[misc]
    for group in (first, alone):
        assert ranks_of(group).backend(device) == as_backend(device)


def test_a_group_of_one_changes_nothing() -> None:
    alone, backend = ranks_of(None), get_backend("cpu")
    assert alone.bound(backend) is backend and alone.backend("cpu") is backend
    assert (alone.any(True), alone.any(False), alone.gather(7), alone.first(0.1)) == (True, False, [7], 0.1)
    assert alone.total([0.5, 2.0]).tolist() == [0.5, 2.0] and alone.own(7) == slice(0, 7)
    alone.check_equal(options=(1, 2.0), parameters=np.zeros(3))
    for kind in (np.random.MT19937, np.random.PCG64):  # whose states have different forms
        drawn, expected = (np.random.RandomState(kind(3)) for _ in range(2))
        drawn.normal(), expected.normal()  # leaves a second number behind
        assert alone.random_state(drawn).normal() == expected.normal() and drawn.randint(99) == expected.randint(99)


class Both(Solo):
    """Rank 0 of two, where the other one sends the given array."""

    size = 2

    def __init__(self, other: Any, flag: bool = False) -> None:
        self.other, self.flag = np.asarray(other), flag

    def sum(self, x: Any, out: Any = None) -> Any:
        if x.dtype == np.int32:  # a flag, and whether the rank has failed
            return x + np.asarray([self.flag, 0], np.int32)
        return x + self.other.astype(x.dtype)

    def broadcast(self, x: Any, root: int = 0) -> Any:
        return self.other.reshape(np.shape(x)).astype(x.dtype) if root else x


def test_a_flag_of_any_rank_is_one_of_all_and_numbers_are_summed() -> None:
    for flag in (True, False):
        for other in (True, False):
            assert ranks_of(Both([], other)).any(flag) is (flag or other)
    assert ranks_of(Both([1.5, 2.0])).total([1.0, 1.0]).tolist() == [2.5, 3.0]
    assert ranks_of(Both([0, 5])).gather(3) == [3, 5]
    assert ranks_of(Both([0.0])).own(7) == slice(0, 4)


def test_anything_that_ranks_do_not_share_is_named() -> None:
    """Rank 1 checks the digests that rank 0 has sent, one of which differs."""
    own = {"options": (1, "a"), "parameters": (np.zeros(3), {"b": np.ones((2, 2), np.float32)}), "progress": {"n": 1}}
    for name, others in {
        "options": [(1, "b"), (2, "a")],
        "parameters": [
            (np.zeros(3), {"b": np.ones((2, 2))}),
            (np.zeros((3, 1)), {"b": np.ones((2, 2), np.float32)}),
            (np.zeros(3), {"c": np.ones((2, 2), np.float32)}),
            (np.array([0.0, 0.0, 1e-300]), {"b": np.ones((2, 2), np.float32)}),
        ],
        "progress": [{"n": 2}, {"m": 1}],
    }.items():
        for other in others:
            sent = [_digest(thing) for thing in (own | {name: other}).values()]
            group: Any = Two()
            group.broadcast = lambda x, sent=sent: np.asarray(sent)
            with pytest.raises(ValueError, match=f"run the same program, but they differ in: {name}$"):
                ranks_of(group).check_equal(**own)
    group.broadcast = lambda x: x
    ranks_of(group).check_equal(**own)
    fortran = {"parameters": np.arange(6.0).reshape(2, 3)}
    assert _digest(fortran["parameters"]) == _digest(np.asfortranarray(fortran["parameters"])) < 2**63


def test_mapped_data_are_resident_on_each_rank_only_if_that_costs_nothing(tmp_path: Path) -> None:
    """One process sends them once if they fit; of several, each reads its own rows, unless no memory is needed."""
    for dtype, resident in (("float32", True), ("float64", False)):
        mapped = np.memmap(tmp_path / dtype, dtype, "w+", shape=(40, 3))
        for x, shared in ((mapped, resident), (np.array(mapped), True)):
            data = Batch(x, np.zeros(40, np.int32), ABSENT)
            for group, expected in ((None, True), (Two(), shared)):
                ranks, args = ranks_of(group), (get_backend("cpu"), mlp(3, 2), data, "float32")
                assert ranks.feed(*args, None).resident is expected
                assert ranks.feed(*args, False).resident is False
                assert ranks.feed(*args, True).resident is True


def test_data_are_streamed_on_all_ranks_if_they_do_not_fit_on_one() -> None:
    data = Batch(np.zeros((40, 3), np.float32), np.zeros(40, np.int32), ABSENT)
    for streams in (0, 1):
        ranks = ranks_of(Both([0, 0], bool(streams)))
        assert ranks.feed(get_backend("cpu"), mlp(3, 2), data, "float32", None).resident is (not streams)


def test_shards_have_orders_of_their_own_and_advance_the_generator_alike() -> None:
    """A rank's order is of its own rows, another one in each epoch, and differs from that of other ranks."""
    plan, orders, states = Plan(1, 5, True, 40), [], []
    for rank in (0, 1):
        rng, group = np.random.default_rng(0), Both([20, 20])
        group.rank = rank  # type: ignore[misc]
        group.other = np.asarray([20, 0] if rank else [0, 20])
        division = ranks_of(group).division(20, sharded=True)
        assert division.rows == 40
        orders += [division.order(rng, plan).tolist() for _ in range(2)]
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_a_division_without_shards_has_the_rows_that_all_ranks_have() -> None:
    division = ranks_of(Both([])).division(40, sharded=False)
    assert division.rows == 40
    batches = division.cut(np.arange(40), 8)
    assert isinstance(batches, Slices) and batches.rows(0, 1).tolist() == [[0, 1, 2, 3]]
    assert isinstance(ranks_of(None).division(40, sharded=False).cut(np.arange(40), 8), Whole)


def test_two_ranks_compare_their_parameters() -> None:
    """Equal seeds and options, and a weight that was changed on one rank."""
    sent: list[Any] = []

    class First(Two):
        def broadcast(self, x: Any, root: int = 0) -> Any:
            sent.append(x)
            return x

    class Second(Two):
        def broadcast(self, x: Any, root: int = 0) -> Any:
            return sent[0]

    trainers = [Trainer(mlp(3, 2), device="cpu", group=group()) for group in (First, Second, Second)]
    leaves(trainers[2].state.params)[0][0, 0] += 1.0
    x, y = np.zeros((8, 3)), np.zeros(8, int)
    for trainer in trainers[:2]:
        trainer.fit(x, y, max_epochs=1)
    with pytest.raises(ValueError, match=r"they differ in: parameters$"):
        trainers[2].fit(x, y, max_epochs=1)

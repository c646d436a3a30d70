"""The benchmark of speed: all peers do equal work, wrong work is detected, and the report shows the measurements."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ranks
from benchmarks.__main__ import COMMANDS
from benchmarks.harness import deviations, measure, rotated
from benchmarks.networks import NETS, Net, Task, Words
from benchmarks.peers import NotComparableError, Ours
from benchmarks.report import key, markdown, merged, summary
from benchmarks.roster import FLOOR, MKL_FLOOR, OURS, SKLEARN, TORCH, roster

DENSE = Net((5, 8, 7, 3), 4)
WORDS = Net((6, 8, 5), 4, Words(5, 2, 3))
LIBRARIES = {"torch": "torch", "PyTorch": "torch", "jax": "jax", "JAX": "jax", SKLEARN: "sklearn"}
PEERS = [name for name in roster("cpu", False) if name not in (FLOOR, MKL_FLOOR)]


def build(name: str, task: Task) -> Any:
    for word, library in LIBRARIES.items():
        if name.startswith(word):
            pytest.importorskip(library)
    try:
        return roster("cpu", False)[name](task)
    except NotComparableError as error:
        pytest.skip(f"{name} {error}")


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [
        pytest.param(DENSE, "adam", id="dense-adam"),
        pytest.param(WORDS, "momentum", id="words-momentum"),
        *(pytest.param(DENSE, name, marks=pytest.mark.slow, id=f"dense-{name}") for name in ("sgd", "momentum")),
        *(pytest.param(WORDS, name, marks=pytest.mark.slow, id=f"words-{name}") for name in ("sgd", "adam")),
    ],
)
@pytest.mark.parametrize("name", PEERS)
def test_peers_do_equal_work(name: str, net: Net, optimizer: str) -> None:
    """A run and an epoch end with the losses that our math has in NumPy, operation by operation."""
    task = Task(net, optimizer, 5)
    peer, reference = build(name, task), build("numpy plain", task)
    for _ in range(2):
        ran, expected = (p.steps(p.place(task.order)).mean(dtype=np.float64) for p in (peer, reference))
        assert ran == pytest.approx(expected, rel=1e-5)
        assert peer.epoch()[1] == pytest.approx(reference.epoch()[1], rel=1e-5)


def test_a_run_and_an_epoch_train() -> None:
    task = Task(DENSE, "adam", 20)
    peer = build("numpy", task)
    first = peer.epoch()[1]
    assert [peer.epoch()[1] for _ in range(5)][-1] < first


def test_one_who_computes_something_else_makes_the_row_invalid() -> None:
    task = Task(DENSE, "sgd", 5)

    class Faster(Ours):
        """Runs of steps at a rate that is a tenth too large."""

        def place(self, order: Any) -> Any:
            item = super().place(order)
            scaled = tuple(1.1 * rate for rate in item.rates.scaled)
            return item._replace(rates=item.rates._replace(scaled=scaled))

    def broken(task: Task) -> Any:
        raise RuntimeError("no such library\nand more")

    honest = {name: lambda task: Ours("numpy", task) for name in ("a", "b")}
    row = measure(task, {**honest, "broken": broken}, 1)
    assert row["valid"]
    assert row["missing"] == {"broken": "RuntimeError: no such library"}
    assert not measure(task, {**honest, "faster": partial(Faster, "numpy")}, 1)["valid"]


def test_deviations_are_shares_of_the_untrained_loss() -> None:
    losses = {"a": 1.0, "b": 1.0, "c": 1.0 + math.log(3), "floor": None}
    found = deviations(Task(DENSE, "sgd", 5), {name: {"last": loss} for name, loss in losses.items()}, "last")
    assert found == pytest.approx({"a": 0.0, "b": 0.0, "c": 1.0})


def test_every_peer_goes_first_once() -> None:
    names = ["a", "b", "c"]
    rounds = [rotated(names, i) for i in range(3)]
    assert sorted(order[0] for order in rounds) == names
    assert all(sorted(order) == names for order in rounds)


def made_up(network: str, optimizer: str, times: dict[str, float], valid: bool = True) -> dict[str, Any]:
    figures = {n: {"median": t, "min": t, "low": 0.9 * t, "high": 1.1 * t, "all": [t]} for n, t in times.items()}
    return {
        "network": network,
        "optimizer": optimizer,
        "parameters": NETS[network].parameters,
        "steps": 10,
        "rounds": 1,
        "first_deviation": {"numpy": 1e-7},
        "last_deviation": {"numpy": 1e-5},
        "valid": valid,
        "missing": {SKLEARN: "NotComparableError: has no embedding"},
        "pools": ["openblas 0.3: 2"],
        "peers": {n: {"step_us": f, "epoch_ms": f, "first": 1.0, "last": 1.0} for n, f in figures.items()},
    }


MACHINE = {"device": "cpu", "model": "A chip", "threads": 2, "system": "Linux", "versions": {"numpy": "2.4"}}
FUSED, FOREACH, _ = TORCH
ROWS = [
    made_up(
        "784-300-10@50", "sgd", {"numpy": 2.0, FUSED: 9.0, FOREACH: 8.0, "JAX scan": 2.0, "jax:cpu": 1.0, FLOOR: 1.0}
    ),
    made_up("784-1000-10@1000", "sgd", {"numpy": 100.0, FUSED: 100.0, FOREACH: 300.0, FLOOR: 80.0}),
    made_up("784-300-10@128", "adam", {"numpy": 1.0, FUSED: 1000.0}, valid=False),
]


def test_ratios_take_the_fastest_of_each_side_and_valid_rows_alone() -> None:
    found = summary("cpu", ROWS)["step_us"]
    assert found["PyTorch / numpy"] == pytest.approx({"geometric_mean": 2.0, "least": 1.0, "largest": 4.0, "rows": 2})
    assert found["JAX scan / best of ours"]["geometric_mean"] == pytest.approx(2.0)
    assert found["numpy / products"]["geometric_mean"] == pytest.approx(math.sqrt(2.0 * 1.25))


def test_report_renders() -> None:
    text = markdown({"machine": MACHINE, "summary": summary("cpu", ROWS), "rows": ROWS})
    assert all(row["network"] in text for row in ROWS)
    assert "**INVALID**" in text
    assert "has no embedding (784-300-10@50, 784-1000-10@1000, 784-300-10@128)" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    draw({"machine": MACHINE, "rows": ROWS}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_bars_compare_with_the_fastest_peer_of_valid_rows() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import times

    assert times(ROWS, "784-300-10@50", "numpy") == {"ours": ("ours", 2.0), "peer": ("JAX", 2.0)}
    assert times(ROWS, "784-1000-10@1000", "numpy")["peer"] == ("PyTorch", pytest.approx(100.0))
    assert times(ROWS, "784-300-10@128", "numpy") == {}


def test_without_mnist_the_benchmark_of_estimators_ends_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    environment = os.environ | {"MLP_XP_DATA": "", "MLP_XP_CACHE": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "benchmarks.sklearn_fit", "--cases", "MNIST"]
    root = Path(__file__).parents[1]
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{root / 'backends'}"
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "omit it from --cases" in done.stderr


def test_parts_of_a_table_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine": MACHINE, "rows": ROWS}))
    again = made_up("784-300-10@50", "sgd", {"numpy": 5.0})
    rows = merged(path, MACHINE, again)["rows"]
    assert [key(row) for row in rows] == [key(row) for row in ROWS]
    assert rows[0] == again
    assert merged(path, MACHINE | {"threads": 1}, again)["rows"] == [again]


def test_networks_are_as_large_as_they_say() -> None:
    for net in NETS.values():
        weights, _ = Task(net, "sgd", 1).start()
        assert sum(w.size for w in weights) == net.parameters


def test_commands_exist() -> None:
    assert all(find_spec(f"benchmarks.{name}") for name in COMMANDS)
    assert set(OURS) == {"cpu", "cuda"}


def test_the_cost_model_finds_the_network_that_it_was_made_of() -> None:
    latency, per_byte = 5e-6, 2e-10
    measured = {size: ranks.reduction(2, size, latency, per_byte) for size in (4, 4_000, 32_000_000)}
    assert ranks.fitted(measured, 2) == pytest.approx((latency, per_byte), rel=1e-3)
    assert ranks.reduction(64, 4, latency, per_byte) == pytest.approx(6 * latency, rel=1e-2)  # log2(64) messages
    ring = ranks.reduction(8, 10**9, latency, per_byte)
    assert ring == pytest.approx(2 * 7 / 8 * 10**9 * per_byte, rel=1e-3)  # all ranks send at the same time


def test_the_report_of_ranks_is_complete_and_says_where_it_was_interrupted() -> None:
    network = {"4": 5e-6, "32000000": 0.01}
    row = {"row": "784-10@64", "ours": 1e-3, "ours communicating": 2e-4, "ddp": 2e-3, "ddp alone": 1e-3, "batch": 64}
    row |= {"ddp / ours": 2.0, "parameters": 7850, "rounds": 3, "network": network, "pools": ["openblas: 1"]}
    alone, two = row | {"ranks": 1}, row | {"ranks": 2}
    whole, part = ranks.report(["# Title"], [alone, two], jobs=2), ranks.report(["# Title"], [alone], jobs=2)
    assert "| 784-10@64 | 1 | 1.00 | - | 2.00 | - | 2.00 | 3 |" in whole
    assert "| 784-10@64 | 2 | 1.00 | 20% | 2.00 | 50% | 2.00 | 3 |" in whole
    assert "a model, not a measurement" in whole
    assert "Not finished" not in whole
    assert "Not finished: 1 of 2 jobs." in part
    assert "model" not in part

"""Files written by earlier versions can be read: one of every layer, loss, optimizer, schedule and so on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import make

from mlp_xp.files.checkpoints import check_savable, read_model, read_snapshot, write_snapshot
from mlp_xp.files.config import KNOWN
from mlp_xp.files.generators import KINDS
from mlp_xp_backends.trees import named_leaves

GOLDEN = Path(__file__).parent / "golden"


def test_every_class_has_a_golden_file() -> None:
    assert {path.stem for path in GOLDEN.glob("*.safetensors")} == {*KNOWN, *(f"generator.{name}" for name in KINDS)}


@pytest.mark.parametrize("name", make.networks())
def test_a_golden_model_computes_what_it_computed(name: str) -> None:
    saved = read_model(GOLDEN / f"{name}.safetensors")
    assert (saved.network, saved.loss) == make.networks()[name]
    y, _, _ = saved.network.forward(np, saved.params, saved.state, np.array(saved.extra["x"]), False)
    np.testing.assert_allclose(y, saved.extra["y"], rtol=1e-12)


@pytest.mark.parametrize("name", make.steps())
def test_a_golden_checkpoint_holds_what_it_held(name: str, tmp_path: Path) -> None:
    train = make.steps()[name]
    kind = name.partition(".")[2] or "PCG64"
    run, expected = read_snapshot(GOLDEN / f"{name}.safetensors"), make.snapshot(train, kind)
    assert same(run, expected)
    check_savable(run)
    write_snapshot(tmp_path / "c", run)
    assert same(read_snapshot(tmp_path / "c"), run)


def same(a: object, b: object) -> bool:
    """Whether two snapshots are equal, with the same shapes, dtypes and bits of all arrays."""
    a, b = as_tree(a), as_tree(b)
    return {name: exact(leaf) for name, leaf in named_leaves(a).items()} == {
        name: exact(leaf) for name, leaf in named_leaves(b).items()
    }


def as_tree(x: object) -> object:
    """Dicts and lists as tuples, so that every entry has a name."""
    if isinstance(x, dict):
        return tuple((key, as_tree(value)) for key, value in x.items())
    if isinstance(x, list):
        return tuple(map(as_tree, x))
    return type(x)(*map(as_tree, x)) if hasattr(x, "_fields") else x


def exact(leaf: object) -> object:
    return (leaf.shape, leaf.dtype, leaf.tobytes()) if isinstance(leaf, np.ndarray) else (type(leaf), leaf)

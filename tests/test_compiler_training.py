"""Training steps, compiled."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compiler_cases import LIBRARIES, NETWORKS, OPTIMIZERS, Library, assert_compiled, training


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training(network: str, optimizer: str) -> None:
    assert_compiled(*training(network, OPTIMIZERS[optimizer]), amplified=1000)  # g / sqrt(v) where g is nearly 0


@pytest.mark.parametrize("network", ["relu", "classes"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_training_with_every_blas(network: str, optimizer: str, library: Library) -> None:
    assert_compiled(*training(network, OPTIMIZERS[optimizer]), amplified=1000, library=library)


@pytest.mark.parametrize("options", [{"l2": 0.01}, {"clip_norm": 0.1}, {"max_norm": 1.0}, {"models": (2,)}])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_training_with(options: dict[str, Any], optimizer: str) -> None:
    assert_compiled(*training("relu", OPTIMIZERS[optimizer], **options), amplified=1000)

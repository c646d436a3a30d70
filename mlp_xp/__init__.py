"""Multilayer perceptrons on any array library: the math written once, by hand, for NumPy, CuPy, torch and JAX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlp_xp.callbacks import Callback, Checkpoint, CSVLog, Progress
    from mlp_xp.checkpoints import load, save
    from mlp_xp.early_stopping import EarlyStopping
    from mlp_xp.files import FileError
    from mlp_xp.gradcheck import check_gradients
    from mlp_xp.initializers import Constant, Glorot, He, LeCun, Normal, Uniform
    from mlp_xp.layers import (
        GELU,
        BatchNorm,
        Chain,
        Dense,
        Dropout,
        Embedding,
        Identity,
        LayerNorm,
        LeakyReLU,
        ReLU,
        Rescale,
        Sigmoid,
        Softplus,
        Tanh,
    )
    from mlp_xp.losses import (
        AbsoluteError,
        BinaryCrossEntropy,
        Huber,
        Poisson,
        Quantile,
        SoftmaxCrossEntropy,
        SquaredError,
    )
    from mlp_xp.model import Model
    from mlp_xp.models import mlp
    from mlp_xp.optimizers import SGD, Adam, AdamW, RMSprop
    from mlp_xp.step import TrainState, TrainStep
    from mlp_xp.trainer import Trainer, TrainingDivergedError
    from mlp_xp_backends import BackendError, available_backends, get_backend

_HOMES = {
    "callbacks": ("CSVLog", "Callback", "Checkpoint", "Progress"),
    "checkpoints": ("load", "save"),
    "early_stopping": ("EarlyStopping",),
    "files": ("FileError",),
    "gradcheck": ("check_gradients",),
    "initializers": ("Constant", "Glorot", "He", "LeCun", "Normal", "Uniform"),
    "layers": (
        "GELU",
        "BatchNorm",
        "Chain",
        "Dense",
        "Dropout",
        "Embedding",
        "Identity",
        "LayerNorm",
        "LeakyReLU",
        "ReLU",
        "Rescale",
        "Sigmoid",
        "Softplus",
        "Tanh",
    ),
    "losses": (
        "AbsoluteError",
        "BinaryCrossEntropy",
        "Huber",
        "Poisson",
        "Quantile",
        "SoftmaxCrossEntropy",
        "SquaredError",
    ),
    "model": ("Model",),
    "models": ("mlp",),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSprop"),
    "step": ("TrainState", "TrainStep"),
    "trainer": ("Trainer", "TrainingDivergedError"),
}
_MODULE_OF = {name: f"mlp_xp.{module}" for module, names in _HOMES.items() for name in names} | dict.fromkeys(
    ("BackendError", "available_backends", "get_backend"), "mlp_xp_backends"
)

__all__ = sorted(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name where it lives, when it is first used: ``import mlp_xp`` alone costs next to nothing."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mlp_xp' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

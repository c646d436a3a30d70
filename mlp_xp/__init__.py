"""Multilayer perceptrons on any array library: the math written once, by hand, for NumPy, CuPy, torch and JAX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlp_xp.callbacks import Callback as Callback
    from mlp_xp.callbacks import Checkpoint as Checkpoint
    from mlp_xp.callbacks import CSVLog as CSVLog
    from mlp_xp.callbacks import Progress as Progress
    from mlp_xp.checkpoints import load as load
    from mlp_xp.checkpoints import save as save
    from mlp_xp.early_stopping import EarlyStopping as EarlyStopping
    from mlp_xp.files import FileError as FileError
    from mlp_xp.gradcheck import check_gradients as check_gradients
    from mlp_xp.initializers import Constant as Constant
    from mlp_xp.initializers import Glorot as Glorot
    from mlp_xp.initializers import He as He
    from mlp_xp.initializers import LeCun as LeCun
    from mlp_xp.initializers import Normal as Normal
    from mlp_xp.initializers import Uniform as Uniform
    from mlp_xp.layers import GELU as GELU
    from mlp_xp.layers import BatchNorm as BatchNorm
    from mlp_xp.layers import Chain as Chain
    from mlp_xp.layers import Dense as Dense
    from mlp_xp.layers import Dropout as Dropout
    from mlp_xp.layers import Embedding as Embedding
    from mlp_xp.layers import Identity as Identity
    from mlp_xp.layers import LayerNorm as LayerNorm
    from mlp_xp.layers import LeakyReLU as LeakyReLU
    from mlp_xp.layers import ReLU as ReLU
    from mlp_xp.layers import Rescale as Rescale
    from mlp_xp.layers import Sigmoid as Sigmoid
    from mlp_xp.layers import Softplus as Softplus
    from mlp_xp.layers import Tanh as Tanh
    from mlp_xp.losses import AbsoluteError as AbsoluteError
    from mlp_xp.losses import BinaryCrossEntropy as BinaryCrossEntropy
    from mlp_xp.losses import Huber as Huber
    from mlp_xp.losses import Poisson as Poisson
    from mlp_xp.losses import Quantile as Quantile
    from mlp_xp.losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
    from mlp_xp.losses import SquaredError as SquaredError
    from mlp_xp.model import Model as Model
    from mlp_xp.models import mlp as mlp
    from mlp_xp.optimizers import SGD as SGD
    from mlp_xp.optimizers import Adam as Adam
    from mlp_xp.optimizers import AdamW as AdamW
    from mlp_xp.optimizers import RMSprop as RMSprop
    from mlp_xp.step import TrainState as TrainState
    from mlp_xp.step import TrainStep as TrainStep
    from mlp_xp.trainer import Trainer as Trainer
    from mlp_xp.trainer import TrainingDivergedError as TrainingDivergedError
    from mlp_xp_backends import BackendError as BackendError
    from mlp_xp_backends import available_backends as available_backends
    from mlp_xp_backends import get_backend as get_backend

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

"""Multilayer perceptrons on any array library: the math is written once, by hand, for NumPy, CuPy, torch and JAX.

Examples in docstrings assume these lines:

>>> import numpy as np
>>> from mlp_xp import *
>>> xp = get_backend("cpu").xp
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlp_xp.data.sources import BatchSource as BatchSource
    from mlp_xp.data.sources import arrow_batches as arrow_batches
    from mlp_xp.files.disk import FileError as FileError
    from mlp_xp.model import Model as Model
    from mlp_xp.model import load as load
    from mlp_xp.nn import metrics as metrics
    from mlp_xp.nn import schedules as schedules
    from mlp_xp.nn.gradient_check import check_gradients as check_gradients
    from mlp_xp.nn.initializers import Constant as Constant
    from mlp_xp.nn.initializers import Glorot as Glorot
    from mlp_xp.nn.initializers import He as He
    from mlp_xp.nn.initializers import Initializer as Initializer
    from mlp_xp.nn.initializers import LeCun as LeCun
    from mlp_xp.nn.initializers import Normal as Normal
    from mlp_xp.nn.initializers import Uniform as Uniform
    from mlp_xp.nn.layers import GELU as GELU
    from mlp_xp.nn.layers import Affine as Affine
    from mlp_xp.nn.layers import BatchNorm as BatchNorm
    from mlp_xp.nn.layers import Chain as Chain
    from mlp_xp.nn.layers import Dense as Dense
    from mlp_xp.nn.layers import Dropout as Dropout
    from mlp_xp.nn.layers import Embedding as Embedding
    from mlp_xp.nn.layers import Identity as Identity
    from mlp_xp.nn.layers import Layer as Layer
    from mlp_xp.nn.layers import LayerNorm as LayerNorm
    from mlp_xp.nn.layers import LeakyReLU as LeakyReLU
    from mlp_xp.nn.layers import ReLU as ReLU
    from mlp_xp.nn.layers import Rescale as Rescale
    from mlp_xp.nn.layers import Sigmoid as Sigmoid
    from mlp_xp.nn.layers import Softplus as Softplus
    from mlp_xp.nn.layers import StatefulLayer as StatefulLayer
    from mlp_xp.nn.layers import Tanh as Tanh
    from mlp_xp.nn.layers.base import Spec as Spec
    from mlp_xp.nn.layers.base import check_width as check_width
    from mlp_xp.nn.losses import AbsoluteError as AbsoluteError
    from mlp_xp.nn.losses import BinaryCrossEntropy as BinaryCrossEntropy
    from mlp_xp.nn.losses import Huber as Huber
    from mlp_xp.nn.losses import Loss as Loss
    from mlp_xp.nn.losses import Poisson as Poisson
    from mlp_xp.nn.losses import Quantile as Quantile
    from mlp_xp.nn.losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
    from mlp_xp.nn.losses import SquaredError as SquaredError
    from mlp_xp.nn.networks import mlp as mlp
    from mlp_xp.nn.optimizers import SGD as SGD
    from mlp_xp.nn.optimizers import Adam as Adam
    from mlp_xp.nn.optimizers import AdamW as AdamW
    from mlp_xp.nn.optimizers import Optimizer as Optimizer
    from mlp_xp.nn.optimizers import Rates as Rates
    from mlp_xp.nn.optimizers import RMSprop as RMSprop
    from mlp_xp.nn.schedules import ConstantRate as ConstantRate
    from mlp_xp.nn.schedules import Cosine as Cosine
    from mlp_xp.nn.schedules import ExponentialDecay as ExponentialDecay
    from mlp_xp.nn.schedules import InverseScaling as InverseScaling
    from mlp_xp.nn.schedules import LossRatio as LossRatio
    from mlp_xp.nn.schedules import Moment as Moment
    from mlp_xp.nn.schedules import OneCycle as OneCycle
    from mlp_xp.nn.schedules import ReduceOnPlateau as ReduceOnPlateau
    from mlp_xp.nn.schedules import Schedule as Schedule
    from mlp_xp.nn.schedules import StepDecay as StepDecay
    from mlp_xp.nn.step import TrainState as TrainState
    from mlp_xp.nn.step import TrainStep as TrainStep
    from mlp_xp.sweep.halving import Halving as Halving
    from mlp_xp.sweep.result import SweepResult as SweepResult
    from mlp_xp.sweep.sweep import Sweep as Sweep
    from mlp_xp.training.callbacks import Callback as Callback
    from mlp_xp.training.callbacks import Checkpoint as Checkpoint
    from mlp_xp.training.divergence import TrainingDivergedError as TrainingDivergedError
    from mlp_xp.training.early_stopping import EarlyStopping as EarlyStopping
    from mlp_xp.training.history import History as History
    from mlp_xp.training.loggers import CSVLog as CSVLog
    from mlp_xp.training.loggers import JSONLines as JSONLines
    from mlp_xp.training.loggers import Progress as Progress
    from mlp_xp.training.loggers import TensorBoard as TensorBoard
    from mlp_xp.training.lr_finder import RateSearch as RateSearch
    from mlp_xp.training.messages import RankError as RankError
    from mlp_xp.training.trainer import Trainer as Trainer
    from mlp_xp_backends import BackendError as BackendError
    from mlp_xp_backends import available_backends as available_backends
    from mlp_xp_backends import get_backend as get_backend
    from mlp_xp_backends.trees import ABSENT as ABSENT

_HOMES = {
    "data.sources": (
        "BatchSource",
        "arrow_batches",
    ),
    "files.disk": ("FileError",),
    "model": (
        "Model",
        "load",
    ),
    "nn.gradient_check": ("check_gradients",),
    "nn.initializers": (
        "Constant",
        "Glorot",
        "He",
        "Initializer",
        "LeCun",
        "Normal",
        "Uniform",
    ),
    "nn.layers": (
        "Affine",
        "BatchNorm",
        "Chain",
        "Dense",
        "Dropout",
        "Embedding",
        "GELU",
        "Identity",
        "Layer",
        "LayerNorm",
        "LeakyReLU",
        "ReLU",
        "Rescale",
        "Sigmoid",
        "Softplus",
        "StatefulLayer",
        "Tanh",
    ),
    "nn.layers.base": (
        "Spec",
        "check_width",
    ),
    "nn.losses": (
        "AbsoluteError",
        "BinaryCrossEntropy",
        "Huber",
        "Loss",
        "Poisson",
        "Quantile",
        "SoftmaxCrossEntropy",
        "SquaredError",
    ),
    "nn.networks": ("mlp",),
    "nn.optimizers": (
        "Adam",
        "AdamW",
        "Optimizer",
        "RMSprop",
        "Rates",
        "SGD",
    ),
    "nn.schedules": (
        "ConstantRate",
        "Cosine",
        "ExponentialDecay",
        "InverseScaling",
        "LossRatio",
        "Moment",
        "OneCycle",
        "ReduceOnPlateau",
        "Schedule",
        "StepDecay",
    ),
    "nn.step": (
        "TrainState",
        "TrainStep",
    ),
    "sweep.halving": ("Halving",),
    "sweep.result": ("SweepResult",),
    "sweep.sweep": ("Sweep",),
    "training.callbacks": (
        "Callback",
        "Checkpoint",
    ),
    "training.divergence": ("TrainingDivergedError",),
    "training.early_stopping": ("EarlyStopping",),
    "training.history": ("History",),
    "training.loggers": (
        "CSVLog",
        "JSONLines",
        "Progress",
        "TensorBoard",
    ),
    "training.lr_finder": ("RateSearch",),
    "training.messages": ("RankError",),
    "training.trainer": ("Trainer",),
}
_MODULE_OF = {name: f"mlp_xp.{module}" for module, names in _HOMES.items() for name in names} | dict.fromkeys(
    ("BackendError", "available_backends", "get_backend"), "mlp_xp_backends"
)
_MODULE_OF["ABSENT"] = "mlp_xp_backends.trees"
_MODULES = {"metrics": "nn.metrics", "schedules": "nn.schedules", "nn": "nn", "parity": "parity", "sklearn": "sklearn"}

__all__ = sorted([*_MODULE_OF, "metrics", "schedules"])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that ``import mlp_xp`` alone imports nothing else."""
    if name in _MODULES:
        return import_module(f"mlp_xp.{_MODULES[name]}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mlp_xp' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

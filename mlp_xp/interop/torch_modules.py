"""Conversion between networks and modules of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlp_xp._optional import need
from mlp_xp.interop.parts import Part, Softmax, assemble, flat, row, unsupported
from mlp_xp.model import Model
from mlp_xp.nn.layers import (
    GELU,
    Affine,
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
from mlp_xp.nn.layers.embedding import Table
from mlp_xp.nn.layers.normalization import Moments, Scale
from mlp_xp.nn.losses import Loss
from mlp_xp.nn.step import check_network
from mlp_xp_backends import Backend
from mlp_xp_backends.memory import to_host
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray, Tree

SOFTPLUS_THRESHOLD = 40.0
"""Where PyTorch's softplus becomes linear: ``exp(-40)`` is below the rounding of float64."""


def to_torch(model: Model) -> Any:
    """Convert ``model`` to an ``nn.Sequential`` with copies of the weights, on the CPU, in evaluation mode.

    The module returns logits.
    """
    need("torch", "torch")
    params, state = to_host(model.backend, (model.params, model.state))
    return _sequential(model.network, params, state).eval()


def from_torch(
    source: Any,
    loss: Loss | None = None,
    *,
    network: Chain | None = None,
    ids_per_row: int | None = None,
    device: str | Backend | None = None,
) -> Model:
    """Convert an ``nn.Sequential``, or a state dict with the layers of ``network``, to a model."""
    torch = need("torch", "torch")
    if isinstance(source, Mapping):
        if network is None:
            raise ValueError("a state dict contains no layers: pass the network, such as network=mlp(784, 300, 10)")
        check_network(network)
        source = _filled(network, source)
    if not isinstance(source, torch.nn.Sequential):
        raise TypeError(f"expected an nn.Sequential or a state dict, got {type(source).__name__}")
    return assemble(_parts(list(source), ids_per_row), loss, device)


def _sequential(network: Chain, params: Tree, state: Tree) -> Any:
    from torch import nn

    modules: list[Any] = []
    rescale = None
    for layer, p, s in zip(network.layers, params, state, strict=True):
        if rescale is not None:
            p, rescale = _folded(rescale, layer, p), None
        if isinstance(layer, Rescale):
            rescale = layer
        elif isinstance(layer, Chain):
            modules.append(_sequential(layer, p, s))
        else:
            modules += _modules(nn, layer, p, s)
    if rescale is not None:
        raise unsupported("to PyTorch", rescale, "no Dense layer follows that could take its scale")
    return nn.Sequential(*modules)


def _folded(rescale: Rescale, layer: Any, p: Tree) -> Affine:
    """The parameters of ``layer`` on unscaled input: ``(x - t) s W + b = x (s W) + (b - t 1's W)``."""
    if not isinstance(layer, Dense) or (rescale.shift and not layer.bias):
        raise unsupported("to PyTorch", rescale, "no Dense layer with a bias follows that could take its scale")
    W = (p.W.astype(np.float64) * rescale.scale).astype(p.W.dtype)
    return Affine(W, p.b - rescale.shift * W.sum(axis=0, keepdims=True) if layer.bias else ABSENT)


def _modules(nn: Any, layer: Any, p: Tree, s: Tree) -> list[Any]:
    """The modules of a layer, with its parameters and state."""
    match layer:
        case Dense():
            arrays = {"weight": p.W.T, **({"bias": flat(p.b)} if layer.bias else {})}
            return [_fill(nn.Linear(layer.n_in, layer.n_out, bias=layer.bias), arrays)]
        case BatchNorm():
            arrays = {"weight": p.gamma, "bias": p.beta, "running_mean": s.mean, "running_var": s.var}
            module = nn.BatchNorm1d(layer.n, eps=layer.eps, momentum=layer.momentum)
            return [_fill(module, {name: flat(a) for name, a in arrays.items()})]
        case LayerNorm():
            arrays = {"weight": flat(p.gamma), "bias": flat(p.beta)}
            return [_fill(nn.LayerNorm(layer.n, eps=layer.eps), arrays)]
        case Embedding(combine="concat"):
            return [_fill(nn.Embedding(layer.n_ids, layer.dim), {"weight": p.E}), nn.Flatten()]
        case Embedding():
            return [_fill(nn.EmbeddingBag(layer.n_ids, layer.dim, mode="sum"), {"weight": p.E})]
        case LeakyReLU():
            return [nn.LeakyReLU(layer.slope)]
        case Softplus():
            return [nn.Softplus(threshold=SOFTPLUS_THRESHOLD)]
        case GELU():
            return [nn.GELU(approximate="tanh")]
        case Dropout():
            return [nn.Dropout(layer.rate)]
        case Identity() | ReLU() | Sigmoid() | Tanh():
            return [getattr(nn, type(layer).__name__)()]
    raise unsupported("to PyTorch", layer)


def _fill(module: Any, arrays: dict[str, HostArray]) -> Any:
    """Return ``module`` with copies of these arrays as parameters, in their dtype."""
    import torch

    state = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    module.to(state["weight"].dtype).load_state_dict(state, strict=False)
    return module


def _filled(network: Chain, source: Mapping[str, Any]) -> Any:
    """The modules of ``network`` with the arrays of a state dict, matched by order, end of the name, and shape."""
    rng = np.random.default_rng(0)
    module = _sequential(network, network.init(rng), network.init_state(rng))
    wanted = {name: a for name, a in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: a for name, a in source.items() if not name.endswith("num_batches_tracked")}
    shapes = [[(n.rpartition(".")[2], tuple(a.shape)) for n, a in d.items()] for d in (wanted, given)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the state dict does not fit the network: it has the shapes {shapes[1]}, the network {shapes[0]}"
        )
    dtype = next(iter(given.values())).dtype
    module.to(dtype).load_state_dict(dict(zip(wanted, given.values(), strict=True)), strict=False)
    return module


def _parts(modules: list[Any], ids_per_row: int | None) -> list[Part | Softmax]:
    """The layers that correspond to these modules."""
    from torch import nn

    parts: list[Part | Softmax] = []
    for i, module in enumerate(modules):
        following = modules[i + 1 :]
        if isinstance(module, nn.Sequential):
            parts += _parts(list(module), ids_per_row)
        elif isinstance(module, nn.Flatten):
            continue  # rows of features are already flat
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            parts.append(_embedding(module, following, ids_per_row))
        else:
            parts.append(_part(nn, module))
    return parts


def _part(nn: Any, module: Any) -> Part | Softmax:
    """The layer that corresponds to a module."""
    arrays = {name: _host(a) for name, a in module.state_dict().items()}
    match module:
        case nn.Linear():
            bias = row(arrays["bias"]) if "bias" in arrays else ABSENT
            dense = Dense(module.in_features, module.out_features, bias="bias" in arrays)
            return Part(dense, Affine(np.ascontiguousarray(arrays["weight"].T), bias))
        case nn.BatchNorm1d(affine=True, track_running_stats=True) if module.momentum is not None:
            norm = BatchNorm(module.num_features, momentum=module.momentum, eps=module.eps)
            state = Moments(row(arrays["running_mean"]), row(arrays["running_var"]))
            return Part(norm, Scale(row(arrays["weight"]), row(arrays["bias"])), state)
        case nn.LayerNorm() if set(arrays) == {"weight", "bias"} and len(module.normalized_shape) == 1:
            params = Scale(row(arrays["weight"]), row(arrays["bias"]))
            return Part(LayerNorm(module.normalized_shape[0], eps=module.eps), params)
        case nn.LeakyReLU():
            return Part(LeakyReLU(module.negative_slope))
        case nn.Softplus(beta=1):
            return Part(Softplus())
        case nn.GELU(approximate="tanh"):
            return Part(GELU())
        case nn.GELU():
            raise unsupported("from PyTorch", module, "only GELU(approximate='tanh') has a counterpart")
        case nn.Dropout():
            dropout = Dropout(module.p)
            return Part(dropout, ABSENT, dropout.init_state(np.random.default_rng(0)))
        case nn.Softmax():
            return Softmax()
    for kind in (Identity, ReLU, Sigmoid, Tanh):
        if isinstance(module, getattr(nn, kind.__name__)):
            return Part(kind())
    raise unsupported("from PyTorch", module)


def _embedding(module: Any, following: list[Any], ids_per_row: int | None) -> Part:
    """An embedding. The linear layer after it implies the number of ids in a row."""
    from torch import nn

    table, is_bag = Table(_host(module.weight)), isinstance(module, nn.EmbeddingBag)
    if (is_bag and module.mode != "sum") or module.max_norm is not None or module.padding_idx is not None:
        raise unsupported("from PyTorch", module, "only mode='sum' without max_norm and padding_idx has a counterpart")
    n_ids, dim = table.E.shape
    if ids_per_row is None:
        linear = next((m for m in following if isinstance(m, nn.Linear)), None)
        if is_bag or linear is None:
            raise ValueError(f"the number of ids in a row does not follow from {module}: pass it as ids_per_row")
        ids_per_row = linear.in_features // dim
    return Part(Embedding(n_ids, dim, ids_per_row=ids_per_row, combine="sum" if is_bag else "concat"), table)


def _host(tensor: Any) -> HostArray:
    """A copy of a tensor on the host, half precision as float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return np.array(tensor.numpy())

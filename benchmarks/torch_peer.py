"""PyTorch as its users write it: an ``nn.Module``, autograd and ``torch.optim``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.networks import Array, Net, Task
from benchmarks.peers import Peer


class PyTorch(Peer):
    """Eager PyTorch with one of its faster optimizers, or the step compiled by ``torch.compile``."""

    def __init__(self, device: str, task: Task, optimizer: Literal["fused", "foreach"], compiled: bool = False) -> None:
        weights, self.rng = task.start()
        self.task, self.device = task, device
        x, y = task.data
        self.x, self.y = torch.from_numpy(x).to(device), torch.from_numpy(y.astype(np.int64)).to(device)
        self.net = module(task.net, weights).to(device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch_optimizer(task, self.net, **{optimizer: True})
        if compiled:
            torch.compiler.reset()  # otherwise, earlier tasks count as recompilations, whose number is limited
        self.graphs = compiled and device == "cuda"
        mode = "reduce-overhead" if self.graphs else "default"  # that is, with CUDA graphs
        self.loss = torch.compile(self._loss, mode=mode) if compiled else self._loss
        self.update = torch.compile(self.optimizer.step) if compiled else self.optimizer.step

    def place(self, order: Array) -> tuple[Any, ...]:
        return tuple(torch.from_numpy(order.astype(np.int64)).to(self.device).unbind())

    def steps(self, placed: tuple[Any, ...]) -> Array:
        losses = []
        for rows in placed:
            self.optimizer.zero_grad()
            loss = self.loss(self.x.index_select(0, rows), self.y.index_select(0, rows))
            loss.backward()
            self.update()
            losses.append(loss.detach().clone() if self.graphs else loss.detach())  # graphs reuse that memory
        if self.device == "cuda":
            torch.cuda.synchronize()
        return np.asarray(torch.stack(losses).numpy(force=True))

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.net(x), y)


def module(net: Net, weights: list[Array]) -> nn.Sequential:
    """The network with these weights."""
    activation = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}[net.activation]
    layers: list[nn.Module] = [nn.Embedding(net.words.ids, net.words.dim), nn.Flatten()] if net.words else []
    for n, m in pairwise(net.widths):
        layers += [nn.Linear(n, m), activation()]
    network = nn.Sequential(*layers[:-1])
    tables = len(weights) % 2
    pairs = zip(weights[tables::2], weights[tables + 1 :: 2], strict=True)
    values = [*weights[:tables], *(part for W, b in pairs for part in (W.T, b[0]))]
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return network


def torch_optimizer(task: Task, net: nn.Module, **implementation: bool) -> torch.optim.Optimizer:
    """The task's rule with our constants."""
    rule, parameters = task.rule, net.parameters()
    if task.optimizer == "adam":
        return torch.optim.Adam(parameters, rule.lr, (rule.b1, rule.b2), rule.eps, **implementation)
    return torch.optim.SGD(parameters, rule.lr, rule.momentum, **implementation)

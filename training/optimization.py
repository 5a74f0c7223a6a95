"""Optimiser, weight-decay groups, and the exponential moving average of the weights."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from partimento.training.arguments import TrainArguments


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict]:
    """Return the optimiser's groups; without `decay_all`, biases, norms and embeddings are not decayed."""
    if decay_all:
        return [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": weight_decay}]
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        excluded = parameter.ndim < 2 or name.endswith("bias") or id(parameter) in embeddings
        (free if excluded else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, train: TrainArguments) -> torch.optim.Optimizer:
    """Return Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    groups = parameter_groups(model, train.weight_decay, train.decay_all)
    return torch.optim.AdamW(
        groups, lr=train.learning_rate, betas=(train.betas[0], train.betas[1]), eps=train.epsilon, fused=True
    )


class MovingAverage:
    """Exponential moving average of the trainable weights, in fp32, evaluated and saved apart from them."""

    FILE = "moving_average.safetensors"

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.shadow = {name: p.detach().clone().float() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights: shadow <- decay * shadow + (1 - decay) * weight."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                self.shadow[name].lerp_(parameter.detach().float(), 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the average; a second call restores both."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                kept = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name].copy_(kept)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint folder."""
        save_file(self.shadow, folder / self.FILE)

    def load(self, folder: Path) -> None:
        """Read it back."""
        for name, value in load_file(folder / self.FILE).items():
            self.shadow[name].copy_(value)


def all_finite(values: Iterable[float]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(torch.tensor(list(values), dtype=torch.float64)).all())

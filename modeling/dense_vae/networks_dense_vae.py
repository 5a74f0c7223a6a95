"""The two halves of the dense VAE, each a model of its own that can be saved and loaded alone.

Legend: B rows, J latent dimensions; `shape` is `config.input_shape`.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import itertools
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .configuration_dense_vae import DenseVAEConfig

ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu, "softplus": F.softplus}


class DensePosterior(NamedTuple):
    """`mu` and log-variance `logvar` of q(z | x), each `[B, J]`; no variance in a plain autoencoder."""

    mu: torch.Tensor
    logvar: torch.Tensor | None


class DenseStack(nn.Module):
    """Linear layers, each followed by the activation."""

    def __init__(self, sizes: tuple[int, ...], activation: str):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


class DenseVAEPreTrainedModel(PreTrainedModel):
    """Flags and initialisation."""

    config: DenseVAEConfig
    config_class = DenseVAEConfig
    base_model_prefix = "model"
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # the loss is a mean over items

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            if self.config.weight_init == "xavier_uniform":
                init.xavier_uniform_(module.weight)
            else:
                init.normal_(module.weight, std=module.in_features**-0.5)
            if self.config.bias_init == "thesis":
                init.normal_(module.bias, std=module.out_features**-0.5)
            else:
                init.zeros_(module.bias)
        elif isinstance(module, DenseVAEDecoder) and module.raw_scale is not None:
            init.constant_(module.raw_scale, math.log(math.expm1(max(1 - self.config.min_scale, 1e-6))))  # s = 1


class DenseVAEEncoder(DenseVAEPreTrainedModel):
    """x to mu and log-variance; can be saved and loaded alone."""

    base_model_prefix = "encoder"

    def __init__(self, config: DenseVAEConfig):
        super().__init__(config)
        config.validate()
        sizes = (config.encoder_input_size, *config.hidden_sizes)
        self.body = DenseStack(sizes, config.activation)
        self.to_mu = nn.Linear(sizes[-1], config.latent_size)
        self.to_logvar = nn.Linear(sizes[-1], config.latent_size) if config.variational else None
        self.post_init()

    def forward(self, input_values: torch.Tensor, observed_mask: torch.Tensor | None = None) -> DensePosterior:
        """Posterior of `[B, *shape]`; cells that are False in `observed_mask` `[B, *shape]` are not seen."""
        x = self._check(input_values, "input_values").to(self.dtype)
        if observed_mask is not None:
            observed_mask = self._check(observed_mask, "observed_mask").bool()
            x = torch.where(observed_mask, x, torch.zeros_like(x))  # not a product: hidden cells may hold NaN
        x = x.flatten(1)
        if self.config.mask_as_input:
            seen = torch.ones_like(x) if observed_mask is None else observed_mask.flatten(1).to(x)
            x = torch.cat([x, seen], 1)
        h = self.body(x)
        return DensePosterior(self.to_mu(h), None if self.to_logvar is None else self.to_logvar(h))

    def _check(self, values: torch.Tensor, name: str) -> torch.Tensor:
        if values.dim() < 1 or tuple(values.shape[1:]) != tuple(self.config.input_shape):
            shape = ", ".join(map(str, self.config.input_shape))
            raise ValueError(f"{name} must be [batch, {shape}], not {list(values.shape)}")
        return values


class DenseVAEDecoder(DenseVAEPreTrainedModel):
    """z to the logits of p(x | z), with `gaussian` to its mean; can be saved and loaded alone."""

    base_model_prefix = "decoder"
    main_input_name = "z"

    def __init__(self, config: DenseVAEConfig):
        super().__init__(config)
        config.validate()
        sizes = (config.latent_size, *reversed(config.hidden_sizes))
        self.body = DenseStack(sizes, config.activation)
        self.to_logits = nn.Linear(sizes[-1], config.input_size)
        self.raw_scale = nn.Parameter(torch.zeros(())) if config.likelihood == "gaussian" else None
        self.post_init()

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviation s of `gaussian`: softplus with a floor.

        Raises:
            ValueError: another likelihood.
        """
        if self.raw_scale is None:
            raise ValueError(f"likelihood={self.config.likelihood!r} has no scale")
        return self.config.min_scale + F.softplus(self.raw_scale)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """`[..., J]` to `[..., *shape]`."""
        if z.shape[-1] != self.config.latent_size:
            raise ValueError(f"z must be [..., {self.config.latent_size}], not {list(z.shape)}")
        logits = self.to_logits(self.body(z.to(self.dtype)))
        return logits.reshape(*z.shape[:-1], *self.config.input_shape)


__all__ = ["DenseVAEDecoder", "DenseVAEEncoder", "DenseVAEPreTrainedModel"]

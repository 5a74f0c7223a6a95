"""What the encoder, the model and its measurements return.

Legend: B rows, T steps, K tracks, N = T * K ids, V ids, Z latent size.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.modeling_outputs import ModelOutput

from .cache_musicvae import MusicVAECache


@dataclass
class MusicVAEEncoderOutput(ModelOutput):
    """Posterior of `[B, N]` ids: `mu`, `sigma` and ln sigma `[B, Z]`; `last_hidden_state` `[B, 1, Z]` is mu."""

    last_hidden_state: torch.Tensor | None = None
    mu: torch.Tensor | None = None
    sigma: torch.Tensor | None = None
    log_sigma: torch.Tensor | None = None


@dataclass
class MusicVAEOutput(ModelOutput):
    """Output of `MusicVAEModel.forward`; scalars are means over rows, in nats per sequence.

    `logits` are `[B, T, V]`, one row per step with the tracks side by side; with `decoder_input_ids` `[B, n]` they are
    `[B, n, V]`, one row per id with the other tracks at -inf. `kl_per_dim` is `[Z]`.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    kl: torch.Tensor | None = None
    kl_per_dim: torch.Tensor | None = None
    mu: torch.Tensor | None = None
    sigma: torch.Tensor | None = None
    z: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: MusicVAECache | None = None


class Posterior(NamedTuple):
    """`mu`, `sigma` and a point `z` of q(z | x), each `[B, Z]`."""

    mu: torch.Tensor
    sigma: torch.Tensor
    z: torch.Tensor


class ReconstructionNLL(NamedTuple):
    """Negative log-likelihoods in nats: `per_sequence` `[B]`, `per_step` `[B]`, `per_track` `[B, K]`."""

    per_sequence: torch.Tensor
    per_step: torch.Tensor
    per_track: torch.Tensor

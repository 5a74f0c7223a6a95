"""Encoder of MusicVAE: ids to a Gaussian over the latent space.

Legend: B rows, T steps, K tracks, N = T * K ids, H hidden size, Z latent size.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import torch
from torch import nn

from .configuration_musicvae import DRUM_ROLL_WIDTH, MusicVAEConfig
from .decoder_musicvae import LatentLinear, k_hot
from .latent_musicvae import softplus_and_log
from .outputs_musicvae import MusicVAEEncoderOutput
from .recurrent_musicvae import RecurrentStack


class MusicVAEEncoder(nn.Module):
    """Bidirectional recurrent encoder, flat or bar by bar."""

    main_input_name = "input_ids"

    def __init__(self, config: MusicVAEConfig):
        super().__init__()
        self.config = config
        sizes, width = config.encoder_hidden_sizes, config.encoder_input_size + config.control_size
        if config.encoder_type == "hierarchical_bilstm":
            sizes, top = sizes[:-1], sizes[-1:]
            self.bar_rnn = RecurrentStack(2 * sizes[-1], top, config.cell_type, bidirectional=True)
        self.rnn = RecurrentStack(width, sizes, config.cell_type, config.dropout, bidirectional=True)
        self.to_mu = LatentLinear(2 * config.encoder_hidden_sizes[-1], config.z_size)
        self.to_sigma = LatentLinear(2 * config.encoder_hidden_sizes[-1], config.z_size)

    def inputs(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids `[B, T, K]` to `[B, T, width]`: one-hot per track, or nine hits and "no hit" for drums alone."""
        config, dtype = self.config, self.to_mu.weight.dtype
        if config.encoder_input_size != config.vocab_size:
            bits = ids >> torch.arange(DRUM_ROLL_WIDTH - 1, device=ids.device) & 1
            return torch.cat([bits, ids == 0], -1).to(dtype)
        return k_hot(ids, 0, config.vocab_size, dtype)

    def forward(self, input_ids: torch.LongTensor, control: torch.Tensor | None = None, **kwargs):
        """Ids `[B, N]` and control `[B, T, control size]` to the posterior."""
        config = self.config
        x = self.inputs(input_ids.reshape(len(input_ids), config.num_steps, -1))
        if control is not None:
            x = torch.cat([x, control.to(x.dtype)], -1)
        if config.encoder_type == "hierarchical_bilstm":
            bars, _ = self.rnn(x.reshape(-1, config.steps_per_bar, x.shape[-1]))
            x, _ = self.bar_rnn(last_states(bars).reshape(len(x), config.num_bars, -1))
        else:
            x, _ = self.rnn(x)
        summary = last_states(x)
        precision = torch.promote_types(self.to_mu.weight.dtype, torch.float32)
        mu = self.to_mu(summary).to(precision)
        sigma, log_sigma = softplus_and_log(self.to_sigma(summary).to(precision))
        return MusicVAEEncoderOutput(mu[:, None], mu, sigma, log_sigma)


def last_states(outputs: torch.Tensor) -> torch.Tensor:
    """`[B, T, 2H]` to `[B, 2H]`: the forward state of the last step beside the backward state of the first."""
    forward, backward = outputs.chunk(2, -1)
    return torch.cat([forward[:, -1], backward[:, 0]], -1)

"""Layers of Museformer: the two-stage attention over contents and summaries, and the feed-forward block.

The equations: `modeling_museformer`. Legend: B rows, n tokens, s summary columns, d hidden size, h heads.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_museformer import ATTENTION_FUNCTIONS as ALL_ATTENTION_FUNCTIONS
from .attention_museformer import AttentionPlan, add_residual, eager_attention, gathered_attention
from .cache_museformer import MuseformerCache
from .configuration_museformer import MuseformerConfig


class XavierLinear(nn.Linear):
    """Stack of `num_matrices` square matrices, each Xavier uniform with `gain`; bias zero.

    Initialisation belongs to the module that owns the weight: transformers skips `_init_weights` for containers
    without parameters of their own.
    """

    def __init__(self, in_features: int, num_matrices: int = 1, *, gain: float = 1.0, bias: bool = False):
        self.bound = gain * math.sqrt(6 / (2 * in_features))
        super().__init__(in_features, num_matrices * in_features, bias=bias)


class VocabularyLinear(nn.Linear):
    """Output matrix N(0, 1 / in_features)."""


class MuseformerAttention(nn.Module):
    """Steps A, B and C for both streams."""

    def __init__(self, config: MuseformerConfig, layer_idx: int):
        super().__init__()
        d = config.hidden_size
        self.layer_idx = layer_idx
        self.num_heads, self.head_size = config.num_attention_heads, config.head_size
        self.scaling = self.head_size**-0.5
        self.attention_dropout = config.attention_dropout
        self.qkv_proj = XavierLinear(d, 3, gain=2**-0.5)  # W_Q, W_K, W_V
        self.content_bias = nn.Parameter(torch.zeros(3 * d))
        self.summary_bias = nn.Parameter(torch.zeros(3 * d))
        self.summary_proj = XavierLinear(d, 2, gain=2**-0.5)  # W_K2, W_V2
        self.out_proj = XavierLinear(d, bias=True)

    def forward(self, content, summary, plan: AttentionPlan, past_key_values: MuseformerCache | None = None):
        """Normed streams `[B, n, d]` and `[B, s, d]` (or `None`) to content, weights (eager only), summary."""
        d = content.shape[-1]
        probability = self.attention_dropout if self.training else 0.0
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(plan.backend, eager_attention)

        query, key_value = self._project(content, self.content_bias)
        if plan.is_step:
            past_key_values.append(self.layer_idx, key_value[:, 0])
            key, value = past_key_values.shown(self.layer_idx)
            query = self._heads(query)
            mask = past_key_values.step_mask
            if mask is None and plan.backend == "eager":
                mask = torch.ones((), dtype=torch.bool, device=query.device)
            output, weights = attend(
                self, query, key.to(query.dtype), value.to(query.dtype), mask, scaling=self.scaling
            )
            return self.out_proj(output.flatten(2)), weights, None

        if past_key_values is not None:
            key_value = past_key_values.extend_contents(self.layer_idx, key_value)
        second = None
        if summary is not None:
            summary = self.summarise(summary, key_value, plan, probability)
            second = self.summary_proj(summary)
        if past_key_values is not None:
            second = past_key_values.extend_summaries(self.layer_idx, second)
        if second is not None:
            key_value = torch.cat([second, key_value.to(second.dtype)], 1)
        key, value = key_value.to(query.dtype).split(d, -1)
        output, weights = attend(
            self,
            self._heads(query),
            self._heads(key),
            self._heads(value),
            plan.content_mask,
            dropout=probability,
            scaling=self.scaling,
            chunks=plan.content_chunks,
            num_summaries=0 if second is None else second.shape[1],
            padding=plan.padding,
        )
        output = self.out_proj(output.flatten(2))
        return output, weights, None if summary is None else self.out_proj(summary)

    def _project(self, states, bias):
        """q `[..., d]` and k, v `[..., 2 d]`; through the module, so that adapters on it act."""
        d = states.shape[-1]
        projected = self.qkv_proj(states)
        return (projected + bias.to(projected.dtype)).split([d, 2 * d], -1)

    def _heads(self, states):
        """`[B, n, d]` to `[B, h, n, d / h]`."""
        return states.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)

    def summarise(self, summary, key_value, plan, probability):
        """Step A: `[B, s, d]`."""
        rows, s, d = summary.shape
        query, own = self._project(summary, self.summary_bias)
        key, value = torch.cat([own, key_value.to(own.dtype)], 1).split(d, -1)
        if plan.backend == "eager":
            query, key, value = self._heads(query), self._heads(key), self._heads(value)
            output, _ = eager_attention(
                self, query, key, value, plan.summary_mask, dropout=probability, scaling=self.scaling
            )
            return output.flatten(2)
        output = gathered_attention(
            query.reshape(rows * s, d),
            key.reshape(-1, d),
            value.reshape(-1, d),
            plan.summary_chunks,
            self.num_heads,
            dropout=probability,
            scaling=self.scaling,
        )
        return output.view(rows, s, d)


class MuseformerFeedForward(nn.Module):
    def __init__(self, config: MuseformerConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states):
        return self.down_proj(F.gelu(self.up_proj(states)))


class MuseformerLayer(GradientCheckpointingLayer):
    """Pre-LN layer; LN1, LN2 and the feed-forward block are shared by both streams."""

    def __init__(self, config: MuseformerConfig, layer_idx: int):
        super().__init__()
        self.dropout = config.dropout
        self.is_last = layer_idx == config.num_hidden_layers - 1
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MuseformerAttention(config, layer_idx)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = MuseformerFeedForward(config)

    def forward(self, content, summary, plan: AttentionPlan, past_key_values: MuseformerCache | None = None):
        """Streams `[B, n, d]` and `[B, s, d]` or `None`; returns both."""
        normed = None if summary is None else self.attention_norm(summary)
        new_content, _, new_summary = self.attention(
            self.attention_norm(content), normed, plan, past_key_values=past_key_values
        )
        content = self._feed_forward(self._add(content, new_content))
        if summary is not None and not self.is_last:  # nothing reads the summaries after the last layer
            summary = self._feed_forward(self._add(summary, new_summary))
        return content, summary

    def close_bar(self, summary, key_value, plan: AttentionPlan):
        """Summary stream alone: `[R, 1, d]` over contents k, v `[R, m, 2 d]`; returns it and its k2, v2."""
        summarised = self.attention.summarise(self.attention_norm(summary), key_value, plan, 0.0)
        second = self.attention.summary_proj(summarised)
        if not self.is_last:
            summary = self._feed_forward(summary + self.attention.out_proj(summarised))
        return summary, second

    def _feed_forward(self, states):
        return self._add(states, self.feed_forward(self.feed_forward_norm(states)))

    def _add(self, states, update):
        return add_residual(states, update, self.dropout, self.training)


__all__ = ["MuseformerAttention", "MuseformerFeedForward", "MuseformerLayer", "VocabularyLinear", "XavierLinear"]

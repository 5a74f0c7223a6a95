"""One token per row without the modules: weights laid out for products of a vector with a matrix.

A decoding step reads every weight once and computes little, so its time is that of reading memory and of the calls
themselves. `StepWeights` holds copies for one cache, made when the first token is decoded:

    matrices   transposed, [in, out]: read in order, for one row on a CPU as a weighted sum of lines
    W_Q, b_Q   times 1 / sqrt(d_h)
    input      the projection of [token ; bar ; beat] is a sum of three: tables for tokens and beats, and the bar's
               part, which changes with the bar only

The result is that of the modules up to rounding. With `weights="half"` or `"int8"` the matrices of the layers are
stored in fewer bits, which a CPU reads in a fraction of the time: no longer exact, see `HalfProduct`, `Int8Product`.

Legend: B rows, d hidden size, h heads, V vocabulary, L visible keys.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .products_museformer import pack, product_class
from .structure_museformer import sinusoid


class LayerWeights(NamedTuple):
    """Weights of one layer: products, and weight and bias of each LayerNorm."""

    attention_norm: tuple[torch.Tensor, torch.Tensor]
    qkv: Any
    out: Any
    feed_forward_norm: tuple[torch.Tensor, torch.Tensor]
    up: Any
    down: Any


def _copied_modules(model) -> list[nn.Module]:
    modules = [model.embed_tokens, model.content_projection, model.norm]
    for layer in model.layers:
        attention, block = layer.attention, layer.feed_forward
        modules += [attention.qkv_proj, attention.out_proj, block.up_proj, block.down_proj]
        modules += [layer.attention_norm, layer.feed_forward_norm]
    return modules


def _is_plain(module: nn.Module) -> bool:
    forward = type(module).forward
    return forward in (nn.Linear.forward, nn.Embedding.forward, nn.LayerNorm.forward) and not module.weight.is_meta


class StepWeights:
    """What a `MuseformerModel` computes for one token per row that continues a cache.

    Args:
        model: `MuseformerModel` whose weights are copied; later changes of them are not seen.
        weights: `exact`, `half` or `int8`.
        rows: B of the steps; those of one row have products of their own.
    """

    @torch.no_grad()
    def __init__(self, model, weights: str = "exact", rows: int = 1):
        config, projection = model.config, model.content_projection
        self.epsilon = config.layer_norm_eps
        self.bar_embedding_size = config.bar_embedding_size
        d, bar_size = config.hidden_size, config.bar_embedding_size
        with torch.autocast(projection.weight.device.type, enabled=False):
            of_token, of_bar, of_beat = projection.weight.split([d, bar_size, config.beat_embedding_size], 1)
            self.tokens = F.linear(model.embed_tokens.weight * math.sqrt(d), of_token, projection.bias)
            beats = torch.arange(config.num_positions + 1, device=of_beat.device)
            self.beats = F.linear(sinusoid(beats, config.beat_embedding_size, of_beat.dtype), of_beat)
            self.of_bar = of_bar.contiguous()
            product = product_class(weights, rows, projection.weight)
            self.layers = [self._layer(layer, product) for layer in model.layers]
            pack([product for layer in self.layers for product in (layer.qkv, layer.out, layer.up, layer.down)])
        self.norm = model.norm.weight.clone(), model.norm.bias.clone()

    @staticmethod
    def supports(model) -> bool:
        """Whether the modules are the original ones on a real device: no adapter, quantisation,
        offloading or hook."""
        changed = (m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
        return not any(changed) and all(map(_is_plain, _copied_modules(model)))

    @staticmethod
    def _layer(layer, product) -> LayerWeights:
        attention, block = layer.attention, layer.feed_forward
        weight, bias = attention.qkv_proj.weight.clone(), attention.content_bias.clone()
        d = weight.shape[1]
        weight[:d] *= attention.scaling
        bias[:d] *= attention.scaling
        return LayerWeights(
            (layer.attention_norm.weight.clone(), layer.attention_norm.bias.clone()),
            product(weight, bias),
            product(attention.out_proj.weight, attention.out_proj.bias),
            (layer.feed_forward_norm.weight.clone(), layer.feed_forward_norm.bias.clone()),
            product(block.up_proj.weight, block.up_proj.bias),
            product(block.down_proj.weight, block.down_proj.bias),
        )

    def __deepcopy__(self, memo):
        return self  # never written to

    def embed_bars(self, numbers: torch.Tensor) -> torch.Tensor:
        """Bar numbers `[B]` to their part of the input, `[B, d]`."""
        return F.linear(sinusoid(numbers, self.bar_embedding_size, self.of_bar.dtype), self.of_bar)

    def __call__(self, tokens: torch.Tensor, beats: torch.Tensor, bars: torch.Tensor, cache) -> torch.Tensor:
        """Token and beat ids `[B]` and `embed_bars` `[B, d]` to states `[B, d]`; appends to `cache`."""
        states = F.embedding(tokens, self.tokens) + F.embedding(beats, self.beats) + bars
        shape, epsilon = states.shape[1:], self.epsilon
        for index, layer in enumerate(self.layers):
            normed = F.layer_norm(states, shape, *layer.attention_norm, epsilon)
            projected = layer.qkv(normed)
            states = states + layer.out(self._attend(projected, index, cache))
            normed = F.layer_norm(states, shape, *layer.feed_forward_norm, epsilon)
            states = states + layer.down(F.gelu(layer.up(normed)))
        return F.layer_norm(states, shape, *self.norm, epsilon)

    def _attend(self, projected, index, cache):
        """Step C for scaled q and k, v side by side, `[B, 3 d]`."""
        d = projected.shape[1] // 3
        cache.append(index, projected[:, d:])
        return cache.attend(index, projected[:, :d]).to(projected.dtype)


__all__ = ["StepWeights"]

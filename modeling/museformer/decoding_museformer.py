"""One token per row without the modules: weights laid out for products of a vector with a matrix.

A decoding step reads every weight once and computes little, so its time is that of reading memory and of the calls
themselves. `StepWeights` holds copies for one cache, made when the first token is decoded:

    matrices   transposed, [in, out]: read in order, which a CPU does up to 1.5 times faster
    W_Q, b_Q   times 1 / sqrt(d_h)
    input      the projection of [token ; bar ; beat] is a sum of three: tables for tokens and beats, and the bar's
               part, which changes with the bar only

The result is that of the modules up to rounding. With `weights="int8"` the matrices of the layers are stored in eight
bits, one scale per output, which a CPU reads in a fraction of the time: no longer exact, see `Int8Product`.

Legend: B rows, d hidden size, h heads, V vocabulary, L visible keys.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import contextlib
import math
import mmap
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .structure_museformer import sinusoid


def large_zeros(like: torch.Tensor, shape) -> torch.Tensor:
    """Zeros of the dtype and device of `like`; on Linux in huge pages if they are in main memory and large.

    A step reads tens of megabytes once: with pages of 4 kB a fifth of its time goes into looking them up.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_zeros(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)


class Product:
    """States `[B, in]` to `[B, out]`: `x W^T + b` with the matrix stored as `[in, out]`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        self.weight, self.bias = weight.t().clone(memory_format=torch.contiguous_format), bias.clone()

    def __call__(self, states):
        return torch.addmm(self.bias, states, self.weight)


class Int8Product:
    """`Product` with weights rounded to 127 steps per output row and states to bfloat16; relative error about 1%."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.weight = (weight / scale[:, None]).round().to(torch.int8)
        self.scale, self.bias = scale.to(torch.bfloat16), bias.clone()

    def __call__(self, states):
        product = torch._weight_int8pack_mm(states.to(torch.bfloat16), self.weight, self.scale)
        return product.to(states.dtype) + self.bias


HUGE_PAGE = 2**21  # bytes

PRODUCTS = {"exact": Product, "int8": Int8Product}


def pack(products: list) -> None:
    """Put the matrices of `products` one behind the other in one block of memory."""
    block = large_zeros(products[0].weight, (sum(product.weight.numel() for product in products),))
    for product, place in zip(products, block.split([product.weight.numel() for product in products])):
        product.weight = place.view(product.weight.shape).copy_(product.weight)


class LayerWeights(NamedTuple):
    """Weights of one layer: products, and weight and bias of each LayerNorm."""

    attention_norm: tuple[torch.Tensor, torch.Tensor]
    qkv: Product | Int8Product
    out: Product | Int8Product
    feed_forward_norm: tuple[torch.Tensor, torch.Tensor]
    up: Product | Int8Product
    down: Product | Int8Product


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
        weights: `exact` or `int8`.
    """

    @torch.no_grad()
    def __init__(self, model, weights: str = "exact"):
        config, projection = model.config, model.content_projection
        self.num_heads, self.epsilon = config.num_attention_heads, config.layer_norm_eps
        self.bar_embedding_size = config.bar_embedding_size
        d, bar_size = config.hidden_size, config.bar_embedding_size
        with torch.autocast(projection.weight.device.type, enabled=False):
            of_token, of_bar, of_beat = projection.weight.split([d, bar_size, config.beat_embedding_size], 1)
            self.tokens = F.linear(model.embed_tokens.weight * math.sqrt(d), of_token, projection.bias)
            beats = torch.arange(config.num_positions + 1, device=of_beat.device)
            self.beats = F.linear(sinusoid(beats, config.beat_embedding_size, of_beat.dtype), of_beat)
            self.of_bar = of_bar.contiguous()
            self.layers = [self._layer(layer, PRODUCTS[weights]) for layer in model.layers]
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
        num_rows, d, heads = len(projected), projected.shape[1] // 3, self.num_heads
        key, value = cache.append(index, projected[:, d:])
        query = projected[:, :d].to(key.dtype)
        if num_rows == 1 and cache.step_mask is None:
            # two plain products read keys and values faster than the fused kernel does
            weights = torch.bmm(query.view(heads, 1, -1), key[0].transpose(1, 2)).softmax(-1)
            output = torch.bmm(weights, value[0])
        else:
            query = query.view(num_rows, heads, 1, -1)
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=cache.step_mask, scale=1.0)
        return output.reshape(num_rows, d).to(projected.dtype)


__all__ = ["PRODUCTS", "StepWeights", "large_zeros"]

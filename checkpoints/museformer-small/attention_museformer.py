"""Attention back-ends of Museformer: one softmax over fine contents and coarse summaries.

All back-ends compute softmax(scaling * q k^T over the visible keys) v with keys laid out as [summaries | contents]
and differ only in how they skip what is invisible:

    eager           dense boolean mask, matmul and softmax; the reference, any dtype
    sdpa            the same mask handed to PyTorch's fused attention; O(n^2) mask memory
    flex_attention  block-sparse, from bar ranges per 128-token block; CUDA for training, inference only on a CPU.
                    Compiled once per power of two of the batch's tokens. Several tokens that continue a cache take
                    what `auto` would, with a warning.
    bar_gather      every bar gathers its own key list; linear memory and time, any device, float64 too
    auto            sdpa for short rows, bar_gather for long ones (`choose_backend`)

A single token that continues a cache is one dense product over the keys it sees, with every back-end.

Shapes: query `[B, heads, q, head_dim]`, key and value `[B, heads, S + k, head_dim]`, result `[B, q, heads, head_dim]`.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import functools
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from .structure_museformer import (
    FLEX_BLOCK,
    GatherChunk,
    content_block_mask,
    content_chunks,
    content_mask,
    summary_chunks,
    summary_mask,
)

logger = logging.get_logger(__name__)

BACKENDS = ("auto", "eager", "sdpa", "flex_attention", "bar_gather")

# `auto` takes the dense mask up to this many tokens squared. Measured on a CPU, `small` preset: the two back-ends cross
# at 250 tokens in bf16 training with attention dropout and at 900 in float32 inference.
SHORT_ROW = 384
# Queries per gathered tile: longer bars are split, so that a long bar does not widen its neighbours' chunk.
TILE = 192
# Compiled variants of flex_attention: one per power of two of the batch's tokens, precision and gradient mode.
FLEX_COMPILATIONS = 64
# Padded attention weights computed at a time: what fits a CPU cache, and what fills a GPU.
CHUNK_WEIGHTS = {"cpu": 2**21, "cuda": 2**26}


def choose_backend(num_queries: int, num_keys: int) -> str:
    """Resolve `auto`. `bar_gather` has no padding per bar, so that its work does not depend on the longest bar."""
    backend = "sdpa" if num_queries * num_keys <= SHORT_ROW**2 else "bar_gather"
    logger.info_once(f"Museformer attention: `auto` takes `{backend}` for rows of this length.")
    return backend


def chunk_budget(device: torch.device, num_heads: int) -> int:
    """Padded query-key pairs per chunk."""
    return max(CHUNK_WEIGHTS.get(device.type, CHUNK_WEIGHTS["cuda"]) // num_heads, 1)


def eager_attention(module, query, key, value, mask, *, dropout=0.0, scaling, **kwargs):
    """Dense reference; returns the attention weights `[B, heads, q, S + k]` too."""
    scores = (query @ key.transpose(2, 3)) * scaling
    precision = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.to(precision).masked_fill(~mask, float("-inf"))
    weights = F.dropout(scores.softmax(-1), dropout, dropout > 0)
    return (weights.to(value.dtype) @ value).transpose(1, 2), weights


def sdpa_attention(module, query, key, value, mask, *, dropout=0.0, scaling, **kwargs):
    """The dense mask in PyTorch's fused attention."""
    if mask is None and query.shape[0] == query.shape[2] == 1 and query.device.type == "cpu":
        # decoding one row: two plain products read keys and values faster than the fused kernel does
        weights = (query * scaling @ key.transpose(2, 3)).softmax(-1)
        return (weights @ value).transpose(1, 2), None
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2), None


@functools.cache
def _compiled_flex_attention():
    # fullgraph: past the limit of compilations an error, not the unfused kernel with its n x n scores
    return torch.compile(torch_flex_attention, dynamic=False, fullgraph=True)


def _flat_rows(states, blocks_of: list[int], length: int):
    """`[B, h, k, d]`, the segments of every row (sizes `blocks_of`) padded to whole blocks, as `[1, h, length, d]`."""
    segments = states.transpose(1, 2).split(blocks_of, 1)
    states = torch.cat([F.pad(s, (0, 0, 0, 0, 0, -s.shape[1] % FLEX_BLOCK)) for s in segments], 1).flatten(0, 1)
    return F.pad(states, (0, 0, 0, 0, 0, length - len(states))).transpose(0, 1)[None].contiguous()


def flex_attention(module, query, key, value, mask, *, dropout=0.0, scaling, num_summaries=0, **kwargs):
    """Block-sparse attention with the mask of `structure_museformer.content_block_mask`.

    Raises:
        ValueError: attention dropout, which flex_attention does not have, or gradients on a CPU.
    """
    if dropout > 0:
        raise ValueError(
            f"flex_attention has no dropout: train with attention_dropout=0 instead of {dropout}, "
            "or choose attn_implementation='bar_gather'"
        )
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        raise ValueError(
            "flex_attention has no backward pass on a CPU: run under torch.no_grad(), "
            "or choose attn_implementation='bar_gather'"
        )
    batch, heads, n, head_dim = query.shape
    num_queries, num_keys = mask.seq_lengths
    segments = [num_summaries, key.shape[2] - num_summaries]
    query = _flat_rows(query, [n], num_queries)
    key, value = (_flat_rows(t, segments, num_keys) for t in (key, value))
    with torch._dynamo.config.patch(recompile_limit=FLEX_COMPILATIONS):
        output = _compiled_flex_attention()(query, key, value, block_mask=mask, scale=scaling)
    padded = n + -n % FLEX_BLOCK
    return output[0].transpose(0, 1)[: batch * padded].reshape(batch, padded, heads, head_dim)[:, :n], None


def bar_gather_attention(module, query, key, value, mask, *, dropout=0.0, scaling, chunks, padding=None, **kwargs):
    """Attention over gathered key lists, see `structure_museformer.content_chunks`.

    Args:
        chunks: list of `GatherChunk`, whose row numbers count `[B * q]` queries and `[B * (S + k)]` keys.
        padding: boolean `[B, q]`, queries that are in no chunk and see themselves only; `None` if there are none.
    """
    batch, heads, q, head_dim = query.shape
    query_rows, key_rows, value_rows = (t.transpose(1, 2).reshape(-1, heads * head_dim) for t in (query, key, value))
    output = gathered_attention(query_rows, key_rows, value_rows, chunks, heads, dropout=dropout, scaling=scaling)
    output = output.view(batch, q, heads, head_dim)
    if padding is not None:
        output = torch.where(padding[:, :, None, None], value[:, :, -q:].transpose(1, 2), output)
    return output, None


def gathered_attention(query, key, value, chunks: list[GatherChunk], num_heads: int, *, dropout: float, scaling: float):
    """Attention of query rows `[Rq, d]` over key and value rows `[Rk, d]`; rows that are in no chunk yield zeros.

    Weights are never stored: the backward pass recomputes them chunk by chunk, dropout included, so that memory is
    linear in the number of rows.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    seed = int(torch.randint(2**62, ())) if dropout > 0 else 0  # from the CPU generator: no device transfer
    return _GatheredAttention.apply(query, key, value, chunks, num_heads, scaling, dropout, seed)


class _GatheredAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, chunks, num_heads, scaling, dropout, seed):
        ctx.save_for_backward(query, key, value)
        ctx.settings = chunks, num_heads, scaling, dropout, seed
        output = query.new_zeros(len(query) + 1, query.shape[1])
        generator = _generator(query.device, dropout, seed)
        with torch.autocast(query.device.type, enabled=False):
            for chunk in chunks:
                c, T, K = chunk.shape
                q = _heads(query, chunk.query_read, c, T, num_heads) * scaling
                k, v = (_heads(t, chunk.keys, c, K, num_heads) for t in (key, value))
                weights = _weights(q, k, chunk, num_heads)
                if dropout > 0:
                    weights.mul_(keep_mask(weights.shape, dropout, weights.dtype, weights.device, generator))
                result = torch.bmm(weights, v)
                if dropout > 0:
                    result *= 1 / (1 - dropout)
                output.index_copy_(0, chunk.query_write, _rows(result, c, T, num_heads))
        return output[:-1]

    @staticmethod
    def backward(ctx, grad_output):
        query, key, value = ctx.saved_tensors
        chunks, num_heads, scaling, dropout, seed = ctx.settings
        precision = torch.promote_types(query.dtype, torch.float32)
        grad_query = query.new_zeros(len(query) + 1, query.shape[1])
        grad_key, grad_value = (t.new_zeros(t.shape, dtype=precision) for t in (key, value))
        grad_output = F.pad(grad_output, (0, 0, 0, 1))
        generator = _generator(query.device, dropout, seed)
        scale = 1 / (1 - dropout)
        with torch.autocast(query.device.type, enabled=False):
            for chunk in chunks:
                c, T, K = chunk.shape
                q = _heads(query, chunk.query_read, c, T, num_heads) * scaling
                k, v = (_heads(t, chunk.keys, c, K, num_heads) for t in (key, value))
                g = _heads(grad_output, chunk.query_write, c, T, num_heads) * scale
                weights = _weights(q, k, chunk, num_heads)
                grad_weights = torch.bmm(g, v.transpose(1, 2))
                if dropout > 0:
                    mask = keep_mask(weights.shape, dropout, weights.dtype, weights.device, generator)
                    grad_weights = grad_weights.mul_(mask)
                    kept = mask.mul_(weights)
                else:
                    kept = weights
                grad_v = torch.bmm(kept.transpose(1, 2), g)
                grad_value.index_add_(0, chunk.keys, _rows(grad_v, c, K, num_heads, precision))
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                grad_q = torch.bmm(grad_scores, k) * scaling
                grad_query.index_copy_(0, chunk.query_write, _rows(grad_q, c, T, num_heads))
                grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
                grad_key.index_add_(0, chunk.keys, _rows(grad_k, c, K, num_heads, precision))
        return grad_query[:-1], grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None, None, None


def _heads(rows, index, tiles, length, num_heads):
    """Gather rows `[R, heads * head_dim]` into `[tiles * heads, length, head_dim]`."""
    return rows.index_select(0, index).view(tiles, length, num_heads, -1).transpose(1, 2).flatten(0, 1)


def _rows(heads, tiles, length, num_heads, dtype=None):
    """Inverse layout of `_heads`: `[tiles * length, heads * head_dim]`."""
    return heads.view(tiles, num_heads, length, -1).transpose(1, 2).reshape(tiles * length, -1).to(dtype or heads.dtype)


def _weights(q, k, chunk, num_heads):
    """Softmax (float32 or wider inside) of one chunk, `[tiles * heads, T, K]`."""
    scores = torch.bmm(q, k.transpose(1, 2))
    c, T, K = chunk.shape
    first = chunk.first_masked
    if first < K:
        hidden = torch.arange(first, K, device=q.device) >= chunk.limits[:, None, :, None]
        scores.view(c, num_heads, T, K)[..., first:].masked_fill_(hidden, float("-inf"))
    return scores.softmax(-1)


def _generator(device, dropout, seed):
    return torch.Generator(device).manual_seed(seed) if dropout > 0 else None


def keep_mask(shape, probability: float, dtype, device, generator=None) -> torch.Tensor:
    """Random 0 (with `probability`) and 1 to multiply with.

    On a CPU one 64-bit draw serves eight elements, which is several times faster than `bernoulli_`: each byte is
    compared with a threshold that itself is rounded at random, so that every element has the exact probability.
    """
    mask = torch.empty(shape, dtype=dtype, device=device)
    if mask.device.type != "cpu":
        return mask.bernoulli_(1 - probability, generator=generator)
    words = torch.empty((mask.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    threshold = min(int(256 * probability + torch.rand((), generator=generator).item()), 255)
    return torch.ge(words.view(torch.uint8)[: mask.numel()].view(mask.shape), threshold, out=mask)


def dropout(states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Inverted dropout."""
    if not training or probability == 0 or states.device.type != "cpu":
        return F.dropout(states, probability, training)
    return states * keep_mask(states.shape, probability, states.dtype, states.device) * (1 / (1 - probability))


def add_residual(states: torch.Tensor, update: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """`states + dropout(update)`."""
    if not training or probability == 0 or states.device.type != "cpu":
        return states + F.dropout(update, probability, training)
    mask = keep_mask(update.shape, probability, update.dtype, update.device)
    return torch.add(states, update * mask, alpha=1 / (1 - probability))


# In both tables: with the first alone transformers would silently drop the mask of a model that builds it there.
AttentionInterface.register("bar_gather", bar_gather_attention)
AttentionMaskInterface.register("bar_gather", sdpa_mask)

ATTENTION_FUNCTIONS = AttentionInterface()  # local overrides of the global names
ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention
ATTENTION_FUNCTIONS["flex_attention"] = flex_attention
ATTENTION_FUNCTIONS["bar_gather"] = bar_gather_attention


@dataclass
class AttentionPlan:
    """What every layer of one forward pass needs to know about visibility; built once, shared by all layers."""

    backend: str
    content_mask: torch.Tensor | BlockMask | None = None
    summary_mask: torch.Tensor | None = None
    content_chunks: list[GatherChunk] | None = None
    summary_chunks: list[GatherChunk] | None = None
    padding: torch.Tensor | None = None
    is_step: bool = False  # one token per row inside a bar: the cache knows what is visible


def make_plan(config, query_bars, key_bars, key_eos, column_bars, summary_bars) -> AttentionPlan:
    """Choose the back-end and prepare its masks or key lists; the arguments are those of `structure_museformer`."""
    q, k = query_bars.shape[1], key_bars.shape[1]
    backend = config._attn_implementation
    if backend == "auto":
        backend = choose_backend(q, k)
    elif backend == "flex_attention" and k > q:
        backend = choose_backend(q, k)
        logger.warning_once(
            "flex_attention does not run on tokens that continue a cache, `sdpa` or `bar_gather` takes its place there"
        )
    plan = AttentionPlan(backend)
    budget = chunk_budget(query_bars.device, config.num_attention_heads)
    if backend == "eager":
        plan.summary_mask = summary_mask(column_bars, key_bars, key_eos)
    elif column_bars.shape[1]:
        plan.summary_chunks = summary_chunks(column_bars, key_bars, key_eos, budget=budget)
    if backend == "bar_gather":
        plan.content_chunks = content_chunks(config, query_bars, key_bars, summary_bars, tile=TILE, budget=budget)
        padding = query_bars < 0
        plan.padding = padding if bool(padding.any()) else None
    elif backend == "flex_attention":
        plan.content_mask = content_block_mask(config, query_bars, summary_bars)
    else:
        plan.content_mask = content_mask(config, query_bars, key_bars, summary_bars)
    return plan


def step_plan(config) -> AttentionPlan:
    """For one token per row inside a bar, where all back-ends are one dense product over the visible keys."""
    return AttentionPlan("eager" if config._attn_implementation == "eager" else "sdpa", is_step=True)


__all__ = [
    "ATTENTION_FUNCTIONS",
    "BACKENDS",
    "AttentionPlan",
    "add_residual",
    "bar_gather_attention",
    "choose_backend",
    "chunk_budget",
    "dropout",
    "eager_attention",
    "flex_attention",
    "gathered_attention",
    "keep_mask",
    "make_plan",
    "sdpa_attention",
    "step_plan",
]

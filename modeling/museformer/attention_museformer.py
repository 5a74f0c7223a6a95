"""Attention back-ends of Museformer: one softmax over fine contents and coarse summaries.

All back-ends compute softmax(scaling * q k^T over the visible keys) v with keys laid out as [summaries | contents]
and differ only in how they skip what is invisible:

    eager           dense boolean mask, matmul and softmax; the reference, any dtype
    sdpa            the same mask handed to PyTorch's fused attention; O(n^2) mask memory
    flex_attention  block-sparse, from bar ranges per 128-token block; CUDA for training, inference only on a CPU
    bar_gather      every bar gathers its own key list; linear memory and time, any device, float64 too
    auto            sdpa for short rows, bar_gather for long ones (`choose_backend`)

Shapes: query `[B, heads, q, head_dim]`, key and value `[B, heads, S + k, head_dim]`, result `[B, q, heads, head_dim]`.
"""

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from .structure_museformer import GatherChunk

logger = logging.get_logger(__name__)

BACKENDS = ("auto", "eager", "sdpa", "flex_attention", "bar_gather")

# Rows up to this many tokens are faster with a dense mask. Measured on CPU, see `choose_backend`.
SHORT_ROW = 512
# Queries per gathered tile: longer bars are split, so that a long bar does not widen its neighbours' chunk.
TILE = 128
# Padded attention weights computed at a time: what fits a CPU cache, and what fills a GPU.
CHUNK_WEIGHTS = {"cpu": 2**21, "cuda": 2**26}


def choose_backend(num_tokens: int) -> str:
    """Resolve `auto` for rows of `num_tokens` tokens."""
    backend = "sdpa" if num_tokens <= SHORT_ROW else "bar_gather"
    logger.info_once(f"Museformer attention: `auto` resolves to `{backend}` for rows of this length.")
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
                    weights.masked_fill_(dropped(weights.shape, dropout, weights.device, generator), 0)
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
        with torch.autocast(query.device.type, enabled=False):
            for chunk in chunks:
                c, T, K = chunk.shape
                q = _heads(query, chunk.query_read, c, T, num_heads) * scaling
                k, v = (_heads(t, chunk.keys, c, K, num_heads) for t in (key, value))
                g = _heads(grad_output, chunk.query_write, c, T, num_heads)
                weights = _weights(q, k, chunk, num_heads)
                grad_weights = torch.bmm(g, v.transpose(1, 2))
                if dropout > 0:
                    drop = dropped(weights.shape, dropout, weights.device, generator)
                    g = g * (1 / (1 - dropout))
                    grad_weights = grad_weights.masked_fill_(drop, 0).mul_(1 / (1 - dropout))
                    kept = weights.masked_fill(drop, 0)
                else:
                    kept = weights
                grad_value.index_add_(0, chunk.keys, _rows(torch.bmm(kept.transpose(1, 2), g), c, K, num_heads, precision))
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


def dropped(shape, probability: float, device, generator=None) -> torch.Tensor:
    """Boolean tensor, true with `probability`.

    On a CPU one 64-bit draw serves eight elements, which is several times faster than `bernoulli_`: each byte is
    compared with a threshold that itself is rounded at random, so that every element has the exact probability.
    """
    device = torch.device(device)
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(probability, generator=generator)
    size = torch.Size(shape)
    words = torch.empty((size.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    threshold = int(256 * probability + torch.rand((), generator=generator).item())
    return (words.view(torch.uint8)[: size.numel()] < threshold).view(size)


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Inverted dropout with the masks of `dropped`."""
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability, training)
    keep = (~dropped(x.shape, probability, x.device)).to(x.dtype).mul_(1 / (1 - probability))
    return x * keep


# Registered in both tables: with the first alone transformers would silently drop the mask of a model that builds it there.
AttentionInterface.register("bar_gather", bar_gather_attention)
AttentionMaskInterface.register("bar_gather", sdpa_mask)

ATTENTION_FUNCTIONS = AttentionInterface()  # local overrides of the global names
ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention
ATTENTION_FUNCTIONS["bar_gather"] = bar_gather_attention


__all__ = [
    "ATTENTION_FUNCTIONS",
    "BACKENDS",
    "TILE",
    "bar_gather_attention",
    "choose_backend",
    "chunk_budget",
    "dropout",
    "dropped",
    "eager_attention",
    "gathered_attention",
    "sdpa_attention",
]

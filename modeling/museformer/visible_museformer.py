"""The keys and values that the current bar sees, laid out for one query per row.

Step C of a single token is two sums, `scores = sum_i q_i K^T[i]` and `output = sum_j w_j V[j]`: little arithmetic, much
memory. `VisibleRows` holds any number of rows for the fused kernel. `VisibleStreams` holds one row on a CPU so that
either sum adds whole lines of memory in their order (`embedding_bag`, which fetches ahead).

Legend: B rows, d hidden size, h heads, e = d / h, L visible keys.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

from typing import Any

import torch
from torch.nn import functional as F

from .products_museformer import large_zeros, weighted_sum


def _split(key_value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """`[..., 2 d]` to `[..., 2, h, e]`."""
    return key_value.unflatten(-1, (2, num_heads, -1))


class VisibleRows:
    """Visible keys and values of B rows, per layer `[B, 2, h, capacity, e]`.

    Args:
        slots: per layer `[B, m, 2 d]`, for sizes, dtype and device.
        num_heads: h.
    """

    def __init__(self, slots: list[torch.Tensor], num_heads: int):
        self.num_heads, self.length = num_heads, 0
        self.buffers = [_split(layer[:, :1], num_heads).permute(0, 2, 3, 1, 4)[:, :, :, :0] for layer in slots]

    def open(self, length: int, keep: bool = True) -> None:
        """Show `length` keys; room is made for more. What is there is kept."""
        self.length = length
        if self.buffers[0].shape[3] < length:
            self.buffers = [grown(layer, layer, length, dim=3) for layer in self.buffers]

    def write(self, layer: int, rows: torch.Tensor, places: torch.Tensor, key_value: torch.Tensor) -> None:
        """Put `[n, 2 d]` at `places` `[n]` of `rows` `[n]`."""
        self.buffers[layer][rows, :, :, places] = _split(key_value.to(self.buffers[layer].dtype), self.num_heads)

    def append(self, layer: int, rows, places, key_value: torch.Tensor) -> None:
        """Put `[B, 2 d]` at `places` of `rows`; both are numbers for slices where B is 1, `rows` is None then."""
        if rows is None:
            self.buffers[layer][:, :, :, places] = _split(key_value, self.num_heads)
        else:
            self.write(layer, rows, places, key_value)

    def shown(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[B, h, L, e]`."""
        return self.buffers[layer][:, :, :, : self.length].unbind(1)

    def attend(self, layer: int, query: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Step C: scaled queries `[B, d]` and a mask `[B, 1, 1, L]` (None: all is seen) to `[B, d]`."""
        key, value = self.shown(layer)
        query = query.to(key.dtype)
        if len(query) == 1 and mask is None:
            # two plain products read keys and values faster than the fused kernel does
            weights = torch.bmm(query.view(self.num_heads, 1, -1), key[0].transpose(1, 2)).softmax(-1)
            return torch.bmm(weights, value[0]).reshape(query.shape)
        output = F.scaled_dot_product_attention(
            query.view(len(query), self.num_heads, 1, -1), key, value, attn_mask=mask, scale=1.0
        )
        return output.reshape(query.shape)

    def mapped(self, function) -> "VisibleRows":
        """`function` of every buffer; rows are its first dimension."""
        self.buffers = [function(layer) for layer in self.buffers]
        return self


class VisibleStreams:
    """Visible keys, transposed, and values of one row on a CPU: per layer `[h e, capacity]` and `[h capacity, e]`.

    Args:
        slots: per layer `[1, m, 2 d]`, for sizes and dtype.
        num_heads: h.
        dtype: what keys and values are stored in.
    """

    STEP = 128  # capacity is a multiple of it: a kernel is made for every length of a line

    def __init__(self, slots: list[torch.Tensor], num_heads: int, dtype: torch.dtype):
        size = slots[0].shape[2] // 2
        self.num_heads, self.head_size, self.dtype = num_heads, size // num_heads, slots[0].dtype
        self.length = self.capacity = 0
        self.buffers = [slots[0].new_zeros(0, dtype=dtype) for _ in slots]
        self._keys: list[Any] = [None] * len(slots)
        self._values: list[Any] = [None] * len(slots)
        self._key_rows = torch.arange(size, dtype=torch.int32)
        self._key_bags = torch.arange(0, size, self.head_size, dtype=torch.int32)
        self._value_rows = self._value_bags = self._grid = self._key_rows

    def open(self, length: int, keep: bool = True) -> None:
        """Show `length` keys; room is made for more. What is there is kept unless `keep` says that all is written."""
        if length > self.capacity or not keep:
            self._lay_out(length + self.STEP // 2, min(self.length, length) if keep else 0)
        self.length = length
        self._value_rows = self._grid[:, :length].reshape(-1)
        self._value_bags = torch.arange(0, self.num_heads * length, length, dtype=torch.int32)

    def _lay_out(self, length: int, kept: int) -> None:
        """Lines for `length` keys, as short as can be, in buffers that stay where they are if they suffice."""
        heads, size, capacity = self.num_heads, self.head_size, -(-length // self.STEP) * self.STEP
        half = heads * size * capacity
        old = [[part[:, :, :kept].clone() for part in self.shown(i)] for i in range(len(self.buffers)) if kept]
        self.capacity = capacity
        for i in range(len(self.buffers)):
            if self.buffers[i].numel() < 2 * half:
                self.buffers[i] = large_zeros(self.buffers[i], (2 * (half + half // 4),))
            self._keys[i] = self.buffers[i][:half].view(heads * size, capacity)
            self._values[i] = self.buffers[i][half : 2 * half].view(heads * capacity, size)
            if kept:
                keys, values = self._halves(i)
                keys[:, :, :kept], values[:, :kept] = old[i][0][0].transpose(1, 2), old[i][1][0]
        self._grid = (torch.arange(heads)[:, None] * capacity + torch.arange(capacity)).int()

    def _halves(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views `[h, e, capacity]` and `[h, capacity, e]`."""
        keys = self._keys[layer].view(self.num_heads, -1, self.capacity)
        return keys, self._values[layer].view(self.num_heads, self.capacity, -1)

    def write(self, layer: int, rows: torch.Tensor, places: torch.Tensor, key_value: torch.Tensor) -> None:
        """Put `[n, 2 d]` at `places` `[n]`, which follow one another; `rows` are all 0."""
        if not len(places):
            return
        here = slice(int(places[0]), int(places[0]) + len(places))
        keys, values = self._halves(layer)
        new = _split(key_value, self.num_heads)
        keys[:, :, here] = new[:, 0].permute(1, 2, 0)
        values[:, here] = new[:, 1].transpose(0, 1)

    def append(self, layer: int, rows, places: int, key_value: torch.Tensor) -> None:
        """Put `[1, 2 d]` at the place `places`; `rows` is None."""
        keys, values = self._halves(layer)
        new = _split(key_value, self.num_heads)[0]
        keys[:, :, places] = new[0]
        values[:, places] = new[1]

    def shown(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[1, h, L, e]`."""
        keys, values = self._halves(layer)
        keys, values = keys[:, :, : self.length].transpose(1, 2), values[:, : self.length]
        return keys[None].to(self.dtype), values[None].to(self.dtype)

    def attend(self, layer: int, query: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Step C: a scaled query `[1, d]` and a mask `[1, 1, 1, L]` (None: all is seen) to `[1, d]`."""
        scores = weighted_sum(self._keys[layer], self._key_rows, self._key_bags, query)[:, : self.length]
        if mask is not None:
            scores = scores.masked_fill(~mask[0, 0], float("-inf"))
        weights = scores.to(query.dtype).softmax(-1)
        return (
            weighted_sum(self._values[layer], self._value_rows, self._value_bags, weights).to(query.dtype).view(1, -1)
        )


def grown(buffer, like, length: int, *, dim: int = 1, exact: bool = False):
    """`buffer` with room for `length` entries along `dim`; contents kept, the rest zero."""
    if buffer is not None and buffer.shape[dim] >= length:
        return buffer
    shape = list(like.shape)
    shape[dim] = length if exact else length + length // 4 + 64
    larger = large_zeros(like, shape)
    if buffer is not None:
        larger.narrow(dim, 0, buffer.shape[dim]).copy_(buffer)
    return larger


__all__ = ["VisibleRows", "VisibleStreams", "grown"]

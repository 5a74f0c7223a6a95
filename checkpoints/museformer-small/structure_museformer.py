"""The bar structure of a row: token ids to bar and beat ids, and which token sees which. No parameters.

A row is `[PAD...] prefix bar_1 ... bar_b [EOS]`. The prefix (BOS and conditions) is bar 0, bar i starts at its Bar
token, EOS takes b, padding takes -1. There are two kinds of keys: *contents* (one per token) and *summaries* (one
per bar). With delta = bar(query) - bar(key) and D = `fine_offsets`:

    content -> content   delta in D: the whole bar; delta = 0: positions <= query
    content -> summary   delta >= 1 and delta not in D
    content -> prefix    always;  the prefix itself is a causal triangle
    summary -> content   its own bar without EOS;  summary -> summary: itself
    padding              itself only

Legend: B rows, q new tokens (queries), k tokens with keys (the cached ones, then the q new ones), s new summary
columns, S summaries with keys (the cached ones, then the new columns). Along `k` bar ids never decrease. Tensors of
bar numbers carry -1 for an absent token and 0 for an absent summary.
"""

import math
from typing import NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask

FLEX_BLOCK = 128  # summaries and contents start at block boundaries
MIN_FLEX_BLOCKS = 8  # shorter batches of flex_attention are padded: every size is compiled separately
MIN_FLEX_BARS = 512


class SegmentState(NamedTuple):
    """What the scans of `derive_segments` carry from one call to the next; both `[B]`."""

    bar: torch.Tensor
    beat: torch.Tensor


class Segments(NamedTuple):
    """Ids of q tokens, each `[B, q]`, and the state after the last of them."""

    bar_ids: torch.Tensor
    beat_ids: torch.Tensor
    is_eos: torch.Tensor
    state: SegmentState


def derive_segments(config, input_ids, attention_mask=None, state: SegmentState | None = None) -> Segments:
    """Derive bar ids (-1 for padding) and beat ids (k + 1 after Position_k) from token ids `[B, q]`.

    A token is padding where `attention_mask` is 0 or where its id is `config.pad_token_id`, which is what `generate`
    feeds to rows that are finished.
    """
    valid = input_ids != config.pad_token_id
    if attention_mask is not None:
        valid = valid & attention_mask.bool()
    position = input_ids - config.position_token_start
    is_bar = (input_ids == config.bar_token_id) & valid
    is_position = (position >= 0) & (position < config.num_positions) & valid
    is_eos = (input_ids == config.eos_token_id) & valid

    bar = is_bar.cumsum(1)
    steps = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = torch.where(is_bar | is_position, steps, -1).cummax(1).values
    beat = torch.where(is_position, position + 1, 0).gather(1, last.clamp(min=0))
    if state is None:
        beat = beat.masked_fill(last < 0, 0)
    else:
        bar = bar + state.bar[:, None]
        beat = torch.where(last < 0, state.beat[:, None], beat)
    state = SegmentState(bar[:, -1], beat[:, -1])
    beat = beat.masked_fill((bar == 0) | is_eos | ~valid, 0)
    return Segments(bar.masked_fill(~valid, -1), beat, is_eos, state)


def derive_step(config, tokens: list[int], bars: list[int], beats: list[int]) -> tuple[list[int], ...]:
    """`derive_segments` for one token per row, on the host: the state's new `bars` and `beats`, and the ids.

    Args:
        tokens: one id per row, `config.pad_token_id` for padding.
        bars: state of the rows before the token, as is `beats`.

    Returns:
        bars and beats of the state, bar ids and beat ids of the tokens.
    """
    bars, beats, bar_ids, beat_ids = list(bars), list(beats), [], []
    for row, token in enumerate(tokens):
        if token == config.bar_token_id:
            bars[row], beats[row] = bars[row] + 1, 0
        elif 0 <= token - config.position_token_start < config.num_positions:
            beats[row] = token - config.position_token_start + 1
        present = token != config.pad_token_id
        bar_ids.append(bars[row] if present else -1)
        beat_ids.append(beats[row] if present and bars[row] > 0 and token != config.eos_token_id else 0)
    return bars, beats, bar_ids, beat_ids


def sinusoid(index: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Sines, then cosines, of `index * 10000^(-k / (size / 2 - 1))`: `[..., size]`; index 0 is the zero vector."""
    half = size // 2
    precision = torch.promote_types(dtype, torch.float32)
    steps = torch.arange(half, dtype=precision, device=index.device)
    angle = index[..., None].to(precision) * torch.exp(steps * (-math.log(10000) / (half - 1)))
    return (torch.cat([angle.sin(), angle.cos()], -1) * (index > 0)[..., None]).to(dtype)


def fine_and_coarse(config, num_bars: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """The rule at bar level: boolean `[num_bars + 1, num_bars + 1]` (query bar, key bar), bars 0 ... num_bars - 1.

    The last row and column stand for padding. `fine` is about contents (delta = 0 still needs the causal triangle),
    `coarse` about summaries.
    """
    bars = torch.arange(num_bars, device=device)
    delta = bars[:, None] - bars[None, :]
    if config.fine_offsets is None:
        fine = delta >= 0
    else:
        offsets = torch.tensor([0, *config.fine_offsets], device=device)
        fine = torch.isin(delta, offsets)
    coarse = (delta >= 1) & ~fine & (bars >= 1) if config.coarse_attention else torch.zeros_like(fine)
    fine[:, :1] = True
    pad = (0, 1, 0, 1)
    return torch.nn.functional.pad(fine & (delta >= 0), pad), torch.nn.functional.pad(coarse, pad)


def content_mask(config, query_bars, key_bars, summary_bars) -> torch.Tensor:
    """Dense visibility of step C: boolean `[B, 1, q, S + k]`, summaries first. Padding sees itself."""
    (num_rows, q), k = query_bars.shape, key_bars.shape[1]
    none = int(key_bars.max().clamp(min=0)) + 1
    fine, coarse = fine_and_coarse(config, none, query_bars.device)
    query = torch.where(query_bars < 0, none, query_bars)
    key = torch.where(key_bars < 0, none, key_bars)
    contents = fine[query].gather(2, key[:, None].expand(num_rows, q, k))
    new = torch.ones(q, k, dtype=torch.bool, device=query_bars.device)
    contents &= new.tril(k - q)
    contents |= (query_bars < 0)[:, :, None] & new.tril(k - q).triu(k - q)
    summary = torch.where(summary_bars < 1, none, summary_bars)
    summaries = coarse[query].gather(2, summary[:, None].expand(num_rows, q, summary.shape[1]))
    return torch.cat([summaries, contents], 2)[:, None]


def summary_mask(column_bars, key_bars, key_eos) -> torch.Tensor:
    """Dense visibility of step A: boolean `[B, 1, s, s + k]`, the columns themselves first."""
    s = column_bars.shape[1]
    itself = torch.eye(s, dtype=torch.bool, device=column_bars.device).expand(len(column_bars), s, s)
    columns = column_bars[:, :, None]
    own = (columns == key_bars[:, None]) & (columns >= 1) & ~key_eos[:, None]
    return torch.cat([itself, own], 2)[:, None]


def flex_length(num_rows: int, num_tokens: int) -> int:
    """Queries of one flex_attention call: rows padded to whole blocks, one after the other, then to a power of two.

    Every length is compiled separately, so there must be few; padding behind the last row costs no attention.
    """
    blocks = num_rows * -(-num_tokens // FLEX_BLOCK)
    return max(1 << (blocks - 1).bit_length(), MIN_FLEX_BLOCKS) * FLEX_BLOCK


def content_block_mask(config, bars, summary_bars) -> BlockMask:
    """Visibility of step C for flex_attention among tokens `[B, n]` and summaries `[B, S]`, nothing cached.

    The rows of the batch lie one behind the other in a single long row, padded to N = `flex_length` queries and N keys
    (2 N with summaries): the shapes depend on N alone. The keys of a row are laid out as [summaries | contents], both
    padded to whole blocks. Which blocks are active follows from the first and last bar of every block and a
    summed-area table of the rule at bar level, never from an n x n tensor. Active blocks apply the exact rule again.
    """
    (num_rows, n), device, block = bars.shape, bars.device, FLEX_BLOCK
    last = int(bars.max().clamp(min=0))
    size = max(1 << (last + 1).bit_length(), MIN_FLEX_BARS)  # tables of few sizes; the last bar number means absent
    none = size - 1
    fine, coarse = fine_and_coarse(config, none, device)

    def blocks(bars, absent):
        """Bars padded to whole blocks with `none`, and the first and last bar (-1 if empty) of every block."""
        bars = torch.where(bars < absent, none, bars)
        bars = torch.nn.functional.pad(bars, (0, -bars.shape[1] % block), value=none)
        split = bars.unflatten(1, (-1, block))
        return bars, split.amin(2).clamp(max=none - 1), split.masked_fill(split == none, -1).amax(2)

    content, low, high = blocks(bars, 0)
    summary, summary_low, summary_high = blocks(summary_bars, 1)

    def any_visible(rule, key_low, key_high):
        area = torch.nn.functional.pad(rule[:none, :none].long().cumsum(0).cumsum(1), (1, 0, 1, 0))
        top, bottom, left, right = low[:, :, None], high[:, :, None] + 1, key_low[:, None], key_high[:, None] + 1
        count = area[bottom, right] - area[top, right] - area[bottom, left] + area[top, left]
        return (bottom > top) & (right > left) & (count > 0)

    order = torch.arange(low.shape[1], device=device)
    causal = order <= order[:, None]
    diagonal = order == order[:, None]  # where padding sees itself
    active = torch.cat(
        [any_visible(coarse, summary_low, summary_high), any_visible(fine, low, high) & causal | diagonal], 2
    )
    length = flex_length(num_rows, n)
    num_keys = length * (2 if summary_bars.shape[1] else 1)
    per_row = active.shape[2]
    first = torch.arange(num_rows, device=device)[:, None, None] * per_row
    indices = (active.to(torch.uint8).argsort(dim=2, descending=True, stable=True) + first).flatten(0, 1)
    spare = length // block - len(indices)
    counts = torch.nn.functional.pad(active.sum(2).flatten(), (0, spare))
    indices = torch.nn.functional.pad(indices, (0, num_keys // block - per_row, 0, spare))

    # The rule reads tensors only: numbers would be compiled in. Columns of the table: contents, then summaries.
    table = torch.cat([fine, coarse], 1)
    place = torch.arange(content.numel(), device=device).view(content.shape)
    row = torch.arange(num_rows, device=device)[:, None]

    def flat(contents, summaries, total, fill):
        keys = torch.cat([summaries.expand_as(summary), contents.expand_as(content)], 1).flatten()
        return torch.nn.functional.pad(keys, (0, total - len(keys)), value=fill)

    column = flat(content, summary + size, num_keys, none)
    key_place = flat(place, torch.full_like(summary, -1), num_keys, length)
    key_row = flat(row, row, num_keys, -1)
    query = torch.nn.functional.pad(content.flatten(), (0, length - content.numel()), value=none)
    query_row = torch.nn.functional.pad(row.expand_as(content).flatten(), (0, length - content.numel()), value=-2)
    absent = query == none

    def rule(b, h, q_idx, kv_idx):
        seen = table[query[q_idx], column[kv_idx]] & (key_place[kv_idx] <= q_idx)
        return seen & (query_row[q_idx] == key_row[kv_idx]) | absent[q_idx] & (key_place[kv_idx] == q_idx)

    return BlockMask.from_kv_blocks(
        counts.to(torch.int32)[None, None],
        indices.to(torch.int32)[None, None],
        BLOCK_SIZE=block,
        mask_mod=rule,
        seq_lengths=(length, num_keys),
    )


class GatherChunk(NamedTuple):
    """c tiles of at most T queries, each with its own list of at most K keys, as row numbers.

    Query t of a tile sees the first `limits` keys of the tile's list: the keys all queries share come first, the
    causal triangle last, so that one comparison is the whole mask.
    """

    query_read: torch.Tensor  # [c * T], padded with a query of the same tile
    query_write: torch.Tensor  # [c * T], padded with the number of query rows: a row to throw away
    keys: torch.Tensor  # [c * K], padded with any row
    limits: torch.Tensor  # [c, T]
    first_masked: int  # keys before this one are seen by every query of the chunk
    shape: tuple[int, int, int]  # c, T, K


class _Tiles(NamedTuple):
    """Queries `query_start ... + query_length` and the runs of keys they see, as addresses of two lookup tables."""

    query_start: torch.Tensor  # [t]
    query_length: torch.Tensor  # [t]
    run_start: torch.Tensor  # [t, runs]
    run_length: torch.Tensor  # [t, runs]; the last `query_length` keys are the causal triangle


def _form_chunks(tiles: _Tiles, query_rows, key_rows, num_query_rows: int, budget: int) -> list[GatherChunk]:
    """Group tiles of similar size into chunks of at most `budget` padded query-key pairs."""
    if not len(tiles.query_start):
        return []
    num_keys = tiles.run_length.sum(1)
    sizes = torch.stack([tiles.query_length, num_keys], 1).tolist()
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i][1], sizes[i][0]))
    groups: list[list[int]] = []
    widest = longest = useful = 0
    for i in order:
        length, keys = sizes[i]
        area = (len(groups[-1]) + 1 if groups else 1) * max(widest, length) * max(longest, keys)
        wasteful = area > 1.5 * (useful + length * keys) and useful > budget // 8
        if not groups or area > budget or wasteful:
            groups.append([])
            widest = longest = useful = 0
        groups[-1].append(i)
        widest, longest, useful = max(widest, length), max(longest, keys), useful + length * keys
    chunks = []
    for group in groups:
        shape = (len(group), max(sizes[i][0] for i in group), max(sizes[i][1] for i in group))
        first_masked = min(sizes[i][1] - sizes[i][0] + 1 for i in group)
        chosen = torch.tensor(group, device=key_rows.device)
        chunks.append(
            _form_chunk(_Tiles(*(t[chosen] for t in tiles)), query_rows, key_rows, num_query_rows, shape, first_masked)
        )
    return chunks


def _form_chunk(tiles: _Tiles, query_rows, key_rows, num_query_rows, shape, first_masked) -> GatherChunk:
    c, T, K = shape
    device = key_rows.device
    ends = tiles.run_length.cumsum(1)
    steps = torch.arange(K, device=device).expand(c, K).contiguous()
    run = torch.searchsorted(ends, steps, right=True).clamp(max=ends.shape[1] - 1)
    address = (tiles.run_start - ends + tiles.run_length).gather(1, run) + steps
    keys = key_rows[torch.where(steps < ends[:, -1:], address, 0)]

    steps = torch.arange(T, device=device).expand(c, T)
    last = tiles.query_length[:, None] - 1
    step = torch.minimum(steps, last)
    read = query_rows[tiles.query_start[:, None] + step]
    write = torch.where(steps <= last, read, num_query_rows)
    limits = ends[:, -1:] - last + step
    return GatherChunk(read.flatten(), write.flatten(), keys.flatten(), limits, first_masked, shape)


def _compress(valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Number the true entries of `[B, k]` consecutively: their row and column, and the first number of each row."""
    row, column = valid.nonzero(as_tuple=True)
    count = valid.sum(1)
    return row, column, count.cumsum(0) - count


def content_chunks(config, query_bars, key_bars, summary_bars, *, tile: int, budget: int) -> list[GatherChunk]:
    """Step C as gathered attention over rows of `[B, S + k]` keys; padding is in no chunk.

    In the list of present tokens every bar is one run, and so is every gap between two fine offsets in the list of
    summaries. A tile of queries of bar i therefore sees: the prefix, one run per fine offset, one run per gap, its
    own bar. The work is n * (9 m + b) for n tokens, m tokens per bar, b bars, whatever the longest bar.
    """
    (num_rows, q), k, S = query_bars.shape, key_bars.shape[1], summary_bars.shape[1]
    num_bars = int(key_bars.max().clamp(min=0)) + 1
    row, column, _ = _compress(key_bars >= 0)
    summary_row, summary_column, first_summary = _compress(summary_bars >= 1)
    key_rows = torch.cat([summary_row * (S + k) + summary_column, row * (S + k) + S + column])
    is_new = column >= k - q
    query_rows = row * q + column - (k - q)

    group = row * num_bars + key_bars[row, column]
    count = torch.bincount(group, minlength=num_rows * num_bars)
    new = torch.bincount(group[is_new], minlength=num_rows * num_bars)
    start = count.cumsum(0) - count

    used = new.nonzero().squeeze(1)
    num_tiles = (new[used] + tile - 1) // tile
    size = (new[used] + num_tiles - 1) // num_tiles
    repeat = torch.repeat_interleave(num_tiles)
    index = torch.arange(len(repeat), device=repeat.device) - (num_tiles.cumsum(0) - num_tiles)[repeat]
    group, offset = used[repeat], index * size[repeat]
    length = torch.minimum(size[repeat], new[group] - offset).clamp(min=0)
    keep = length > 0  # rounding up the size can leave the last tile of a bar empty
    group, offset, length = group[keep], offset[keep], length[keep]

    row, bar = group // num_bars, group % num_bars
    zero = torch.zeros_like(bar)
    num_summaries = len(summary_row)
    first = row * num_bars
    runs = [(start[first], torch.where(bar > 0, count[first], zero))]
    if config.fine_offsets is None:
        second = start[first + (bar > 0).long()]
        runs.append((second, start[group] - second))
    else:
        gaps, previous = [], 0
        for fine in config.fine_offsets:
            exists = bar - fine >= 1
            other = torch.where(exists, group - fine, group)
            runs.append((start[other], torch.where(exists, count[other], zero)))
            gaps.append((previous + 1, fine - 1))
            previous = fine
        runs = [(begin + num_summaries, size) for begin, size in runs]
        if config.coarse_attention:
            gaps.append((previous + 1, num_bars))
            for nearest, farthest in gaps:
                if nearest <= farthest:
                    low = (bar - farthest).clamp(min=1)
                    runs.append((first_summary[row] + low - 1, (bar - nearest - low + 1).clamp(min=0)))
    if config.fine_offsets is None:
        runs = [(begin + num_summaries, size) for begin, size in runs]
    old = count[group] - new[group] + offset
    runs.append((start[group] + num_summaries, old + length))
    tiles = _Tiles(start[group] + old, length, *(torch.stack(t, 1) for t in zip(*runs)))
    return _form_chunks(tiles, query_rows, key_rows, num_rows * q, budget)


def summary_chunks(column_bars, key_bars, key_eos, *, budget: int) -> list[GatherChunk]:
    """Step A as gathered attention over rows of `[B, s + k]` keys: one query per column, itself and its bar."""
    (num_rows, s), k = column_bars.shape, key_bars.shape[1]
    num_bars = int(torch.maximum(key_bars.max(), column_bars.max()).clamp(min=0)) + 1
    row, column, _ = _compress((key_bars >= 1) & ~key_eos)
    group = row * num_bars + key_bars[row, column]
    count = torch.bincount(group, minlength=num_rows * num_bars)
    start = count.cumsum(0) - count

    query_rows = torch.arange(num_rows * s, device=column_bars.device)
    itself = (query_rows // s) * (s + k) + query_rows % s
    key_rows = torch.cat([itself, row * (s + k) + s + column])
    group = ((query_rows // s) * num_bars + column_bars.flatten()).clamp(min=0)
    length = torch.where(column_bars.flatten() >= 1, count[group], 0)
    one = torch.ones_like(query_rows)
    tiles = _Tiles(
        query_rows,
        one,
        torch.stack([start[group] + num_rows * s, query_rows], 1),
        torch.stack([length, one], 1),
    )
    return _form_chunks(tiles, query_rows, key_rows, num_rows * s, budget)


__all__ = [
    "GatherChunk",
    "SegmentState",
    "Segments",
    "content_block_mask",
    "content_chunks",
    "content_mask",
    "derive_segments",
    "derive_step",
    "fine_and_coarse",
    "flex_length",
    "sinusoid",
    "summary_chunks",
    "summary_mask",
]

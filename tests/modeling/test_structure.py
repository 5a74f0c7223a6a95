"""Ids and visibility against the rule written out token by token."""

import pytest
import torch

from partimento.modeling.museformer.structure_museformer import (
    SegmentState,
    content_block_mask,
    content_chunks,
    content_mask,
    derive_segments,
    derive_step,
    flex_length,
    summary_chunks,
    summary_mask,
)


def layout(toy, config, rows, left=True):
    ids, mask = toy.stack(rows, left)
    segments = derive_segments(config, ids, mask)
    last = segments.bar_ids.amax(1).clamp(min=0)
    columns = torch.arange(1, int(last.max()) + 1).expand(len(ids), -1)
    return segments, torch.where(columns <= last[:, None], columns, 0)


def expected_mask(toy, config, bar_ids, columns):
    num_columns, n = columns.shape[1], bar_ids.shape[1]
    expected = torch.zeros(len(bar_ids), n, num_columns + n, dtype=torch.bool)
    for b, bars in enumerate(bar_ids.tolist()):
        for i in range(n):
            for j, bar in enumerate(columns[b].tolist()):
                expected[b, i, j] = bar > 0 and toy.naive_sees_summary(config, i, bar, bars)
            for j in range(n):
                expected[b, i, num_columns + j] = toy.naive_sees(config, i, j, bars)
    return expected


def chunks_to_mask(chunks, num_queries, num_keys):
    """Which key rows every query row gathers; also checks that none is gathered twice."""
    seen = torch.zeros(num_queries + 1, num_keys, dtype=torch.long)
    for chunk in chunks:
        c, T, K = chunk.shape
        write, keys = chunk.query_write.view(c, T), chunk.keys.view(c, K)
        assert (chunk.limits > chunk.first_masked - 1).all()
        for tile in range(c):
            for t in range(T):
                if write[tile, t] < num_queries:
                    seen[write[tile, t]].index_add_(
                        0, keys[tile, : chunk.limits[tile, t]], torch.ones(1).long().expand(chunk.limits[tile, t])
                    )
    assert seen[:num_queries].max() <= 1
    return seen[:num_queries].bool()


@pytest.mark.parametrize("left", [True, False])
def test_ids_equal_the_naive_walk(toy, left):
    rows = toy.ragged_rows()
    ids, mask = toy.stack(rows, left)
    segments = derive_segments(toy.tiny_config(), ids, mask)
    for b in range(len(ids)):
        bars, beats = toy.naive_ids(ids[b].tolist(), mask[b].tolist())
        assert segments.bar_ids[b].tolist() == bars
        assert segments.beat_ids[b].tolist() == beats
    assert torch.equal(segments.is_eos, ids == toy.EOS)
    unmasked = derive_segments(toy.tiny_config(), ids)  # PAD ids are padding without a mask, too
    assert torch.equal(unmasked.bar_ids, segments.bar_ids)


def test_ids_with_carry_equal_ids_at_once(toy):
    ids, mask = toy.stack(toy.ragged_rows())
    config = toy.tiny_config()
    whole = derive_segments(config, ids, mask)
    for size in (1, 2, 7):
        state, pieces = None, []
        for start in range(0, ids.shape[1], size):
            pieces.append(derive_segments(config, ids[:, start : start + size], mask[:, start : start + size], state))
            state = pieces[-1].state
        assert torch.equal(torch.cat([p.bar_ids for p in pieces], 1), whole.bar_ids)
        assert torch.equal(torch.cat([p.beat_ids for p in pieces], 1), whole.beat_ids)
        assert all(torch.equal(a, b) for a, b in zip(state, whole.state))


@pytest.mark.parametrize("left", [True, False])
def test_ids_of_single_steps_equal_ids_at_once(toy, left):
    config = toy.tiny_config()
    ids, mask = toy.stack(toy.ragged_rows(), left)
    full = derive_segments(config, ids, mask)
    bars = beats = [0] * len(ids)
    for i, tokens in enumerate(ids.masked_fill(mask == 0, toy.PAD).T.tolist()):
        bars, beats, bar_ids, beat_ids = derive_step(config, tokens, bars, beats)
        assert bar_ids == full.bar_ids[:, i].tolist()
        assert beat_ids == full.beat_ids[:, i].tolist()
        state = derive_segments(config, ids[:, : i + 1], mask[:, : i + 1]).state
        assert (bars, beats) == (state.bar.tolist(), state.beat.tolist())


def test_ids_on_grammatical_songs(toy):
    np = pytest.importorskip("numpy")
    from partimento.tokenization import MidiProcessor

    processor = MidiProcessor.from_preset("multitrack")
    config = toy.MuseformerConfig.from_preset("tiny", **processor.model_config_kwargs())
    rng = np.random.default_rng(0)
    for num_bars in (1, 5, 40):
        ids = processor.grammar.random_sequence(rng, num_bars)
        segments = derive_segments(config, torch.tensor([list(ids)]))
        assert int(segments.bar_ids.max()) == processor.count_bars(list(ids)) == num_bars
        bar = beat = 0
        for token, found_bar, found_beat in zip(ids, segments.bar_ids[0].tolist(), segments.beat_ids[0].tolist()):
            position = token - config.position_token_start
            if token == config.bar_token_id:
                bar, beat = bar + 1, 0
            elif 0 <= position < config.num_positions:
                beat = position + 1
            assert (found_bar, found_beat) == (bar, 0 if token == config.eos_token_id else beat)


def test_printed_toy(toy):
    """Prefix at 0-1, six bars of three tokens: query 18 sees 15 keys."""
    config = toy.tiny_config()
    segments, columns = layout(toy, config, [toy.row([3] * 6, eos=False)])
    seen = content_mask(config, segments.bar_ids, segments.bar_ids, columns)[0, 0, 18]
    contents = (seen[6:]).nonzero().flatten().tolist()
    assert contents == [0, 1, 5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 18]
    assert (seen[:6].nonzero().flatten() + 1).tolist() == [1, 3]
    assert int(seen.sum()) == 15


def test_forty_bars(toy):
    """One-token bars make the rule readable: fine at 1, 2, 4, 8, 12, 16, 24, 32, coarse at all others."""
    config = toy.tiny_config()
    segments, columns = layout(toy, config, [toy.row([1] * 40, prefix=1, eos=False)])
    seen = content_mask(config, segments.bar_ids, segments.bar_ids, columns)[0, 0, 40]
    coarse = {40 - int(j) - 1 for j in seen[:40].nonzero()}
    fine = {40 - int(j) for j in seen[40:].nonzero()}
    assert fine == {0, 1, 2, 4, 8, 12, 16, 24, 32, 40}  # 0 is itself, 40 the prefix
    assert coarse == {3, *range(5, 8), *range(9, 12), *range(13, 16), *range(17, 24), *range(25, 32), *range(33, 40)}


def test_visibility_by_brute_force(toy, ablation):
    config = toy.tiny_config(**ablation)
    rows = [
        toy.random_row(36, 1, 4, seed=1),
        toy.random_row(4, seed=2),
        toy.row([], prefix=3),
        toy.row([1, 9, 1, 1, 5]),
    ]
    for left in (True, False):
        segments, columns = layout(toy, config, rows, left)
        bars = segments.bar_ids
        expected = expected_mask(toy, config, bars, columns)
        assert torch.equal(content_mask(config, bars, bars, columns)[:, 0], expected)
        B, n, total = expected.shape
        for tile, budget in ((3, 50), (192, 2**20)):
            chunks = content_chunks(config, bars, bars, columns, tile=tile, budget=budget)
            seen = chunks_to_mask(chunks, B * n, B * total).view(B, n, B, total)
            for b in range(B):
                assert not seen[b, :, [r for r in range(B) if r != b]].any()
                assert torch.equal(seen[b, :, b][bars[b] >= 0], expected[b][bars[b] >= 0])
            assert not seen[bars < 0].any()  # padding is handled outside the chunks


def test_summaries_read_their_own_bar_only(toy):
    config = toy.tiny_config()
    rows = [toy.random_row(6, seed=1), toy.row([2, 1, 3], eos=True), toy.row([])]
    segments, columns = layout(toy, config, rows)
    bars, s = segments.bar_ids, columns.shape[1]
    ids, _ = toy.stack(rows)
    mask = summary_mask(columns, bars, segments.is_eos)[:, 0]
    for b in range(len(rows)):
        for j in range(s):
            expected = [int(i == j) for i in range(s)]
            expected += [
                int(columns[b, j] > 0 and bar == columns[b, j] and t != toy.EOS) for bar, t in zip(bars[b], ids[b])
            ]
            assert mask[b, j].int().tolist() == expected
    chunks = summary_chunks(columns, bars, segments.is_eos, budget=40)
    B, _, total = mask.shape
    seen = chunks_to_mask(chunks, B * s, B * total).view(B, s, B, total)
    for b in range(B):
        assert torch.equal(seen[b, :, b], mask[b])


def test_block_mask_covers_every_visible_pair(toy, ablation):
    config = toy.tiny_config(**ablation)
    rows = [toy.random_row(40, 3, 8, seed=1), toy.row([150, 3, 20]), toy.random_row(3)]
    segments, columns = layout(toy, config, rows)
    bars = segments.bar_ids
    if not config.uses_summaries:
        columns = columns[:, :0]
    block_mask = content_block_mask(config, bars, columns)
    dense = content_mask(config, bars, bars, columns)[:, 0]
    (B, n), S = bars.shape, columns.shape[1]
    padded, before = -(-n // 128) * 128, -(-S // 128) * 128
    length, num_keys = block_mask.seq_lengths
    assert (length, num_keys) == (flex_length(B, n), flex_length(B, n) * (2 if S else 1))
    q, k = torch.meshgrid(torch.arange(length), torch.arange(num_keys), indexing="ij")
    rule = block_mask.mask_mod(0, 0, q, k)
    expected = torch.zeros_like(rule)
    for b in range(B):
        first, key = b * padded, b * (before + padded)
        expected[first : first + n, key : key + S] = dense[b, :, :S]
        expected[first : first + n, key + before : key + before + n] = dense[b, :, S:]
        spare = torch.arange(n, padded)  # fills the last block, sees itself
        expected[first + spare, key + before + spare] = True
    assert torch.equal(rule, expected)
    active = block_mask.to_dense()[0, 0].bool()
    assert not active[B * padded // 128 :].any()
    active = active.repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert not (rule & ~active).any()
    first, key = 2 * padded + 128, 2 * (before + padded) + before  # padding of the short row
    assert not active[first : first + 128, key : key + 128].any()


def test_flex_lengths_are_few():
    assert {flex_length(rows, n) for rows in range(1, 9) for n in range(1, 4097)} == {2**i for i in range(10, 16)}
    assert flex_length(3, 300) == 2048


def test_one_long_bar_costs_no_padding(toy):
    """The padded area stays close to the number of visible pairs when a single bar is forty times longer."""
    config = toy.tiny_config()
    segments, columns = layout(toy, config, [toy.row([20] * 30 + [800] + [20] * 30)])
    bars = segments.bar_ids
    chunks = content_chunks(config, bars, bars, columns, tile=192, budget=2**19)
    area = sum(c * T * K for c, T, K in (chunk.shape for chunk in chunks))
    pairs = int(content_mask(config, bars, bars, columns).sum())
    padded_bars = 61 * 800 * 9 * 800
    assert area < 3 * pairs < padded_bars / 50


def test_state_is_per_row(toy):
    config = toy.tiny_config()
    ids = torch.tensor([[toy.BAR], [toy.NOTE], [toy.PAD]])
    state = SegmentState(torch.tensor([3, 5, 7]), torch.tensor([9, 2, 4]))
    segments = derive_segments(config, ids, None, state)
    assert segments.bar_ids[:, 0].tolist() == [4, 5, -1]
    assert segments.beat_ids[:, 0].tolist() == [0, 2, 0]
    assert segments.state.bar.tolist() == [4, 5, 7]

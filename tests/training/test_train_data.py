"""Crops, plans and batches: grammar, labels, determinism."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from partimento.tokenization.vocabulary import TokenType
from partimento.training.arguments import DataArguments
from partimento.training.batch_plan import cut_batches, plan_epoch
from partimento.training.token_corpus import TokenCorpus, cut_crop, draw_crops
from partimento.training.token_data import IGNORED, RowSource, TokenData, collate


@pytest.fixture
def corpus(train_corpus, train_processor):
    return TokenCorpus.from_parquet(train_corpus, "train", train_processor.vocabulary)


@pytest.fixture
def make_data(train_corpus, train_processor):
    def make(process=0, processes=1, batches_per_update=1, **changes):
        settings = {"crop_length": 160, "max_tokens_per_batch": 480, "validation_length": 160} | changes
        arguments = DataArguments(corpus=str(train_corpus), **settings)
        options = {"process": process, "processes": processes, "batches_per_update": batches_per_update}
        data = TokenData(arguments, train_processor, seed=3, **options)
        data.accepts_bar_offset = True
        return data

    return make


def test_the_corpus_is_what_was_written(corpus, train_corpus, train_processor):
    rows = pq.read_table(train_corpus / "tokenized")["input_ids"].to_pylist()
    assert len(corpus) == 40
    assert corpus.ids.dtype == np.int32
    for index in range(len(corpus)):
        assert corpus.song(index).tolist() in rows
        train_processor.validate(corpus.song(index))


def test_another_vocabulary_is_refused(train_corpus, train_processor):
    other = train_processor.with_labels(genres=["Polka"])
    with pytest.raises(ValueError, match="tokenised with vocabulary"):
        TokenCorpus.from_parquet(train_corpus, "train", other.vocabulary)
    with pytest.raises(FileNotFoundError, match="test-"):
        TokenCorpus.from_parquet(train_corpus, "test", train_processor.vocabulary)


@pytest.mark.parametrize("mode", ["random", "head", "none"])
@pytest.mark.parametrize("crop_length", [40, 160, 100_000])
def test_crops_are_windows_that_start_at_a_bar(corpus, train_processor, mode, crop_length):
    crops = draw_crops(corpus, mode, crop_length, seed=1, epoch=2, crops_per_song=3)
    eos, seen_offsets = train_processor.eos_token_id, set()
    for item in range(len(crops)):
        row = cut_crop(corpus, crops, item)
        song = corpus.song(row.song)
        assert row.body[0] == train_processor.bar_token_id
        assert row.prefix.tolist() == train_processor.split_prefix(song)[0]
        window = train_processor.window(song, row.bars_before, row.num_bars)
        assert row.body.tolist() == window[: len(row.body)]
        assert len(row.prefix) + len(row.body) <= crops.lengths[item]
        if mode != "none":
            assert crops.lengths[item] <= max(crop_length, len(row.prefix) + 5)
        if len(row.body) == len(window):
            complete = row.body if row.body[-1] == eos else np.append(row.body, eos)
            train_processor.validate(np.append(row.prefix, complete))
        reaches_end = crops.end[item] == corpus.offsets[row.song + 1]
        assert (row.body[-1] == eos) == reaches_end
        assert (eos in row.body) == reaches_end
        original = corpus.ids[crops.start[item] : crops.end[item]]
        assert row.body[~row.restored].tolist() == original.tolist()
        assert row.bars_before or not row.restored.any()
        seen_offsets.add(row.bars_before)
    if mode == "random" and crop_length == 160:
        assert len(seen_offsets) > 5
    elif mode != "random":
        assert seen_offsets == {0}


def test_crops_restore_the_running_state(corpus, train_processor):
    tokens, types = train_processor.vocabulary.tokens, train_processor.vocabulary.types
    crops = draw_crops(corpus, "random", 160, seed=1, epoch=0, crops_per_song=4)
    restored_programs = 0
    for item in range(len(crops)):
        row = cut_crop(corpus, crops, item)
        if not row.bars_before:
            continue
        before = corpus.ids[corpus.offsets[row.song] : crops.start[item]]
        running_tempo = before[types[before] == TokenType.TEMPO][-1]
        assert tokens[row.body[1]] == "Position_0"
        assert row.body[2] == running_tempo or not row.restored[2]
        program = row.body[row.restored & (types[row.body] == TokenType.PROGRAM)]
        if len(program):
            assert program[0] == before[types[before] == TokenType.PROGRAM][-1]
            restored_programs += 1
    assert restored_programs


def test_a_head_probability_of_one_is_a_head_crop(corpus):
    random = draw_crops(corpus, "random", 160, seed=1, epoch=0, head_probability=1.0)
    assert (random.start_bar == corpus.first_bar).all()


def test_a_share_of_the_crops_is_short(corpus):
    options = {"seed": 1, "epoch": 0, "crops_per_song": 40}
    long = draw_crops(corpus, "random", 160, **options)
    mixed = draw_crops(corpus, "random", 160, **options, short_crop_length=60, short_crop_probability=0.5)
    assert 0.4 < np.mean(mixed.lengths <= 60) - np.mean(long.lengths <= 60) < 0.6
    assert mixed.lengths.max() == long.lengths.max()
    short = draw_crops(corpus, "random", 160, **options, short_crop_length=60, short_crop_probability=1.0)
    exact = draw_crops(corpus, "random", 60, **options)
    assert short.start.tolist() == exact.start.tolist()
    assert short.end.tolist() == exact.end.tolist()


def test_long_songs_get_several_crops(corpus):
    crops = draw_crops(corpus, "random", 160, seed=1, epoch=0, crops_per_song=0)
    counts, sizes = np.bincount(crops.song), np.diff(corpus.offsets)
    assert counts.min() == 1
    assert counts[sizes.argmax()] == round(sizes.max() / 160)


def test_no_loss_on_prefix_restored_tokens_and_padding(make_data, corpus):
    for (batch,) in make_data().epoch(0):
        ids, labels, mask = (batch.inputs[name] for name in ("input_ids", "labels", "attention_mask"))
        bar, types = corpus.vocabulary.bar, corpus.vocabulary.types
        first_bar = (ids == bar).int().argmax(1)
        for row in range(len(ids)):
            assert (labels[row, : first_bar[row]] == IGNORED).all()
            assert set(np.atleast_1d(types[ids[row, : first_bar[row]].numpy()]).tolist()) <= {
                TokenType.BOS,
                TokenType.CONDITION,
            }
            assert (labels[row][mask[row] == 0] == IGNORED).all()
            supervised = labels[row] != IGNORED
            assert (labels[row][supervised] == ids[row][supervised]).all()
            ignored_in_body = int((~supervised & (mask[row] == 1)).sum() - first_bar[row])
            assert ignored_in_body <= (3 if batch.inputs["bar_offset"][row] else 0)
        assert batch.num_supervised == int((labels[:, 1:] != IGNORED).sum())
        assert batch.num_tokens == int(mask.sum())


def test_augmentation_moves_conditions_along(make_data, train_processor, corpus):
    data = make_data(condition_slot_dropout=0.0, condition_all_dropout=0.0, crop="random")
    plain = make_data(condition_slot_dropout=0.0, condition_all_dropout=0.0, transpose=[], tempo_factor=[])
    source, reference = data.epoch(0).dataset.source, plain.epoch(0).dataset.source
    keys, changed = set(), 0
    for item in range(len(source.crops)):
        row, original = source.row(item), reference.row(item)
        assert len(row.body) <= len(original.body)
        assert row.restored.sum() == original.restored.sum()
        kinds = corpus.vocabulary.types[row.body[row.restored]]
        assert kinds.tolist() == corpus.vocabulary.types[original.body[original.restored]].tolist()
        conditions = train_processor.parse_conditions(row.prefix)
        keys.add(conditions["key"])
        changed += row.body.tolist() != original.body.tolist()
        ids = np.append(row.prefix, row.body if row.body[-1] == 2 else np.append(row.body, 2))
        train_processor.validate(ids)
    assert len(keys) > 6
    assert changed > len(source.crops) / 2


def test_tempo_bin_follows_the_whole_song(make_data, train_processor, corpus):
    data = make_data(condition_slot_dropout=0.0, condition_all_dropout=0.0, transpose=[], tempo_factor=[1.4, 1.4])
    source = data.epoch(0).dataset.source
    for item in range(len(source.crops)):
        row = source.row(item)
        song = train_processor.scale_tempo(corpus.song(row.song), 1.0)
        whole = train_processor.augmentation.mean_tempo(song) * 1.4
        token = train_processor.conditions.tempo_token(whole)
        assert token in {train_processor.vocabulary.tokens[i] for i in row.prefix}


def test_augmentation_is_redrawn_every_epoch_and_repeatable(make_data):
    def rows(epoch):
        source = make_data(crop="none").epoch(epoch).dataset.source
        return [np.append(source.row(i).prefix, source.row(i).body).tolist() for i in range(len(source.crops))]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_condition_dropout_gives_every_kind_of_subset(make_data):
    source = make_data(crops_per_song=20, crop="head").epoch(0).dataset.source
    sizes = np.array([len(source.row(i).prefix) for i in range(len(source.crops))])
    full = max(sizes)
    assert (sizes == 1).mean() == pytest.approx(0.1, abs=0.04)
    assert (sizes == full).mean() == pytest.approx(0.9 * 0.8**4, abs=0.06)


@pytest.mark.parametrize("batches_per_update", [1, 4])
def test_plan_uses_every_row_once_within_the_budget(batches_per_update):
    rng = np.random.default_rng(0)
    lengths, bars = rng.integers(10, 400, 333), rng.integers(1, 30, 333)
    options = {"max_tokens": 1000, "max_rows": 20, "batches_per_update": batches_per_update, "bucket_rows": 100}
    plan = plan_epoch(lengths, bars, seed=1, epoch=0, **options)
    rows = np.concatenate([batch for update in plan for batch in update])
    assert len(rows) == len(set(rows))
    assert len(rows) > len(lengths) - batches_per_update
    assert all(len(update) == batches_per_update for update in plan)
    for batch in (batch for update in plan for batch in update):
        assert 1 <= len(batch) <= 20
        assert lengths[batch].max() * len(batch) <= 1000
    again = plan_epoch(lengths, bars, seed=1, epoch=0, **options)
    assert [[b.tolist() for b in u] for u in again] == [[b.tolist() for b in u] for u in plan]
    other = plan_epoch(lengths, bars, seed=1, epoch=1, **options)
    assert [[b.tolist() for b in u] for u in other] != [[b.tolist() for b in u] for u in plan]


def test_bucketing_lowers_padding():
    lengths = np.random.default_rng(0).integers(10, 4000, 1000)

    def padding(bucket_rows):
        plan = plan_epoch(lengths, lengths, seed=1, epoch=0, max_tokens=16_000, bucket_rows=bucket_rows)
        padded = sum(lengths[b].max() * len(b) for update in plan for b in update)
        return 1 - lengths.sum() / padded

    assert padding(256) < 0.1 < padding(1)


def test_an_overlong_row_is_alone():
    batches = cut_batches(np.arange(4), np.array([10, 500, 10, 10]), 100)
    assert [batch.tolist() for batch in batches] == [[0], [1], [2, 3]]


def test_processes_share_an_update(make_data):
    whole = list(make_data(batches_per_update=2).epoch(0))
    first = list(make_data(0, 2, batches_per_update=2).epoch(0))
    second = list(make_data(1, 2, batches_per_update=2).epoch(0))
    for both, one, other in zip(whole, first, second, strict=True):
        assert [b.songs for b in both] == [b.songs for b in one] + [b.songs for b in other]


def test_a_loader_can_start_anywhere(make_data):
    data = make_data()
    whole = [update[0].inputs["input_ids"].tolist() for update in data.epoch(4)]
    rest = [update[0].inputs["input_ids"].tolist() for update in data.epoch(4, position=3)]
    assert rest == whole[3:]
    assert list(data.epoch(4, position=len(whole))) == []


def test_workers_give_the_same_batches(make_data):
    alone = [update[0].inputs["labels"].tolist() for update in make_data().epoch(0)]
    helped = [update[0].inputs["labels"].tolist() for update in make_data(num_workers=1).epoch(0)]
    assert alone == helped


def test_validation_covers_the_split_once_with_any_number_of_processes(make_data):
    def songs(batches):
        return [name for batch in batches if batch.num_supervised for name in batch.songs]

    alone = list(make_data().validation_batches())
    parts = [list(make_data(p, 3).validation_batches()) for p in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(songs(alone)) == sorted(name for part in parts for name in songs(part))
    assert sum(b.num_supervised for b in alone) == sum(b.num_supervised for part in parts for b in part)
    again = list(make_data().validation_batches())
    assert [b.inputs["input_ids"].tolist() for b in alone] == [b.inputs["input_ids"].tolist() for b in again]
    assert len(songs(make_data(validation_songs=3).validation_batches())) == 3


def test_too_small_a_corpus_is_named(make_data):
    with pytest.raises(ValueError, match="are fewer than"):
        make_data(batches_per_update=64).epoch(0)


def test_bar_offset_only_where_the_model_takes_it(corpus):
    crops = draw_crops(corpus, "random", 160, seed=1, epoch=0)
    rows = [RowSource(corpus, crops, 0, 0, None).row(item) for item in range(3)]
    assert collate(rows, 0, True).inputs["bar_offset"].tolist() == [row.bars_before for row in rows]
    assert "bar_offset" not in collate(rows, 0, False).inputs


def test_a_song_without_bars_is_named(train_processor):
    ids = np.array([1, 4, 2, 1, 2], dtype=np.int32)
    with pytest.raises(ValueError, match="song b has no Bar"):
        TokenCorpus(ids, np.array([0, 3, 5]), ["a", "b"], train_processor.vocabulary)

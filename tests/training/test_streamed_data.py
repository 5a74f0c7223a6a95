"""Songs streamed from disk: the batches of a corpus in memory, shared out over processes, resumed by counting."""

import pyarrow.parquet as pq
import pytest

from partimento.training.arguments import DataArguments, parse_arguments
from partimento.training.streamed_data import SongStream, StreamedData
from partimento.training.token_corpus import TokenCorpus
from partimento.training.token_data import TokenData


@pytest.fixture(scope="module")
def shards(train_corpus, tmp_path_factory):
    """The training corpus in four files of two row groups of five songs."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "tokenized").mkdir()
    table = pq.read_table(sorted(train_corpus.glob("tokenized/train-*")))
    names = [f"{number // 10}-{number % 10}" for number in range(len(table))]  # file and place in it
    table = table.set_column(table.column_names.index("md5"), "md5", [names])
    for number in range(4):
        path = folder / "tokenized" / f"train-{number:05d}-of-00004.parquet"
        pq.write_table(table.slice(10 * number, 10), path, row_group_size=5)
    validation = next(train_corpus.glob("tokenized/validation-*"))
    (folder / "tokenized" / validation.name).write_bytes(validation.read_bytes())
    return folder


@pytest.fixture
def make_data(shards, train_processor):
    def make(kind=StreamedData, process=0, processes=1, batches_per_update=2, **changes):
        settings = {"crop_length": 160, "max_tokens_per_batch": 480, "validation_length": 160} | changes
        arguments = DataArguments(corpus=str(shards), **settings)
        options = {"process": process, "processes": processes, "batches_per_update": batches_per_update}
        return kind(arguments, train_processor, seed=3, **options)

    return make


def contents(updates):
    """What the micro-batches of each update hold, as plain values."""
    return [[{name: value.tolist() for name, value in batch.inputs.items()} for batch in update] for update in updates]


def songs_of(updates):
    return [name.split("@")[0] for update in updates for batch in update for name in batch.songs]


@pytest.mark.parametrize("crops_per_song", [1, 3])
def test_one_pool_gives_the_batches_of_a_corpus_in_memory(make_data, crops_per_song):
    streamed = make_data(stream_songs=40, crops_per_song=crops_per_song)
    in_memory = make_data(TokenData, crops_per_song=crops_per_song)
    for epoch in (0, 1):
        found, expected = list(streamed.epoch(epoch)), list(in_memory.epoch(epoch))
        assert contents(found) == contents(expected)
        assert songs_of(found) == songs_of(expected)
        assert len(found) > 3
    validation = [[[batch] for batch in data.validation_batches()] for data in (streamed, in_memory)]
    assert contents(validation[0]) == contents(validation[1])


@pytest.mark.parametrize("stream_songs", [1, 12, 25])
@pytest.mark.parametrize("batches_per_update", [2, 4])
def test_two_processes_share_out_what_one_sees(make_data, stream_songs, batches_per_update):
    settings = {"stream_songs": stream_songs, "batches_per_update": batches_per_update}
    alone = list(make_data(**settings).epoch(1))
    first, second = (list(make_data(process=process, processes=2, **settings).epoch(1)) for process in (0, 1))
    assert len(alone) == len(first) == len(second)
    for update, of_first, of_second in zip(contents(alone), contents(first), contents(second)):
        assert [update[0::2], update[1::2]] == [of_first, of_second]
    assert not set(songs_of(first)) & set(songs_of(second))
    seen = songs_of(first) + songs_of(second)
    assert len(seen) == len(set(seen)) > 40 - batches_per_update


def test_every_epoch_has_another_order_and_all_songs(make_data):
    data = make_data(stream_songs=10, batches_per_update=1)
    epochs = [songs_of(data.epoch(epoch)) for epoch in range(3)]
    assert len({tuple(songs) for songs in epochs}) == 3
    assert all(len(songs) == len(set(songs)) == 40 for songs in epochs)
    first_files = {next(data.train.pools(3, epoch, 10)).names[0][0] for epoch in range(40)}
    assert first_files == set("0123")  # they take turns


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_from_a_position(make_data, num_workers):
    whole = contents(make_data(stream_songs=12).epoch(2))
    assert len(whole) > 5
    for position in (1, 4, len(whole)):
        rest = make_data(stream_songs=12, num_workers=num_workers).epoch(2, position)
        assert contents(rest) == whole[position:]


def test_only_a_pool_is_in_memory(shards, train_processor):
    stream = SongStream(shards, "train", train_processor.vocabulary)
    whole = TokenCorpus.from_parquet(shards, "train", train_processor.vocabulary)
    assert (len(stream), stream.num_tokens) == (len(whole), len(whole.ids))
    for wanted, sizes in ((1, [5] * 8), (12, [15, 15, 10]), (100, [40])):
        pools = list(stream.pools(0, 0, wanted))
        assert [len(pool) for pool in pools] == sizes
        assert sorted(name for pool in pools for name in pool.names) == sorted(whole.names)
    assert pools[0].ids.tolist() == whole.ids.tolist()
    assert stream.content_hash() == SongStream(shards, "train", train_processor.vocabulary).content_hash()
    assert stream.content_hash() != SongStream(shards, "validation", train_processor.vocabulary).content_hash()


def test_what_cannot_be_streamed_is_named(make_data, shards, train_processor):
    with pytest.raises(ValueError, match="tokenised with vocabulary"):
        SongStream(shards, "train", train_processor.with_labels(genres=["Polka"]).vocabulary)
    with pytest.raises(ValueError, match=r"40 songs are fewer than train\.batches_per_update 41: lower it"):
        make_data(batches_per_update=41).epoch(0)
    with pytest.raises(ValueError, match=r"data\.train_songs is 5"):
        make_data(train_songs=5)
    with pytest.raises(ValueError, match=r"data\.streaming: windows"):
        parse_arguments({"data": {"streaming": True}, "bptt": {"window": 8}})
    with pytest.raises(ValueError, match=r"data\.stream_songs is 0"):
        parse_arguments({"data": {"streaming": True, "stream_songs": 0}})


def test_a_resumed_run_goes_on_in_the_middle_of_an_epoch(run_training, recipe, logged, facts_of, shards, tmp_path):
    changes = {"data__streaming": True, "data__stream_songs": 12, "train__max_updates": 8}
    assert run_training(recipe("straight", **changes)) == 0
    assert run_training(recipe("broken", **{**changes, "train__max_updates": 4})) == 0
    assert run_training(recipe("broken", **changes), "--resume", "auto") == 0
    straight, broken = (
        [entry for entry in logged(tmp_path / name) if entry["kind"] == "train"] for name in ("straight", "broken")
    )
    assert straight == broken
    assert len(straight) == 8
    facts = facts_of(tmp_path / "straight" / "run.json")
    assert facts["songs"] == {"train": 40, "validation": 7}
    rows = pq.read_table(shards / "tokenized")["input_ids"].to_pylist()
    assert sum(facts["tokens"].values()) == sum(map(len, rows))

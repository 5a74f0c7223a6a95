"""Training rows of a corpus that stays on disk (`data.streaming: true`), read shard by shard in every epoch.

A pool of at least `data.stream_songs` songs is in memory at a time. The order of the Parquet files is drawn anew in
every epoch; inside a pool all is as in `TokenData`: crops, shuffling, bucketing, updates. Rows too few for an update go
into the next pool, so that an epoch has every row once, but for fewer than `train.batches_per_update` at its end.

Every process reads the whole stream and makes the rows of its own micro-batches only: no row is in two processes, and
an update holds the same rows for any number of processes. A position in the epoch is a count of updates; resuming
reads up to it again without making rows. If one pool holds the whole split, all batches equal those of `TokenData`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from partimento.tokenization.vocabulary import Vocabulary
from partimento.training.songs import split_files
from partimento.training.token_corpus import TokenCorpus, open_shard, read_columns
from partimento.training.token_data import Batch, RowAugmentation, RowSource, TokenData, collate

StreamedUpdate = list[list[tuple[RowSource, int]]]  # micro-batches of rows, each a source and an item of it


class SongStream:
    """The songs of a split in Parquet files, of which only the footers are read at first.

    Raises:
        FileNotFoundError: no such files.
        ValueError: tokenised with another vocabulary.
    """

    def __init__(self, folder: str | Path, split: str, vocabulary: Vocabulary):
        self.vocabulary, self.paths = vocabulary, split_files(folder, split)
        digest = hashlib.sha256()
        self.num_songs = self.num_tokens = 0
        for path in self.paths:
            footer = open_shard(path, vocabulary).metadata
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
            columns = [group.column(number) for group in groups for number in range(group.num_columns)]
            tokens = [column for column in columns if column.path_in_schema.startswith("input_ids.")]
            self.num_songs += footer.num_rows
            self.num_tokens += sum(column.num_values for column in tokens)
            facts = [(column.num_values, column.total_compressed_size) for column in tokens]
            digest.update(repr((path.name, footer.num_rows, facts)).encode())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self.num_songs

    def content_hash(self) -> str:
        """Return a SHA-256 over what the footers say of names, rows and sizes; the songs themselves are not read."""
        return self.digest

    def pools(self, seed: int, epoch: int, num_songs: int) -> Iterator[TokenCorpus]:
        """Yield all songs in corpora of `num_songs` or a little more, the last with fewer, each in file order."""
        pool: list[tuple[int, int, pa.Table]] = []
        for number in np.random.default_rng((seed, epoch, 5)).permutation(len(self.paths)):
            shard = open_shard(self.paths[number], self.vocabulary)
            for group in range(shard.num_row_groups):
                pool.append((int(number), group, shard.read_row_group(group, columns=read_columns(shard))))
                if sum(len(table) for *_, table in pool) >= num_songs:
                    yield self.join(pool)
                    pool = []
        if pool:
            yield self.join(pool)

    def join(self, pool: list[tuple[int, int, pa.Table]]) -> TokenCorpus:
        """One corpus of (file, row group, table), ordered by file and row group."""
        return TokenCorpus.from_tables(
            (table for *_, table in sorted(pool, key=lambda item: item[:2])), self.vocabulary
        )


class StreamedData(TokenData):
    """As `TokenData`, with the training split on disk; the validation split is in memory."""

    train: SongStream

    def open_train(self, vocabulary: Vocabulary) -> SongStream:
        a = self.arguments
        assert a.corpus is not None
        if a.train_songs:
            raise ValueError(f"data.train_songs is {a.train_songs}: a part of the songs needs data.streaming: false")
        return SongStream(a.corpus, a.train_split, vocabulary)

    def updates(self, epoch: int) -> Iterator[StreamedUpdate]:
        """Yield all updates of an epoch; their rows are not made yet."""
        a = self.arguments
        left: list[tuple[RowSource, int]] = []
        for number, corpus in enumerate(self.train.pools(self.seed, epoch, a.stream_songs)):
            seed = (
                self.seed if number == 0 else int(np.random.default_rng((self.seed, epoch, 6, number)).integers(2**31))
            )
            source = self.draw_rows(corpus, RowAugmentation(a, self.processor, corpus), seed, epoch)
            rows = [*left, *((source, item) for item in range(len(source.crops)))]
            lengths = np.array([source.crops.lengths[item] for source, item in rows])
            bars = np.array([source.crops.bars[item] for source, item in rows])
            plan = self.plan_rows(lengths, bars, seed, epoch)
            for update in plan:
                yield [[rows[i] for i in batch] for batch in update]
            planned = {int(i) for update in plan for batch in update for i in batch}
            left = [row for i, row in enumerate(rows) if i not in planned]

    def epoch(self, epoch: int, position: int = 0) -> DataLoader:
        """Return a loader over the updates of an epoch from `position` on; it draws no global random number."""
        a = self.arguments
        if len(self.train) * max(1, a.crops_per_song) < self.batches_per_update:
            raise ValueError(
                f"data.corpus {a.corpus}: {len(self.train)} songs are fewer than train.batches_per_update "
                f"{self.batches_per_update}: lower it"
            )
        return DataLoader(
            StreamedEpoch(self, epoch, position),
            batch_size=None,
            num_workers=a.num_workers,
            collate_fn=_identity,
            generator=torch.Generator(),  # otherwise every new iterator would advance the global generator
        )


class StreamedEpoch(IterableDataset):
    """The micro-batches of one process, update by update; of n workers each makes every n-th update."""

    def __init__(self, data: StreamedData, epoch: int, position: int):
        self.data, self.epoch, self.position = data, epoch, position

    def __iter__(self) -> Iterator[list[Batch]]:
        data, worker = self.data, get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        pad = data.train.vocabulary.pad
        for number, update in enumerate(data.updates(self.epoch)):
            if number < self.position or (number - self.position) % step != first:
                continue
            mine = update[data.process :: data.processes]
            yield [collate([source.row(item) for source, item in rows], pad, data.accepts_bar_offset) for rows in mine]


def _identity(item):
    return item

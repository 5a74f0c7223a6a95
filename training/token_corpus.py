"""Token sequences in memory, and crops of them.

A row is `[BOS conditions] bars [EOS]`. A crop starts at a Bar, keeps the prefix, restores the running Tempo and
Program, and ends before a Bar or with the piece; only in the latter case it holds the EOS.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from partimento.tokenization.vocabulary import Vocabulary
from partimento.tokenization.windows import cut_window
from partimento.training.songs import split_files

NUM_RESTORED = 3  # Position, Tempo and Program at most


class TokenCorpus:
    """One split as flat arrays: `ids` int32 [tokens], `offsets` [songs + 1], and the places of all bars."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, names: Sequence[str], vocabulary: Vocabulary):
        self.ids, self.offsets, self.names, self.vocabulary = ids, offsets, names, vocabulary
        self.bar_starts = np.flatnonzero(ids == vocabulary.bar)
        self.first_bar = np.searchsorted(self.bar_starts, offsets[:-1])  # [songs] index into bar_starts
        self.end_bar = np.searchsorted(self.bar_starts, offsets[1:])
        without = np.flatnonzero(self.first_bar == self.end_bar)
        if len(without):
            raise ValueError(f"song {names[without[0]]} has no Bar token: prepare the corpus again")
        self.prefix_lengths = self.bar_starts[self.first_bar] - offsets[:-1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def song(self, index: int) -> np.ndarray:
        """Return the ids of a whole song."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def from_parquet(cls, folder: str | Path, split: str, vocabulary: Vocabulary) -> "TokenCorpus":
        """Read `<folder>/tokenized/<split>-*.parquet`.

        Raises:
            FileNotFoundError: no such shards.
            ValueError: tokenised with another vocabulary.
        """
        shards = (open_shard(path, vocabulary) for path in split_files(folder, split))
        return cls.from_tables((shard.read(columns=read_columns(shard)) for shard in shards), vocabulary)

    @classmethod
    def from_tables(cls, tables: Iterable[pa.Table], vocabulary: Vocabulary) -> "TokenCorpus":
        """Join the songs of tables with the columns `input_ids` and, where there are names, `md5`."""
        parts, lengths, names = [], [], []
        for table in tables:
            for chunk in table["input_ids"].chunks:
                parts.append(chunk.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False))
                lengths.append(chunk.value_lengths().to_numpy(zero_copy_only=False))
            names += table["md5"].to_pylist() if "md5" in table.column_names else []
        offsets = np.concatenate([[0], *map(np.cumsum, [np.concatenate(lengths)])]).astype(np.int64)
        return cls(np.concatenate(parts), offsets, names or list(map(str, range(len(offsets) - 1))), vocabulary)

    def spread(self, count: int) -> "TokenCorpus":
        """Return a corpus of `count` of the songs, spread evenly over it; all of them where there are no more."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[chosen])])
        ids = np.concatenate([self.song(index) for index in chosen])
        return TokenCorpus(ids, offsets, [self.names[index] for index in chosen.tolist()], self.vocabulary)

    def content_hash(self) -> str:
        """Return a SHA-256 over ids and song borders."""
        digest = hashlib.sha256(np.ascontiguousarray(self.offsets).data)
        digest.update(np.ascontiguousarray(self.ids).data)
        return digest.hexdigest()


def open_shard(path: str | Path, vocabulary: Vocabulary) -> pq.ParquetFile:
    """Open one Parquet file of tokens; raises ValueError if it was made with another vocabulary."""
    file = pq.ParquetFile(path)
    stored = (file.schema_arrow.metadata or {}).get(b"partimento.vocab_hash", b"").decode()
    if stored != vocabulary.content_hash:
        raise ValueError(
            f"{path}: tokenised with vocabulary {stored or 'unknown'}, the processor beside it has "
            f"{vocabulary.content_hash}: prepare the corpus again"
        )
    return file


def read_columns(shard: pq.ParquetFile) -> list[str]:
    """The columns of a shard that a `TokenCorpus` is made of."""
    return [name for name in ("input_ids", "md5") if name in shard.schema_arrow.names]


@dataclass(frozen=True)
class CropTable:
    """The crops of one epoch, arrays [items]; `start` and `end` index the ids, `start_bar` the bars of all songs."""

    song: np.ndarray
    start_bar: np.ndarray
    start: np.ndarray
    end: np.ndarray
    lengths: np.ndarray  # upper bound of the row's length
    bars: np.ndarray

    def __len__(self) -> int:
        return len(self.song)


@dataclass(frozen=True)
class Row:
    """One crop."""

    prefix: np.ndarray  # BOS and conditions of the song
    body: np.ndarray  # bars, perhaps EOS
    restored: np.ndarray  # [body] bool: tokens that restore the running state, not part of the music here
    bars_before: int
    num_bars: int
    song: int
    name: str


def draw_crops(
    corpus: TokenCorpus,
    mode: str,
    crop_length: int,
    *,
    seed: int,
    epoch: int,
    head_probability: float = 0.0,
    crops_per_song: int = 1,
    short_crop_length: int = 0,
    short_crop_probability: float = 0.0,
) -> CropTable:
    """Choose the bars of every item of an epoch; depends on nothing but the arguments.

    Args:
        mode: `random` starts at any bar from which the crop can be filled, `head` at bar 1, `none` takes whole songs.
        crop_length: limit of a row's tokens, prefix and EOS included; a single longer bar is cut at the limit.
        head_probability: share of the random crops that start at bar 1 all the same.
        crops_per_song: 0 gives each song one item per `crop_length` tokens.
        short_crop_length: limit of a row that is drawn short; such rows show the conditions' effect on few bars.
        short_crop_probability: share of the rows drawn short.
    """
    repeats = np.full(len(corpus), crops_per_song)
    if not crops_per_song:
        repeats = np.maximum(1, np.round(np.diff(corpus.offsets) / crop_length)).astype(np.int64)
    song = np.repeat(np.arange(len(corpus)), repeats)
    first_bar, prefix, song_end = corpus.first_bar[song], corpus.prefix_lengths[song], corpus.offsets[1:][song]
    starts = corpus.bar_starts
    start_bar = first_bar
    length = np.full(len(song), crop_length)
    if short_crop_probability:
        short = np.random.default_rng((seed, epoch, 3)).random(len(song)) < short_crop_probability
        length[short] = short_crop_length
    if mode == "random":
        draws = np.random.default_rng((seed, epoch, 1)).random((len(song), 2))
        room = length - prefix - NUM_RESTORED
        last = np.clip(np.searchsorted(starts, song_end - room), first_bar, corpus.end_bar[song] - 1)
        fits = prefix + song_end - starts[first_bar] <= length
        last = np.where(fits | (draws[:, 0] < head_probability), first_bar, last)
        start_bar = first_bar + (draws[:, 1] * (last - first_bar + 1)).astype(np.int64)
    restored = np.where(start_bar > first_bar, NUM_RESTORED, 0)
    end = song_end
    if mode != "none":
        limit = starts[start_bar] + np.maximum(2, length - prefix - restored)
        next_bar = np.searchsorted(starts, limit, side="right") - 1
        end = np.where(next_bar > start_bar, starts[next_bar], limit)
        end = np.where(limit >= song_end, song_end, end)
    lengths = prefix + (end - starts[start_bar]) + restored
    return CropTable(song, start_bar, starts[start_bar], end, lengths, np.searchsorted(starts, end) - start_bar)


def cut_crop(corpus: TokenCorpus, crops: CropTable, item: int) -> Row:
    """Return one item as it stands in the corpus."""
    song, num_bars = int(crops.song[item]), int(crops.bars[item])
    ids = corpus.song(song)
    bars_before = int(crops.start_bar[item] - corpus.first_bar[song])
    size = int(crops.end[item] - crops.start[item])
    body = corpus.ids[crops.start[item] : crops.end[item]]
    restored = np.zeros(size, dtype=bool)
    if bars_before:
        window = cut_window(ids, bars_before, num_bars, corpus.vocabulary)
        next_bar = int(crops.start_bar[item]) + num_bars
        end = corpus.bar_starts[next_bar] if next_bar < corpus.end_bar[song] else corpus.offsets[song + 1]
        inserted = find_inserted(window, corpus.ids[crops.start[item] : end])
        size += len(inserted)  # shorter than the window only where a single overlong bar is cut
        body, restored = window[:size], np.zeros(size, dtype=bool)
        restored[[i for i in inserted if i < size]] = True
    prefix = ids[: corpus.prefix_lengths[song]]
    return Row(prefix, body, restored, bars_before, num_bars, song, f"{corpus.names[song]}@{bars_before}")


def find_inserted(window: np.ndarray, original: np.ndarray) -> list[int]:
    """Return the places in `window` of the tokens that `original` lacks; they stand before its second note."""
    missing, inserted, position = len(window) - len(original), [], 0
    while len(inserted) < missing:
        place = position + len(inserted)
        if position < len(original) and window[place] == original[position]:
            position += 1
        else:
            inserted.append(place)
    return inserted

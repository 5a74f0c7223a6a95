"""Whole songs of a tokenised corpus, and which of their tokens count.

A song is `[BOS] condition tokens, bars …, [EOS]`. BOS and conditions are history; every token from the first `Bar` to
EOS is predicted and counts, for a neural model and for an n-gram alike.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet

from partimento.tokenization import MidiProcessor
from partimento.tokenization.vocabulary import TokenType

CONDITIONS = ("all_conditions", "no_conditions")


@dataclass(frozen=True)
class Song:
    """A tokenised piece, `ids` [n] int32 from BOS to EOS."""

    ids: np.ndarray
    genre: str
    md5: str


def read_songs(corpus: str | Path, split: str) -> list[Song]:
    """All songs of one split of a tokenised corpus (`<corpus>/tokenized/<split>-*.parquet`).

    Raises:
        FileNotFoundError: the split has no Parquet file.
    """
    songs = []
    for file in split_files(corpus, split):
        table = pyarrow.parquet.read_table(file, columns=["input_ids", "genre", "md5"])
        for column in table.to_batches():
            rows = column.column("input_ids")
            values, offsets = np.asarray(rows.flatten()), np.asarray(rows.offsets) - rows.offsets[0].as_py()
            genres, hashes = column.column("genre").to_pylist(), column.column("md5").to_pylist()
            for i in range(len(rows)):
                ids = values[offsets[i] : offsets[i + 1]].astype(np.int32)
                songs.append(Song(ids, genres[i] or "unlabelled", hashes[i]))
    return songs


def corpus_vocab_hash(corpus: str | Path, split: str) -> str | None:
    """Hash of the vocabulary that the split was tokenised with, from the schema metadata."""
    metadata = pyarrow.parquet.read_schema(split_files(corpus, split)[0]).metadata or {}
    value = metadata.get(b"partimento.vocab_hash")
    return value.decode() if value is not None else None


def split_files(corpus: str | Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(Path(corpus).glob(f"tokenized/{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{corpus}: no tokenized/{split}-*.parquet; make the corpus with prepare_data.py")
    return files


def seeded_subset(songs: list[Song], size: int | None, seed: int) -> list[Song]:
    """`size` songs drawn without replacement, in corpus order; all of them when `size` is None or too large."""
    if size is None or size >= len(songs):
        return songs
    chosen = np.random.default_rng(seed).choice(len(songs), size=size, replace=False)
    return [songs[i] for i in sorted(chosen)]


def token_subset(songs: list[Song], num_tokens: int | None, seed: int) -> list[Song]:
    """A seeded draw of songs until they hold `num_tokens`, in corpus order; all of them when there are not so many."""
    if num_tokens is None:
        return songs
    order = np.random.default_rng(seed).permutation(len(songs))
    held = np.cumsum([len(songs[i].ids) for i in order])
    return [songs[i] for i in sorted(order[: np.searchsorted(held, num_tokens) + 1])]


def fingerprint(songs: list[Song]) -> str:
    """First 16 digits of a SHA-256 over the songs in order: figures with equal fingerprints may be compared."""
    digest = hashlib.sha256()
    for song in songs:
        digest.update(len(song.ids).to_bytes(8, "little") + song.ids.tobytes())
    return digest.hexdigest()[:16]


def note_token_ids(processor: MidiProcessor) -> np.ndarray:
    """Ids of the tokens of which every note has exactly one, ascending."""
    return processor.vocabulary.of_type(TokenType.DURATION)


def first_bar(ids: np.ndarray, bar_token_id: int) -> int:
    """Index of the first `Bar`, the number of tokens that are history only; all of them when there is no bar."""
    bars = np.flatnonzero(ids == bar_token_id)
    return int(bars[0]) if len(bars) else len(ids)


def without_conditions(ids: np.ndarray, bar_token_id: int) -> np.ndarray:
    """The song behind a bare BOS."""
    return np.concatenate([ids[:1], ids[first_bar(ids, bar_token_id) :]])


def supervised_mask(ids: np.ndarray, bar_token_id: int) -> np.ndarray:
    """[n] bool, True where a token is predicted and counts: from the first `Bar` to EOS."""
    return np.arange(len(ids)) >= first_bar(ids, bar_token_id)


def inputs_of(
    songs: list[Song], conditions: str, max_tokens: int | None, bar_token_id: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids and masks of supervised tokens; the song, not its prefix, is what `max_tokens` cuts."""
    sequences = []
    for song in songs:
        bare = without_conditions(song.ids, bar_token_id)
        length = len(bare) if max_tokens is None else min(len(bare), max_tokens)
        prefix = len(song.ids) - len(bare)
        sequences.append(song.ids[: prefix + length] if conditions == "all_conditions" else bare[:length])
    return sequences, [supervised_mask(ids, bar_token_id) for ids in sequences]


def transposed(songs: list[Song], semitones: int, processor: MidiProcessor) -> list[Song]:
    """The songs higher by `semitones`, without those that leave the range of MIDI pitches."""
    if semitones == 0:
        return songs
    result = []
    for song in songs:
        with suppress(ValueError):
            result.append(replace(song, ids=np.asarray(processor.transpose(song.ids, semitones), dtype=np.int32)))
    return result

"""Training and validation batches of grid windows.

Songs are split before they are cut into windows, windows of one split are unique, and none of the validation split
occurs in training. Every random choice comes from a generator seeded by (seed, epoch) or (seed, epoch, item), so a
batch can be rebuilt from these numbers alone, and a transposition is drawn afresh in every epoch.
"""

import collections
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from partimento.tokenization.errors import MidiError
from partimento.tokenization.grid_songs import GridSong
from partimento.tokenization.grid_windows import passing_windows, window_starts
from partimento.tokenization.melody_lines import FIRST_NOTE_ON, make_line
from partimento.tokenization.processing_grid import MusicVAEProcessor
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_songs_store import read_stored
from partimento.training.token_data import IGNORED, Batch


class GridCorpus:
    """Windows of one split.

    Args:
        windows: `[n, tracks, steps]` int16, ids counted from 0 in each track.
        songs: `[n]` index into `names`.
        counts: what was left out: reason -> number.
    """

    def __init__(self, windows: np.ndarray, songs: np.ndarray, names: list[str], counts: collections.Counter):
        self.windows, self.songs, self.names, self.counts = windows, songs, names, counts

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def ids(self) -> np.ndarray:
        """All ids in one row."""
        return self.windows.reshape(-1)

    @classmethod
    def from_parquet(
        cls, arguments: GridArguments, split: str, processor: Any, seen: "GridCorpus | None" = None
    ) -> "GridCorpus":
        """Read and cut a split.

        Args:
            seen: windows that occur here as well are left out.

        Raises:
            FileNotFoundError: no such split. ValueError: no window is left.
        """
        assert arguments.corpus is not None
        windows, owners, names, counts = [], [], [], collections.Counter()
        for stored in read_stored(arguments.corpus, split):
            for cut in cls.cut(stored.song, arguments, processor, counts):
                windows.append(cut)
                owners.append(np.full(len(cut), len(names), np.int32))
            names.append(stored.metadata["md5"] or stored.metadata["file_name"])
        if not sum(map(len, windows)):
            reasons = dict(counts) or "no songs"
            raise ValueError(
                f"grids.corpus {arguments.corpus}: no window of split {split} is left ({reasons}); relax the filters"
            )
        corpus = cls(np.concatenate(windows), np.concatenate(owners), names, counts)
        return corpus.without_duplicates(seen)

    @staticmethod
    def cut(
        song: GridSong, arguments: GridArguments, processor: Any, counts: collections.Counter
    ) -> Iterator[np.ndarray]:
        """Windows of a song, counted; a corpus of another kind stores them in another form."""
        return song_windows(song, arguments, processor, counts)

    def without_duplicates(self, seen: "GridCorpus | None" = None) -> "GridCorpus":
        """The first of equal windows, without those of `seen`; both are counted."""
        own = row_hashes(self.windows)
        first = np.zeros(len(self), bool)
        first[np.unique(own, return_index=True)[1]] = True
        counts = self.counts + collections.Counter(duplicate=int((~first).sum()))
        if seen is not None:
            known = np.isin(own, row_hashes(seen.windows))
            counts["in_training"] += int((first & known).sum())
            first &= ~known
        return type(self)(self.windows[first], self.songs[first], self.names, counts)

    def content_hash(self) -> str:
        """SHA-256 over the windows and their songs."""
        digest = hashlib.sha256(np.ascontiguousarray(self.windows).data)
        digest.update(np.ascontiguousarray(self.songs).data)
        return digest.hexdigest()


def song_windows(
    song: GridSong, arguments: GridArguments, processor: MusicVAEProcessor, counts: collections.Counter
) -> Iterator[np.ndarray]:
    """Windows `[n, tracks, steps]` of a song: of each melodic track for a melody model, else of the tracks together."""
    first, ends = window_starts(song.bars, processor.num_bars, arguments.hop)
    limit = None if arguments.max_rest_bars < 0 else arguments.max_rest_bars
    for lines in song_lines(song, arguments, processor, counts):
        tracks = [(processor.cut_track(ids, name, song.bars[first], ends), name == "drums") for name, ids in lines]
        passing, reasons = passing_windows(tracks, arguments.min_onsets, limit)
        counts.update({**reasons, "windows": int(passing.sum())})
        yield np.stack([windows[passing] for windows, _ in tracks], 1)


def song_lines(
    song: GridSong, arguments: GridArguments, processor: MusicVAEProcessor, counts: collections.Counter
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Lines per track, of one or several readings of a song."""
    if processor.tracks != ["melody"]:
        try:
            lines, report = processor.lines(song)
        except MidiError as error:
            counts[type(error).__name__] += 1
            return
        if any(report.get(f"{name}_absent") for name in processor.tracks):
            counts["songs_without_all_tracks"] += 1
            return
        yield lines
        return
    for part in song.find(processor.programs("melody")):
        line = make_line(part.notes, song.num_steps)
        if line.num_dropped > arguments.max_dropped_share * line.num_notes:
            counts["polyphonic_tracks"] += 1
            continue
        yield [("melody", processor.line(song, "melody", [part])[0])]


def row_hashes(windows: np.ndarray) -> np.ndarray:
    """128-bit hash of each row, as bytes."""
    rows = np.ascontiguousarray(windows).reshape(len(windows), -1)
    return np.array([hashlib.blake2b(row, digest_size=16).digest() for row in rows], dtype="S16")


def transposed(window: np.ndarray, tracks: list[str], semitones: int, num_ids: list[int]) -> np.ndarray:
    """A window `[tracks, steps]` higher by `semitones`, but for drums; as it was if a note would leave its range."""
    result = window.copy()
    for i, name in enumerate(tracks):
        notes = window[i] >= FIRST_NOTE_ON
        if name == "drums" or not notes.any():
            continue
        moved = window[i][notes] + semitones
        if moved.min() < FIRST_NOTE_ON or moved.max() >= num_ids[i]:
            return window
        result[i][notes] = moved
    return result


class WindowUpdates(Dataset):
    """Item k: the micro-batches of update k that belong to one process."""

    def __init__(self, data: "GridData", items: np.ndarray, epoch: int):
        self.data, self.items, self.epoch = data, items, epoch

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> list[Batch]:
        data = self.data
        return [data.batch(rows, self.epoch) for rows in self.items[index][data.process :: data.processes]]


class GridData:
    """Training and validation batches of a grid corpus, as the loop asks for them."""

    unit = "sequence"  # what `num_supervised` counts
    corpus_class = GridCorpus

    def __init__(
        self,
        arguments: GridArguments,
        processor: MusicVAEProcessor,
        *,
        seed: int,
        batches_per_update: int,
        process: int = 0,
        processes: int = 1,
    ):
        self.arguments, self.processor, self.seed = arguments, processor, seed
        self.batches_per_update, self.process, self.processes = batches_per_update, process, processes
        self.train = self.corpus_class.from_parquet(arguments, arguments.train_split, processor)
        self.validation = self.corpus_class.from_parquet(arguments, arguments.validation_split, processor, self.train)
        self.accepts_bar_offset = False  # of the loop; windows have no bar numbers
        hashes = self.train.content_hash() + self.validation.content_hash()
        self.data_hash = hashlib.sha256(hashes.encode()).hexdigest()

    def epoch_items(self, epoch: int) -> np.ndarray:
        """Windows of an epoch in order, `[updates, micro-batches, rows]`.

        Raises:
            ValueError: fewer windows than one update needs.
        """
        rng = np.random.default_rng((self.seed, epoch, 1))
        items = rng.permutation(len(self.train))
        if cap := self.arguments.windows_per_song:
            songs = self.train.songs[items]
            order = np.argsort(songs, kind="stable")  # of each song, the order of the permutation
            starts = np.searchsorted(songs[order], songs[order])
            kept = np.sort(order[np.arange(len(order)) - starts < cap])
            items = items[kept]
        rows = self.arguments.rows_per_batch
        num_updates = len(items) // (rows * self.batches_per_update)
        if not num_updates:
            raise ValueError(
                f"grids.corpus {self.arguments.corpus}: {len(items)} windows are fewer than {self.batches_per_update} "
                f"batch(es) of grids.rows_per_batch {rows}: lower it"
            )
        return items[: num_updates * rows * self.batches_per_update].reshape(num_updates, self.batches_per_update, rows)

    def epoch(self, epoch: int, position: int = 0) -> DataLoader:
        """Return a loader over the updates of an epoch from `position` on; it draws no global random number."""
        items = self.epoch_items(epoch)
        return DataLoader(
            WindowUpdates(self, items, epoch),
            batch_size=None,
            sampler=range(position, len(items)),  # type: ignore[arg-type]
            collate_fn=_identity,
            generator=torch.Generator(),  # otherwise every new iterator would advance the global generator
        )

    def batch(self, items: np.ndarray, epoch: int) -> Batch:
        """Training rows `items` of an epoch."""
        windows = self.train.windows[items]
        if self.arguments.transpose:
            low, high = self.arguments.transpose
            sizes, tracks = self.processor.vocab_sizes, self.processor.tracks
            shifts = [int(np.random.default_rng((self.seed, epoch, 2, i)).integers(low, high + 1)) for i in items]
            windows = np.stack([transposed(w, tracks, s, sizes) for w, s in zip(windows, shifts)])
        return self.make_batch(windows, [self.train.names[self.train.songs[i]] for i in items])

    def make_batch(self, windows: np.ndarray, songs: list[str]) -> Batch:
        """Windows `[rows, tracks, steps]` to what the model gets."""
        ids = torch.from_numpy(self.processor.join_tracks(list(windows.transpose(1, 0, 2))))
        return Batch(
            inputs={"input_ids": ids, "labels": ids.clone()},
            num_supervised=len(ids),
            num_tokens=ids.numel(),
            num_bars=len(ids) * self.processor.num_bars,
            songs=songs,
        )

    def validation_batches(self) -> Iterator[Batch]:
        """Yield this process's validation batches: the same windows every time, in the original key.

        Every process gets equally many; a process that has one fewer repeats its last with nothing supervised.
        """
        corpus, rows = self.validation, self.arguments.rows_per_batch
        items = np.arange(len(corpus))
        if limit := self.arguments.validation_windows:
            items = np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).round().astype(int))
        plan = [items[i : i + rows] for i in range(0, len(items), rows)]
        for i in range(0, len(plan), self.processes):
            mine = i + self.process
            chosen = plan[min(mine, len(plan) - 1)]
            batch = self.make_batch(corpus.windows[chosen], [corpus.names[corpus.songs[k]] for k in chosen])
            if mine >= len(plan):
                if "labels" in batch.inputs:
                    batch.inputs["labels"].fill_(IGNORED)
                batch.num_supervised = batch.num_bars = 0
            yield batch


def _identity(item):
    return item

"""Training and validation batches of grids of ones and zeros, for the dense VAE.

As `grid_data`, from which splits, filters and the order of an epoch come; a window is stored as bits, one byte for
eight cells, and becomes `[steps, width]` floats when a batch is made.
"""

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from partimento.tokenization import DenseVAEProcessor
from partimento.tokenization.errors import MidiError
from partimento.tokenization.grid_songs import GridSong
from partimento.training.grid_arguments import GridArguments
from partimento.training.grid_data import GridCorpus, GridData, song_windows
from partimento.training.token_data import Batch

NUM_EVENTS = 2  # cells of a melody's step before the note-ons


class RollCorpus(GridCorpus):
    """Windows of one split; `windows` is `[n, steps, bytes]` uint8, eight cells to a byte."""

    @property
    def ids(self) -> np.ndarray:
        """All cells in one row, those that fill up a byte included."""
        return np.unpackbits(self.windows.reshape(-1))

    @staticmethod
    def cut(
        song: GridSong, arguments: GridArguments, processor: Any, counts: collections.Counter
    ) -> Iterator[np.ndarray]:
        """Windows of a song: of each melodic track for melodies, else of all tracks of the kind together."""
        assert isinstance(processor, DenseVAEProcessor)
        if processor.kind != "piano_roll":
            for windows in song_windows(song, arguments, processor.line_processor(), counts):
                yield np.packbits(processor.rolls(windows[:, 0]), axis=-1)
            return
        limit = None if arguments.max_rest_bars < 0 else arguments.max_rest_bars
        try:
            found = processor.windows(song, arguments.hop, arguments.min_onsets, limit)
        except MidiError as error:
            counts[type(error).__name__] += 1
            return
        counts.update({**found.report, "windows": len(found.values)})
        yield np.packbits(found.values, axis=-1)

    def values(self, items: np.ndarray, processor: DenseVAEProcessor) -> np.ndarray:
        """Grids `[rows, steps, width]` uint8 of some windows."""
        return np.unpackbits(self.windows[items], axis=-1, count=processor.width)


class RollData(GridData):
    """Batches `{"input_values": [rows, steps, width]}` as the loop asks for them."""

    corpus_class = RollCorpus
    processor: DenseVAEProcessor  # type: ignore[assignment]

    def batch(self, items: np.ndarray, epoch: int) -> Batch:
        """Training rows `items` of an epoch."""
        values = self.train.values(items, self.processor)
        if self.arguments.transpose and self.processor.kind != "drums":
            low, high = self.arguments.transpose
            shifts = [int(np.random.default_rng((self.seed, epoch, 2, i)).integers(low, high + 1)) for i in items]
            fixed = NUM_EVENTS if self.processor.kind == "melody" else 0
            values = np.stack([moved(grid, shift, fixed) for grid, shift in zip(values, shifts)])
        return self.pack(values, [self.train.names[self.train.songs[i]] for i in items])

    def make_batch(self, windows: np.ndarray, songs: list[str]) -> Batch:
        """Stored windows `[rows, steps, bytes]` to what the model gets."""
        return self.pack(np.unpackbits(windows, axis=-1, count=self.processor.width), songs)

    def pack(self, values: np.ndarray, songs: list[str]) -> Batch:
        """Grids `[rows, steps, width]` to what the model gets."""
        tensor = torch.from_numpy(values.astype(np.float32))
        return Batch(
            inputs={"input_values": tensor},
            num_supervised=len(tensor),
            num_tokens=tensor.numel(),
            num_bars=len(tensor) * self.processor.num_bars,
            songs=songs,
        )


def moved(grid: np.ndarray, semitones: int, fixed: int = 0) -> np.ndarray:
    """A grid `[steps, width]` with its pitches higher by `semitones`; as it was if a note would leave the range.

    Args:
        fixed: cells at the beginning of a step that are no pitches.
    """
    pitches = grid[:, fixed:]
    used = np.flatnonzero(pitches.any(0))
    if not len(used) or used[0] + semitones < 0 or used[-1] + semitones >= pitches.shape[1]:
        return grid
    return np.concatenate([grid[:, :fixed], np.roll(pitches, semitones, axis=1)], axis=1)

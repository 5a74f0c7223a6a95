"""The notes of one piece as arrays, whatever they were read from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partimento.tokenization import MidiProcessor
from partimento.tokenization.canonical import Piece
from partimento.tokenization.vocabulary import DRUM_RANK

DRUMS = -1


@dataclass(frozen=True, eq=False)
class Notes:
    """Notes sorted by (onset, program, pitch), drums last; arrays have one entry per note, times are in ticks."""

    onsets: np.ndarray  # [n] int64, from the beginning of the piece
    durations: np.ndarray  # [n] int64
    pitches: np.ndarray  # [n] int64, 0-127
    programs: np.ndarray  # [n] int64, General MIDI 0-127, -1 = drums
    bars: np.ndarray  # [n] int64, from 0
    bar_onsets: np.ndarray  # [n] int64, from the bar line
    bar_ticks: np.ndarray  # [bars] int64, length of each bar
    ticks_per_quarter: int

    def __len__(self) -> int:
        return len(self.onsets)

    @property
    def num_bars(self) -> int:
        return len(self.bar_ticks)

    @property
    def is_drum(self) -> np.ndarray:
        return self.programs == DRUMS

    def select(self, chosen: np.ndarray) -> "Notes":
        """Some of the notes ([n] bool); the bars stay."""
        names = ("onsets", "durations", "pitches", "programs", "bars", "bar_onsets")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def first_bars(self, num_bars: int) -> "Notes":
        """The first bars; notes that sound across the end keep their length."""
        return replace(self.select(self.bars < num_bars), bar_ticks=self.bar_ticks[:num_bars])

    @classmethod
    def from_piece(cls, piece: Piece, num_bars: int | None = None) -> "Notes":
        """Notes of a piece in canonical form.

        Args:
            num_bars: bars of the piece, when empty ones follow the last note.
        Raises: ValueError: fewer bars than the notes take.
        """
        if num_bars is None:
            num_bars = piece.num_bars
        elif num_bars < piece.num_bars:
            raise ValueError(f"num_bars={num_bars}: the last note is in bar {piece.num_bars}")
        metre = piece.metre
        bars = metre.bar(piece.onsets)
        return cls(
            onsets=piece.onsets.astype(np.int64),
            durations=piece.vocabulary.durations[piece.durations] * metre.step_ticks[metre.segment(piece.onsets)],
            pitches=piece.pitches.astype(np.int64),
            programs=np.where(piece.programs == DRUM_RANK, DRUMS, piece.programs).astype(np.int64),
            bars=bars,
            bar_onsets=piece.onsets - metre.bar_start(bars),
            bar_ticks=metre.bar_ticks[metre.segment_of_bar(np.arange(num_bars))],
            ticks_per_quarter=piece.vocabulary.ticks_per_quarter,
        )

    @classmethod
    def from_ids(cls, ids: Sequence[int] | np.ndarray, processor: MidiProcessor) -> "Notes":
        """Notes of a token sequence up to its EOS; every Bar token is a bar, also behind the last note."""
        array = processor.array(ids)
        ends = np.flatnonzero(array == processor.eos_token_id)
        array = array[: ends[0]] if len(ends) else array
        piece = processor.decode_piece(array)
        return cls.from_piece(piece, max(processor.count_bars(array), piece.num_bars))

    @classmethod
    def from_midi(cls, path: str | Path, processor: MidiProcessor | None = None) -> "Notes":
        """Notes of a MIDI file as the tokenizer sees them: on a grid of a twelfth of a quarter, one track a program.

        Raises: MidiError: the file cannot be read or holds no note.
        """
        return cls.from_piece((processor or MidiProcessor.from_preset("metres")).load_piece(path))

    @classmethod
    def from_list(
        cls,
        notes: Sequence[Sequence[float]],
        quarters_per_bar: float = 4,
        num_bars: int | None = None,
        ticks_per_quarter: int = 480,
    ) -> "Notes":
        """Notes (onset, duration, pitch[, program]) with times in quarters from the beginning, program -1 for drums.

        Raises: ValueError: a note with too few or impossible values, or fewer bars than the notes take.
        """
        rows = np.array([[*note, 0][:4] for note in notes if len(note) in (3, 4)], dtype=np.float64).reshape(-1, 4)
        if len(rows) != len(notes):
            wrong = next(note for note in notes if len(note) not in (3, 4))
            raise ValueError(f"note {list(wrong)}: give (onset, duration, pitch) or (onset, duration, pitch, program)")
        times, (pitches, programs) = np.rint(rows[:, :2] * ticks_per_quarter), rows[:, 2:].astype(np.int64).T
        onsets, durations = times.astype(np.int64).T
        good = (onsets >= 0) & (durations > 0) & (pitches >= 0) & (pitches < 128) & (programs >= DRUMS)
        good &= programs < 128
        if not good.all():
            wrong = list(notes[int(np.flatnonzero(~good)[0])])
            raise ValueError(
                f"note {wrong}: onset >= 0, duration > 0, pitch 0-127 and program -1 (drums) to 127 are possible"
            )
        order = np.lexsort((pitches, np.where(programs == DRUMS, DRUM_RANK, programs), onsets))
        bar = round(quarters_per_bar * ticks_per_quarter)
        needed = int(onsets.max()) // bar + 1 if len(onsets) else 0
        if num_bars is not None and num_bars < needed:
            raise ValueError(f"num_bars={num_bars}: the last note is in bar {needed}")
        onsets = onsets[order]
        return cls(
            onsets=onsets,
            durations=durations[order],
            pitches=pitches[order],
            programs=programs[order],
            bars=onsets // bar,
            bar_onsets=onsets % bar,
            bar_ticks=np.full(needed if num_bars is None else num_bars, bar, dtype=np.int64),
            ticks_per_quarter=ticks_per_quarter,
        )


def skyline(notes: Notes) -> Notes:
    """The highest note at each onset, drums left out: what is heard as melody where no track is known to be it.

    The skyline of Uitdenbogerd and Zobel, Melodic matching techniques for large music databases (1999). Of equal
    pitches at one onset the longest stays.
    """
    pitched = notes.select(~notes.is_drum)
    order = np.lexsort((pitched.durations, pitched.pitches, pitched.onsets))
    onsets = pitched.onsets[order]
    last = np.append(onsets[1:] != onsets[:-1], True) if len(onsets) else np.zeros(0, bool)
    return pitched.select(np.sort(order[last]))

"""Bar similarity and similarity error: does music repeat its bars at the same distances as the training songs?

Source: Yu et al., Museformer: Transformer with Fine- and Coarse-Grained Attention for Music Generation, NeurIPS 2022
(https://arxiv.org/abs/2210.10349), the bar similarity statistics and the similarity error of its evaluation.

The similarity of two bars is that of their sets of notes, a note being (onset in the bar, pitch, duration); velocity
is ignored, and where several tracks are compared at once a note has its program, too:

    l_ij = |N(i) ∩ N(j)| / |N(i) ∪ N(j)|        L_t = mean of l_{i,i+t}        SE = 1/T Σ_{t=1..T} |L̂_t - L_t|

L_t is taken over all pairs of all songs (pooled) or as the mean of the songs' own means (per song). The source states
no rule for two empty bars; here such a pair is left out unless asked otherwise. A pair with one empty bar counts 0.

    lead = programs_of_families("synth-lead")
    training = measure_songs(bar_notes_of_ids(ids, processor, lead, with_program=False) for ids in training_songs)
    generated = measure_songs(bar_notes_of_ids(ids, processor, lead, with_program=False) for ids in samples)
    similarity_error(generated.pooled(), training.pooled())
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from partimento.tokenization import FAMILY_PROGRAMS, MidiProcessor
from partimento.tokenization.canonical import Piece
from partimento.training.metrics.notes import Notes

MAX_LAG = 40  # T of the source
EmptyPairs = Literal["exclude", "zero", "one"]

# A note is one integer: program + 1, pitch (7 bits), duration and onset in the bar in ticks.
PITCH_BITS, DURATION_BITS, ONSET_BITS = 7, 24, 20


@dataclass(frozen=True, eq=False)
class BarNotes:
    """The sets of notes of all bars of a song: note codes[k] occurs in bar bars[k], sorted by (code, bar)."""

    codes: np.ndarray  # [notes] int64
    bars: np.ndarray  # [notes] int64, from 0
    num_bars: int

    def sets(self) -> list[set[int]]:
        """The same as one set of codes for each bar."""
        result: list[set[int]] = [set() for _ in range(self.num_bars)]
        for code, bar in zip(self.codes.tolist(), self.bars.tolist()):
            result[bar].add(code)
        return result


def programs_of_families(*families: str) -> frozenset[int]:
    """General MIDI programs of some families, -1 for "drums".

    Raises: ValueError: no such family.
    """
    unknown = [family for family in families if family not in FAMILY_PROGRAMS]
    if unknown:
        raise ValueError(f"families {unknown} are unknown; choose from {', '.join(FAMILY_PROGRAMS)}")
    return frozenset(program for family in families for program in FAMILY_PROGRAMS[family])


def bar_notes(
    piece: Piece | Notes,
    programs: Collection[int] | None = None,
    with_program: bool = True,
    num_bars: int | None = None,
) -> BarNotes:
    """Sets of notes of a piece; onset and duration in ticks, so bars of different metres compare by musical time.

    Args:
        programs: General MIDI programs that count, -1 = drums; None = all. One family is the variant for a melody.
        with_program: notes of different programs differ. Pass False where the programs are one track.
        num_bars: bars of a `Piece`, when empty ones follow the last note.
    Raises: ValueError: fewer bars than the notes take.
    """
    notes = Notes.from_piece(piece, num_bars) if isinstance(piece, Piece) else piece
    if programs is not None:
        notes = notes.select(np.isin(notes.programs, list(programs)))
    codes = (notes.programs + 1) * with_program << PITCH_BITS | notes.pitches
    codes = codes << DURATION_BITS | notes.durations.clip(max=(1 << DURATION_BITS) - 1)
    codes = codes << ONSET_BITS | notes.bar_onsets.clip(max=(1 << ONSET_BITS) - 1)
    order = np.lexsort((notes.bars, codes))
    codes, bars = codes[order], notes.bars[order]
    doubled = (np.diff(codes, prepend=-1) == 0) & (np.diff(bars, prepend=-1) == 0)
    return BarNotes(codes[~doubled], bars[~doubled], notes.num_bars)


def bar_notes_of_ids(
    ids: Sequence[int] | np.ndarray,
    processor: MidiProcessor,
    programs: Collection[int] | None = None,
    with_program: bool = True,
) -> BarNotes:
    """`bar_notes` of a token sequence up to its EOS; every Bar token is a bar, also behind the last note."""
    return bar_notes(Notes.from_ids(ids, processor), programs, with_program)


def bar_similarities(notes: BarNotes, max_lag: int = MAX_LAG, empty_pairs: EmptyPairs = "exclude") -> np.ndarray:
    """[bars, max_lag] l_{i,i+t} in column t - 1; NaN where the song has no bar i + t or the pair is left out.

    Args:
        empty_pairs: two empty bars are left out ("exclude") or have similarity 0 ("zero") or 1 ("one").
    """
    if empty_pairs not in get_args(EmptyPairs):
        raise ValueError(f"empty_pairs={empty_pairs!r}: choose one of {', '.join(get_args(EmptyPairs))}")
    if max_lag < 1:
        raise ValueError(f"max_lag={max_lag} must be positive")
    sizes = np.bincount(notes.bars, minlength=notes.num_bars)
    later = np.arange(notes.num_bars)[:, None] + np.arange(1, max_lag + 1)
    common = common_notes(notes, max_lag)
    united = sizes[:, None] + np.append(sizes, np.zeros(max_lag, int))[later] - common
    value_of_empty = {"exclude": np.nan, "zero": 0.0, "one": 1.0}[empty_pairs]
    similarities = np.where(united > 0, common / np.maximum(united, 1), value_of_empty)
    return np.where(later < notes.num_bars, similarities, np.nan)


def common_notes(notes: BarNotes, max_lag: int) -> np.ndarray:
    """[bars, max_lag] |N(i) ∩ N(i+t)|.

    Occurrences of a note stand side by side, ordered by bar: the k-th behind an occurrence is at least k bars later,
    so at most max_lag comparisons of the whole song with itself find all pairs.
    """
    places = [np.zeros(0, np.int64)]
    for k in range(1, min(max_lag, len(notes.codes) - 1) + 1):
        distance = notes.bars[k:] - notes.bars[:-k]
        found = (notes.codes[k:] == notes.codes[:-k]) & (distance <= max_lag)
        if not found.any():
            break
        places.append(notes.bars[:-k][found] * max_lag + distance[found] - 1)
    counts = np.bincount(np.concatenate(places), minlength=notes.num_bars * max_lag)
    return counts.reshape(notes.num_bars, max_lag)


@dataclass(frozen=True, eq=False)
class SimilarityStatistics:
    """Sums and numbers of the similarities of each song at each lag t = 1..T (columns)."""

    sums: np.ndarray  # [songs, T]
    counts: np.ndarray  # [songs, T]

    def pooled(self) -> np.ndarray:
        """[T] L_t over all pairs of all songs, 0 to 1; NaN without a pair. The order of the songs does not matter."""
        return divide(exact_sums(self.sums), self.counts.sum(0))

    def per_song(self) -> np.ndarray:
        """[T] mean of L_t of the songs that have a pair at t, 0 to 1; NaN without one."""
        has_pair = self.counts > 0
        means = np.where(has_pair, self.sums / np.maximum(self.counts, 1), 0.0)
        return divide(exact_sums(means), has_pair.sum(0))


def measure_songs(
    songs: Iterable[BarNotes], max_lag: int = MAX_LAG, empty_pairs: EmptyPairs = "exclude"
) -> SimilarityStatistics:
    """Statistics of songs, one row each; see `bar_similarities`."""
    sums, counts = [np.zeros((0, max_lag))], [np.zeros((0, max_lag), np.int64)]
    for notes in songs:
        similarities = bar_similarities(notes, max_lag, empty_pairs)
        sums.append(np.nansum(similarities, axis=0, keepdims=True))
        counts.append((~np.isnan(similarities)).sum(axis=0, keepdims=True))
    return SimilarityStatistics(np.concatenate(sums), np.concatenate(counts))


def similarity_error(generated: np.ndarray, reference: np.ndarray) -> float:
    """SE in percentage points: mean of |L̂_t - L_t| over t = 1..T, the length of both curves.

    Raises: ValueError: different lengths, or a lag at which one of the sets has no pair of bars.
    """
    if generated.shape != reference.shape or generated.ndim != 1 or not len(generated):
        raise ValueError(f"L_t of both sets need the same lags, got shapes {generated.shape} and {reference.shape}")
    for name, curve in (("generated", generated), ("reference", reference)):
        missing = np.flatnonzero(np.isnan(curve)) + 1
        if len(missing):
            raise ValueError(
                f"no pair of bars of the {name} songs is {missing[0]} bars apart: choose a smaller max_lag"
            )
    return 100 * math.fsum(np.abs(generated - reference).tolist()) / len(generated)


def exact_sums(rows: np.ndarray) -> np.ndarray:
    """Sum of each column, rounded once: independent of the order of the rows."""
    return np.array([math.fsum(column) for column in rows.T.tolist()])


def divide(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sums / counts, NaN where nothing was counted."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

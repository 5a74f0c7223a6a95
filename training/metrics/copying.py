"""How much of a piece stands in the training set already.

Sequences are compared symbol by symbol: token ids, or `note_symbols`, which ignore transposition, instrument, velocity
and tempo. The longest copied span of a piece is the longest run of consecutive symbols that also stands somewhere in
the training set, without a gap. Music repeats itself and its genre: the figure means something only beside that of
held-out music of the same length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partimento.training.metrics.notes import Notes

MAX_GAP, MAX_DURATION = (1 << 16) - 1, (1 << 16) - 1
PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Copy:
    """The longest span of a sequence that stands in the training set: [start, start + length)."""

    length: int
    start: int
    song: int  # number of the training sequence, -1 where nothing is shared
    song_start: int


def note_symbols(notes: Notes) -> np.ndarray:
    """[n] int64, one symbol per note in the order of `Notes`: time since the note before, pitch, duration.

    The pitch of a drum counts as it is; that of any other note as its distance from the pitched note before, so that
    a transposed copy has the same symbols but for its first. Times are in ticks, so only pieces of one resolution
    compare.
    """
    gaps = np.diff(notes.onsets, prepend=notes.onsets[:1]).clip(max=MAX_GAP)
    pitches = notes.pitches + 256
    melodic = np.flatnonzero(~notes.is_drum)
    pitches[melodic] = np.diff(notes.pitches[melodic], prepend=notes.pitches[melodic[:1]]) + 128
    return gaps << 32 | notes.durations.clip(max=MAX_DURATION) << 16 | pitches


def longest_copies(samples: Sequence[np.ndarray], training: Sequence[np.ndarray]) -> list[Copy]:
    """The longest copied span of each sample; the first of equals.

    Windows of 1, 2, 4, … symbols are hashed, each from its two halves, and only places whose halves occur in both sets
    go on; at the longest window that a sample shares, each common place is followed symbol by symbol.
    """
    ours, starts = concatenate(samples, boundary=-1)
    theirs, song_starts = concatenate(training, boundary=-2)
    best = [Copy(0, 0, -1, 0)] * len(samples)
    hashes, other_hashes = mix(ours), mix(theirs)
    places, other_places = np.arange(len(ours)), np.arange(len(theirs))
    width = 1
    while len(places):
        shared = member(other_hashes, np.unique(hashes))
        other_places, other_hashes = other_places[shared], other_hashes[shared]
        shared = member(hashes, np.unique(other_hashes))
        places, hashes = places[shared], hashes[shared]
        wider, wider_hashes = join_halves(places, hashes, width)
        other_wider, other_wider_hashes = join_halves(other_places, other_hashes, width)
        goes_on = np.zeros(len(samples), bool)
        goes_on[owner(starts, wider[member(wider_hashes, np.unique(other_wider_hashes))])] = True
        of_sample = owner(starts, places)
        ending = np.unique(of_sample[~goes_on[of_sample]])
        if len(ending):
            order = np.argsort(other_hashes, kind="stable")
            table, table_places = other_hashes[order], other_places[order]
        for sample in ending.tolist():
            chosen = of_sample == sample
            length, start, found = follow(ours, theirs, places[chosen], hashes[chosen], table, table_places)
            song = int(owner(song_starts, np.array([found]))[0])
            best[sample] = Copy(length, start - int(starts[sample]), song, found - int(song_starts[song]))
        keep = goes_on[owner(starts, wider)]
        places, hashes, other_places, other_hashes = wider[keep], wider_hashes[keep], other_wider, other_wider_hashes
        width *= 2
    return best


def ngram_novelty(samples: Sequence[np.ndarray], training: Sequence[np.ndarray], n: int) -> list[float | None]:
    """Share of the n-grams of each sample that the training set lacks, 0 to 1; None for fewer than n symbols.

    Raises: ValueError: n is not positive.
    """
    if n < 1:
        raise ValueError(f"n={n} must be positive")
    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *(window_hashes(song, n) for song in training)]))
    return [
        None if len(sample) < n else float(1 - np.isin(window_hashes(sample, n), known).mean()) for sample in samples
    ]


def copy_summary(samples: Sequence[np.ndarray], training: Sequence[np.ndarray], n: int) -> dict[str, Any]:
    """Novelty and longest copied spans of sequences of `note_symbols`, of each and of all.

    Returns:
        `novelty`: mean of `ngram_novelty`; `longest_copied_notes`; `median_copied_share` of longest span over length;
        `each`: novelty, copied_notes and in_training (number of the training sequence, None) of every sample.
    """
    novelty, copies = ngram_novelty(samples, training, n), longest_copies(samples, training)
    known = [value for value in novelty if value is not None]
    shares = [copy.length / len(sample) for copy, sample in zip(copies, samples) if len(sample)]
    return {
        "novelty": float(np.mean(known)) if known else None,
        "longest_copied_notes": max((copy.length for copy in copies), default=0),
        "median_copied_share": float(np.median(shares)) if shares else None,
        "each": [
            {"novelty": new, "copied_notes": copy.length, "in_training": copy.song if copy.length else None}
            for new, copy in zip(novelty, copies)
        ],
    }


def window_hashes(sequence: np.ndarray, n: int) -> np.ndarray:
    """[m - n + 1] uint64, a hash of every n consecutive symbols."""
    symbols = mix(np.asarray(sequence, np.int64))
    count = max(0, len(symbols) - n + 1)
    result = np.zeros(count, np.uint64)
    for offset in range(n):
        result = combine(result, symbols[offset : offset + count])
    return result


def mix(symbols: np.ndarray) -> np.ndarray:
    """uint64 hash of int64 symbols: the finaliser of splitmix64, one to one."""
    value = symbols.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)


def combine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Hash of two hashes in order."""
    return mix((first * np.uint64(0x9E3779B97F4A7C15) ^ second).view(np.int64))


def concatenate(sequences: Sequence[np.ndarray], boundary: int) -> tuple[np.ndarray, np.ndarray]:
    """All symbols with `boundary` behind each sequence, and where each sequence begins."""
    parts = [part for sequence in sequences for part in (np.asarray(sequence, np.int64), np.array([boundary]))]
    lengths = [len(sequence) + 1 for sequence in sequences]
    return np.concatenate([np.zeros(0, np.int64), *parts]), np.cumsum([0, *lengths])[: len(sequences)]


def owner(starts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Number of the sequence in which each place lies."""
    return np.searchsorted(starts, places, side="right") - 1


def member(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """[n] bool: which values are in a sorted table."""
    if not len(table):
        return np.zeros(len(values), bool)
    return table[np.minimum(np.searchsorted(table, values), len(table) - 1)] == values


def join_halves(places: np.ndarray, hashes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (ascending) at which a window of `width` is followed by another one, and the hashes of both together."""
    second = np.minimum(np.searchsorted(places, places + width), max(0, len(places) - 1))
    joined = places[second] == places + width if len(places) else np.zeros(0, bool)
    return places[joined], combine(hashes[joined], hashes[second[joined]])


def follow(
    ours: np.ndarray,
    theirs: np.ndarray,
    places: np.ndarray,
    hashes: np.ndarray,
    table: np.ndarray,
    table_places: np.ndarray,
) -> tuple[int, int, int]:
    """(length, place, place in the training set) of the longest common run that begins with a common window."""
    left = np.searchsorted(table, hashes)
    counts = np.searchsorted(table, hashes, side="right") - left
    best, first = (0, 0, 0), 0
    while first < len(places):
        pairs = np.cumsum(counts[first:])
        some = slice(first, first + max(1, int(np.searchsorted(pairs, PAIRS_AT_ONCE))))
        first = some.stop
        total = counts[some]
        mine = np.repeat(places[some], total)
        other = table_places[np.repeat(left[some] - np.cumsum(total) + total, total) + np.arange(total.sum())]
        # A run whose symbol before is common, too, is part of a longer one.
        begins = (mine == 0) | (other == 0) | (ours[mine - 1] != theirs[other - 1])
        mine, other = mine[begins], other[begins]
        length = 0
        while (same := ours[mine + length] == theirs[other + length]).any():  # the boundaries differ
            mine, other = mine[same], other[same]
            length += 1
        if length > best[0]:
            best = (length, int(mine[0]), int(other[0]))
    return best

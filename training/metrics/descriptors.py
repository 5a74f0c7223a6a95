"""Figures of one piece, comparable between music of any origin. None where a piece has nothing to measure.

Sources: pitch-class entropy and groove consistency of Wu and Yang, The Jazz Transformer on the front line (ISMIR 2020,
https://arxiv.org/abs/2008.01307); scale consistency of Mogren, C-RNN-GAN (2016, https://arxiv.org/abs/1611.09904);
polyphony and empty bars as in MusPy (Dong et al., ISMIR 2020, https://arxiv.org/abs/2008.01951). Drums have no pitch:
they count for grooves, density and empty bars only.
"""

from collections.abc import Callable

import numpy as np

from partimento.training.metrics.notes import Notes

MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)


def pitch_class_entropy(notes: Notes) -> float | None:
    """Entropy of the pitch classes in bits, 0 (one class) to log2(12) = 3.585 (all equally often)."""
    counts = pitch_class_counts(notes)
    if not counts.sum():
        return None
    shares = counts[counts > 0] / counts.sum()
    return float(abs((shares * np.log2(shares)).sum()))  # abs: no -0.0


def scale_consistency(notes: Notes) -> float | None:
    """Share of notes in the best fitting diatonic scale (a natural minor scale is its relative major's), 0 to 1."""
    counts = pitch_class_counts(notes)
    if not counts.sum():
        return None
    scale = np.zeros(12)
    scale[list(MAJOR_SCALE)] = 1
    return float(max(counts @ np.roll(scale, root) for root in range(12)) / counts.sum())


def groove_consistency(notes: Notes, positions_per_quarter: int = 4) -> float | None:
    """Mean agreement of the onset patterns of neighbouring bars, 0 to 1; None for fewer than two bars.

    A bar's pattern says for each of its positions whether a note begins there; the agreement of two bars of equal
    length is the share of positions at which they are equal. Pairs of bars of different lengths are left out.
    """
    if notes.num_bars < 2:
        return None
    positions = np.ceil(notes.bar_ticks * positions_per_quarter / notes.ticks_per_quarter).astype(np.int64)
    patterns = np.zeros((notes.num_bars, int(positions.max())), bool)
    patterns[notes.bars, notes.bar_onsets * positions_per_quarter // notes.ticks_per_quarter] = True
    differing = (patterns[1:] != patterns[:-1]).sum(1)
    comparable = notes.bar_ticks[1:] == notes.bar_ticks[:-1]
    return float((1 - differing / positions[1:])[comparable].mean()) if comparable.any() else None


def polyphony(notes: Notes) -> float | None:
    """Mean number of pitches that sound at once, over the time in which any sounds; a doubled pitch counts once."""
    pitched = notes.select(~notes.is_drum)
    if not len(pitched):
        return None
    sounding = sum(covered_ticks(pitched.select(pitched.pitches == pitch)) for pitch in np.unique(pitched.pitches))
    return float(sounding / covered_ticks(pitched))


def empty_bars(notes: Notes) -> float | None:
    """Share of bars in which no note begins, 0 to 1."""
    if not notes.num_bars:
        return None
    return 1 - len(np.unique(notes.bars)) / notes.num_bars


def notes_per_bar(notes: Notes) -> float | None:
    """Note density: notes over bars, drums included."""
    return len(notes) / notes.num_bars if notes.num_bars else None


def pitch_class_counts(notes: Notes) -> np.ndarray:
    """[12] notes of each pitch class from C upwards, without drums."""
    return np.bincount(notes.pitches[~notes.is_drum] % 12, minlength=12)


def covered_ticks(notes: Notes) -> int:
    """Ticks in which at least one of the notes sounds."""
    ends = np.maximum.accumulate(notes.onsets + notes.durations)  # notes are sorted by onset
    begins = np.maximum(notes.onsets, np.concatenate([[0], ends[:-1]]))
    return int((ends - begins).clip(min=0).sum())


DESCRIPTORS: dict[str, Callable[[Notes], float | None]] = {
    "pitch_class_entropy": pitch_class_entropy,
    "scale_consistency": scale_consistency,
    "groove_consistency": groove_consistency,
    "polyphony": polyphony,
    "empty_bars": empty_bars,
    "notes_per_bar": notes_per_bar,
}

"""Five attributes of melodies that latent vectors can be moved along (Roberts et al. 2018, section 5.6).

Positions are sixteenths counted from 0. A value that is not defined (too few notes) is NaN.

Legend: n windows, T steps.
"""

from collections.abc import Callable

import numpy as np

from partimento.tokenization.melody_lines import FIRST_NOTE_ON

C_MAJOR = (0, 2, 4, 5, 7, 9, 11)


def c_diatonic(windows: np.ndarray, pitch_min: int) -> np.ndarray:
    """Share of notes in C major, `[n]`."""
    onsets = windows >= FIRST_NOTE_ON
    inside = onsets & np.isin((windows - FIRST_NOTE_ON + pitch_min) % 12, C_MAJOR)
    return _ratio(inside.sum(1), onsets.sum(1))


def note_density(windows: np.ndarray, pitch_min: int) -> np.ndarray:
    """Onsets per step, `[n]`."""
    return (windows >= FIRST_NOTE_ON).mean(1)


def average_interval(windows: np.ndarray, pitch_min: int) -> np.ndarray:
    """Mean distance of consecutive notes in semitones, `[n]`."""
    result = np.full(len(windows), np.nan)
    for i, window in enumerate(windows):
        pitches = window[window >= FIRST_NOTE_ON].astype(np.int64)
        if len(pitches) > 1:
            result[i] = np.abs(np.diff(pitches)).mean()
    return result


def syncopation_16th(windows: np.ndarray, pitch_min: int) -> np.ndarray:
    """Share of onsets on odd positions with no onset one step before, `[n]`."""
    onsets = windows >= FIRST_NOTE_ON
    before = _earlier(onsets, 1)
    odd = np.arange(windows.shape[1]) % 2 == 1
    return _ratio((onsets & odd & ~before).sum(1), onsets.sum(1))


def syncopation_8th(windows: np.ndarray, pitch_min: int) -> np.ndarray:
    """Share of onsets on positions 2 (mod 4) with no onset one or two steps before, `[n]`."""
    onsets = windows >= FIRST_NOTE_ON
    before = _earlier(onsets, 1) | _earlier(onsets, 2)
    offbeat = np.arange(windows.shape[1]) % 4 == 2
    return _ratio((onsets & offbeat & ~before).sum(1), onsets.sum(1))


ATTRIBUTES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "c_diatonic": c_diatonic,
    "note_density": note_density,
    "average_interval": average_interval,
    "syncopation_16th": syncopation_16th,
    "syncopation_8th": syncopation_8th,
}


def measure_attributes(windows: np.ndarray, pitch_min: int = 21) -> dict[str, np.ndarray]:
    """All attributes `[n]` of melody windows `[n, T]`."""
    return {name: measure(np.asarray(windows), pitch_min) for name, measure in ATTRIBUTES.items()}


def _earlier(onsets: np.ndarray, steps: int) -> np.ndarray:
    return np.pad(onsets, ((0, 0), (steps, 0)))[:, : onsets.shape[1]]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

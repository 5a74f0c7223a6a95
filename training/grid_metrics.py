"""Figures of reconstructed grid windows against the true ones. Windows are `[n, T]` ids of one track, from 0."""

import numpy as np

from partimento.tokenization.drum_classes import DRUM_CLASSES
from partimento.tokenization.melody_lines import FIRST_NOTE_ON, line_notes


def accuracies(true: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
    """Share of equal steps: of all, of those with an event (any id but 0) and of those without."""
    equal, event = true == found, true != 0
    return {
        "accuracy": float(equal.mean()),
        "event_accuracy": float(equal[event].mean()) if event.any() else None,
        "no_event_accuracy": float(equal[~event].mean()) if (~event).any() else None,
    }


def f1(num_common: int, num_true: int, num_found: int) -> float:
    """Harmonic mean of precision and recall; 1 where there is nothing to find and nothing was found."""
    total = num_true + num_found
    return 2 * num_common / total if total else 1.0


def note_f1(true: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """F1 over all windows of notes with equal onset; onset and pitch; onset, pitch and duration."""
    common = np.zeros(3, int)
    sizes = np.zeros(2, int)
    for one, other in zip(true, found):
        notes = [set(zip(*(column.tolist() for column in _by_pitch(line)))) for line in (one, other)]
        sizes += [len(notes[0]), len(notes[1])]
        common[2] += len(notes[0] & notes[1])
        pitched = [{(start, pitch) for start, pitch, _ in table} for table in notes]
        common[1] += len(pitched[0] & pitched[1])
        onsets = [{start for start, _, _ in table} for table in notes]
        common[0] += len(onsets[0] & onsets[1])
    names = ("onset_f1", "onset_pitch_f1", "onset_pitch_duration_f1")
    return {name: f1(int(count), *map(int, sizes)) for name, count in zip(names, common)}


def _by_pitch(line: np.ndarray):
    starts, ends, pitches = line_notes(line)
    return starts, pitches, ends - starts


def hit_f1(true: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """F1 over all windows of single drum hits: same step, same class."""
    bits = np.arange(len(DRUM_CLASSES))
    one, other = (ids[..., None] >> bits & 1 for ids in (true, found))
    return {"hit_f1": f1(int((one & other).sum()), int(one.sum()), int(other.sum()))}


def compare(true: np.ndarray, found: np.ndarray, is_drums: bool) -> dict[str, float | None]:
    """Accuracies and F1 of a track."""
    return {**accuracies(true, found), **(hit_f1 if is_drums else note_f1)(true, found)}


def statistics(windows: np.ndarray, is_drums: bool) -> dict[str, np.ndarray]:
    """Histograms (sum 1) of a set of windows: onsets per window, steps between onsets, and pitches or hit classes."""
    onsets = windows != 0 if is_drums else windows >= FIRST_NOTE_ON
    num_steps = windows.shape[1]
    gaps = np.concatenate([np.diff(np.flatnonzero(row)) for row in onsets] or [np.zeros(0, int)])
    if is_drums:
        kinds = (windows[..., None] >> np.arange(len(DRUM_CLASSES)) & 1).sum((0, 1))
    else:
        kinds = np.bincount(windows[onsets].astype(int) - FIRST_NOTE_ON, minlength=128)
    counts = {
        "onsets_per_window": np.bincount(onsets.sum(1), minlength=num_steps + 1),
        "steps_between_onsets": np.bincount(gaps, minlength=num_steps),
        "drum_classes" if is_drums else "pitches": kinds,
    }
    return {name: count / max(1, count.sum()) for name, count in counts.items()}


def overlap(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, float]:
    """Common area of each histogram: 1 for equal ones, 0 for disjoint ones."""
    return {name: float(np.minimum(first[name], second[name]).sum()) for name in first}

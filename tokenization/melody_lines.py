"""Monophonic lines on a sixteenth grid: notes <-> one id per step.

Ids of a step: 0 no event (the note keeps sounding, or silence goes on), 1 note-off, 2 + k note-on of pitch
`pitch_min` + k. A note-on ends the note before it; a note that sounds at the end rings to the end. A line is canonical
if no note-off stands in silence. Lines of the whole MIDI range (`pitch_min` 0) are called *full*: 130 ids.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NO_EVENT, NOTE_OFF, FIRST_NOTE_ON = 0, 1, 2
POLICIES = ("skyline", "lowest", "track")
RANGE_POLICIES = ("octave", "drop", "error")
LEFT_EDGES = ("retrigger", "drop")


class Notes(NamedTuple):
    """Notes on the grid, one entry each: start and end step (end > start) and MIDI pitch."""

    starts: np.ndarray
    ends: np.ndarray
    pitches: np.ndarray

    @classmethod
    def concatenate(cls, tables: "list[Notes]") -> "Notes":
        if not tables:
            return cls(*(np.zeros(0, np.int64) for _ in range(3)))
        return cls(*(np.concatenate(columns) for columns in zip(*tables)))


@dataclass(frozen=True, eq=False)
class Line:
    """A full canonical line `ids` [steps], and how many notes the policy left out of how many."""

    ids: np.ndarray
    num_notes: int
    num_dropped: int


def make_line(notes: Notes, num_steps: int, keep: str = "highest") -> Line:
    """One voice of polyphonic notes.

    Of the notes that start together the highest (lowest) stays. A note that begins and ends under a longer higher
    (over a longer lower) one is left out; any other note ends the one that sounds.
    """
    sign = {"highest": 1, "lowest": -1}[keep]
    starts, ends, pitches = (np.asarray(column).tolist() for column in notes)
    order = sorted(range(len(starts)), key=lambda i: (starts[i], -sign * pitches[i], -ends[i]))
    kept: list[list[int]] = []
    for i in order:
        start, end, pitch = starts[i], ends[i], pitches[i]
        if kept:
            last_start, last_end, last_pitch = kept[-1]
            covered = last_end >= end and (last_pitch - pitch) * sign >= 0
            if start == last_start or (covered and last_end > start):
                continue
            kept[-1][1] = min(last_end, start)
        kept.append([start, end, pitch])
    ids = np.zeros(num_steps + 1, np.int16)  # one more for an end at the last step
    for _, end, _ in kept:
        ids[min(end, num_steps)] = NOTE_OFF
    for start, _, pitch in kept:
        if start < num_steps:
            ids[start] = FIRST_NOTE_ON + pitch
    return Line(ids[:num_steps], len(starts), len(starts) - len(kept))


def line_notes(ids: np.ndarray, pitch_min: int = 0) -> Notes:
    """Notes of a line; the last one rings to the end."""
    ids = np.asarray(ids)
    events = np.flatnonzero(ids != NO_EVENT)
    boundaries = np.append(events, len(ids))
    is_note = ids[events] >= FIRST_NOTE_ON
    return Notes(events[is_note], boundaries[1:][is_note], ids[events][is_note].astype(np.int64) - 2 + pitch_min)


def sounding(ids: np.ndarray) -> np.ndarray:
    """Last event `[steps]` strictly before each step, 0 where there is none: a note-on means the note still sounds."""
    events = np.where(ids != NO_EVENT, np.arange(len(ids)), -1)
    last = np.maximum.accumulate(np.append(-1, events))[:-1]
    return np.where(last >= 0, ids[last], NO_EVENT)


def canonical_line(ids: np.ndarray) -> np.ndarray:
    """The same music with every note-off that stands in silence turned into no event."""
    silent = sounding(ids) < FIRST_NOTE_ON
    return np.where((ids == NOTE_OFF) & silent, NO_EVENT, ids)


def fit_range(ids: np.ndarray, pitch_min: int, pitch_max: int, policy: str = "octave") -> tuple[np.ndarray, int]:
    """A full line in the ids of [`pitch_min`, `pitch_max`], and how many notes lay outside.

    Args:
        policy: `octave` moves them by octaves, `drop` makes them silence, `error` refuses.

    Raises:
        ValueError: policy `error` and a note outside, or a range of less than an octave with policy `octave`.
    """
    is_note = ids >= FIRST_NOTE_ON
    pitches = ids.astype(np.int64) - FIRST_NOTE_ON
    outside = is_note & ((pitches < pitch_min) | (pitches > pitch_max))
    result = np.where(is_note, pitches - pitch_min + FIRST_NOTE_ON, ids).astype(np.int16)
    if not (count := int(outside.sum())):
        return result, 0
    if policy == "error":
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"pitch {pitches[first]} at step {first} is outside {pitch_min} ... {pitch_max}; "
            'choose out_of_range="octave" or "drop", or a model of the whole range'
        )
    if policy == "drop":
        return canonical_line(np.where(outside, NOTE_OFF, result).astype(np.int16)), count
    if pitch_max - pitch_min < 11:
        raise ValueError(f"the range {pitch_min} ... {pitch_max} is less than an octave: pitches cannot be folded")
    below, above = np.maximum(pitch_min - pitches, 0), np.maximum(pitches - pitch_max, 0)
    folded = pitches + 12 * -(-below // 12) - 12 * -(-above // 12)
    return np.where(outside, folded - pitch_min + FIRST_NOTE_ON, result).astype(np.int16), count


def cut_windows(ids: np.ndarray, starts: np.ndarray, length: int, left_edge: str = "retrigger") -> np.ndarray:
    """Windows `[len(starts), length]` of a canonical line, each a canonical line of its own, padded with silence.

    Args:
        left_edge: a note that sounds across the start is struck again at step 0 (`retrigger`) or silent (`drop`).
    """
    if left_edge not in LEFT_EDGES:
        raise ValueError(f"left_edge={left_edge!r} is unknown; choose one of {', '.join(LEFT_EDGES)}")
    starts = np.asarray(starts)
    padded = np.append(ids, np.zeros(length, ids.dtype))
    running = sounding(np.append(ids, np.zeros(1, ids.dtype)))
    if running[-1] >= FIRST_NOTE_ON:
        padded[len(ids)] = NOTE_OFF  # what rings to the end of the line is silent in the padding
    windows = padded[starts[:, None] + np.arange(length)]
    if left_edge == "retrigger":
        held = (running[starts] >= FIRST_NOTE_ON) & (windows[:, 0] == NO_EVENT)
        windows[held, 0] = running[starts][held]
    # In a piece of a canonical line only the first event can be a note-off in silence.
    rows, first = np.arange(len(windows)), (windows != NO_EVENT).argmax(1)
    stray = windows[rows, first] == NOTE_OFF
    windows[rows[stray], first[stray]] = NO_EVENT
    return windows

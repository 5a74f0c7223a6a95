"""New bars behind a file that stays as it is: its tracks, their names, its timing, controllers, tempos and markers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from symusic import ControlChange, Note, Score, Tempo, Track

from partimento.tokenization import MidiProcessor
from partimento.tokenization.reading import read_score
from partimento.tokenization.writing import write_midi

__all__ = ["append_bars", "save_onto"]

_PEDALS = (64, 66, 67)  # controllers that hold notes or colour them until they are released


def append_bars(original: Score, new: Score, start: int) -> Score:
    """`original` with the notes and tempos of `new` from `start` on.

    A new note goes to the track of its program (or to a drum track); of several, such as the two hands of a piano, to
    the one whose notes lie nearest in pitch. Programs that the original has not got make tracks of their own. What
    still sounds on the pitch of a new note ends there, and pedals that are down at `start` are released.

    Args:
        original: in any resolution, which the outcome keeps; it is not changed.
        new: the whole piece on a grid, the bars before `start` included.
        start: tick of the first new bar, in the resolution of `new`.
    """
    score = original.copy()

    def ticks(time: np.ndarray | int):
        return np.round(np.asarray(time) * score.ticks_per_quarter / new.ticks_per_quarter).astype(np.int32)

    border = int(ticks(start))
    hands = _Tracks(score)
    for track in new.tracks:
        notes = {name: values[track.notes.numpy()["time"] >= start] for name, values in track.notes.numpy().items()}
        if not len(notes["time"]):
            continue
        ends = ticks(notes["time"] + notes["duration"])
        notes["time"] = ticks(notes["time"])
        notes["duration"] = np.maximum(ends - notes["time"], 1).astype(np.int32)
        chosen = hands.nearest(track, notes["pitch"])
        for number in np.unique(chosen).tolist():
            mine = {name: np.ascontiguousarray(values[chosen == number]) for name, values in notes.items()}
            _add_notes(score.tracks[number], Note.from_numpy(**mine), border)
    for tempo in new.tempos:
        if tempo.time >= start:
            score.tempos.append(Tempo(int(ticks(tempo.time)), tempo.qpm))
    return score


def save_onto(processor: MidiProcessor, onto: str | Path, new: Score, path: Path) -> Path:
    """Writes the file `onto` with the bars that `new`, its continuation, has behind it; complete or not at all."""
    primer = processor.load_piece(onto)
    start = int(primer.metre.bar_start(np.array([primer.num_bars]))[0])
    return write_midi(append_bars(read_score(onto)[0], new, start), path)


class _Tracks:
    """The tracks of a score that can take notes, by what they play."""

    def __init__(self, score: Score):
        self.score = score
        self.numbers: dict[int, list[int]] = {}
        self.centres: dict[int, float] = {}
        for number, track in enumerate(score.tracks):
            if len(track.notes):
                self.numbers.setdefault(-1 if track.is_drum else track.program, []).append(number)
                self.centres[number] = float(np.median(track.notes.numpy()["pitch"]))

    def nearest(self, like: Track, pitches: np.ndarray) -> np.ndarray:
        """For each pitch the number of the track that plays the program of `like`; a new one where there is none."""
        numbers = self.numbers.get(-1 if like.is_drum else like.program)
        if not numbers:
            self.score.tracks.append(Track(like.name, like.program, like.is_drum))
            return np.full(len(pitches), len(self.score.tracks) - 1)
        centres = np.array([self.centres[number] for number in numbers])
        return np.array(numbers)[np.abs(pitches[:, None] - centres).argmin(1)]


def _add_notes(track: Track, added: list[Note], border: int) -> None:
    first: dict[int, int] = {}
    for note in added:
        first[note.pitch] = min(note.time, first.get(note.pitch, note.time))
    for note in track.notes:
        if note.pitch in first and note.end > first[note.pitch]:
            note.duration = max(first[note.pitch] - note.time, 1)
    held = {control.number: control.value for control in sorted(track.controls, key=lambda control: control.time)}
    track.controls.extend(ControlChange(border, number, 0) for number in _PEDALS if held.get(number, 0) >= 64)
    track.notes.extend(added)
    track.notes.sort(key=lambda note: (note.time, note.pitch))

"""A MIDI file on a sixteenth grid: which steps are bar lines of 4/4, and the notes of every track.

Time is counted in beats, so changes of tempo do no harm: `step = floor(4 * beat + 1/2)`; a note that would have no
length gets one step.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from symusic import Score
from symusic.core import ScoreTick

from partimento.tokenization.drum_classes import hits_to_ids
from partimento.tokenization.errors import EmptyMidiError, MidiTooLongError, TimeSignatureError
from partimento.tokenization.melody_lines import Line, Notes, make_line
from partimento.tokenization.reading import MidiSource, read_score

STEPS_PER_BEAT = 4
STEPS_PER_BAR = 16
MAX_BARS = 20_000
METRE_REMEDY = (
    "Only 4/4 (also written 2/2 or 8/8) has bars of 16 sixteenths; any_metre (--any-metre) cuts without bar lines"
)
MELODY_NAMES = re.compile(r"\b(melody|melodie|vocals?|voice|voix|lead|solo|tune|chant)\b", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class GridPart:
    """One track: `program` 0 ... 127, or -1 for all drum tracks together; notes on the grid."""

    program: int
    name: str
    notes: Notes


@dataclass(frozen=True, eq=False)
class GridSong:
    """A piece on the grid.

    Args:
        num_steps: length, up to the end of the last bar.
        bars: `[n]` steps at which a bar of 4/4 begins, ascending; a window is a run of bars without gap.
        other_metres: time signatures that are not 4/4, as text.
    """

    source: str
    num_steps: int
    bars: np.ndarray
    parts: list[GridPart] = field(default_factory=list)
    other_metres: tuple[str, ...] = ()

    def find(self, programs: range) -> list[GridPart]:
        return [part for part in self.parts if part.program in programs]


def quantise_ticks(ticks: np.ndarray, division: int) -> np.ndarray:
    """Sixteenth of each tick: floor(4 * beat + 1/2)."""
    return (2 * STEPS_PER_BEAT * ticks.astype(np.int64) + division) // (2 * division)


def read_grid_song(midi: MidiSource, *, any_metre: bool = False, allow_empty: bool = False) -> GridSong:
    """Read a MIDI file, bytes or a score.

    Args:
        any_metre: count bars of 16 sixteenths from the first tick, whatever the time signatures say.
        allow_empty: a file without notes is one bar of silence.

    Raises:
        MidiParseError, NotMidiError: unreadable. EmptyMidiError: no notes. TimeSignatureError: no bar of 4/4.
        MidiTooLongError: more than 20,000 bars, the sign of a damaged file.
    """
    score, path = read_score(midi)
    if not isinstance(score, ScoreTick):
        score = score.to("tick")
    parts = _read_parts(score)
    if not parts and not allow_empty:
        raise EmptyMidiError(path, "contains no notes", "Choose a file with notes, or pass allow_empty=True")
    last = max((int(part.notes.ends.max()) for part in parts), default=1)
    if last > MAX_BARS * STEPS_PER_BAR:
        raise MidiTooLongError(path, f"reaches bar {last // STEPS_PER_BAR + 1}, limit {MAX_BARS}", "Check the file")
    if any_metre:
        bars, others = np.arange(0, last, STEPS_PER_BAR), ()
    else:
        bars, others = _bar_lines(score, last)
    if not len(bars):
        raise TimeSignatureError(path, f"has no bar in 4/4 but only {', '.join(others)}", METRE_REMEDY)
    num_steps = max(last, int(bars[-1]) + STEPS_PER_BAR)
    return GridSong(path, num_steps, bars, parts, others)


def _read_parts(score: Score) -> list[GridPart]:
    parts, drums = [], []
    for track in score.tracks:
        columns = track.notes.numpy()
        starts = columns["time"].astype(np.int64)
        ends = starts + columns["duration"].astype(np.int64)
        starts = np.maximum(starts, 0)
        if not len(starts):
            continue
        steps = quantise_ticks(starts, score.ticks_per_quarter)
        stops = np.maximum(quantise_ticks(ends, score.ticks_per_quarter), steps + 1)
        notes = Notes(steps, stops, columns["pitch"].astype(np.int64))
        if track.is_drum:
            drums.append(notes)
        else:
            parts.append(GridPart(track.program, track.name, notes))
    if drums:
        parts.append(GridPart(-1, "Drums", Notes.concatenate(drums)))
    return parts


def _bar_lines(score: Score, last: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Steps of the bar lines of 4/4 before step `last`, and the other time signatures up to there.

    A change inside a bar waits for the next bar line (MIDI 1.0, p. 54).
    """
    division = score.ticks_per_quarter
    end = last * division // STEPS_PER_BEAT
    effective = {0: (4, 4)}  # the last one at a tick wins
    for change in score.time_signatures:
        if 0 <= change.time < end and change.numerator > 0 and change.denominator > 0:
            effective[change.time] = (change.numerator, change.denominator)
    changes = sorted(effective.items())
    lines, others, start = [], [], 0.0
    for i, (_, (numerator, denominator)) in enumerate(changes):
        until = changes[i + 1][0] if i + 1 < len(changes) else end
        length = numerator * 4 * division / denominator
        count = max(0, int(np.ceil((until - start) / length)))
        if length == 4 * division:
            lines.append(quantise_ticks(np.floor(start + length * np.arange(count)), division))
        elif count:
            others.append(f"{numerator}/{denominator}")
        start += count * length
    bars = np.concatenate(lines) if lines else np.zeros(0, np.int64)
    return bars, tuple(dict.fromkeys(others))


def choose_line(parts: list[GridPart], num_steps: int, policy: str = "skyline") -> Line:
    """One voice out of the candidate tracks.

    Args:
        policy: `skyline` joins all candidates and keeps the upper line, `lowest` the lower one; `track` takes the upper
            line of one track: of those called melody, vocal, lead or alike (if there are any) the one with the
            largest (share of bars with a note) x (share of notes the line keeps), the higher one of equals.
    """
    if policy == "lowest":
        return make_line(Notes.concatenate([part.notes for part in parts]), num_steps, "lowest")
    if policy == "skyline":
        return make_line(Notes.concatenate([part.notes for part in parts]), num_steps)
    if policy != "track":
        raise ValueError(f"monophony={policy!r} is unknown; choose skyline, lowest or track")
    part = choose_part(parts, num_steps)
    return make_line(part.notes if part else Notes.concatenate([]), num_steps)


def choose_part(parts: list[GridPart], num_steps: int) -> GridPart | None:
    """The track that policy `track` of `choose_line` takes; None where there are none."""
    named = [part for part in parts if MELODY_NAMES.search(part.name)]
    best, best_score = None, (-1.0, -1.0)
    for part in named or parts:
        line = make_line(part.notes, num_steps)
        bars = len(np.unique(part.notes.starts // STEPS_PER_BAR)) / max(1, num_steps // STEPS_PER_BAR)
        score = (bars * (1 - line.num_dropped / max(1, line.num_notes)), float(part.notes.pitches.mean()))
        if score > best_score:
            best, best_score = part, score
    return best


def drum_line(parts: list[GridPart], num_steps: int) -> Line:
    """Drum ids `[num_steps]` of the drum part; a hit without class counts as dropped."""
    notes = Notes.concatenate([part.notes for part in parts])
    ids, dropped = hits_to_ids(notes.starts, notes.pitches, num_steps)
    return Line(ids, len(notes.starts), dropped)

"""Melodies as two tokens for each note or chord, its name and the type of its duration, and back to notes.

The representation of J. Roman Morales, "Redes recurrentes para el analisis de series temporales" (UAM, 2018): of the
first instrument, each note gives its name (`C4`, `F#3`, `E-5`) and each chord its pitch classes in normal order, joined
by dots (E and G: `4.7`); the type of the duration follows (`quarter`, `16th`, ...). Rests, dots, tuplets, velocities,
octaves of chords, other voices and the tempo are lost; `round_trip` says how much that is.

He read MIDI with music21. Here the names, the types and the grid (quarters divided by 4 or by 3, whichever is nearer)
follow its rules without needing it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from symusic import Note, Score, Tempo, Track

NAMES = ("C", "C#", "D", "E-", "E", "F", "F#", "G", "G#", "A", "B-", "B")
POWERS = {"whole": 2, "half": 1, "quarter": 0, "eighth": -1} | {
    f"{2 ** (n + 2)}{'nd' if n == 3 else 'th'}": -n for n in range(2, 10)
}  # name of a length -> exponent of two, in quarters
TYPES = {"breve": Fraction(8), "longa": Fraction(16)} | {name: Fraction(2) ** power for name, power in POWERS.items()}
DURATIONS = {**TYPES, "zero": Fraction(0)}
SHORTEST = Fraction(1, 512)
DOTS = (Fraction(1), Fraction(3, 2), Fraction(7, 4))
TUPLETS = (Fraction(1), Fraction(2, 3), Fraction(4, 5), Fraction(4, 7))
CHORD_OCTAVE = 60  # a chord's pitch classes sound from middle C on


@dataclass(frozen=True)
class Event:
    """One or several pitches that begin together."""

    onset: Fraction  # quarters
    duration: Fraction
    pitches: tuple[int, ...]  # ascending


def note_name(pitch: int) -> str:
    """`C4` for 60. Raises ValueError below 12: `E-1` could be 4 (octave -1) or 27 (E flat)."""
    if not 12 <= pitch <= 127:
        raise ValueError(f"pitch {pitch}: pitches from 12 to 127 have a name")
    return f"{NAMES[pitch % 12]}{pitch // 12 - 1}"


def note_pitch(name: str) -> int:
    """60 for `C4`. Raises ValueError for any other word."""
    letter = next((n for n in sorted(NAMES, key=len, reverse=True) if name.startswith(n)), None)
    octave = name[len(letter) :] if letter else ""
    if letter is None or not octave.lstrip("-").isdigit():
        raise ValueError(f"{name!r} is no note such as C4, F#3 or E-5")
    return NAMES.index(letter) + 12 * (int(octave) + 1)


def normal_order(pitches: Sequence[int]) -> tuple[int, ...]:
    """Pitch classes in the rotation that spans least; of equal ones that whose first intervals are smallest (Forte)."""
    classes = sorted({pitch % 12 for pitch in pitches})
    rotations = [classes[i:] + classes[:i] for i in range(len(classes))]

    def spread(rotation: list[int]) -> tuple[list[int], int]:
        from_first = [(value - rotation[0]) % 12 for value in rotation]
        return [from_first[-1], *from_first[1:-1]], rotation[0]

    return tuple(min(rotations, key=spread))


def duration_type(quarters: Fraction) -> str:
    """The type of a length in quarters; what needs ties (`complex`) becomes `quarter`, as published."""
    if quarters == 0:
        return "zero"
    if quarters < SHORTEST:
        return "2048th"
    for tuplet in TUPLETS:
        for dots in DOTS:
            for name, length in TYPES.items():
                if length * dots * tuplet == quarters:
                    return name
    return "quarter"


def symbol(event: Event) -> str:
    """`C4`, or `4.7` for several pitch classes."""
    classes = normal_order(event.pitches)
    if len(event.pitches) == 1 or len(classes) == 1:  # octaves sound like one note
        return note_name(event.pitches[0])
    return ".".join(map(str, classes))


def is_duration(token: str) -> bool:
    return token in DURATIONS


def encode(events: Sequence[Event]) -> list[str]:
    """Two tokens for each event."""
    return [token for event in events for token in (symbol(event), duration_type(event.duration))]


def decode(tokens: Sequence[str], missing_duration: str = "quarter") -> list[Event]:
    """Notes and chords one after the other, from tokens in any order.

    A symbol without a duration gets `missing_duration`; a duration that follows no symbol is left out.

    Raises:
        ValueError: a token that is none.
    """
    events, onset, waiting = [], Fraction(0), None

    def finish(name: str) -> None:
        nonlocal onset
        length = DURATIONS[name]
        if "." in (waiting or ""):
            pitches = tuple(sorted(CHORD_OCTAVE + int(part) for part in str(waiting).split(".")))
        else:
            pitches = (note_pitch(str(waiting)),)
        events.append(Event(onset, length, pitches))
        onset += length

    for token in tokens:
        if is_duration(token):
            if waiting is not None:
                finish(token)
            waiting = None
            continue
        if waiting is not None:
            finish(missing_duration)
        waiting = token
    if waiting is not None:
        finish(missing_duration)
    return events


def read_events(path: str | Path) -> list[Event]:
    """Notes and chords of the first part of a MIDI file that has pitches, on music21's grid.

    Raises:
        ValueError: no such part.
    """
    score = Score(str(path))
    track = next((track for track in score.tracks if len(track.notes) and not track.is_drum), None)
    if track is None:
        raise ValueError(f"{path}: no part with pitches")
    groups: dict[Fraction, list[tuple[int, Fraction]]] = {}
    for note in track.notes:
        onset = snap(Fraction(note.time, score.ticks_per_quarter))
        length = snap(Fraction(note.duration, score.ticks_per_quarter))
        groups.setdefault(onset, []).append((note.pitch, length))
    return [
        Event(onset, max(length for _, length in notes), tuple(sorted({pitch for pitch, _ in notes})))
        for onset, notes in sorted(groups.items())
    ]


def snap(quarters: Fraction) -> Fraction:
    """The nearest multiple of a fourth or of a third of a quarter."""
    candidates = [Fraction(round(quarters * division), division) for division in (4, 3)]
    return min(candidates, key=lambda value: abs(value - quarters))


def roll(events: Sequence[Event], steps_per_quarter: int = 4) -> np.ndarray:
    """[steps, 128] piano roll on the sixteenth grid; every note sounds for at least one step."""
    end = max((event.onset + event.duration for event in events), default=Fraction(0))
    result = np.zeros((int(end * steps_per_quarter) + 1, 128), dtype=np.float32)
    for event in events:
        first = int(event.onset * steps_per_quarter)
        last = max(first + 1, int((event.onset + event.duration) * steps_per_quarter))
        result[first:last, list(event.pitches)] = 1
    return result


def save_midi(events: Sequence[Event], path: str | Path, tempo: float = 120.0) -> None:
    """Write a piano part; notes of no length are left out."""
    score, track = Score(480), Track(program=0)
    for event in events:
        for pitch in event.pitches if event.duration else ():
            track.notes.append(Note(int(event.onset * 480), max(1, int(event.duration * 480)), pitch, 80))
    score.tracks.append(track)
    score.tempos.append(Tempo(0, tempo))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(str(path))


def round_trip(events: Sequence[Event]) -> dict[str, float]:
    """What survives encoding and decoding: shares of events with all their pitches, and with their length; total time.

    `length` is the decoded length over that of the source, whose rests are lost and whose overlaps are unrolled.
    """
    decoded = decode(encode(events))
    end = max(event.onset + event.duration for event in events)
    return {
        "events": len(events),
        "pitches_kept": float(np.mean([a.pitches == b.pitches for a, b in zip(events, decoded)])),
        "durations_kept": float(np.mean([a.duration == b.duration for a, b in zip(events, decoded)])),
        "length": float(sum(event.duration for event in decoded) / end) if end else 1.0,
    }

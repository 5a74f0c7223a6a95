"""MusicXML 4.0, partwise: one part per track, one voice per part.

The notes of a track are cut wherever another one of it begins or ends and the pieces are tied, so that each bar is a
row of chords and rests that fills it exactly. Lengths are note values on a grid of twelve to the quarter: plain,
dotted, and triplets.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

from symusic import Score

from partimento.tokenization.conditions import KEYS
from partimento.tokenization.general_midi import program_name

MAX_BARS = 64
DIVISIONS = 12  # to the quarter
BAR = 4 * DIVISIONS
# length -> (type, dots, triplet)
VALUES = {
    48: ("whole", 0, False), 36: ("half", 1, False), 24: ("half", 0, False), 18: ("quarter", 1, False),
    16: ("half", 0, True), 12: ("quarter", 0, False), 9: ("eighth", 1, False), 8: ("quarter", 0, True),
    6: ("eighth", 0, False), 4: ("eighth", 0, True), 3: ("16th", 0, False), 2: ("16th", 0, True), 1: ("32nd", 0, True),
}  # fmt: skip
SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
FIFTHS = {0: 0, 1: -5, 2: 2, 3: -3, 4: 4, 5: -1, 6: 6, 7: 1, 8: -4, 9: 3, 10: -2, 11: 5}  # of a major key's tonic
DOCTYPE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 '
    'Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">\n'
)


def musicxml(midi: bytes, title: str, key: str | None = None) -> bytes:
    """A piece in 4/4 as a MusicXML score.

    Args:
        midi: Standard MIDI File.
        key: such as "A-minor": key signature and spelling; None writes no accidentals in the signature.

    Raises:
        ValueError: no notes, or more than 64 bars.
    """
    score = Score.from_midi(midi).resample(DIVISIONS, 1)
    if not score.note_num():
        raise ValueError("This MIDI contains no notes.")
    num_bars = max(int(track.notes.numpy()["time"].max()) for track in score.tracks if len(track.notes)) // BAR + 1
    if num_bars > MAX_BARS:
        raise ValueError(f"MusicXML is written for at most {MAX_BARS} bars; this piece has {num_bars}.")
    fifths = 0
    if key:
        is_minor, tonic = divmod(KEYS.index(key), 12)
        fifths = FIFTHS[(tonic + 3 * is_minor) % 12]
    tempos = {int(tempo.time): float(tempo.qpm) for tempo in score.tempos if tempo.time < num_bars * BAR}
    root = ET.Element("score-partwise", version="4.0")
    _add(ET.SubElement(root, "work"), work_title=title)
    names = ET.SubElement(root, "part-list")
    for number, track in enumerate((track for track in score.tracks if len(track.notes)), 1):
        _declare(names, number, track)
        part = ET.SubElement(root, "part", id=f"P{number}")
        rows = _rows(track, num_bars)
        for bar in range(num_bars):
            measure = ET.SubElement(part, "measure", number=str(bar + 1))
            if bar == 0:
                _attributes(measure, track, fifths)
            changes = {tick - bar * BAR: bpm for tick, bpm in tempos.items() if tick // BAR == bar}
            _fill(measure, rows[bar], track.is_drum, f"P{number}", fifths, changes if number == 1 else {})
    ET.indent(root, " ")
    return (DOCTYPE + ET.tostring(root, encoding="unicode") + "\n").encode()


def _rows(track, num_bars: int) -> list[list[tuple[int, int, dict[int, tuple[bool, bool]]]]]:
    """For each bar its slices in order: (start in the bar, length, {pitch: (tied from before, tied on)})."""
    notes = track.notes.numpy()
    spans: dict[int, list[list[int]]] = {}
    for start, length, pitch in sorted(zip(*(notes[name].tolist() for name in ("time", "duration", "pitch")))):
        end = min(start + (1 if track.is_drum else max(length, 1)), num_bars * BAR)
        row = spans.setdefault(pitch, [])
        if row and row[-1][1] > start:  # the pitch is struck again
            row[-1][1] = start
        if not row or row[-1][0] < start:
            row.append([start, end])
    held = [(start, end, pitch) for pitch, row in spans.items() for start, end in row]
    onsets = sorted({start for start, _, _ in held})
    if track.is_drum:  # a hit lasts to the next one, at most a quarter
        following = dict(pairwise([*onsets, num_bars * BAR]))
        held = [(start, min(following[start], start + DIVISIONS), pitch) for start, _, pitch in held]
    lines = range(0, num_bars * BAR + 1, BAR)
    cuts = sorted({*lines, *(start for start, _, _ in held), *(end for _, end, _ in held)})
    sounding: dict[int, dict[int, tuple[bool, bool]]] = {cut: {} for cut in cuts}
    place = {cut: index for index, cut in enumerate(cuts)}
    for start, end, pitch in held:
        for cut in cuts[place[start] : place[end]]:
            sounding[cut][pitch] = (cut > start, cuts[place[cut] + 1] < end)
    bars: list[list[tuple[int, int, dict[int, tuple[bool, bool]]]]] = [[] for _ in range(num_bars)]
    for cut, following_cut in pairwise(cuts):
        bars[cut // BAR].append((cut % BAR, following_cut - cut, sounding[cut]))
    return bars


def _fill(measure, row, is_drum: bool, part: str, fifths: int, tempos: dict[int, float]) -> None:
    """Writes the slices of a bar; each is split into note values, tied where it sounds."""
    for start, length, pitches in row:
        for tick in sorted(tick for tick in tempos if start <= tick < start + length):
            _tempo(measure, tempos[tick])
        if not pitches and length == BAR:
            rest = ET.SubElement(measure, "note")
            ET.SubElement(rest, "rest", measure="yes")
            _add(rest, duration=BAR)
            continue
        values = note_values(length)
        for index, value in enumerate(values):
            first, last = index == 0, index == len(values) - 1
            if not pitches:
                _note(measure, value, None, False, (False, False), is_drum, part, fifths)
            for number, (pitch, (before, after)) in enumerate(sorted(pitches.items())):
                ties = (before or not first, after or not last)
                _note(measure, value, pitch, number > 0, ties, is_drum, part, fifths)


def note_values(length: int) -> list[int]:
    """A length as few note values, the longest first: 30 -> [24, 6]."""
    values = []
    while length:
        values.append(next(value for value in VALUES if value <= length))
        length -= values[-1]
    return values


def _note(measure, value, pitch, in_chord, ties, is_drum, part, fifths) -> None:
    """One note or rest; the order of the elements is the schema's."""
    note = ET.SubElement(measure, "note")
    if in_chord:
        ET.SubElement(note, "chord")
    if pitch is None:
        ET.SubElement(note, "rest")
    elif is_drum:
        place = ET.SubElement(note, "unpitched")
        step, octave = ("F", 4) if pitch in (35, 36) else ("G", 5) if pitch in (42, 44, 46) else ("C", 5)
        _add(place, display_step=step, display_octave=octave)
    else:
        name = (FLATS if fifths < 0 else SHARPS)[pitch % 12]
        place = ET.SubElement(note, "pitch")
        alter = {"alter": 1 if name[1] == "#" else -1} if len(name) > 1 else {}
        _add(place, step=name[0], **alter, octave=pitch // 12 - 1)
    _add(note, duration=value)
    marks = [kind for kind, tied in zip(("stop", "start"), ties) if tied]
    for kind in marks:
        ET.SubElement(note, "tie", type=kind)
    if is_drum and pitch is not None:
        ET.SubElement(note, "instrument", id=f"{part}-{pitch}")
    kind, dots, triplet = VALUES[value]
    _add(note, voice=1, type=kind)
    for _ in range(dots):
        ET.SubElement(note, "dot")
    if triplet:
        _add(ET.SubElement(note, "time-modification"), actual_notes=3, normal_notes=2)
    if marks:
        notations = ET.SubElement(note, "notations")
        for mark in marks:
            ET.SubElement(notations, "tied", type=mark)


def _declare(names, number: int, track) -> None:
    """A part in the list, with what plays it."""
    part = ET.SubElement(names, "score-part", id=f"P{number}")
    _add(part, part_name=track.name or program_name(-1 if track.is_drum else track.program))
    channel = 10 if track.is_drum else (number - 1) % 15 + 1 + ((number - 1) % 15 >= 9)
    keys = sorted(set(track.notes.numpy()["pitch"].tolist())) if track.is_drum else [None]
    ids = [f"P{number}-I1" if key is None else f"P{number}-{key}" for key in keys]
    for key, name in zip(keys, ids):
        instrument = ET.SubElement(part, "score-instrument", id=name)
        _add(instrument, instrument_name=track.name if key is None else f"Drum {key}")
    for key, name in zip(keys, ids):
        sound = ET.SubElement(part, "midi-instrument", id=name)
        _add(sound, midi_channel=channel, midi_program=1 if track.is_drum else track.program + 1)
        if key is not None:
            _add(sound, midi_unpitched=key + 1)


def _attributes(measure, track, fifths: int) -> None:
    attributes = ET.SubElement(measure, "attributes")
    _add(attributes, divisions=DIVISIONS)
    _add(ET.SubElement(attributes, "key"), fifths=0 if track.is_drum else fifths)
    _add(ET.SubElement(attributes, "time"), beats=4, beat_type=4)
    low = track.notes.numpy()["pitch"].mean() < 58
    clef = {"sign": "percussion"} if track.is_drum else {"sign": "F", "line": 4} if low else {"sign": "G", "line": 2}
    _add(ET.SubElement(attributes, "clef"), **clef)


def _tempo(measure, bpm: float) -> None:
    direction = ET.SubElement(measure, "direction", placement="above")
    mark = ET.SubElement(ET.SubElement(direction, "direction-type"), "metronome")
    _add(mark, beat_unit="quarter", per_minute=f"{bpm:.0f}")
    ET.SubElement(direction, "sound", tempo=f"{bpm:.2f}")


def _add(parent, **children) -> None:
    """Children with a text, in order; underscores in their names are hyphens."""
    for name, text in children.items():
        ET.SubElement(parent, name.replace("_", "-")).text = str(text)

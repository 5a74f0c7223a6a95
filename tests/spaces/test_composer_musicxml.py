"""MusicXML, read back with the rules that the schema and a score have."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from symusic import Note, Score, Tempo, Track

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "composer"
if not SPACE.is_dir():
    pytest.skip("runs outside the checkout: spaces/ is not there", allow_module_level=True)

ORDER = (  # of the children of <note> in MusicXML 4.0 that are written
    "chord", "pitch", "unpitched", "rest", "duration", "tie", "instrument", "voice", "type", "dot", "accidental",
    "time-modification", "notations",
)  # fmt: skip
LENGTHS = {"whole": 48, "half": 24, "quarter": 12, "eighth": 6, "16th": 3, "32nd": 1.5}
STEPS = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11)))


@pytest.fixture(autouse=True)
def space_on_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SPACE), *sys.path])


def write(score: Score, key: str | None = None) -> ET.Element:
    from composer_musicxml import musicxml

    return ET.fromstring(musicxml(score.dumps_midi(), "A & B <piece>", key))


def sounding(part: ET.Element) -> set[tuple[int, int, int]]:
    """(start, end, pitch) of the notes of a part, ties joined; checks every bar on the way."""
    notes, open_ties = set(), {}
    for index, measure in enumerate(part.findall("measure")):
        assert measure.get("number") == str(index + 1)
        now = start = 48 * index
        for note in measure.findall("note"):
            names = [child.tag for child in note]
            assert names == sorted(names, key=ORDER.index), "the order of the schema"
            length = int(note.findtext("duration"))
            if note.find("type") is not None:
                written = LENGTHS[note.findtext("type")] * (1.5 if note.find("dot") is not None else 1)
                assert length == written * (2 / 3 if note.find("time-modification") is not None else 1)
            if note.find("chord") is None:
                start, now = now, now + length
            if note.find("pitch") is None:
                continue
            octave, alter = int(note.findtext("pitch/octave")), int(note.findtext("pitch/alter") or 0)
            pitch = 12 * (octave + 1) + STEPS[note.findtext("pitch/step")] + alter
            ties = {tie.get("type") for tie in note.findall("tie")}
            assert ties == {tied.get("type") for tied in note.findall("notations/tied")}
            begin = open_ties.pop((pitch, start)) if "stop" in ties else start
            if "start" in ties:
                open_ties[pitch, start + length] = begin
            else:
                notes.add((begin, start + length, pitch))
        assert now == 48 * (index + 1), "the bar is full"
    assert not open_ties, "every tie ends"
    return notes


def test_notes_come_back_and_every_bar_is_full(make_score):
    from composer_engine import load_composer  # the canonical form: on the grid, without overlaps

    composer, _ = load_composer()
    for seed in range(3):
        score = composer.processor.load(make_score(seed, num_bars=5, programs=(0, 33, -1), notes_per_bar=8))
        root = write(score)
        parts = root.findall("part")
        assert [part.get("id") for part in parts] == [item.get("id") for item in root.find("part-list")]
        assert root.findtext("work/work-title") == "A & B <piece>"
        for part, track in zip(parts, score.tracks):
            found = sounding(part)
            if track.is_drum:
                onsets = sum(note.find("unpitched") is not None for note in part.iter("note"))
                assert onsets >= len({(note.time, note.pitch) for note in track.notes})
                continue
            end = 48 * len(part.findall("measure"))
            want = {(note.time, min(note.time + note.duration, end), note.pitch) for note in track.notes}
            assert found == want


def test_key_tempo_clef_and_spelling():
    score = Score(480)
    score.tempos.append(Tempo(0, 90))
    for program, pitch in ((0, 70), (33, 34)):
        track = Track(program=program)
        track.notes.append(Note(0, 480, pitch, 80))
        score.tracks.append(track)
    root = write(score, "D-minor")
    assert [item.text for item in root.iter("fifths")] == ["-1", "-1"]
    assert [item.text for item in root.iter("sign")] == ["G", "F"]
    assert [item.text for item in root.iter("per-minute")] == ["90"]
    assert {(item.findtext("step"), item.findtext("alter")) for item in root.iter("pitch")} == {("B", "-1")}
    assert {item.findtext("alter") for item in write(score, "E-minor").iter("pitch")} == {"1"}
    assert [item.text for item in root.iter("midi-program")] == ["1", "34"]


@pytest.mark.parametrize("length", range(1, 49))
def test_any_length_is_a_row_of_note_values(length):
    from composer_musicxml import VALUES, note_values

    assert sum(note_values(length)) == length
    assert set(note_values(length)) <= set(VALUES)


def test_too_long_and_empty(make_score):
    with pytest.raises(ValueError, match="at most 64 bars"):
        write(make_score(1, num_bars=70))
    with pytest.raises(ValueError, match="no notes"):
        write(Score(480))

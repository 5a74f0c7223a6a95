"""A file that is continued keeps what is its own: tracks, names, timing, controllers, tempos, markers."""

import pytest
from symusic import ControlChange, Note, Score, Tempo, TextMeta, TimeSignature, Track

from partimento.checkpoints import list_embedded
from partimento.pipelines.cli import main
from partimento.pipelines.splicing import append_bars, save_onto
from partimento.tokenization import MidiProcessor

BAR = 4 * 960


def played(track):
    return [(n.time, n.pitch, n.duration, n.velocity) for n in track.notes]


def a_players_file():
    """Two bars as they come out of a sequencer: two hands on one program, off the grid, pedal, volume, a marker."""
    score = Score(960)
    for name, program, pitch in (("Right hand", 0, 72), ("Left hand", 0, 40), ("Solo", 81, 60)):
        track = Track(name, program)
        for beat in range(8):
            track.notes.append(Note(beat * 960 + 13, 931, pitch + beat, 71 + beat))
        track.controls.append(ControlChange(0, 7, 90))
        score.tracks.append(track)
    score.tracks[0].controls.append(ControlChange(100, 64, 127))
    kit = Track("My kit", 0, True)
    kit.notes.append(Note(5, 100, 36, 101))
    score.tracks.append(kit)
    score.tempos.append(Tempo(0, 93.5))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    score.markers.append(TextMeta(0, "Verse"))
    return score


def a_continuation():
    """In 12 ticks a quarter: bars 1 and 2 are to be ignored, bar 3 is new."""
    score, border = Score(12), 96
    for name, program, is_drum, pitches in (
        ("Acoustic Grand Piano", 0, False, (38, 80)), ("Violin", 40, False, (70,)), ("Sawtooth Lead", 81, False, (67,)),
        ("Drums", 0, True, (36,)),
    ):  # fmt: skip
        track = Track(name, program, is_drum)
        track.notes.extend([Note(0, 12, 61, 64), *(Note(border, 6, pitch, 80) for pitch in pitches)])
        score.tracks.append(track)
    score.tempos.extend([Tempo(0, 94), Tempo(border, 120)])
    return score, border


def test_what_was_there_stays_and_new_notes_join_their_tracks():
    original = a_players_file()
    new, border = a_continuation()
    joined = append_bars(original, new, border)
    assert [track.name for track in joined.tracks] == ["Right hand", "Left hand", "Solo", "My kit", "Violin"]
    assert joined.ticks_per_quarter == 960
    added = [[note for note in played(track) if note[0] >= 2 * BAR] for track in joined.tracks]
    assert added == [[(2 * BAR, pitch, 480, 80)] for pitch in (80, 38, 67, 36, 70)], "each hand its own notes"
    for track, before in zip(joined.tracks, original.tracks):
        old = played(before)
        assert played(track)[: len(old) - 1] == old[:-1]
    assert [(tempo.time, round(tempo.qpm, 1)) for tempo in joined.tempos] == [(0, 93.5), (2 * BAR, 120)]
    assert [marker.text for marker in joined.markers] == ["Verse"]
    assert [(c.time, c.number, c.value) for c in joined.tracks[0].controls] == [
        (0, 7, 90), (100, 64, 127), (2 * BAR, 64, 0),
    ]  # fmt: skip
    assert len(joined.tracks[1].controls) == 1, "no pedal, none released"


def test_a_note_that_sounds_ends_where_its_pitch_starts_anew():
    original = a_players_file()
    original.tracks[2].notes.append(Note(2 * BAR - 400, 3000, 67, 90))  # on the pitch of the new note, across the line
    original.tracks[2].notes.append(Note(2 * BAR - 400, 3000, 50, 90))
    new, border = a_continuation()
    solo = append_bars(original, new, border).tracks[2]
    assert (2 * BAR - 400, 67, 400, 90) in played(solo)
    assert (2 * BAR - 400, 50, 3000, 90) in played(solo)


def test_the_file_is_not_touched_and_a_failure_leaves_nothing(tmp_path):
    source = tmp_path / "mine.mid"
    source.write_bytes(a_players_file().dumps_midi())
    before = source.read_bytes()
    new, _ = a_continuation()
    processor = MidiProcessor.from_preset("multitrack")
    save_onto(processor, source, new, tmp_path / "sub" / "longer.mid")
    assert source.read_bytes() == before
    assert Score(tmp_path / "sub" / "longer.mid").note_num() == Score(source).note_num() + 5
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_onto(processor, source, new, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.mid", "sub", "taken"]


@pytest.mark.skipif(not list_embedded(), reason="no embedded checkpoint is installed")
def test_continue_keeps_the_players_file(tmp_path, capsys):
    source, target = tmp_path / "mine.mid", tmp_path / "longer.mid"
    source.write_bytes(a_players_file().dumps_midi())
    assert main(["continue", str(source), "--bars", "1", "--seed", "1", "-o", str(target)]) == 0
    before, after = Score(source), Score(target)
    assert [track.name for track in after.tracks][:4] == [track.name for track in before.tracks]
    assert after.note_num() > before.note_num()
    for old, new in zip(before.tracks, after.tracks):
        assert [n for n in played(new) if n[0] < 2 * BAR] == played(old)

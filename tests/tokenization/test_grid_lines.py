"""Melody lines and drum ids: one voice of many, ranges, windows, and ids -> MIDI -> ids."""

import numpy as np
import pytest
from symusic import Note, Score, Tempo, TimeSignature, Track

from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.drum_classes import DRUM_CLASSES, PITCH_BITS, hits_to_ids, ids_to_hits
from partimento.tokenization.melody_lines import (
    Notes,
    canonical_line,
    cut_windows,
    fit_range,
    line_notes,
    make_line,
    sounding,
)


def notes(*rows):
    return Notes(*(np.array(column) for column in zip(*rows)))


def on(pitch, pitch_min=0):
    return 2 + pitch - pitch_min


def test_one_voice_keeps_the_upper_line():
    chord_and_covered = notes((0, 8, 72), (0, 8, 64), (2, 4, 60), (4, 10, 65))
    line = make_line(chord_and_covered, 12)
    # 64 starts with 72, 60 lies wholly under it; 65 outlasts it and ends it
    assert line.ids.tolist() == [on(72), 0, 0, 0, on(65), 0, 0, 0, 0, 0, 1, 0]
    assert (line.num_notes, line.num_dropped) == (4, 2)
    low = make_line(notes((0, 8, 40), (0, 8, 52), (2, 4, 60)), 8, keep="lowest")
    assert low.ids.tolist() == [on(40), 0, 0, 0, 0, 0, 0, 0]


def test_notes_of_a_line_and_back():
    table = notes((1, 3, 60), (3, 4, 62), (6, 12, 64))
    line = make_line(table, 12)
    assert line.ids.tolist() == [0, on(60), 0, on(62), 1, 0, on(64), 0, 0, 0, 0, 0]
    assert [column.tolist() for column in line_notes(line.ids)] == [column.tolist() for column in table]


def test_sounding_and_canonical():
    ids = np.array([1, 0, on(60), 0, 1, 1, 0, on(62)])
    assert sounding(ids).tolist() == [0, 1, 1, on(60), on(60), 1, 1, 1]
    assert canonical_line(ids).tolist() == [0, 0, on(60), 0, 1, 0, 0, on(62)]


@pytest.mark.parametrize(("left_edge", "expected"), [("retrigger", [on(60), 0, 1, 0]), ("drop", [0, 0, 0, 0])])
def test_left_edge(left_edge, expected):
    ids = np.array([0, on(60), 0, 0, 1, 0, on(64), 0], np.int16)
    assert cut_windows(ids, np.array([2]), 4, left_edge)[0].tolist() == expected
    # a note-off in step 0, and a note that rings to the end of the line
    assert cut_windows(ids, np.array([4]), 4, left_edge)[0].tolist() == [0, 0, on(64), 0]
    assert cut_windows(ids, np.array([6]), 4, left_edge)[0].tolist() == [on(64), 0, 1, 0]


def test_windows_equal_windows_cut_note_by_note():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.choice(200, 60, replace=False))
    table = Notes(starts, starts + rng.integers(1, 20, 60), rng.integers(40, 80, 60))
    line = make_line(table, 200).ids
    kept = line_notes(line)
    for left_edge in ("retrigger", "drop"):
        windows = cut_windows(line, np.arange(0, 200, 7), 32, left_edge)
        for start, window in zip(range(0, 200, 7), windows):
            rows = [
                (max(s - start, 0), min(e, 200) - start, p)
                for s, e, p in zip(*kept)
                if s < start + 32 and e > start and (s >= start or left_edge == "retrigger")
            ]
            expected = make_line(notes(*rows), 32).ids if rows else np.zeros(32)
            np.testing.assert_array_equal(window, expected)


def test_ranges():
    ids = np.array([on(60), on(15), 0, on(112), 1], np.int16)
    folded, count = fit_range(ids, 21, 108, "octave")
    assert count == 2
    assert folded.tolist() == [on(60, 21), on(27, 21), 0, on(100, 21), 1]
    assert fit_range(ids, 21, 108, "drop")[0].tolist() == [on(60, 21), 1, 0, 0, 0]
    with pytest.raises(ValueError, match="pitch 15 at step 1 is outside 21"):
        fit_range(ids, 21, 108, "error")


def test_all_drum_ids():
    ids = np.arange(512)
    back, dropped = hits_to_ids(*ids_to_hits(ids), 512)
    np.testing.assert_array_equal(back, ids)
    assert dropped == 0
    pitches = [pitch for group in DRUM_CLASSES.values() for pitch in group]
    assert sorted(pitches) == [22, 26, *range(27, 88)]  # each once
    assert PITCH_BITS[36] == 1
    assert PITCH_BITS[51] == 256
    assert PITCH_BITS[20] == 0


PROCESSORS = {
    "melody": {},
    "melody_full": {"pitch_min": 0, "pitch_max": 127},
    "drums": {"tracks": "drums"},
    "trio": {"tracks": ("melody", "bass", "drums"), "num_bars": 16, "monophony": "track"},
}


def random_ids(processor, seed):
    rng = np.random.default_rng(seed)
    tracks = []
    for name, size in zip(processor.tracks, processor.vocab_sizes):
        ids = rng.integers(0, size, processor.num_steps) * (rng.random(processor.num_steps) < 0.4)
        tracks.append(ids if name == "drums" else canonical_line(ids))
    return processor.join_tracks([ids[None] for ids in tracks])[0]


@pytest.mark.parametrize("name", PROCESSORS)
def test_ids_to_midi_to_ids(name):
    processor = MusicVAEProcessor(**PROCESSORS[name])
    for seed in range(20):
        ids = random_ids(processor, seed)
        np.testing.assert_array_equal(processor.encode(processor.decode(ids).dumps_midi()), ids)
    silence = processor.join_tracks([np.zeros((1, processor.num_steps), int)] * len(processor.tracks))[0]
    data = processor.decode(silence).dumps_midi()
    np.testing.assert_array_equal(processor.encode(data, allow_empty=True), silence)


def test_512_drum_ids_through_midi():
    processor = MusicVAEProcessor("drums", num_bars=32)
    ids = np.arange(512)
    np.testing.assert_array_equal(processor.encode(processor.decode(ids).dumps_midi()), ids)


def test_decoded_score():
    trio = MusicVAEProcessor(("melody", "bass", "drums"), num_bars=1)
    tracks = [np.zeros(16, int) for _ in range(3)]
    tracks[0][0], tracks[1][4], tracks[2][8] = on(60, 21), on(40, 21), 0b101
    score = trio.decode(trio.join_tracks([t[None] for t in tracks])[0])
    assert [(t.program, t.is_drum) for t in score.tracks] == [(0, False), (33, False), (0, True)]
    assert [(n.time, n.duration, n.pitch, n.velocity) for n in score.tracks[0].notes] == [(0, 1920, 60, 80)]
    assert [(n.time, n.pitch) for n in score.tracks[2].notes] == [(960, 36), (960, 42)]
    assert score.tempos[0].qpm == pytest.approx(120)


def test_time_is_counted_in_beats():
    score = Score(480)
    score.tempos.extend([Tempo(0, 60), Tempo(700, 180)])  # tempo changes move no step
    score.time_signatures.append(TimeSignature(0, 4, 4))
    track = Track(program=4)
    for time, duration in ((59, 100), (60, 10), (181, 400)):  # steps 0, 1 (half a step rounds up), 2
        track.notes.append(Note(time, duration, 60 + time % 7, 90))
    score.tracks.append(track)
    ids = MusicVAEProcessor(num_bars=1).encode(score)
    assert np.flatnonzero(ids >= 2).tolist() == [0, 1, 2]
    assert ids.shape == (16,)

"""Windows of MIDI files: the rules, the errors, and every window of real files."""

import numpy as np
import pytest
from symusic import Note, Score, TimeSignature, Track
from transformers import AutoProcessor

from partimento.tokenization import (
    EmptyMidiError,
    MidiError,
    MidiParseError,
    MissingTrackError,
    MusicVAEProcessor,
    NotMidiError,
    PitchRangeError,
    PolyphonyError,
    TimeSignatureError,
    WindowError,
)
from partimento.tokenization.grid_windows import longest_rest, passing_windows, window_starts


def make_midi(rows, program=0, signatures=((0, 4, 4),), drums=False, name=""):
    """Score of (start, duration, pitch) in quarters, one track."""
    score = Score(480)
    for tick, numerator, denominator in signatures:
        score.time_signatures.append(TimeSignature(tick, numerator, denominator))
    score.tracks.append(make_track(rows, program, drums, name))
    return score


def make_track(rows, program=0, drums=False, name=""):
    track = Track(program=program, is_drum=drums, name=name)
    for start, duration, pitch in rows:
        track.notes.append(Note(int(start * 480), int(duration * 480), pitch, 80))
    return track


def test_a_silent_first_bar_is_a_window_like_any_other():
    """One note at 2.0-4.0 s at 120 quarters per minute: the second bar of two."""
    processor = MusicVAEProcessor()
    windows = processor.windows(make_midi([(4, 4, 60)]))
    assert windows.ids.shape == (1, 32)
    assert np.flatnonzero(windows.ids[0]).tolist() == [16]
    assert windows.ids[0, 16] == 2 + 60 - 21


@pytest.mark.parametrize("silent", [0, 1, 2, 3, 4])
def test_an_empty_bar_anywhere(silent):
    rows = [(4 * bar + 1, 1, 60 + bar) for bar in range(5) if bar != silent]
    windows = MusicVAEProcessor().windows(make_midi([*rows, (19.5, 0.5, 70)]))
    assert windows.bars.tolist() == [0, 1, 2, 3]
    for bar, ids in zip(windows.bars, windows.ids):
        expected = [i for i in (0, 1) if bar + i != silent]
        assert [i for i in (0, 1) if (ids[16 * i : 16 * i + 8] >= 2).any()] == expected


def test_forty_windows_yield_forty():
    rows = [(4 * bar, 2, 50 + bar) for bar in range(41)]
    assert len(MusicVAEProcessor().windows(make_midi(rows)).ids) == 40
    assert len(MusicVAEProcessor().windows(make_midi(rows), hop=2).ids) == 20


def test_shorter_input_is_padded_and_longer_is_addressed():
    long = MusicVAEProcessor(num_bars=16)
    ids = long.encode(make_midi([(0, 1, 60), (5, 1, 62)]))
    assert len(ids) == 256
    assert np.flatnonzero(ids).tolist() == [0, 4, 20, 24]
    rows = [(4 * bar, 1, 50 + bar) for bar in range(6)]
    assert MusicVAEProcessor().encode(make_midi(rows), bar=4)[[0, 16]].tolist() == [2 + 54 - 21, 2 + 55 - 21]
    last = MusicVAEProcessor().encode(make_midi(rows), bar=5)
    assert last[16:].tolist() == [0] * 16
    with pytest.raises(WindowError, match=r"has bars 0 \.\.\. 5 in 4/4, not bar 6"):
        MusicVAEProcessor().encode(make_midi(rows), bar=6)


def test_windows_stay_within_runs_of_four_four():
    # four bars of 4/4, one of 3/4, two of 4/4, played throughout in quarters
    rows = [(quarter, 1, 60) for quarter in range(16 + 3 + 8)]
    score = make_midi(rows, signatures=((0, 4, 4), (16 * 480, 3, 4), (19 * 480, 4, 4)))
    windows = MusicVAEProcessor().windows(score)
    assert windows.bars.tolist() == [0, 1, 2, 4]
    assert (windows.ids[:, ::4] == 2 + 60 - 21).all()
    padded = MusicVAEProcessor(num_bars=3).windows(score)  # the run of two bars is padded, not joined
    assert padded.bars.tolist() == [0, 1, 4]
    assert (padded.ids[2, 32:] != 0).sum() == 1  # the note-off
    assert MusicVAEProcessor().windows(score, any_metre=True).bars.tolist() == [0, 1, 2, 3, 4, 5]


def test_window_starts_of_runs():
    first, ends = window_starts(np.array([0, 16, 32, 60, 76, 100]), 2)
    assert first.tolist() == [0, 1, 3, 5]
    assert ends.tolist() == [48, 48, 92, 116]


def test_filters_are_options_with_reasons():
    rows = [(4 * bar, 1, 60) for bar in (0, 1, 2, 7, 8)]
    processor = MusicVAEProcessor(num_bars=4)
    assert len(processor.windows(make_midi(rows)).ids) == 6
    windows = processor.windows(make_midi(rows), min_onsets=2, max_rest_bars=1)
    assert windows.bars.tolist() == [0]
    assert windows.report == {"few_onsets": 3, "long_rest": 2}


def test_longest_rest():
    ids = np.zeros((2, 64), int)
    ids[0, [0, 63]] = 10
    ids[1, 16] = 1  # a note-off is no onset
    assert longest_rest(ids, False).tolist() == [2, 4]
    assert longest_rest(ids, True).tolist() == [2, 2]
    assert passing_windows([(ids, False)])[0].all()


def test_trio_takes_its_tracks_by_program():
    score = make_midi([(0, 1, 72), (4, 1, 74)], program=1)
    score.tracks.append(make_track([(0, 1, 64)] * 2 + [(6, 1, 50)], program=25))
    score.tracks.append(make_track([(0, 4, 40), (0, 4, 52)], program=35))
    score.tracks.append(make_track([(0, 1, 36), (0, 1, 42), (1, 1, 38), (2, 1, 19)], drums=True))
    score.tracks.append(make_track([(0, 8, 90)], program=50))  # strings belong to no track of the trio
    trio = MusicVAEProcessor(("melody", "bass", "drums"), monophony="track")
    windows = trio.windows(score)
    melody, bass, drums = (track[0] for track in trio.split_tracks(windows.ids))
    assert melody[[0, 16]].tolist() == [2 + 72 - 21, 2 + 74 - 21]
    assert bass[0] == 2 + 40 - 21
    assert drums[[0, 4]].tolist() == [0b101, 0b10]
    assert windows.report == {"bass_notes_dropped": 1, "drums_hits_dropped": 1}
    assert windows.ids.max() < trio.start_token_id == 692
    skyline = MusicVAEProcessor(("melody", "bass", "drums")).split_tracks(trio.windows(score).ids)
    assert skyline[0][0, 24] == 0
    merged = MusicVAEProcessor(("melody", "bass", "drums"), monophony="skyline").windows(score)
    assert trio.split_tracks(merged.ids)[0][0, 24] == 2 + 50 - 21


def test_a_track_called_melody_is_preferred():
    score = make_midi([(i, 1, 60 + i % 3) for i in range(16)], name="Piano")
    score.tracks.append(make_track([(i, 1, 50) for i in range(0, 16, 4)], name="MELODY"))
    ids = MusicVAEProcessor(monophony="track").encode(score)
    assert set(ids[ids >= 2].tolist()) == {2 + 50 - 21}


@pytest.mark.parametrize(
    ("midi", "options", "error", "message"),
    [
        (b"RIFF0000", {}, NotMidiError, "a RIFF container"),
        (b"MThd\x00\x00", {}, MidiParseError, "cannot be parsed"),
        (Score(480), {}, EmptyMidiError, "contains no notes"),
        (make_midi([(0, 1, 60)], signatures=((0, 7, 8),)), {}, TimeSignatureError, "only 7/8"),
        (make_midi([(0, 1, 36)], drums=True), {}, MissingTrackError, r"no melody \(programs 0-127\), only drums"),
        (
            make_midi([(0, 1, 60), (0, 1, 64)]),
            {"allow_polyphony": False},
            PolyphonyError,
            "1 of 2 notes sound below or within others",
        ),
    ],
)
def test_every_refusal_has_its_own_message(midi, options, error, message):
    for method in ("windows", "encode"):
        with pytest.raises(error, match=message):
            getattr(MusicVAEProcessor(), method)(midi, **options)


def test_out_of_range_can_be_refused():
    with pytest.raises(PitchRangeError, match="pitch 10 at step 0"):
        MusicVAEProcessor(out_of_range="error").windows(make_midi([(0, 1, 10)]))
    report = MusicVAEProcessor().windows(make_midi([(0, 1, 10)])).report
    assert report == {"melody_notes_out_of_range": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tracks": "piano"}, "choose among melody, bass, drums"),
        ({"tracks": ()}, "choose among"),
        ({"monophony": "top"}, "monophony='top' is unknown"),
        ({"num_bars": 0}, "num_bars=0 must be positive"),
        ({"pitch_min": 90, "pitch_max": 80}, "pitch_min=90"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        MusicVAEProcessor(**arguments)


def test_ids_of_another_track_are_refused():
    trio = MusicVAEProcessor(("melody", "bass", "drums"), num_bars=1)
    with pytest.raises(ValueError, match=r"ids of bass must lie in 90 \.\.\. 179"):
        trio.decode(np.zeros(48, int))
    with pytest.raises(ValueError, match="no whole number of steps"):
        trio.decode(np.zeros(47, int))


def test_saved_and_loaded(tmp_path):
    trio = MusicVAEProcessor(("melody", "bass", "drums"), num_bars=16, monophony="track")
    trio.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, MusicVAEProcessor)
    assert loaded.vocab_hash == trio.vocab_hash
    assert (loaded.tracks, loaded.num_bars, loaded.monophony) == (trio.tracks, 16, "track")
    score = make_midi([(0, 1, 60)])
    np.testing.assert_array_equal(loaded(score)["input_ids"], trio(score)["input_ids"])
    path = loaded.save_midi(loaded.encode(score), tmp_path / "a" / "b.mid")
    np.testing.assert_array_equal(loaded.encode(path), loaded.encode(score))


@pytest.mark.parametrize("tracks", [("melody",), ("drums",), ("melody", "bass", "drums")], ids=lambda t: "-".join(t))
def test_every_window_of_real_files(sample_files, tracks):
    """Each window, silent ones included, re-encodes to itself; files without one say why."""
    processor = MusicVAEProcessor(tracks)
    errors, num_windows = set(), 0
    for path in sample_files[::6]:
        try:
            windows = processor.windows(path)
        except MidiError as error:
            errors.add(type(error))
            continue
        song = processor.read(path)
        num_windows += len(windows.ids)
        for bar, ids in zip(windows.bars[::11], windows.ids[::11]):
            np.testing.assert_array_equal(processor.encode(song, bar=int(bar)), ids)
            data = processor.decode(ids).dumps_midi()
            np.testing.assert_array_equal(processor.encode(data, allow_empty=True), ids)
    assert num_windows > 300
    assert errors <= {TimeSignatureError, MissingTrackError}

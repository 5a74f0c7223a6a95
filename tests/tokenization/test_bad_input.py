"""Bad input: each case by its own error class and message; a batch goes on; mutated files do no harm."""

import json
import pickle
import subprocess
import sys

import pytest
from symusic import Score, TimeSignature, Track

from partimento.tokenization import (
    DroppedTracksWarning,
    EmptyMidiError,
    MidiError,
    MidiParseError,
    MidiTooLongError,
    NoProgramLeftError,
    NotMidiError,
    TimeSignatureError,
)


def error_of(processor, midi, **kwargs) -> MidiError:
    with pytest.raises(MidiError) as caught:
        processor.encode(midi, **kwargs)
    return caught.value


def test_missing_file(processor, tmp_path):
    error = error_of(processor, tmp_path / "absent.mid")
    assert type(error) is MidiParseError
    assert str(error) == f"{tmp_path / 'absent.mid'}: cannot be read (No such file or directory)"
    assert type(error_of(processor, tmp_path)) is MidiParseError


def test_truncated_and_illegal_midi(processor, midi_files, tmp_path):
    data = midi_files[0].read_bytes()
    path = tmp_path / "cut-né.mid"
    path.write_bytes(data[: len(data) // 2])
    error = error_of(processor, path)
    assert type(error) is MidiParseError
    assert str(error).startswith(f"{path}: cannot be parsed (")
    no_division = data[:12] + b"\0\0" + data[14:]
    assert "0 ticks per quarter" in error_of(processor, no_division).reason
    assert type(error_of(processor, b"MThd")) is MidiParseError


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04rest of an archive", "ZIP archive"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "RIFF"),
        (b"<?xml version='1.0'?>", "XML"),
        (b"hello, this is text", r"b'hello, t', no known format"),
    ],
)
def test_bytes_that_are_not_midi(processor, data, words):
    error = error_of(processor, data)
    assert type(error) is NotMidiError
    assert error.path == "bytes"
    assert "is not MIDI" in error.reason
    assert words in error.reason


@pytest.mark.parametrize("wrong", [None, 3, ["a.mid"], Track()])
def test_wrong_type(processor, wrong):
    error = error_of(processor, wrong)
    assert type(error) is NotMidiError
    assert type(wrong).__name__ in error.reason
    assert "symusic.Score" in error.remedy


def test_no_notes(processor, make_score):
    empty = Score(480)
    assert error_of(processor, empty).reason == "contains no notes"
    score = make_score(0)
    for track in score.tracks:
        track.notes = []
    assert type(error_of(processor, score.dumps_midi())) is EmptyMidiError


def test_time_signature_outside_the_preset(processors, make_score):
    score = make_score(0, num_bars=8, time_signatures=((0, 4, 4), (8, 3, 4), (11, 4, 4)))
    error = error_of(processors["multitrack"], score)
    assert type(error) is TimeSignatureError
    assert "3/4 in bar 3" in error.reason
    assert "metres" in error.remedy
    assert processors["metres"].encode(score)
    seven_eight = make_score(0, num_bars=8, time_signatures=((0, 3, 4), (6, 7, 8)))
    assert "7/8 in bar 3" in error_of(processors["metres"], seven_eight).reason
    harmless = make_score(0, num_bars=2)
    harmless.time_signatures.append(TimeSignature(100 * 480, 7, 8))  # behind the last note
    assert processors["multitrack"].encode(harmless)


def test_too_long(processor, make_score):
    score = make_score(1, num_bars=20, programs=(0, -1))
    error = error_of(processor, score, max_bars=10)
    assert type(error) is MidiTooLongError
    assert error.reason == "is too long: 20 bars, limit 10"
    length = len(processor.encode(score))
    assert error_of(processor, score, max_tokens=length - 1).reason == (
        f"is too long: {length} tokens, limit {length - 1}"
    )
    assert len(processor.encode(score, max_tokens=length)) == length


def test_too_long_names_the_file(processor, midi_files):
    path = midi_files[0]
    for midi in (path, str(path), processor.load_piece(path)):
        for limits, words in (
            ({"max_bars": 1}, "bars, limit 1. Pass truncate=True"),
            ({"max_tokens": 9}, "tokens, limit 9. Pass truncate=True"),
            ({"max_tokens": 5, "truncate": True}, "no bar with notes fits into 5 tokens"),
        ):
            error = error_of(processor, midi, **limits)
            assert type(error) is MidiTooLongError
            assert error.path == str(path)
            assert str(error).startswith(f"{path}: is too long: ")
            assert words in str(error)
    assert error_of(processor, path.read_bytes(), max_bars=1).path == "bytes"
    assert error_of(processor, processor.load(path), max_bars=1).path == "score"


def test_truncation_at_a_bar_on_request(processor, make_score):
    score = make_score(1, num_bars=20, programs=(0, -1))
    whole, conditions = processor.encode(score), {"genre": "Jazz"}
    cut = processor.encode(score, max_bars=10, truncate=True)
    assert cut[:-1] == whole[: len(cut) - 1]
    assert processor.count_bars(cut) == 10
    for limit in range(60, len(whole), 97):
        cut = processor.encode(score, conditions, max_tokens=limit, truncate=True)
        assert len(cut) <= limit
        assert cut[-1] == processor.eos_token_id
        processor.validate(cut)
        rest = processor.encode(score, conditions)[len(cut) - 1 :]
        assert rest[0] == processor.bar_token_id
        next_bar = rest.index(processor.bar_token_id, 1) if processor.bar_token_id in rest[1:] else len(rest) - 1
        assert len(cut) + next_bar > limit
    assert "no bar with notes fits" in error_of(processor, score, max_tokens=5, truncate=True).reason


def test_no_program_left_and_dropped_tracks(processors, make_score):
    processor = processors["six_track"]
    error = error_of(processor, make_score(0, programs=(1, 33)))
    assert type(error) is NoProgramLeftError
    assert "1, 33" in error.reason
    assert "drums, 0, 25, 43, 48, 80" in error.remedy
    with pytest.warns(DroppedTracksWarning, match="programs 33"):
        ids = processor.encode(make_score(0, programs=(0, 33, -1)))
    assert {track.program for track in processor.decode(ids).tracks} == {0}


def test_one_bad_file_keeps_the_rest(processor, midi_files, tmp_path):
    bad = tmp_path / "bad.mid"
    bad.write_bytes(b"MThd nonsense")
    paths = [midi_files[0], bad, midi_files[1], tmp_path / "absent.mid"]
    encoded, errors = processor.encode_batch(paths, conditions="measured")
    assert list(encoded) == [midi_files[0], midi_files[1]]
    assert encoded[midi_files[1]] == processor.encode(midi_files[1], "measured")
    assert [error.path for error in errors] == [str(bad), str(tmp_path / "absent.mid")]
    with pytest.raises(MidiError, match=r"bad\.mid"):
        processor.encode_batch(paths, strict=True)


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(TimeSignatureError("a.mid", "7/8", "Use metres")))
    assert type(error) is TimeSignatureError
    assert (error.path, error.reason, error.remedy) == ("a.mid", "7/8", "Use metres")
    assert str(error) == "a.mid: 7/8. Use metres"


MUTATE = """
import collections, json, sys, warnings
import numpy as np
from partimento.tokenization import MidiError, MidiProcessor
warnings.simplefilter("ignore")
start, count, *paths = sys.argv[1:]
processor = MidiProcessor.from_preset("metres")
sources, outcomes = [open(path, "rb").read() for path in paths], collections.Counter()
for index in range(int(start), int(start) + int(count)):
    rng = np.random.default_rng(index)
    data, kind = bytearray(sources[index % len(sources)]), index // len(sources) % 5
    place = int(rng.integers(14, len(data)))
    if kind == 0:
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data = data[: int(rng.integers(len(data)))]
    elif kind == 2:
        data[4:14] = rng.bytes(10)
    elif kind == 3:
        data[12:14] = rng.bytes(2)
    else:
        data[place : place + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(1, 9)))
    print(index, file=sys.stderr, flush=True)
    try:
        ids = processor.encode(bytes(data))
        processor.validate(ids)
        assert processor.encode(processor.decode(ids)) == ids
        outcomes["valid"] += 1
    except MidiError as error:
        assert error.reason
        outcomes[type(error).__name__] += 1
print(json.dumps(outcomes))
"""


def test_mutated_files_end_in_an_error_or_in_valid_music(midi_files):
    """2,000 mutations in a process of their own: a parser crash fails this test and names the case, no more."""
    command = [sys.executable, "-c", MUTATE, "0", "2000", *map(str, midi_files)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, f"case {run.stderr.splitlines()[-20:]}"
    outcomes = json.loads(run.stdout)
    assert sum(outcomes.values()) == 2000
    assert outcomes["valid"] > 100
    assert outcomes["MidiParseError"] > 100

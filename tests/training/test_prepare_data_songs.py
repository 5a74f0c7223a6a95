"""Changes and filters on single songs, and the pipeline on real files where they are present."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from symusic import Note, Score, Tempo, TimeSignature, Track

from partimento.tokenization import MidiProcessor
from partimento.training.corpus_arranging import (
    bar_starts,
    compress_six_tracks,
    key_shift,
    note_arrays,
    transpose,
    trim_empty_bars,
)
from partimento.training.corpus_building import Job, build_corpus
from partimento.training.corpus_filters import count_empty_bars
from partimento.training.corpus_settings import profile_defaults, settings_from
from partimento.training.corpus_stages import process_song


def score_of(tracks: dict[int, list[tuple[int, int, int]]], tpq: int = 12) -> Score:
    """Tracks by program (-1 for drums) from (time, duration, pitch)."""
    score = Score(tpq)
    for program, notes in tracks.items():
        track = Track(program=max(program, 0), is_drum=program < 0)
        for time, duration, pitch in notes:
            track.notes.append(Note(time, duration, pitch, 80))
        score.tracks.append(track)
    return score


def test_bar_starts_follow_the_signatures():
    score = score_of({0: [(0, 12, 60)]})
    assert bar_starts(score, 97).tolist() == [0, 48, 96, 144]
    score.time_signatures.append(TimeSignature(48, 3, 4))
    score.time_signatures.append(TimeSignature(120, 6, 8))
    assert bar_starts(score, 150).tolist() == [0, 48, 84, 120, 156]


def test_trimming_keeps_the_running_tempo_and_signature():
    score = score_of({0: [(2 * 36 + 6, 12, 60), (200, 12, 61)], -1: [(2 * 36 + 12, 6, 36)]})
    score.time_signatures.append(TimeSignature(0, 3, 4))
    for time, qpm in ((0, 100), (40, 110), (200, 120)):
        score.tempos.append(Tempo(time, qpm))
    trimmed = trim_empty_bars(score)
    assert sorted(note_arrays(trimmed)["time"].tolist()) == [6, 12, 128]
    assert [(t.time, round(t.qpm)) for t in trimmed.tempos] == [(0, 110), (128, 120)]
    assert [(s.time, s.numerator, s.denominator) for s in trimmed.time_signatures] == [(0, 3, 4)]
    assert trim_empty_bars(trimmed) is trimmed


def test_empty_bars_are_silent_bars():
    starts = np.arange(0, 11) * 48
    onsets, ends = np.array([0, 100, 400]), np.array([12, 200, 412])  # bars 0, 2 to 4, 8
    assert count_empty_bars(onsets, ends, starts) == 1 + 3
    assert count_empty_bars(np.array([48]), np.array([60]), starts) == 0


@pytest.mark.parametrize(
    ("key", "shift"),
    [
        ("C-major", 0),
        ("A-minor", 0),
        ("B-major", 1),
        ("D-major", -2),
        ("F#-major", -6),
        ("G-major", 5),
        ("E-minor", 5),
        ("", 0),
    ],
)
def test_key_shift(key, shift):
    assert key_shift(key) == shift


def test_transposition_corrects_octaves_and_spares_drums():
    score = score_of({0: [(0, 12, 107), (12, 12, 22), (24, 12, 60)], -1: [(0, 6, 36)]})
    up = transpose(score, 5, 21, 108)
    assert note_arrays(up)["pitch"].tolist() == [100, 27, 65, 36]
    down = transpose(score, -6, 21, 108)
    assert note_arrays(down)["pitch"].tolist() == [101, 28, 54, 36]


def test_six_tracks_by_program():
    line = [(12 * i, 12, 60 + i % 7) for i in range(32)]
    chords = [(12 * i, 12, p) for i in range(32) for p in (50, 54, 57)]
    low = [(t, d, p - 30) for t, d, p in line]
    six, dropped = compress_six_tracks(
        score_of({75: line, 3: chords, 5: chords, 26: chords, 45: chords, 38: low, 60: line, -1: low})
    )
    assert dropped == [60]
    programs = Counter(note_arrays(six)["program"].tolist())
    assert programs == {80: 32, 0: 192, 25: 96, 48: 96, 43: 32, -1: 32}


def test_six_tracks_predict_melody_and_bass():
    line = [(12 * i, 12, 72 + i % 7) for i in range(32)]
    chords = [(12 * i, 12, p) for i in range(32) for p in (50, 54, 57)]
    low = [(12 * i, 12, 36 + i % 5) for i in range(32)]
    six, dropped = compress_six_tracks(score_of({60: line, 0: chords, 70: low}))
    assert dropped == []
    assert sorted(set(note_arrays(six)["program"].tolist())) == [0, 43, 80]
    assert compress_six_tracks(score_of({0: chords, -1: low}))[0] is None


def test_metadata_key_is_used_and_nonsense_is_not():
    rng = np.random.default_rng(0)
    data = score_of({0: [(12 * i, 12, int(rng.integers(55, 75))) for i in range(40)]}).dumps_midi()
    settings, _ = settings_from(profile_defaults("open") | {"normalise_key": True})
    estimated = process_song(data, "", settings)
    assert estimated["reason"] == ""
    assert process_song(data, "H dur", settings)["key"] == estimated["key"]
    given = process_song(data, "Bb minor", settings)
    assert (given["key"], given["key_shift"]) == ("Bb-minor", -1)
    assert json.loads(given["conditions"])["key"] == "A-minor"


# Real files


def build(folder: Path, out: Path, **changes) -> tuple[dict, list[dict]]:
    settings = settings_from(profile_defaults("open") | changes)
    report = build_corpus(Job([folder], out, workers=0, progress=False), *settings)
    rows = [r for p in sorted((out / "tokenized").glob("*.parquet")) for r in pq.read_table(p).to_pylist()]
    return report, rows


def test_real_sample(data_dir, tmp_path):
    report, rows = build(data_dir / "sample", tmp_path / "out")
    assert report["stages"][0]["in"] == 165
    assert report["stages"][1]["rejected"] == {"time_signature": 22}
    assert len(rows) == report["stages"][-1]["out"] > 100
    processor = MidiProcessor.from_pretrained(tmp_path / "out" / "processor")
    for row in rows:
        processor.validate(row["input_ids"])
        assert processor.decode(row["input_ids"]).note_num() == row["num_notes"]
    assert {"Rock", "Metal", "Electronic"} <= set(report["labels"]["genres"])
    sources = {row["source"].split("@")[0] for row in rows}
    assert {"freedoom/freedoom", "OpenScore/StringQuartets", "zharry29/drums-with-llm"} <= sources


def test_arrangements_of_a_real_tune_stay_in_one_split(train_open_dir, tmp_path):
    with (train_open_dir / "metadata.csv").open(encoding="utf-8", newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["subset"] in ("nottingham", "openband")]
    tunes = sorted({r["title"] for r in rows if r["subset"] == "openband"})[::20]
    folder = tmp_path / "in"
    folder.mkdir()
    for row in rows:
        if row["title"] in tunes:
            name = row["file"].replace("/", "~")
            (folder / name).write_bytes((train_open_dir / row["file"]).read_bytes())
    _, songs = build(folder, tmp_path / "out")
    titles = {r["file"].replace("/", "~"): r["title"] for r in rows}
    groups, splits = defaultdict(set), defaultdict(set)
    for song in songs:
        groups[titles[Path(song["file_name"]).name]].add(song["group_id"])
        splits[song["group_id"]].add(song["split"])
    assert len(groups) == len(tunes) > 20
    assert all(len(found) == 1 for found in groups.values())
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) > len(tunes) // 2

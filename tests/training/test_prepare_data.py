"""The corpus pipeline on MIDI files written here: golden counts, determinism, resuming, crashes, exit status."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from symusic import Note, Score, Tempo, TimeSignature, Track

from partimento.tokenization import MidiProcessor
from partimento.training import corpus_workers
from partimento.training.corpus_building import Job, build_corpus
from partimento.training.corpus_settings import profile_defaults, settings_from
from partimento.training.corpus_stages import process_file, process_song
from partimento.training.corpus_writing import COLUMNS
from partimento.training.prepare_data import main, make_parser

STAGES = ["collect", "parse", "six_track", "normalise_time", "filters", "deduplicate", "length"]
STAGES += ["normalise_key", "split"]


def band(seed: int, bars: int = 30, tempo: float = 120.0, signature=(4, 4), melody_program: int = 73) -> Score:
    """Melody, chords, bass and drums that pass the paper's filters; every seed is another song."""
    rng = np.random.default_rng(seed)
    score = Score(480)
    score.tempos.append(Tempo(0, tempo))
    score.time_signatures.append(TimeSignature(0, *signature))
    tracks = {p: Track(program=p) for p in (melody_program, 0, 33)} | {-1: Track(is_drum=True)}
    for bar in range(bars):
        start, chord = bar * 1920, int(rng.integers(0, 12))
        onsets = np.sort(rng.choice(16, size=int(rng.integers(4, 9)), replace=False))
        for onset, following in zip(onsets, [*onsets[1:], 16]):
            pitch = int(60 + rng.integers(0, 24))
            tracks[melody_program].notes.append(Note(start + int(onset) * 120, int(following - onset) * 120, pitch, 90))
        for interval in (0, 4, 7):
            tracks[0].notes.append(Note(start, 1440, 48 + chord + interval, 70))
        for beat in range(4):
            tracks[33].notes.append(Note(start + beat * 480, 360, 30 + chord + int(rng.integers(0, 5)), 80))
            tracks[-1].notes.append(Note(start + beat * 480, 60, (36, 38)[beat % 2], 100))
    score.tracks = [t for t in tracks.values() if len(t.notes)]
    return score


def edit(score: Score, **change) -> Score:
    """The score with one attribute of every note set to a value or function of the note's track."""
    for track in score.tracks:
        for note in track.notes:
            for name, value in change.items():
                setattr(note, name, value)
    return score


def only(score: Score, *programs: int) -> Score:
    score.tracks = [t for t in score.tracks if (-1 if t.is_drum else t.program) in programs]
    return score


def with_gap(score: Score, bars: int) -> Score:
    """Silence inserted after bar 10."""
    for track in score.tracks:
        for note in track.notes:
            note.time += bars * 1920 * (note.time >= 19200)
    return score


def long_note(score: Score) -> Score:
    score.tracks[0].notes.append(Note(0, 17 * 480, 90, 80))  # a pitch that does not return
    return score


def other_pitches(score: Score) -> Score:
    """Another song with the same rhythm: its duration and numbers of bars, notes, onsets, instruments agree."""
    rng = np.random.default_rng(99)
    for note in score.tracks[0].notes:
        note.pitch = int(60 + rng.integers(0, 24))
    return score


def chords_only(score: Score) -> Score:
    return only(score, 0, -1)


def high(score: Score) -> Score:
    score.tracks[0].notes[3].pitch = 120
    return score


def reordered(score: Score) -> Score:
    """The same notes in other bytes: tracks in another order, with a name."""
    score.tracks = list(reversed(list(score.tracks)))
    score.tracks[0].name = "again"
    return score


def write_songs(folder: Path, songs: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, song in songs.items():
        path = folder / f"{name}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(song if isinstance(song, bytes) else song.dumps_midi())
    return folder


def job(inputs: list[Path], out: Path, **more) -> Job:
    return Job(inputs=inputs, out=out, progress=False, **{"workers": 0, **more})


def settings(profile: str = "paper", **changes):
    return settings_from(profile_defaults(profile) | changes)


def rejected(out: Path) -> dict[str, tuple[str, str]]:
    """(stage, reason) by file name without folder."""
    lines = (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return {Path(r["file_name"]).stem: (r["stage"], r["reason"]) for r in map(json.loads, lines)}


def all_bytes(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def rows(out: Path, configuration: str = "tokenized") -> list[dict]:
    return [r for p in sorted((out / configuration).glob("*.parquet")) for r in pq.read_table(p).to_pylist()]


RULES = {
    "truncated": ("parse", "midi_parse", lambda: band(50).dumps_midi()[:700]),
    "text": ("parse", "not_midi", lambda: b"this is no MIDI"),
    "silent": ("parse", "empty_midi", lambda: Score(480)),
    "waltz": ("parse", "time_signature", lambda: band(51, signature=(3, 4))),
    "solo": ("filters", "too_few_instruments", lambda: only(band(52), 73)),
    "accompaniment": ("filters", "no_melody", lambda: chords_only(band(53))),
    "presto": ("filters", "tempo", lambda: band(54, tempo=230)),
    "piccolo": ("filters", "pitch_range", lambda: high(band(55))),
    "pedal": ("filters", "long_note", lambda: long_note(band(56))),
    "pause": ("filters", "empty_bars", lambda: with_gap(band(57), 4)),
    "monotone": ("filters", "single_pitch", lambda: edit(only(band(58), 73, 33), pitch=60)),
    "even": ("filters", "single_duration", lambda: edit(only(band(59), 73, 33), duration=60)),
    "z_copy": ("deduplicate", "identical_bytes", lambda: band(1)),
    "z_reordered": ("deduplicate", "identical_notes", lambda: reordered(band(2))),
    "z_rhythm": ("deduplicate", "same_signature", lambda: other_pitches(band(3))),
    "short": ("length", "bars", lambda: band(60, bars=24)),
    "long": ("length", "bars", lambda: band(61, bars=257)),
    "dense": ("length", "tokens", lambda: band(62, bars=120)),
}


@pytest.fixture(scope="module")
def every_rule(tmp_path_factory) -> Path:
    """Five good songs, three of them with a rejected twin, and one song for each other rule."""
    folder = tmp_path_factory.mktemp("corpus") / "songs"
    write_songs(folder, {f"good{i}": band(i) for i in range(1, 6)} | {n: make() for n, (_, _, make) in RULES.items()})
    (folder / "dangling.mid").symlink_to(folder / "nowhere")
    (folder / "notes.txt").write_text("passed over")
    return folder


def test_golden_counts_of_every_rule(every_rule, tmp_path):
    report = build_corpus(job([every_rule], tmp_path / "out", workers=2), *settings(max_tokens=8000, midi="original"))
    assert [row["stage"] for row in report["stages"]] == STAGES
    counted = {(row["stage"], reason): n for row in report["stages"] for reason, n in row["rejected"].items()}
    expected = {("collect", "unreadable_file"): 1}
    for stage, reason, _ in RULES.values():
        expected[stage, reason] = expected.get((stage, reason), 0) + 1
    assert counted == expected
    assert [(row["in"], row["out"]) for row in report["stages"]] == [
        (24, 23), (23, 19), (19, 19), (19, 19), (19, 11), (11, 8), (8, 5), (5, 5), (5, 5),
    ]  # fmt: skip
    assert report["collected"]["files that are not MIDI"] == 1
    found = rejected(tmp_path / "out")
    twins = {"z_copy": "good1", "z_reordered": "good2", "z_rhythm": "good3"}  # which twin stays is up to the MD5
    for name, (stage, reason, _) in RULES.items():
        assert (found.get(name) or found.get(twins.get(name, ""))) == (stage, reason)
    assert not (tmp_path / "out" / ".work").exists()


def test_each_optional_filter_can_be_switched_off(every_rule, tmp_path):
    open_report = build_corpus(job([every_rule], tmp_path / "out"), *settings("open"))
    reasons = {reason for row in open_report["stages"] for reason in row["rejected"]}
    assert reasons == {
        "unreadable_file", "midi_parse", "not_midi", "empty_midi", "time_signature", "single_pitch",
        "identical_bytes", "identical_notes", "bars",
    }  # fmt: skip


def test_metres_preset_filters_time_signatures_itself(tmp_path):
    folder = write_songs(tmp_path / "in", {"waltz": band(1, signature=(3, 4)), "march": band(2)})
    report = build_corpus(job([folder], tmp_path / "a"), *settings("open", preset="metres"))
    assert report["stages"][4]["rejected"] == {"time_signature": 1}
    report = build_corpus(
        job([folder], tmp_path / "b"), *settings("open", preset="metres", time_signatures=("4/4", "3/4"))
    )
    assert report["stages"][-1]["out"] == 2
    processor = MidiProcessor.from_pretrained(tmp_path / "b" / "processor")
    for row in rows(tmp_path / "b"):
        assert processor.decode(row["input_ids"]).note_num() == row["num_notes"]


def test_output_is_the_same_for_any_number_of_workers(every_rule, tmp_path):
    for workers in (1, 4):
        build_corpus(job([every_rule], tmp_path / str(workers), workers=workers, shard_size=3), *settings())
    assert all_bytes(tmp_path / "1") == all_bytes(tmp_path / "4")


def test_rows_are_usable(tmp_path):
    songs = {f"a/song{i}": band(i, tempo=90 + i) for i in range(6)}
    songs["a/trimmed"] = with_gap(band(7), 0)
    for track in songs["a/trimmed"].tracks:
        for note in track.notes:
            note.time += 3 * 1920
    folder = write_songs(tmp_path / "in", songs)
    table = [
        f"a/song{i}.mid,{('pop_rock', 'rnb')[i % 2]},source,Song {i},Ann Ä,{'A minor' if i else ''}" for i in range(6)
    ]
    table += ["a/trimmed.mid,metal,instrumentation heuristic,,various,", "a/absent.mid,jazz,source,,,"]
    (folder / "metadata.csv").write_text(
        "\n".join(["file,genre,genre_basis,title,artist,key", *table]), encoding="utf-8"
    )
    rules = settings("open", min_genre_count=2, min_artist_count=3, split_ratio=(1, 1, 1))
    report = build_corpus(job([folder], tmp_path / "out", source="here", licence="CC0-1.0"), *rules)

    assert report["labels"] == {"genres": ["Pop-Rock", "RnB"], "artists": ["Ann-Ä"], "moods": []}
    assert report["collected"]["metadata rows without a file"] == 1
    processor = MidiProcessor.from_pretrained(tmp_path / "out" / "processor")
    assert processor.vocab_hash == report["vocab_hash"]
    schema = pq.read_schema(next((tmp_path / "out" / "tokenized").glob("*.parquet")))
    assert schema.metadata[b"partimento.vocab_hash"].decode() == report["vocab_hash"]
    assert schema.names == [*COLUMNS, "input_ids"]
    by_name = {Path(r["file_name"]).stem: r for r in rows(tmp_path / "out")}
    assert len(by_name) == 7
    for raw in rows(tmp_path / "out", "raw"):
        row = by_name[Path(raw["file_name"]).stem]
        ids = row["input_ids"]
        assert len(ids) == row["num_tokens"]
        assert processor.count_bars(ids) == row["num_bars"] == 30
        assert processor.decode(ids).note_num() == row["num_notes"]
        _, body = processor.split_prefix(ids)
        assert processor.encode(raw["midi"], add_special_tokens=False) == body[:-1]
        assert (ids[0], ids[-1]) == (processor.bos_token_id, processor.eos_token_id)
        assert (row["source"], row["licence"]) == ("here", "CC0-1.0")
    song = by_name["song1"]
    assert (song["genre"], song["genre_source"], song["key"], song["programs"]) == (
        "RnB",
        "source",
        "A-minor",
        [-1, 0, 33, 73],
    )
    conditions = processor.parse_conditions(song["input_ids"])
    assert (conditions["genre"], conditions["artist"], conditions["key"]) == ("RnB", "Ann-Ä", "A-minor")
    assert conditions["instruments"] == ["piano", "bass", "pipe", "drums"]
    trimmed = by_name["trimmed"]
    assert (trimmed["genre"], trimmed["genre_source"]) == ("Metal", "instrumentation heuristic")
    assert "genre" not in processor.parse_conditions(trimmed["input_ids"])

    dropped = build_corpus(job([folder], tmp_path / "no"), *settings("open", heuristic_genres="drop"))
    assert "Metal" not in dropped["genres"]


def test_a_given_processor_keeps_its_vocabulary(tmp_path):
    folder = write_songs(tmp_path / "in", {"song": band(1)})
    (folder / "metadata.csv").write_text("file,genre,mood\nsong.mid,jazz,sad\n")
    MidiProcessor.from_preset("multitrack", genres=["Jazz", "Blues"]).save_pretrained(tmp_path / "processor")
    given = MidiProcessor.from_pretrained(tmp_path / "processor")
    report = build_corpus(job([folder], tmp_path / "out", processor=tmp_path / "processor"), *settings("open"))
    assert report["vocab_hash"] == given.vocab_hash
    (row,) = rows(tmp_path / "out")
    assert given.parse_conditions(row["input_ids"])["genre"] == "Jazz"
    assert row["mood"] == "sad"
    with pytest.raises(ValueError, match="preset"):
        build_corpus(
            job([folder], tmp_path / "other", processor=tmp_path / "processor"), *settings("open", preset="metres")
        )


def test_datasets_reads_both_configurations(every_rule, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    build_corpus(job([every_rule], tmp_path / "out"), *settings("open"))
    corpus = datasets.load_dataset(str(tmp_path / "out"), "tokenized", cache_dir=str(tmp_path / "cache"))
    assert corpus["train"].features["input_ids"] == datasets.List(datasets.Value("int32"))
    stream = datasets.load_dataset(str(tmp_path / "out"), "raw", split="train", streaming=True)
    assert next(iter(stream))["midi"].startswith(b"MThd")


def test_six_tracks_and_key(tmp_path):
    song = band(1, melody_program=65)  # a saxophone has no target of its own: it is predicted to be the melody
    organ = Track(program=19)
    organ.notes.append(Note(0, 480, 70, 60))
    organ.notes.append(Note(0, 480, 74, 60))
    song.tracks.append(organ)
    chords = chords_only(band(2))
    folder = write_songs(tmp_path / "in", {"song": song, "chords": chords})
    report = build_corpus(
        job([folder], tmp_path / "out"), *settings(six_track=True, preset="six_track", normalise_key=True)
    )
    assert report["stages"][2]["rejected"] == {"no_melody": 1}
    assert report["songs with dropped programs"] == {19: 1}
    (row,) = rows(tmp_path / "out")
    assert row["programs"] == [-1, 0, 43, 80]
    processor = MidiProcessor.from_pretrained(tmp_path / "out" / "processor")
    assert processor.preset == "six_track"
    major = row["key"].endswith("major")
    assert processor.parse_conditions(row["input_ids"])["key"] == ("C-major" if major else "A-minor")
    (raw,) = rows(tmp_path / "out", "raw")
    after = processor.measure_conditions(raw["midi"])["key"]
    assert after == ("C-major" if major else "A-minor")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "damaged.tar.gz", "damaged.zip"])
def test_archives(kind, tmp_path):
    songs = {f"deep/song{i}": band(i) for i in range(4)}
    folder = write_songs(tmp_path / "in", songs)
    (folder / "deep" / "metadata.csv").write_text("file,genre\nsong1.mid,jazz\n")
    (folder / "deep" / "README.txt").write_text("no MIDI")
    archive = tmp_path / f"songs.{kind}"
    names = ["metadata.csv", "README.txt", *(f"song{i}.mid" for i in range(4))]
    if kind.endswith("zip"):
        with zipfile.ZipFile(archive, "w") as bundle:
            for name in names:
                bundle.write(folder / "deep" / name, f"deep/{name}")
    else:
        with tarfile.open(archive, "w:gz") as bundle:
            for name in names:
                bundle.add(folder / "deep" / name, f"deep/{name}")
    expected = 4
    if kind == "damaged.tar.gz":
        archive.write_bytes(archive.read_bytes()[:-700])
    if kind == "damaged.zip":
        data, inside = bytearray(archive.read_bytes()), (folder / "deep" / "song2.mid").read_bytes()
        data[bytes(data).index(inside) + 100] ^= 0xFF
        archive.write_bytes(bytes(data))
        expected = 3
    report = build_corpus(job([archive], tmp_path / "out"), *settings("open"))
    if kind == "damaged.tar.gz":
        assert 0 < report["stages"][-1]["out"] < 4
    else:
        assert report["stages"][-1]["out"] == expected
        assert report["collected"]["files that are not MIDI"] == 1
    assert report["stages"][0]["rejected"] == ({"damaged_archive": 1} if "damaged" in kind else {})
    assert report["genres"]["Jazz"]
    assert all(r["file_name"].startswith(("songs/deep/", "songs.damaged/deep/")) for r in rows(tmp_path / "out"))


def test_two_inputs_of_one_name_keep_their_files_apart(tmp_path):
    first = write_songs(tmp_path / "a" / "midi", {"song": band(1)})
    second = write_songs(tmp_path / "b" / "midi", {"song": band(2)})
    build_corpus(job([first, second], tmp_path / "out"), *settings("open"))
    assert sorted(r["file_name"] for r in rows(tmp_path / "out")) == ["midi-1/song.mid", "midi/song.mid"]


# Resuming


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    folder = write_songs(tmp_path / "in", {f"song{i}": band(i) for i in range(14)})
    script = tmp_path / "slow_songs.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from partimento.training.corpus_building import Job, build_corpus\n"
        "from partimento.training.corpus_settings import profile_defaults, settings_from\n"
        "from partimento.training.corpus_stages import process_file\n"
        "def slow(task):\n"
        "    time.sleep(0.2)\n"
        "    return process_file(task)\n"
        "if __name__ == '__main__':\n"
        "    job = Job([Path(sys.argv[1])], Path(sys.argv[2]), workers=2, shard_size=2, progress=False)\n"
        "    import slow_songs\n"
        "    build_corpus(job, *settings_from(profile_defaults('open')), function=slow_songs.slow)\n"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, str(script), str(folder), str(out)], cwd=tmp_path)
    deadline = time.monotonic() + 240  # a busy machine needs more than a minute to start the workers
    while len(list(out.glob(".work/shards-*/*.parquet"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in out.glob(".work/shards-*/*.parquet")}
    assert 2 <= len(done) < 7
    assert not (out / "report.json").exists()

    build_corpus(job([folder], out, shard_size=2, keep_work=True), *settings("open"))
    assert {p: p.stat().st_mtime_ns for p in done} == done
    build_corpus(job([folder], tmp_path / "whole", shard_size=2), *settings("open"))
    resumed = {name: data for name, data in all_bytes(out).items() if not name.startswith(".work")}
    assert resumed == all_bytes(tmp_path / "whole")


def test_a_finished_corpus_is_neither_redone_nor_overwritten(tmp_path):
    folder = write_songs(tmp_path / "in", {f"song{i}": band(i) for i in range(3)})
    first = build_corpus(job([folder], tmp_path / "out"), *settings("open"))
    before = all_bytes(tmp_path / "out")

    def fail(task):
        raise AssertionError("processed again")

    again = build_corpus(job([folder], tmp_path / "out"), *settings("open"), function=fail)
    assert again == json.loads(json.dumps(first))
    with pytest.raises(FileExistsError, match="--overwrite"):
        build_corpus(job([folder], tmp_path / "out"), *settings("open", min_bars=5))
    assert {n: d for n, d in all_bytes(tmp_path / "out").items() if not n.startswith(".work")} == before
    changed = build_corpus(job([folder], tmp_path / "out", overwrite=True), *settings("open", min_bars=31))
    assert changed["stages"][-1]["out"] == 0


# Workers


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module with a task function that crashes, hangs or raises on request."""
    (tmp_path / "hostile_tasks.py").write_text(
        "import os, time\n"
        "from partimento.training.corpus_stages import process_file\n"
        "def work(task):\n"
        "    if task == 'crash': os.abort()\n"
        "    if task == 'hang': time.sleep(100)\n"
        "    if task == 'raise': raise KeyError('inside')\n"
        "    return task\n"
        "def song(task):\n"
        "    if task.path.endswith('crash.mid'): os.abort()\n"
        "    return process_file(task)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpus_workers, "START_SECONDS", 20.0)
    import hostile_tasks

    return hostile_tasks


def test_crash_hang_and_exception_cost_one_task_each(hostile):
    tasks = ["a", "b", "crash", "c", "raise", "d", "e", "hang", "f", "crash", "g"]
    results = dict(corpus_workers.run_tasks(hostile.work, tasks, workers=2, time_limit=1.0))
    assert [r for _, r in sorted(results.items()) if isinstance(r, str)] == list("abcdefg")
    failures = {i: r.reason for i, r in results.items() if not isinstance(r, str)}
    assert failures == {2: "worker_crash", 4: "internal_error", 7: "time_limit", 9: "worker_crash"}
    assert "KeyError" in results[4].detail


def test_a_crashing_parser_costs_one_file(hostile, tmp_path):
    folder = write_songs(tmp_path / "in", {"crash": band(9)} | {f"song{i}": band(i) for i in range(3)})
    report = build_corpus(job([folder], tmp_path / "out", workers=2), *settings("open"), function=hostile.song)
    assert report["stages"][1]["rejected"] == {"worker_crash": 1}
    assert report["stages"][-1]["out"] == 3
    assert rejected(tmp_path / "out") == {"crash": ("parse", "worker_crash")}


def test_crashed_files_stay_rejected_until_they_are_to_be_retried(hostile, tmp_path, caplog):
    folder = write_songs(tmp_path / "in", {"crash": band(9)} | {f"song{i}": band(i) for i in range(3)})
    whole, out = tmp_path / "whole", tmp_path / "out"
    build_corpus(job([folder], whole, keep_work=True), *settings("open"))
    given = {"workers": 1, "keep_work": True, "shard_size": 3}
    build_corpus(job([folder], out, **given), *settings("open"), function=hostile.song)
    for report in (True, False):  # with a finished corpus, and with shards alone
        (out / "report.json").unlink() if not report else None
        caplog.clear()
        again = build_corpus(job([folder], out, **given), *settings("open"))
        assert again["stages"][1]["rejected"] == {"worker_crash": 1}
        assert "1 files ran out of time or crashed" in caplog.text
    seen = []

    def count(task):
        seen.append(Path(task.path).stem)
        return process_file(task)

    given |= {"retry_failures": True, "workers": 0}
    again = build_corpus(job([folder], out, **given), *settings("open"), function=count)
    assert again["stages"][1]["rejected"] == {}
    assert seen == ["crash"]
    assert rows(out) == rows(whole)


def test_a_tempo_of_no_duration_is_rejected():
    score = band(1).dumps_midi().replace(b"\xff\x51\x03" + (500_000).to_bytes(3, "big"), b"\xff\x51\x03\0\0\0")
    record = process_song(score, "", settings("open")[0])
    assert (record["stage"], record["reason"]) == ("filters", "tempo")


# Command line


def test_exit_status(tmp_path, capsys):
    good = write_songs(tmp_path / "good", {"song": band(1), "bad": b"MThd"})
    bad = write_songs(tmp_path / "bad", {"bad": b"MThd"})
    common = ["--profile", "open", "--workers", "0", "--quiet"]
    assert main([str(good), "-o", str(tmp_path / "1"), *common]) == 0
    printed = capsys.readouterr().out
    assert "midi_parse 1" in printed
    assert "train" in printed
    assert main([str(good), "-o", str(tmp_path / "2"), *common, "--strict"]) == 1
    assert rows(tmp_path / "2")  # strict changes the status, not the corpus
    assert main([str(bad), "-o", str(tmp_path / "3"), *common]) == 1
    assert main([str(tmp_path / "absent"), "-o", str(tmp_path / "4"), *common]) == 2
    assert "absent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time-signatures", "4/4", "3/4"], "--time-signatures 3/4 needs --preset metres"),
        (["--six-track", "--preset", "metres"], "--six-track cannot be joined with --preset metres"),
        (["--processor", "p", "--min-genre-count", "3"], "--min-genre-count cannot be joined with --processor"),
    ],
)
def test_contradictory_options(options, message, tmp_path, capsys):
    assert main([str(tmp_path), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err


def test_help_states_the_defaults_of_the_profiles():
    text = " ".join(make_parser().format_help().split())
    assert "strings, bass, drums [off]" in text
    assert "drums included [paper: 2, open: 1]" in text
    assert "inside each source or genre [paper: none, open: source]" in text


def test_every_setting_has_an_option_and_profiles_apply():
    args = vars(make_parser().parse_args(["in", "-o", "out", "--min-bars", "7", "--no-trim"]))
    song, rules = settings_from(profile_defaults("open") | args)
    assert (song.min_bars, song.trim, song.require_melody, rules.signature_duplicates) == (7, False, False, False)
    song, rules = settings_from(profile_defaults("paper"))
    assert (song.min_bars, song.max_bars, song.max_tokens, song.min_pitch, song.max_pitch) == (25, 256, 47_000, 21, 108)
    assert (song.min_tempo, song.max_tempo, song.max_note_beats, song.max_empty_bars) == (24, 200, 16, 3)
    options = {action.dest for action in make_parser()._actions}
    assert set(profile_defaults("paper")) <= options
    with pytest.raises(ValueError, match="choose one of"):
        profile_defaults("closed")

"""The Lakh route: match scores, genre labels, names, split lists; on a synthetic tree and on the real label files."""

import hashlib
import json
import sqlite3
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from symusic import Note, Score, Tempo, Track

from partimento.training.corpus_merging import read_split_list
from partimento.training.lakh_labels import (
    LakhLabels,
    artist_label,
    genre_label,
    names_from_folders,
    read_labels,
    read_match_scores,
    read_md5_labels,
    read_track_names,
    to_label,
)
from partimento.training.prepare_data import main

A, B, C, D = (f"TR{letter * 7}128F000000{i}"[:18] for i, letter in enumerate("ABCD"))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Pop_Rock", "Pop-Rock"), ("pop_rock", "Pop-Rock"), ("RnB", "RnB"), ("rnb", "RnB"), ("R&B", "RnB"),
        ("New Age", "New-Age"), ("folk", "Folk"), ("Jazz", "Jazz"), ("hiphop", "Rap"), ("Rap", "Rap"),
        ("International", "International"), ("afrocuban", "Afro-Cuban"), ("latin/brazilian", "Latin-Brazilian"),
        ("Metal", "Metal"), ("", ""), (" _ ", ""),
    ],
)  # fmt: skip
def test_genre_labels_are_canonical(text, label):
    assert genre_label(text) == label
    assert "_" not in genre_label(text)
    assert " " not in genre_label(text)


def test_artist_labels():
    assert to_label('Lola "BlueWorrior" Harvey') == "Lola-BlueWorrior-Harvey"
    assert artist_label("AC/DC") == "AC-DC"
    assert artist_label("Simon & Garfunkel") == "Simon-and-Garfunkel"
    assert {artist_label(x) for x in ("traditional / MMA", "Various Artists", "Unknown", "")} == {""}


def test_match_scores_are_inverted_with_ties_by_track(tmp_path):
    path = tmp_path / "match_scores.json"
    path.write_text(json.dumps({B: {"1" * 32: 0.7, "2" * 32: 0.6}, A: {"1" * 32: 0.7}, C: {"1" * 32: 0.9}}))
    assert read_match_scores(path) == {"1" * 32: [(0.9, C), (0.7, A), (0.7, B)], "2" * 32: [(0.6, B)]}


def test_label_files(tmp_path):
    cls = tmp_path / "labels.cls"
    cls.write_text(f"# MSD TopMAGD\n\n{A}\tPop_Rock\n{B}\tNew Age\tFolk\n{C}\tRock\tRock\n")
    assert read_labels(cls) == {A: ["Pop-Rock"], B: ["New-Age", "Folk"], C: ["Rock"]}
    cls.write_text(f"{A}\n")
    with pytest.raises(ValueError, match=r"labels\.cls:1"):
        read_labels(cls)
    with pytest.raises(ValueError, match="id_list"):
        read_labels(tmp_path)
    (tmp_path / "id_list_Pop_Rock.txt").write_text(f"{A}\n{B}\n")
    (tmp_path / "id_list_Jazz.txt").write_text(f"{B}\n")
    assert read_labels(tmp_path) == {A: ["Pop-Rock"], B: ["Jazz", "Pop-Rock"]}


def test_best_labelled_candidate_wins():
    labels = LakhLabels(
        scores={
            "m1": [(0.9, A), (0.8, B), (0.7, C)],  # the best match has no label
            "m2": [(0.9, D), (0.8, B)],  # the best match has one in the second source only
            "m3": [(0.9, A)],  # nothing has a label
            "m4": [(0.3, B)],  # below the minimum
        },
        genres=[("topmagd", {B: ["Jazz"], C: ["Folk"]}), ("tagtraum-cd1", {B: ["Rock"], D: ["Blues", "Country"]})],
        moods={B: ["Happy"]},
        names={B: ("Artist", "Title")},
        md5_names={"m3": ("Folder", "Song")},
        minimum=0.5,
    )
    one = labels.match("m1")
    assert (one.msd_id, one.match_score, one.genre, one.genre_source) == (B, 0.8, "Jazz", "topmagd")
    assert (one.artist, one.title, one.mood) == ("Artist", "Title", "Happy")
    two = labels.match("m2")
    assert (two.msd_id, two.genre, two.genre_secondary, two.genre_source) == (D, "Blues", "Country", "tagtraum-cd1")
    three = labels.match("m3")
    assert (three.msd_id, three.match_score, three.genre, three.genre_source) == (A, 0.9, "", "")
    assert (three.artist, three.title) == ("Folder", "Song")
    four = labels.match("m4")
    assert (four.msd_id, four.match_score, four.genre) == ("", None, "")
    assert labels.match("m5", f"lmd_matched/B/B/B/{B}/m5.mid").genre == "Jazz"


def test_labels_by_md5_need_no_scores_and_do_not_guess():
    table = {"m1": {"topmagd": "Jazz"}, "m2": {"topmagd": "Jazz;Pop_Rock", "clean_artist": "X", "clean_title": "Y"}}
    one, two = (LakhLabels(md5_labels=table).match(m) for m in ("m1", "m2"))
    assert (one.genre, one.genre_source) == ("Jazz", "topmagd by md5")
    assert (two.genre, two.genre_secondary, two.artist, two.title) == ("", "Jazz;Pop-Rock", "X", "Y")
    first = LakhLabels(md5_labels=table, ambiguous="first").match("m2")
    assert (first.genre, first.genre_secondary) == ("Jazz", "Pop-Rock")


def test_names(tmp_path):
    (tmp_path / "unique_tracks.txt").write_text(f"{A}<SEP>SOAAA<SEP>Ann<SEP>Song\n")
    (tmp_path / "names.csv").write_text(f"track_id,artist_name,title\n{A},Ann,Song\n")
    with sqlite3.connect(tmp_path / "track_metadata.db") as base:
        base.execute("CREATE TABLE songs (track_id text, title text, artist_name text)")
        base.execute("INSERT INTO songs VALUES (?, 'Song', 'Ann')", (A,))
    for name in ("unique_tracks.txt", "names.csv", "track_metadata.db"):
        assert read_track_names(tmp_path / name) == {A: ("Ann", "Song")}
    files = [
        ("clean_midi/ABBA/Waterloo.1.mid", "m1"),
        ("clean_midi/ABBA/S.O.S.mid", "m2"),
        ("x/ABBA/Waterloo.2.mid", "m1"),
    ]
    assert names_from_folders(files) == {"m1": ("ABBA", "Waterloo"), "m2": ("ABBA", "S.O.S")}


# A synthetic tree of Lakh's layout


def lakh_song(seed: int) -> bytes:
    rng, score = np.random.default_rng(seed), Score(220)
    score.tempos.append(Tempo(0, 100 + seed))
    score.tracks = [Track(program=80), Track(program=33), Track(is_drum=True)]
    for beat in range(112 + seed):
        for track, low in zip(score.tracks, (60, 32, 36)):
            track.notes.append(Note(beat * 220, 110 + 110 * (beat % 2), int(low + rng.integers(0, 12)), 80))
    return score.dumps_midi()


@pytest.fixture
def lakh(tmp_path):
    """lmd_full/<first digit>/<md5>.mid as folder and tar.gz, with label, name and list files; songs by number."""
    root, names = tmp_path / "lmd_full", []
    for number in range(8):
        data = lakh_song(number)
        names.append(hashlib.md5(data).hexdigest())
        path = root / names[-1][0] / f"{names[-1]}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "f").mkdir(exist_ok=True)
    (root / "f" / f"{'f' * 32}.mid").write_bytes(b"MThd broken")  # Lakh holds a few thousand such files
    with tarfile.open(tmp_path / "lmd_full.tar.gz", "w:gz") as bundle:
        bundle.add(root, "lmd_full")
    scores = {
        A: {names[0]: 0.9, names[1]: 0.6},
        B: {names[0]: 0.9, names[2]: 0.2},
        C: {names[3]: 0.8},
        D: {names[4]: 0.8},
    }
    (tmp_path / "match_scores.json").write_text(json.dumps(scores))
    (tmp_path / "topmagd.cls").write_text(f"# comment\n{B}\tNew Age\n{C}\tPop_Rock\n")
    (tmp_path / "cd1.cls").write_text(f"{A}\tRock\n{C}\tJazz\n{D}\tBlues\tCountry\n")
    (tmp_path / "unique_tracks.txt").write_text(f"{A}<SEP>S<SEP>Ann<SEP>First\n{D}<SEP>S<SEP>Dan<SEP>Fourth\n")
    clean = tmp_path / "clean_midi" / "Eve"
    clean.mkdir(parents=True)
    (clean / "Fifth.1.mid").write_bytes(lakh_song(5))
    (tmp_path / "train.txt").write_text("".join(f"{m}.mid\n" for m in names[:5]))
    (tmp_path / "valid.txt").write_text(f"{names[5]}.mid\n")
    (tmp_path / "test.txt").write_text(f"{names[6]}.mid\n")
    return tmp_path, names


@pytest.mark.parametrize("layout", ["lmd_full", "lmd_full.tar.gz"])
def test_lakh_layout_with_labels_and_split_lists(lakh, layout):
    folder, names = lakh
    options = ["--match-scores", "match_scores.json", "--topmagd", "topmagd.cls", "--tagtraum-cd1", "cd1.cls"]
    options += ["--msd-tracks", "unique_tracks.txt", "--clean-midi", "clean_midi", "--min-match-score", "0.5"]
    options = [o if o.startswith("--") or o == "0.5" else str(folder / o) for o in options]
    for split in ("train", "valid", "test"):
        options += ["--split-list", f"{split}={folder / split}.txt"]
    options += ["--unlisted", "drop", "--six-track", "--min-genre-count", "1", "--workers", "0", "--quiet"]
    out = folder / "out"
    assert main([str(folder / layout), "-o", str(out), *options]) == 0
    found = {}
    for path in (out / "tokenized").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            found[names.index(row["md5"])] = row
    assert {n: r["split"] for n, r in found.items()} == dict.fromkeys(range(5), "train") | {5: "validation", 6: "test"}
    labels = {n: (r["msd_id"], r["genre"], r["genre_secondary"], r["genre_source"]) for n, r in found.items()}
    assert labels == {
        0: (A, "Rock", "", "tagtraum-cd1"),  # A and B tie; A comes first and has a label in the second source
        1: (A, "Rock", "", "tagtraum-cd1"),
        2: ("", "", "", ""),  # its only match is below the minimum
        3: (C, "Pop-Rock", "", "topmagd"),  # TopMAGD before CD1
        4: (D, "Blues", "Country", "tagtraum-cd1"),
        5: ("", "", "", ""),
        6: ("", "", "", ""),
    }
    assert found[0]["match_score"] == pytest.approx(0.9)
    assert [(found[n]["artist"], found[n]["title"]) for n in (0, 4, 5, 6)] == [
        ("Ann", "First"), ("Dan", "Fourth"), ("Eve", "Fifth"), ("", ""),
    ]  # fmt: skip
    assert found[0]["group_id"] == found[1]["group_id"] == min(names[0], names[1])  # one MSD track
    assert {(r["source"], r["licence"]) for r in found.values()} == {("Lakh MIDI Dataset", "CC-BY-4.0")}
    assert found[0]["programs"] == [-1, 43, 80]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["labels"]["genres"] == ["Blues", "Pop-Rock", "Rock"]
    rejected = {row["stage"]: row["rejected"] for row in report["stages"] if row["rejected"]}
    assert rejected == {"parse": {"midi_parse": 1}, "split": {"unlisted": 1}}


# The real label and list files


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Folder with the real tables: unpacked in build/data, or packed beside the checkout."""
    root = Path(__file__).parents[2]
    unpacked, packed = root / "build" / "data" / "reference", root.parent / "shared" / "data" / "reference.tar.gz"
    if unpacked.is_dir():
        return unpacked
    if not packed.is_file():
        pytest.skip(f"real label files are absent: neither build/data/reference nor {packed.name} is there")
    folder = tmp_path_factory.mktemp("reference")
    with tarfile.open(packed) as bundle:
        bundle.extractall(folder, filter="data")
    return folder / "reference"


def test_real_split_lists(reference):
    lists = {s: read_split_list(reference / "museformer" / f"{s}.txt", s) for s in ("train", "valid", "test")}
    assert [len(lists[s]) for s in lists] == [23_952, 2_994, 2_994]
    assert len(set().union(*lists.values())) == 29_940


def test_real_labels_by_md5(reference):
    table = read_md5_labels(reference / "lmd_labels" / "lmd_genre_labels.csv")
    labels = LakhLabels(md5_labels=table)
    matches = {md5: labels.match(md5) for md5 in table}
    genres = Counter(m.genre for m in matches.values() if m.genre)
    assert len(table) == 57_859
    assert sum(genres.values()) == 18_990  # one label; 3,545 files have several
    assert sum(bool(m.genre_secondary) for m in matches.values()) == 3_545
    topmagd = {"Pop-Rock", "Electronic", "Rap", "Jazz", "Latin", "RnB", "International", "Country", "Reggae", "Blues"}
    assert set(genres) == topmagd | {"Vocal", "Folk", "New-Age"}
    lists = {m for s in ("train", "valid", "test") for m in read_split_list(reference / "museformer" / f"{s}.txt", s)}
    assert sum(md5 in lists for md5 in table) == len(lists)


def test_real_lists_of_labels(reference):
    amg = read_labels(reference / "lmd_labels" / "lpd_amg_msd_ids")
    tagtraum = read_labels(reference / "lmd_labels" / "lpd_tagtraum_msd_ids")
    assert {"Pop-Rock", "New-Age", "RnB", "Jazz"} <= {label for labels in amg.values() for label in labels}
    assert {"Metal", "Punk", "New-Age"} <= {label for labels in tagtraum.values() for label in labels}
    scores = {f"m{i}": [(0.9, track)] for i, track in enumerate(sorted(set(amg) | set(tagtraum)))}
    labels = LakhLabels(scores=scores, genres=[("amg", amg), ("tagtraum", tagtraum)])
    sources = Counter(labels.match(md5).genre_source for md5 in scores)
    assert sources["amg"] == len(amg)
    assert sources["tagtraum"] == len(set(tagtraum) - set(amg)) > 0

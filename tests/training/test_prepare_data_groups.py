"""Duplicates, groups and splits: the same music never lies in two splits, and generic material makes no group."""

import hashlib
from collections import defaultdict

import numpy as np
import pytest
from symusic import Note, Score, Track

from partimento.training.corpus_grouping import (
    SPLITS,
    assign_splits,
    bar_shingles,
    dealt_splits,
    find_groups,
    hashed_split,
    invariant_hash,
    melody_shingles,
    similar_pairs,
)
from partimento.training.corpus_merging import find_duplicates, read_split_list, read_split_table
from partimento.training.corpus_settings import CorpusSettings
from partimento.training.prepare_data import make_parser, read_splits

TICKS = 12


def tune(seed: int, bars: int = 16) -> list[tuple[int, int, int]]:
    """(onset, duration, pitch) of a random melody in eighths and quarters, ticks of a 12th of a quarter."""
    rng = np.random.default_rng(seed)
    notes, time = [], 0
    while time < bars * 4 * TICKS:
        length = int(rng.choice([6, 12]))
        notes.append((time, length, int(60 + rng.integers(0, 20))))
        time += length
    return notes


def arrange(notes, shift: int = 0, program: int = 0, accompaniment: int | None = None) -> Score:
    """The melody, transposed, with a random chord track of its own."""
    score = Score(TICKS)
    melody = Track(program=program)
    for time, length, pitch in notes:
        melody.notes.append(Note(time, length, pitch + shift, 80))
    score.tracks = [melody]
    if accompaniment is not None:
        rng, chords = np.random.default_rng(accompaniment), Track(program=24)
        for time in range(0, notes[-1][0], 12):
            for pitch in rng.choice(np.arange(48, 60), 3, replace=False):
                chords.notes.append(Note(time, 12, int(pitch), 60))
        score.tracks.append(chords)
    return score


def song(score: Score, **columns) -> dict:
    shingles = {"bar_shingles": bar_shingles(score), "melody_shingles": melody_shingles(score)}
    return {"invariant": invariant_hash(score), "msd_id": "", "title": "", **shingles, **columns}


def groups_of(songs: list[dict], **changes) -> list[int]:
    return find_groups(songs, CorpusSettings(**{"max_group_fraction": 1.0} | changes)).number.tolist()


def test_invariant_hash_ignores_key_and_instrument_only():
    plain = arrange(tune(1))
    assert invariant_hash(plain) == invariant_hash(arrange(tune(1), shift=5, program=40))
    assert invariant_hash(plain) != invariant_hash(arrange(tune(1)[:-1]))
    drums = arrange(tune(1))
    drums.tracks[0].is_drum = True
    higher = arrange(tune(1), shift=1)
    higher.tracks[0].is_drum = True
    assert len({invariant_hash(plain), invariant_hash(drums), invariant_hash(higher)}) == 3


def test_a_tune_and_its_arrangements_are_one_group():
    songs = [
        song(arrange(tune(1))),
        song(arrange(tune(1), shift=3, program=73, accompaniment=1)),
        song(arrange(tune(1), shift=-2, program=24, accompaniment=2)),
        song(arrange(tune(2), accompaniment=9)),
        song(arrange(tune(3))),
    ]
    assert groups_of(songs) == [0, 0, 0, 3, 4]


def test_shared_accompaniment_and_scales_make_no_group():
    scale = [(6 * i, 6, 60 + i % 20) for i in range(100)]
    songs = [song(arrange(scale[:60])), song(arrange(scale))]
    assert len(songs[0]["melody_shingles"]) == 0 or groups_of(songs, min_shared_bars=100) == [0, 1]
    same_groove = [song(arrange(tune(i), accompaniment=7)) for i in range(6)]
    assert groups_of(same_groove, max_shingle_songs=4) == list(range(6))


def test_near_identical_bars_make_a_group():
    notes = tune(5, bars=20)
    changed = [(t, d, p + 1 if t < 4 * 48 else p) for t, d, p in notes]
    songs = [song(arrange(notes)), song(arrange(changed, shift=4)), song(arrange(tune(6)))]
    for one in songs:
        one["melody_shingles"] = np.empty(0, np.uint64)
    assert groups_of(songs) == [0, 0, 2]


def test_msd_track_and_columns_make_groups():
    songs = [
        song(arrange(tune(i)), msd_id="TRX" if i in (0, 3) else "", title="A" if i in (1, 2) else "") for i in range(5)
    ]
    assert groups_of(songs) == [0, 1, 2, 0, 4]
    assert groups_of(songs, group_columns=("title",)) == [0, 1, 1, 0, 4]


def test_a_chain_of_weak_resemblances_does_not_swallow_the_corpus():
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 2**63, 20).astype(np.uint64) for _ in range(41)]
    songs = [
        {"invariant": i + 1, "msd_id": "", "bar_shingles": np.empty(0, np.uint64),
         "melody_shingles": np.unique(np.concatenate(pieces[i : i + 2]))}
        for i in range(40)
    ]  # fmt: skip
    assert len(set(groups_of(songs))) == 1
    found = find_groups(songs, CorpusSettings(max_group_fraction=0.1))
    assert max(np.bincount(found.number)) <= 4
    assert found.report["edges refused"] > 0


def test_similar_pairs_equal_the_definition():
    rng = np.random.default_rng(1)
    shingles = [np.unique(rng.integers(0, 120, 40)).astype(np.uint64) for _ in range(30)]
    counts = defaultdict(int)
    for one in shingles:
        for value in one.tolist():
            counts[value] += 1
    rare = [{v for v in one.tolist() if counts[v] <= 9} for one in shingles]
    expected = {
        (i, j): len(rare[i] & rare[j]) / min(len(rare[i]), len(rare[j]))
        for i in range(30)
        for j in range(i + 1, 30)
        if len(rare[i] & rare[j]) >= 3
    }
    expected = {pair: ratio for pair, ratio in expected.items() if ratio >= 0.3}
    found = {(i, j): ratio for ratio, i, j in similar_pairs(shingles, most=9, shared=3, containment=0.3)}
    assert expected
    assert found == pytest.approx(expected)
    assert similar_pairs([np.empty(0, np.uint64)] * 3, 9, 1, 0.1) == []


def md5s(number: int) -> list[str]:
    return [hashlib.md5(str(i).encode()).hexdigest() for i in range(number)]


def test_hashed_split_follows_the_ratio_and_the_smallest_md5():
    names = md5s(4000)
    splits = [hashed_split(m, (8, 1, 1)) for m in names]
    assert [splits.count(s) / 4000 for s in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    groups = np.arange(4000) // 4
    result = assign_splits(names, groups, {}, CorpusSettings())
    for group in range(1000):
        members = range(4 * group, 4 * group + 4)
        smallest = min(names[i] for i in members)
        assert {result["split"][i] for i in members} == {hashed_split(smallest, (8, 1, 1))}
        assert {result["group_id"][i] for i in members} == {smallest}


def test_dealt_splits_share_out_each_stratum_by_weight():
    rng, names = np.random.default_rng(0), md5s(600)
    about = [(m, "ab"[i % 2], int(rng.integers(1, 20))) for i, m in enumerate(names)]
    splits = dealt_splits(about, (8, 1, 1))
    for stratum in "ab":
        total = sum(w for _, s, w in about if s == stratum)
        shares = [sum(w for m, s, w in about if s == stratum and splits[m] == split) / total for split in SPLITS]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert dealt_splits(about[::-1], (8, 1, 1)) == splits


def test_imported_lists_win_and_take_their_group_along():
    names = sorted(md5s(8))
    groups = np.array([0, 0, 0, 3, 3, 3, 6, 7])
    listed = {names[1]: "test", names[3]: "train", names[4]: "validation"}
    result = assign_splits(names, groups, listed, CorpusSettings())
    assert result["split"][:6] == ["test", "test", "test", "train", "validation", None]
    assert result["split"][6] == hashed_split(names[6], (8, 1, 1))
    assert result["crossing"] == 1
    dropped = assign_splits(names, groups, listed, CorpusSettings(unlisted="drop"))["split"]
    assert dropped == [None, "test", None, "train", "validation", None, None, None]


def test_split_files(tmp_path):
    names = md5s(3)
    (tmp_path / "valid.txt").write_text(f"{names[0]}.mid\n\nlmd_full/a/{names[1]}.mid\n")
    assert read_split_list(tmp_path / "valid.txt", "valid") == {names[0]: "validation", names[1]: "validation"}
    (tmp_path / "bad.txt").write_text("song.mid\n")
    with pytest.raises(ValueError, match=r"bad\.txt:1"):
        read_split_list(tmp_path / "bad.txt", "train")
    with pytest.raises(ValueError, match="choose one of"):
        read_split_list(tmp_path / "valid.txt", "vaild")
    (tmp_path / "table.csv").write_text(f"md5,where\n{names[0]},train\n{names[1]},\n{names[2].upper()},valid\n")
    assert read_split_table(tmp_path / "table.csv", "where") == {names[0]: "train", names[2]: "validation"}
    with pytest.raises(ValueError, match="no column 'wheer'; it has md5, where"):
        read_split_table(tmp_path / "table.csv", "wheer")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{0},train", "{1},tarin"], r"table\.csv:3: split 'tarin' is unknown; choose one of train, valid"),
        (["{0},train", "{0},test"], r"table\.csv:3: .* in the split test here and in train before"),
        (["song,train"], r"table\.csv:2: 'song' is no MD5"),
    ],
)
def test_bad_split_tables(tmp_path, rows, message):
    text = "\n".join(["md5,where", *rows]).format(*md5s(2)) + "\n"
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split_table(tmp_path / "table.csv", "where")


def test_split_options(tmp_path):
    def read(*options):
        return read_splits(make_parser().parse_args(["in", "-o", "out", *options]))

    names = md5s(2)
    for split, name in (("train", names[0]), ("test", names[1])):
        (tmp_path / f"{split}.txt").write_text(f"{name}\n")
    (tmp_path / "table.csv").write_text(f"md5,where\n{names[0]},test\n")
    lists = ["--split-list", f"train={tmp_path}/train.txt", "--split-list", f"test={tmp_path}/test.txt"]
    assert read(*lists) == {names[0]: "train", names[1]: "test"}
    with pytest.raises(ValueError, match=r"train\.txt: .* in the split train here and in test before"):
        read(*lists, "--split-table", f"{tmp_path}/table.csv:where")
    with pytest.raises(ValueError, match="must read FILE:COLUMN"):
        read("--split-table", f"{tmp_path}/table.csv")


def test_duplicates_keep_the_best_labelled_copy():
    def one(md5, genre="", source="", content="c", signature="s"):
        keys = {"md5": md5, "content": content, "signature": signature}
        return {"file_name": f"{md5}.mid", "genre": genre, "genre_source": source, **keys}

    songs = [
        one("1"),
        one("2", "Rock", "instrumentation heuristic"),
        one("3", "Jazz", "source"),
        one("3"),
        one("4", content="d"),
    ]
    found = find_duplicates(songs, {}, CorpusSettings())
    assert {i: reason for i, (reason, _) in found.items()} == {
        0: "identical_notes",
        1: "identical_notes",
        3: "identical_bytes",
        4: "same_signature",
    }
    assert found[0][1] == "like 3.mid"
    assert 4 not in find_duplicates(songs, {}, CorpusSettings(signature_duplicates=False))
    assert 4 not in find_duplicates(songs, {"4": "test"}, CorpusSettings())  # a song on an imported list comes first

"""A corpus becomes a dataset of the Hub: what its licences allow, with a card that counts it; it loads and trains."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard

from partimento.tokenization import MidiProcessor
from partimento.training import export_to_hub
from partimento.training.corpus_card import licence_id
from partimento.training.corpus_export import export_corpus
from partimento.training.prepare_data import main as prepare_data
from partimento.training.token_corpus import TokenCorpus

LICENCES = ["CC0-1.0", "GPL-3.0-or-later (made from a GPL tune set)", "MIT (files); songs in copyright", ""]
CLOSED = LICENCES[2]
PUSH = """
import sys
from pathlib import Path
from partimento.training.hub_push import push
push(Path(sys.argv[1]), sys.argv[2], "dataset", private=True)
"""
STREAM = """
import sys
from datasets import load_dataset
songs = load_dataset(sys.argv[1], "tokenized", split="train", streaming=True)
print(sorted(song["md5"] for song in songs))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_score) -> Path:
    """36 songs of four sources, a quarter of them each: open, open with a remark, in copyright, without a licence."""
    folder = tmp_path_factory.mktemp("songs")
    rows = []
    for seed in range(36):
        make_score(seed, num_bars=6, programs=(0, 33)).dump_midi(folder / f"{seed:02d}.mid")
        source = seed % len(LICENCES)
        rows.append([f"{seed:02d}.mid", "jazz", f"source {source}", LICENCES[source]])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "genre", "source", "licence"], *rows])
    output = tmp_path_factory.mktemp("corpus") / "corpus"
    options = ["--profile", "open", "--workers", "0", "--quiet", "--min-genre-count", "5"]
    assert prepare_data([str(folder), "-o", str(output), *options]) == 0
    return output


def songs_of(folder: Path, configuration: str = "tokenized", split: str = "*") -> list[dict]:
    return [
        row for path in sorted(folder.glob(f"{configuration}/{split}-*")) for row in pq.read_table(path).to_pylist()
    ]


def test_only_songs_that_may_be_passed_on_go_along(corpus, tmp_path):
    output = tmp_path / "dataset"
    report = export_corpus(corpus, output)
    before = {configuration: songs_of(corpus, configuration) for configuration in ("raw", "tokenized")}
    counts = Counter(song["licence"] for song in before["raw"])
    assert set(counts) == {*LICENCES[:3], "unknown"}
    for configuration, songs in before.items():
        expected = [song for song in songs if song["licence"] in LICENCES[:2]]
        assert songs_of(output, configuration) == expected
    stage = report["stages"][-1]
    assert (stage["in"], stage["out"]) == (36, counts[LICENCES[0]] + counts[LICENCES[1]])
    assert stage["rejected"] == {CLOSED: counts[CLOSED], "unknown": counts["unknown"]}
    for split, row in report["splits"].items():
        here = songs_of(output, split=split)
        assert (row["songs"], row["tokens"]) == (len(here), sum(len(song["input_ids"]) for song in here))

    with_more = export_corpus(corpus, output, include=[CLOSED])  # replaces the folder
    assert with_more["stages"][-1]["rejected"] == {"unknown": counts["unknown"]}
    assert CLOSED in {song["licence"] for song in songs_of(output, "raw")}
    with pytest.raises(ValueError, match="has the licence 'BSD'; there are: "):
        export_corpus(corpus, output, include=["BSD"])


def test_the_card_is_valid_and_counts_what_is_there(corpus, stand_in, tmp_path):
    export_corpus(corpus, tmp_path / "my-songs")
    for folder in (corpus, tmp_path / "my-songs"):
        text = (folder / "README.md").read_text()
        assert stand_in.card_problems(text, "dataset") == []
        card = DatasetCard(text)
        assert yaml.safe_load(card.data.to_yaml()) == yaml.safe_load(text.split("---\n")[1])
        for licence in sorted({song["licence"] for song in songs_of(folder)}):
            assert f"| {licence} | {sum(song['licence'] == licence for song in songs_of(folder))} |" in text
        report = json.loads((folder / "report.json").read_text())
        assert f"| train | {report['splits']['train']['songs']} |" in text
        assert not re.search(r"/(tmp|home|root|work|usr)/", text + json.dumps(report))
    assert card.data.pretty_name == "my-songs"
    assert card.data.license == ["cc0-1.0", "gpl-3.0"]
    assert DatasetCard((corpus / "README.md").read_text()).data.license == ["cc0-1.0", "gpl-3.0", "other"]
    assert f"| source 2 | {CLOSED} | 9 |" in text.split("Not in this folder")[1]


def test_the_folder_loads_as_a_dataset_and_as_a_corpus(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    export_corpus(corpus, tmp_path / "dataset")
    loaded = datasets.load_dataset(str(tmp_path / "dataset"), cache_dir=str(tmp_path / "cache"))
    expected = {split: songs_of(tmp_path / "dataset", split=split) for split in loaded}
    assert {split: len(songs) for split, songs in expected.items()} == {
        name: len(part) for name, part in loaded.items()
    }
    assert loaded["train"][0]["input_ids"] == expected["train"][0]["input_ids"]
    stream = datasets.load_dataset(str(tmp_path / "dataset"), "raw", split="train", streaming=True)
    assert next(iter(stream))["midi"].startswith(b"MThd")
    processor = MidiProcessor.from_pretrained(tmp_path / "dataset" / "processor")
    tokens = TokenCorpus.from_parquet(tmp_path / "dataset", "train", processor.vocabulary)
    assert list(tokens.names) == [song["md5"] for song in expected["train"]]


def test_the_command_exports_and_pushes_a_dataset(corpus, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(export_to_hub, "push", lambda *arguments: calls.append(arguments) or "the address")
    folder = tmp_path / "songs"
    monkeypatch.setattr("sys.argv", ["x", str(corpus), "-o", str(folder), "--push", "orchestra/songs", "--private"])
    assert export_to_hub.main() == 0
    assert calls == [(folder, "orchestra/songs", "dataset", True)]
    output = capsys.readouterr().out
    assert "licence                36       18  MIT (files); songs in copyright 9, unknown 9" in output
    assert output.endswith("the address\n")
    monkeypatch.setattr("sys.argv", ["x", str(corpus), "-o", str(folder), "--include-licence", "BSD"])
    assert export_to_hub.main() == 1
    assert "has the licence 'BSD'; there are: " in capsys.readouterr().err


def test_a_pushed_dataset_streams_from_the_hub(corpus, run_online, hub, tmp_path):
    name, folder = "orchestra/songs", tmp_path / "songs"
    export_corpus(corpus, folder)
    done = run_online("-c", PUSH, folder, name)
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files(name, "dataset") == files
    assert hub.repos["dataset", name]["private"]
    streamed = run_online("-c", STREAM, name, token=None)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout.strip() == str(sorted(song["md5"] for song in songs_of(folder, split="train")))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC0-1.0", "cc0-1.0"),
        ("GPL-3.0-or-later (generated)", "gpl-3.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("cc-by-4.0.", "cc-by-4.0"),
        ("CC-BY-NC-4.0", None),
        ("CC-BY-ND-4.0", None),
        ("MIT (dataset); underlying pop songs in copyright", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_which_licences_are_open(text, name):
    assert licence_id(text) == name

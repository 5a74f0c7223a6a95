"""Likelihood figures: which tokens count, cases computed by hand, and the report of the whole program."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM
from partimento.pipelines import generation
from partimento.tokenization import MidiProcessor
from partimento.training import evaluate_lm
from partimento.training.likelihood import (
    CountedTokens,
    SongScore,
    batch_nll,
    by_bar,
    by_length,
    by_position,
    model_token_nll,
    summarise,
)
from partimento.training.likelihood_report import find_alarms
from partimento.training.likelihood_store import LossStore, weights_fingerprint
from partimento.training.songs import (
    Song,
    fingerprint,
    first_bar,
    inputs_of,
    read_songs,
    seeded_subset,
    supervised_mask,
    transposed,
    without_conditions,
)
from partimento.training.token_corpus import TokenCorpus, cut_crop, draw_crops
from partimento.training.token_data import IGNORED, collate

BOS, EOS, BAR, NOTE = 1, 2, 4, 5
JAZZ, PIANO = 8, 9


class Successor(torch.nn.Module):
    """Gives probability ½ to id + 1 and shares the rest equally among the other `vocab_size` - 1 ids."""

    def __init__(self, vocab_size=12):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.vocab_size = vocab_size
        self.shapes = []

    def forward(self, input_ids, attention_mask, use_cache):
        self.shapes.append(tuple(input_ids.shape))
        other = 0.5 / (self.vocab_size - 1)
        probabilities = torch.full((*input_ids.shape, self.vocab_size), other)
        probabilities.scatter_(-1, ((input_ids + 1) % self.vocab_size)[..., None], 0.5)
        return SimpleNamespace(logits=probabilities.log() * self.scale)


def song(*body, prefix=(JAZZ, PIANO)):
    return np.array([BOS, *prefix, *body, EOS], dtype=np.int32)


def test_bos_and_conditions_are_history_only():
    ids = song(BAR, NOTE, BAR)
    assert first_bar(ids, BAR) == 3
    assert supervised_mask(ids, BAR).tolist() == [False] * 3 + [True] * 4  # Bar NOTE Bar EOS
    bare = without_conditions(ids, BAR)
    assert bare.tolist() == [BOS, BAR, NOTE, BAR, EOS]
    assert supervised_mask(bare, BAR).tolist() == [False] + [True] * 4
    assert without_conditions(bare, BAR).tolist() == bare.tolist()


def test_loss_of_a_known_model_by_hand():
    # BOS JAZZ | BAR NOTE EOS: 8 -> 4 is not the successor, 4 -> 5 is, 5 -> 2 is not
    ids = song(BAR, NOTE, prefix=(JAZZ,))
    nll = model_token_nll(Successor(), [ids], [supervised_mask(ids, BAR)])
    other = math.log(11 / 0.5)
    assert nll[0] == pytest.approx([other, math.log(2), other], abs=1e-5)


def test_batches_hold_similar_lengths_within_the_limit_and_change_no_loss():
    rng = np.random.default_rng(0)
    sequences = [song(BAR, *rng.integers(5, 8, size=rng.integers(1, 90))) for _ in range(25)]
    masks = [supervised_mask(ids, BAR) for ids in sequences]
    model, done = Successor(), []
    together = model_token_nll(model, sequences, masks, batch_tokens=200, on_batch=done.append)
    assert all(rows * width <= 200 for rows, width in model.shapes)
    assert len(model.shapes) < 25
    assert sum(done) == sum(map(len, sequences))
    for ids, mask, nll in zip(sequences, masks, together):
        alone = model_token_nll(Successor(), [ids], [mask])[0]
        assert len(nll) == mask.sum()
        assert np.array_equal(nll, alone)


def test_museformer_losses_do_not_depend_on_the_batch():
    config = MuseformerConfig.from_preset(
        "tiny", vocab_size=64, bar_token_id=BAR, position_token_start=10, num_positions=8, pad_token_id=0,
        bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MuseformerForCausalLM(config)
    rng = np.random.default_rng(0)
    sequences = [song(*[BAR, 10, 20, 13, 21] * bars, *rng.integers(20, 40, size=bars)) for bars in (3, 8, 5)]
    masks = [supervised_mask(ids, BAR) for ids in sequences]
    together = model_token_nll(model, sequences, masks)
    for ids, mask, nll in zip(sequences, masks, together):
        assert nll == pytest.approx(model_token_nll(model, [ids], [mask])[0], abs=2e-4)
        labels = torch.tensor(np.where(mask, ids, -100)).long()[None]
        loss = model.eval()(input_ids=torch.tensor(ids).long()[None], labels=labels).loss
        assert float(nll.mean()) == pytest.approx(loss.item(), abs=1e-4)


def test_figures_by_hand():
    # two songs: 4 tokens at ln 2 in 2 bars with 1 note; 2 tokens at ln 8 in 1 bar with 2 notes: 4 + 6 bits
    scores = [
        SongScore("jazz", np.full(4, math.log(2)), 2, 1, np.array([1, 1, 2, 2])),
        SongScore("folk", np.full(2, math.log(8)), 1, 2, np.array([1, 1])),
    ]
    figures = summarise(scores, prefix_lengths=(1, 3, 100))
    assert figures["nats_per_token"] == pytest.approx(10 / 6 * math.log(2))
    assert figures["bits_per_token"] == pytest.approx(10 / 6)
    assert figures["bits_per_bar"] == pytest.approx(10 / 3)
    assert figures["bits_per_note"] == pytest.approx(10 / 3)
    assert figures["perplexity"] == pytest.approx(2 ** (10 / 6))
    assert figures["ppl_1"] == pytest.approx(2 ** (4 / 2))  # one token of each song: 1 + 3 bits over 2 tokens
    assert figures["ppl_3"] == pytest.approx(2 ** (9 / 5))  # 3 + 6 bits over 3 + 2 tokens
    assert figures["ppl_100"] == pytest.approx(figures["perplexity"])
    assert [figures[f"songs_reaching_{n}"] for n in (1, 3, 100)] == [2, 1, 0]
    # residuals 4 - 4·10/6 and 6 - 2·10/6 bits: ∓8/3; sqrt(2/1 · 2 · (8/3)²) / 6
    assert figures["nats_per_token_se"] == pytest.approx(math.log(2) * math.sqrt(4 * 64 / 9) / 6)


def test_intervals_by_hand():
    # 1,500 tokens at 1 nat, then 500 at 3; and a song of 10 tokens at 2 nats
    long = np.concatenate([np.full(1500, 1.0), np.full(500, 3.0)])
    bars = np.repeat([1, 4, 5, 9], 500)
    scores = [SongScore("jazz", long, 4, 8, bars), SongScore("folk", np.full(10, 2.0), 1, 1, np.ones(10))]
    lengths, positions = by_length(scores), by_position(scores)
    assert {name: f["songs"] for name, f in lengths.items()} == {"1-1,024": 1, "1,025-5,120": 1}
    assert lengths["1,025-5,120"]["nats_per_token"] == 1.5
    assert lengths["1,025-5,120"]["bits_per_bar"] == pytest.approx(3000 / math.log(2) / 4)
    assert positions["1-1,024"]["nats_per_token"] == pytest.approx((1024 + 20) / 1034)
    assert positions["1,025-5,120"] == {"songs": 1, "tokens": 976, "nats_per_token": (476 + 1500) / 976}
    assert list(by_position([SongScore("x", np.ones(10_241), 1, 1, np.ones(10_241))]))[-1] == "over 10,240"
    assert by_length([SongScore("x", np.ones(1024), 1, 1, np.ones(1024))]).keys() == {"1-1,024"}
    bars = by_bar(scores)
    assert {name: (f["songs"], f["tokens"], f["bars"]) for name, f in bars.items()} == {
        "1-4": (2, 1010, 3), "5-8": (1, 500, 1), "9-16": (1, 500, 1)
    }  # fmt: skip
    assert bars["1-4"]["bits_per_bar"] == pytest.approx(1020 / math.log(2) / 3)
    assert bars["9-16"]["nats_per_token"] == 3.0


@pytest.mark.parametrize("model_type", ["museformer", "gpt2"])
def test_chunks_through_the_cache_cost_the_same(model_type):
    torch.manual_seed(0)
    if model_type == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    else:
        config = MuseformerConfig.from_preset(
            "tiny", vocab_size=64, bar_token_id=BAR, position_token_start=10, num_positions=8, pad_token_id=0,
            bos_token_id=BOS, eos_token_id=EOS,
        )  # fmt: skip
        model = MuseformerForCausalLM(config)
    sequences = [song(*[BAR, 10, 20 + bars, 13, 21] * bars) for bars in (3, 8, 5)]
    masks = [supervised_mask(ids, BAR) for ids in sequences]
    whole = model_token_nll(model, sequences, masks)
    for step in (5, 16, 1000):
        for nll, expected in zip(model_token_nll(model, sequences, masks, chunk_tokens=step), whole):
            assert nll == pytest.approx(expected, abs=2e-4)
    with pytest.raises(ValueError, match="chunk_tokens=0"):
        batch_nll(model, torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long), chunk_tokens=0)


def test_losses_wait_on_disk_for_their_own_evaluation(tmp_path):
    store = LossStore(tmp_path / "parts", {"weights": "a", "songs": (1, 2)})
    store.add("test-x", {3: np.array([1.5], np.float32), 0: np.zeros(0, np.float32)})
    store.add("test-x", {1: np.array([0.1, 0.2], np.float32)})
    (tmp_path / "parts" / "test-x-000002.tmp").write_bytes(b"half a file")
    again = LossStore(tmp_path / "parts", {"weights": "a", "songs": (1, 2)})
    assert {song: nats.tolist() for song, nats in again.load("test-x").items()} == {
        3: [1.5], 0: [], 1: [np.float32(0.1), np.float32(0.2)],
    }  # fmt: skip
    assert again.load("test-y") == {}
    with pytest.raises(ValueError, match="with another weights; finish it"):
        LossStore(tmp_path / "parts", {"weights": "b", "songs": (1, 2)})
    again.remove()
    assert not (tmp_path / "parts").exists()


def test_the_fingerprint_sees_every_weight():
    model = torch.nn.Linear(3, 2)
    before = weights_fingerprint(model)
    assert weights_fingerprint(model) == before
    with torch.no_grad():
        model.bias[1] += 1e-6
    assert weights_fingerprint(model) != before


def test_figures_that_cannot_be_had():
    figures = summarise([SongScore("jazz", np.ones(3), 0, 0, np.zeros(3))])
    assert figures["nats_per_token_se"] is figures["bits_per_bar"] is figures["bits_per_note"] is None
    with pytest.raises(ValueError, match="no supervised token"):
        summarise([])


def test_subset_is_seeded_and_keeps_order():
    songs = [Song(np.array([i]), "x", str(i)) for i in range(20)]
    chosen = seeded_subset(songs, 5, seed=3)
    assert chosen == seeded_subset(songs, 5, seed=3) != seeded_subset(songs, 5, seed=4)
    assert fingerprint(chosen) == fingerprint(list(chosen)) != fingerprint(chosen[::-1])
    assert [int(s.md5) for s in chosen] == sorted(int(s.md5) for s in chosen)
    assert seeded_subset(songs, 20, 0) == seeded_subset(songs, None, 0) == songs


def rows(train, validation, test, ngram):
    losses = {"train": train, "validation": validation, "test": test}
    return {
        split: {
            "model": {"all_conditions": {"nats_per_token": loss}},
            "ngram": {"all_conditions": {"nats_per_token": ngram}},
        }
        for split, loss in losses.items()
    }


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (rows(1.0, 1.02, 1.03, 2.0), []),
        (rows(0.4, 1.0, 1.0, 2.0), ["validation loss is +0.600", "test loss is +0.600"]),
        (rows(1.0, 1.0, 1.1, 2.0), ["test loss is 1.100 times"]),
        (rows(1.0, 1.0, 1.0, 0.9), ["as good on validation", "as good on test"]),
    ],
)
def test_alarms(figures, words):
    alarms = find_alarms(figures, gap_alarm=0.5)
    assert len(alarms) == len(words)
    assert all(word in alarm for word, alarm in zip(words, alarms))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of grammatical random songs in two genres, with its processor."""
    folder = tmp_path_factory.mktemp("corpus")
    processor = MidiProcessor.from_preset("multitrack", genres=("Jazz", "Folk"))
    processor.save_pretrained(folder / "processor")
    rng = np.random.default_rng(0)
    (folder / "tokenized").mkdir()
    for split, size in (("train", 9), ("validation", 3), ("test", 4)):
        songs = []
        for i in range(size):
            genre = ("Jazz", "Folk")[i % 2]
            _, body = processor.split_prefix(processor.grammar.random_sequence(rng, num_bars=3))
            songs.append(([BOS, *processor.condition_ids({"genre": genre, "bars": 3}), *body], genre))
        table = pa.table(
            {
                "input_ids": pa.array([ids for ids, _ in songs], type=pa.list_(pa.int32())),
                "genre": [genre for _, genre in songs],
                "md5": [f"{split}{i}" for i in range(size)],
            }
        )
        table = table.replace_schema_metadata({"partimento.vocab_hash": processor.vocab_hash})
        for shard, part in enumerate((table.slice(0, 2), table.slice(2))):
            pq.write_table(part, folder / "tokenized" / f"{split}-{shard:05d}-of-00002.parquet")
    return folder


@pytest.fixture(scope="module")
def model_folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    processor = MidiProcessor.from_pretrained(corpus / "processor")
    torch.manual_seed(0)
    config = MuseformerConfig.from_preset("tiny", **processor.model_config_kwargs())
    MuseformerForCausalLM(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_songs_come_back_from_their_shards(corpus):
    songs = read_songs(corpus, "train")
    assert [s.md5 for s in songs] == [f"train{i}" for i in range(9)]
    assert all(s.ids[0] == BOS and s.ids[-1] == EOS and s.ids.dtype == np.int32 for s in songs)
    with pytest.raises(FileNotFoundError, match="prepare_data"):
        read_songs(corpus, "absent")


def test_the_tokens_that_count_are_those_of_training(corpus):
    processor = MidiProcessor.from_pretrained(corpus / "processor")
    training = TokenCorpus.from_parquet(corpus, "train", processor.vocabulary)
    crops = draw_crops(training, "none", 0, seed=0, epoch=0)
    batch = collate([cut_crop(training, crops, i) for i in range(len(crops))], processor.pad_token_id, False)
    sequences, masks = inputs_of(read_songs(corpus, "train"), "all_conditions", None, BAR)
    for ids, mask, row, labels in zip(sequences, masks, batch.inputs["input_ids"], batch.inputs["labels"]):
        assert row[: len(ids)].tolist() == ids.tolist()
        assert (labels != IGNORED)[: len(ids)].tolist() == mask.tolist()
    assert batch.num_supervised == sum(int(mask.sum()) for mask in masks)


def test_transposed_songs(corpus):
    processor = MidiProcessor.from_pretrained(corpus / "processor")
    songs = read_songs(corpus, "train")
    assert transposed(songs, 0, processor) is songs
    pitches = processor.tokenizer.get_vocab()["Pitch_60"], processor.tokenizer.get_vocab()["PitchDrum_60"]
    middle, drum = (replace(songs[0], ids=song(BAR, 100, pitch, prefix=())) for pitch in pitches)
    highest = replace(middle, ids=middle.ids + np.array([0, 0, 0, 67, 0]))
    for before, after in ((middle, [60, 62]), (drum, [60, 60])):
        moved = transposed([before], 2, processor)[0]
        assert moved.genre == before.genre
        assert moved.ids[3] - before.ids[3] == after[1] - after[0]
    assert transposed([highest], 1, processor) == []  # pitch 127 has nowhere to go


def test_report_of_the_program(corpus, model_folder, tmp_path, capsys):
    output = tmp_path / "reports" / "likelihood.json"
    evaluate_lm.main(["--model", str(model_folder), "--corpus", str(corpus), "-o", str(output)])
    report = json.loads(output.read_text())
    assert output.with_suffix(".md").read_text() in capsys.readouterr().out
    assert sorted(p.name for p in output.parent.iterdir()) == ["likelihood.json", "likelihood.md"]
    assert {s: f["songs"] for s, f in report["splits"].items()} == {"train": 4, "validation": 3, "test": 4}
    test = report["splits"]["test"]
    counted = CountedTokens.from_processor(MidiProcessor.from_pretrained(model_folder))
    songs = read_songs(corpus, "test")
    notes = sum(int(np.isin(s.ids, counted.note_token_ids).sum()) for s in songs)
    supervised = sum(int(supervised_mask(s.ids, BAR).sum()) for s in songs)
    for row in ("model", "ngram"):
        for conditions in ("all_conditions", "no_conditions"):
            figures = test[row][conditions]
            assert (figures["tokens"], figures["bars"], figures["notes"]) == (supervised, 12, notes)
            assert figures["perplexity"] == pytest.approx(math.exp(figures["nats_per_token"]))
    assert set(test["by_genre"]) == {"Jazz", "Folk"}
    assert sum(g["model"]["no_conditions"]["tokens"] for g in test["by_genre"].values()) == supervised
    # initial weights draw logits of unit size: worse than uniform, by less than a nat or so
    uniform = math.log(counted.vocab_size)
    assert uniform < test["model"]["all_conditions"]["nats_per_token"] < uniform + 2
    assert report["ngram"]["all_conditions"]["train_songs"] == 9
    assert any("n-gram" in alarm for alarm in report["alarms"])


def test_an_interrupted_evaluation_goes_on_and_reports_the_same(corpus, model_folder, tmp_path, monkeypatch, capsys):
    options = ["--model", str(model_folder), "--corpus", str(corpus), "--splits", "test", "--ngram", "0"]
    options += ["--batch-tokens", "200"]
    assert evaluate_lm.main([*options, "-o", str(tmp_path / "whole.json")]) == 0
    passes, iterate = [], evaluate_lm.iterate_token_nll

    def interrupted(*args, **kwargs):
        for batch in iterate(*args, **kwargs):
            passes.append(sorted(batch))
            yield batch
            if len(passes) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_lm, "iterate_token_nll", interrupted)
    output = tmp_path / "resumed.json"
    assert evaluate_lm.main([*options, "-o", str(output)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not output.exists()
    assert evaluate_lm.main([*options, "--max-tokens", "9", "-o", str(output)]) == 1
    assert "another max_tokens" in capsys.readouterr().err
    assert evaluate_lm.main([*options, "-o", str(output)]) == 0
    assert sum(map(len, passes)) == 2 * 4  # two conditions, four songs, none of them twice
    whole, resumed = (json.loads(path.read_text())["splits"]["test"] for path in (tmp_path / "whole.json", output))
    for figures in (whole, resumed):
        for conditions in ("all_conditions", "no_conditions"):
            del figures["model"][conditions]["seconds"]
    assert whole == resumed
    assert sum(whole["by_song"]["model"]["no_conditions"]["bars"]) == 12
    assert sorted(path.name for path in tmp_path.iterdir() if "parts" in path.name) == []


def test_ngram_alone_and_limits(corpus, tmp_path):
    output = tmp_path / "ngram.json"
    limits = ["--splits", "test", "--max-songs", "2", "--max-tokens", "20", "--ngram-transpose", "-1", "2"]
    evaluate_lm.main(["--corpus", str(corpus), *limits, "-o", str(output)])
    report = json.loads(output.read_text())
    assert report["model"] is None
    figures = report["splits"]["test"]["ngram"]["all_conditions"]
    assert figures["songs"] == 2
    assert figures["tokens"] == 2 * 19  # 20 tokens with BOS, whatever the prefix
    assert "model" not in report["splits"]["test"]
    once, often = report["ngram"], report["ngram_transposed"]
    assert often["semitones"] == [-1, 0, 1, 2]
    assert once["no_conditions"]["train_tokens"] < often["no_conditions"]["train_tokens"]
    assert often["no_conditions"]["train_tokens"] <= 4 * once["no_conditions"]["train_tokens"]
    assert "transposed" in output.with_suffix(".md").read_text()


def test_another_vocabulary_is_refused(corpus, tmp_path, capsys):
    other = tmp_path / "other"
    MidiProcessor.from_preset("multitrack", genres=("Folk", "Jazz", "Blues")).save_pretrained(other)
    (other / "config.json").write_text("{}")
    assert evaluate_lm.main(["--model", str(other), "--corpus", str(corpus), "-o", str(tmp_path / "r.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("evaluate_lm.py: vocabulary ")
    assert error.count("\n") == 1


def test_embedded_names_are_resolved(corpus, model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generation, "list_embedded", lambda: ["small"])
    monkeypatch.setattr(generation, "embedded_checkpoint", lambda name: model_folder)
    options = ["--corpus", str(corpus), "--ngram", "0", "--splits", "test", "--max-songs", "1"]
    options += ["-o", str(tmp_path / "r.json")]
    assert evaluate_lm.main(["--model", "small", *options]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "small"
    assert evaluate_lm.main(["--model", "small", "--conditions", "all", *options]) == 0
    figures = json.loads((tmp_path / "r.json").read_text())["splits"]["test"]
    assert list(figures["model"]) == list(figures["by_song"]["model"]) == ["all_conditions"]
    assert "no conditions" not in (tmp_path / "r.md").read_text()
    assert evaluate_lm.main(["--model", "smal", *options]) == 1
    assert "evaluate_lm.py: smal: not a model folder" in capsys.readouterr().err
    assert evaluate_lm.main(["--model", "small", "--device", "toaster", *options]) == 1
    assert "--device toaster: no such device" in capsys.readouterr().err
    assert evaluate_lm.main(["--corpus", str(tmp_path), "-o", str(tmp_path / "r.json")]) == 1
    assert "no corpus" in capsys.readouterr().err


def test_report_name_must_leave_room_for_markdown(corpus, tmp_path, capsys):
    assert evaluate_lm.main(["--corpus", str(corpus), "-o", str(tmp_path / "report.md")]) == 1
    assert "report.json" in capsys.readouterr().err

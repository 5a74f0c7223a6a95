"""Checks of generated pieces, on pieces composed so that each check holds or fails, and the report of the program."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from partimento.tokenization import MidiProcessor
from partimento.training import evaluate_samples, ngram_lm
from partimento.training.sample_checks import (
    CHECKS,
    DEFAULT_INSTRUMENTS,
    CheckedSample,
    Request,
    check_sample,
    count_duplicates,
    plan_requests,
    rate,
    relative_key,
    summarise_samples,
)

PROGRAM_OF = {"piano": 0, "guitar": 25, "bass": 33, "strings": 40, "organ": 16, "drums": -1}
SCALE = {"C-major": (60, 62, 64, 65, 67, 69, 71, 72), "A-minor": (69, 71, 72, 74, 76, 77, 80, 81)}


@pytest.fixture(scope="module")
def processor():
    return MidiProcessor.from_preset("multitrack", genres=("Jazz", "Folk", "Pop-Rock"))


def compose(processor, request, *, instruments=None, bars=None, tempo=None, key="C-major", empty=(), shift=0):
    """Token ids of a piece that does what `request` asks, but for what is given."""
    vocabulary = processor.tokenizer.get_vocab()
    instruments = request.instruments if instruments is None else instruments
    programs = sorted((PROGRAM_OF[family] for family in instruments), key=lambda p: (p < 0, p))
    tempos = {float(name.split("_")[1]): name for name in vocabulary if name.startswith("Tempo_")}
    nearest = tempos[min(tempos, key=lambda bpm: abs(bpm - (tempo or request.tempo or 120)))]
    conditions = {name: value for name, value in request.arguments().items() if name != "seed" and value}
    tokens, running = [], None
    for bar in range(bars or request.bars):
        tokens.append("Bar_None")
        if bar in empty:
            continue
        for step, pitch in enumerate(SCALE[key] if bar % 4 == 0 else (SCALE[key][0], SCALE[key][4])):
            tokens.append(f"Position_{6 * step}")
            if nearest:
                tokens, nearest = [*tokens, nearest], None
            for program in programs:
                if program != running:
                    tokens.append(f"Program_{program}")
                    running = program
                tokens.append("PitchDrum_36" if program < 0 else f"Pitch_{pitch + shift}")
                tokens += ["Velocity_99", "Duration_0.6.12"]
    ids = [vocabulary[token] for token in tokens]
    return [processor.bos_token_id, *processor.condition_ids(conditions), *ids, processor.eos_token_id]


def output_of(ids, complete=True, transposed=0):
    return SimpleNamespace(ids=ids, seconds=0.5, complete=complete, transposed=transposed)


REQUEST = Request("Jazz", ("piano", "bass", "drums"), bars=8, tempo=100.0, key="C-major", seed=0)


def test_an_obedient_piece_passes_every_check(processor):
    sample = check_sample(REQUEST, output_of(compose(processor, REQUEST)), processor, constrained=True)
    assert sample.error is None
    assert sample.checks == dict.fromkeys(CHECKS, True)
    assert sample.asked_heard == {"piano": True, "bass": True, "drums": True}
    assert (sample.num_bars, sample.num_empty_bars) == (8, 0)
    assert sample.num_notes == 3 * (2 * 8 + 6 * 2)  # two bars with eight onsets, six with two, three instruments


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"instruments": ("piano", "bass")}, {"instruments", "drums"}),
        ({"instruments": ("piano", "bass", "drums", "strings")}, {"no_other_instrument"}),
        ({"bars": 7}, {"bars"}),
        ({"bars": 9}, {"bars", "bars_bin"}),
        ({"tempo": 150}, {"tempo"}),
        ({"key": "A-minor"}, {"key"}),
        ({"shift": 1}, {"key", "key_or_relative", "key_untransposed"}),
    ],
)
def test_each_disobedience_fails_its_check_alone(processor, change, failing):
    sample = check_sample(REQUEST, output_of(compose(processor, REQUEST, **change)), processor, constrained=True)
    assert {name for name, value in sample.checks.items() if value is not True} == failing


def test_a_transposed_piece_was_not_written_in_its_key(processor):
    output = output_of(compose(processor, REQUEST), transposed=2)
    sample = check_sample(REQUEST, output, processor, constrained=True)
    assert {name for name, value in sample.checks.items() if value is not True} == {"key_untransposed"}


def test_what_was_not_asked_is_not_checked(processor):
    request = Request(None, ("piano",), bars=4, tempo=None, key=None, seed=0)
    checks = check_sample(request, output_of(compose(processor, request)), processor, constrained=False).checks
    assert {name for name, value in checks.items() if value is None} == {
        *("tempo", "key", "key_or_relative", "key_untransposed", "drums")
    }


def test_drums_have_no_key(processor):
    request = Request("Jazz", ("drums",), bars=8, tempo=100.0, key="C-major", seed=0)
    checks = check_sample(request, output_of(compose(processor, request)), processor, constrained=True).checks
    assert {name for name, value in checks.items() if value is None} == {"key", "key_or_relative", "key_untransposed"}


def test_empty_bars_and_silence(processor):
    ids = compose(processor, REQUEST, empty=(1, 2, 6))
    sample = check_sample(REQUEST, output_of(ids), processor, constrained=True)
    assert (sample.num_bars, sample.num_empty_bars) == (8, 3)
    silent = compose(processor, REQUEST, empty=range(8))
    sample = check_sample(REQUEST, output_of(silent), processor, constrained=True)
    assert sample.num_notes == 0
    assert sample.checks["decodes"]
    assert sample.checks["instruments"] is False


def test_a_piece_cut_short_is_reported(processor):
    ids = compose(processor, REQUEST)
    assert check_sample(REQUEST, output_of(ids, False), processor, constrained=True).checks["complete"] is False
    assert check_sample(REQUEST, output_of(ids, False), processor, constrained=False).checks["complete"] is True
    assert check_sample(REQUEST, output_of(ids[:-1]), processor, constrained=False).checks["complete"] is False


def test_an_ungrammatical_piece_is_a_failed_check(processor):
    ids = compose(processor, REQUEST)
    ids.insert(-1, processor.tokenizer.get_vocab()["Velocity_99"])
    sample = check_sample(REQUEST, output_of(ids), processor, constrained=True)
    assert sample.checks["grammatical"] is False
    assert "Velocity_99" in sample.error


def test_relative_keys():
    assert (relative_key("C-major"), relative_key("A-minor")) == ("A-minor", "C-major")
    assert (relative_key("Eb-major"), relative_key("F#-minor")) == ("C-minor", "A-major")


def test_rates():
    assert rate([True, None, False, True]) == {"count": 2, "of": 3, "rate": 2 / 3}
    assert rate([None]) is None


def test_requests_go_round_the_genres_and_are_seeded():
    table = {"Folk": [{"genre": "Folk", "instruments": ["strings"], "tempo": 97.5, "key": "A-minor"}]}
    requests = plan_requests(["Jazz", "Folk"], 40, 16, 5, table)
    assert requests == plan_requests(["Jazz", "Folk"], 40, 16, 5, table)
    assert requests != plan_requests(["Jazz", "Folk"], 40, 16, 6, table)
    assert [r.genre for r in requests] == ["Jazz", "Folk"] * 20
    assert [r.seed for r in requests] == [5 + i // 2 for i in range(40)]
    assert {r.instruments for r in requests if r.genre == "Jazz"} <= set(DEFAULT_INSTRUMENTS)
    folk = [r for r in requests if r.genre == "Folk"]
    assert {(r.instruments, r.tempo) for r in folk} == {(("strings",), 97.5)}
    assert {r.key for r in folk} == {None, "A-minor"}
    assert 8 < sum(r.key is not None for r in requests) < 32


def test_duplicates_by_hand():
    def sample(genre, seed, *body):
        return CheckedSample(Request(genre, ("piano",), 1, None, None, seed), dict.fromkeys(CHECKS), body=body)

    samples = [sample("Jazz", 0, 1, 2), sample("Folk", 0, 1, 2), sample("Jazz", 1, 3), sample("Folk", 1, 4)]
    samples.append(sample("Jazz", 2, 3))
    assert count_duplicates(samples) == {
        "samples": 4,
        "same_seed_other_genre_pairs": 2,
        "same_seed_other_genre_equal": 1,
    }


def test_summary_by_hand(processor):
    good = check_sample(REQUEST, output_of(compose(processor, REQUEST)), processor, constrained=True)
    ids = compose(processor, REQUEST, instruments=("piano",), empty=(1,))
    poor = check_sample(REQUEST, output_of(ids), processor, constrained=True)
    summary = summarise_samples([good, poor])
    assert summary["checks"]["instruments"] == {"count": 1, "of": 2, "rate": 0.5}
    assert summary["asked_instruments_heard"] == {"count": 4, "of": 6, "rate": 4 / 6}
    assert summary["by_instrument"]["bass"]["count"] == 1
    assert summary["empty_bars"] == {"count": 1, "of": 16}
    assert summary["notes_per_bar"] == (84 + 26) / 16
    assert summary["bars_per_sample"] == 8


class StandIn:
    """A generator that obeys when it is constrained, and else forgets the drums and one bar."""

    def __init__(self, processor):
        self.processor = processor
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.model.weight)

    @classmethod
    def from_pretrained(cls, name, device=None):
        return cls(MidiProcessor.from_pretrained(name))

    def generate(self, *, constrain, on_bar, temperature, top_k, top_p, **wishes):
        request = Request(**{**wishes, "instruments": tuple(wishes["instruments"])})
        change = {} if constrain else {"instruments": set(request.instruments) - {"drums"}, "bars": request.bars - 1}
        on_bar(0, 1, request.bars)
        ids = compose(self.processor, request, key="C-major", **change)
        return [SimpleNamespace(ids=ids, seconds=0.5, complete=True, transposed=0)]


def test_report_of_the_program(processor, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ngram_lm, "MidiGenerator", StandIn)
    processor.save_pretrained(tmp_path / "model")
    output = tmp_path / "samples.json"
    arguments = ["--model", str(tmp_path / "model"), "-n", "12", "--bars", "6", "-o", str(output)]
    assert not evaluate_samples.main([*arguments, "--save-midi", str(tmp_path / "midi")])
    report = json.loads(output.read_text())
    assert output.with_suffix(".md").read_text() in capsys.readouterr().out
    constrained, free = report["modes"]["constrained"], report["modes"]["conditions_only"]
    for name in ("decodes", "grammatical", "complete", "bars", "tempo", "instruments", "no_other_instrument"):
        assert constrained["checks"][name] == {"count": 12, "of": 12, "rate": 1.0}, name
    asked_drums = sum("drums" in r["instruments"] for r in free["requests"])
    assert free["checks"]["bars"]["count"] == 0
    assert free["checks"]["bars_bin"]["count"] == 12
    assert free["checks"]["drums"] == {"count": 0, "of": asked_drums, "rate": 0.0}
    assert set(constrained["by_genre"]) == {"Jazz", "Folk", "Pop-Rock"}
    assert len(list((tmp_path / "midi").iterdir())) == 24


def test_requests_follow_the_training_songs(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(ngram_lm, "MidiGenerator", StandIn)
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "tokenized").mkdir()
    songs = [Request(genre, ("organ", "drums"), 4, 150.0, "A-minor", 0) for genre in processor.labels("genre")]
    table = pa.table(
        {
            "input_ids": pa.array([compose(processor, song) for song in songs], type=pa.list_(pa.int32())),
            "genre": [song.genre for song in songs],
            "md5": ["0", "1", "2"],
        }
    )
    pq.write_table(table, tmp_path / "tokenized" / "train-00000-of-00001.parquet")
    output = tmp_path / "samples.json"
    arguments = ["--model", str(tmp_path / "model"), "--corpus", str(tmp_path), "-n", "6", "-o", str(output)]
    assert not evaluate_samples.main([*arguments, "--modes", "constrained", "--bars", "4"])
    requests = json.loads(output.read_text())["modes"]["constrained"]["requests"]
    assert all(r["instruments"] == ["organ", "drums"] for r in requests)
    assert {r["key"] for r in requests} <= {None, "A-minor"}
    assert np.ptp([r["tempo"] for r in requests]) == 0


class Interrupted(StandIn):
    """Is interrupted at its sixth sample, once."""

    calls = 0

    def generate(self, **options):
        Interrupted.calls += 1
        if Interrupted.calls == 6:
            raise KeyboardInterrupt
        return super().generate(**options)


def test_an_interrupted_run_goes_on_behind_its_last_sample(processor, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ngram_lm, "MidiGenerator", Interrupted)
    processor.save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--bars", "4", "-o", str(tmp_path / "samples.json")]
    assert evaluate_samples.main([*arguments, "-n", "4"]) == 130
    assert "goes on" in capsys.readouterr().err
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 5  # a header, four constrained samples and one more
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write(lines[-1][:50])  # the process died in the middle of a line
    assert evaluate_samples.main([*arguments, "-n", "4"]) == 0
    assert Interrupted.calls == 9  # eight samples and the interrupted call
    report = json.loads((tmp_path / "samples.json").read_text())
    assert {mode: figures["samples"] for mode, figures in report["modes"].items()} == dict.fromkeys(
        ("constrained", "conditions_only"), 4
    )
    assert evaluate_samples.main([*arguments, "-n", "6"]) == 0
    assert Interrupted.calls == 9 + 4  # what was there is used again
    assert evaluate_samples.main([*arguments, "-n", "4", "--temperature", "0.5"]) == 1
    assert "samples with another temperature; choose another output" in capsys.readouterr().err
    assert evaluate_samples.main([*arguments, "-n", "4", "--seed", "9"]) == 1
    assert "sample 0 (constrained) answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bars", "0"], "--bars 0: give a value from 1 to 256"),
        (["-n", "0"], "--num-samples 0"),
        (["--top-p", "2"], "--top-p 2.0"),
        (["--melody", "tuba"], "families ['tuba'] are unknown"),
        (["--corpus", "nowhere"], "nowhere: no tokenized/train-*.parquet"),
        (["-o", "report.md"], "give the name of the JSON file"),
        (["-o", "report.jsonl"], "name of the samples"),
        (["--device", "toaster"], "--device toaster: no such device"),
        (["--device", "cuda:99"], "GPUs that PyTorch can use"),
        ([], "not a model folder"),
    ],
)
def test_bad_input_is_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate_samples.main(["--model", "absent", "-o", "report.json", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("evaluate_samples.py: ")
    assert words in error
    assert error.count("\n") == 1


def write_corpus(folder, processor, **splits):
    (folder / "tokenized").mkdir()
    for split, songs in splits.items():
        table = pa.table(
            {
                "input_ids": pa.array(songs, type=pa.list_(pa.int32())),
                "genre": ["Jazz"] * len(songs),
                "md5": [f"{split}{i}" for i in range(len(songs))],
            }
        )
        metadata = {"partimento.vocab_hash": processor.vocab_hash}
        pq.write_table(table.replace_schema_metadata(metadata), folder / "tokenized" / f"{split}-0.parquet")


def test_samples_that_are_the_training_songs_have_no_error_and_are_copies(processor, tmp_path, monkeypatch):
    """The stand-in writes one piece only, and that is the whole training set."""
    monkeypatch.setattr(ngram_lm, "MidiGenerator", StandIn)
    processor.save_pretrained(tmp_path / "model")
    request = Request("Jazz", ("piano", "drums"), 9, 150.0, None, 0)
    theirs, other = compose(processor, request), compose(processor, request, key="A-minor", bars=12, empty=(1, 4))
    write_corpus(tmp_path, processor, train=[theirs], validation=[other, compose(processor, request, bars=3)])
    output = tmp_path / "form.json"
    arguments = ["--model", str(tmp_path / "model"), "--corpus", str(tmp_path), "-n", "6", "--bars", "9"]
    assert evaluate_samples.main([*arguments, "--modes", "constrained", "-o", str(output)]) == 0
    form = json.loads(output.read_text())["form"]
    ours, held_out = form["sets"]["constrained"], form["sets"]["held_out"]
    for tracks in ("melody", "all"):
        for average in ("pooled", "per_song"):
            assert form["training"]["similarity"][tracks][average]["similarity_error"] == 0
    assert held_out["pieces"] == 1  # the other one is too short
    assert held_out["bars"] == [9]
    # Bars 0, 4 and 8 have eight notes, the others two, of which one is common to all: 1 at t = 4, else 1 of 9.
    melody = form["training"]["similarity"]["melody"]["pooled"]
    assert melody["lags"] == 8
    assert melody["curve"][3] == melody["curve"][7] == 100
    assert melody["curve"][0] == pytest.approx(100 * (4 / 9 + 4 * 1) / 8, abs=1e-4)
    copied = ours["copies"]["notes"]
    jazz = [i for i, r in enumerate(json.loads(output.read_text())["modes"]["constrained"]["requests"])
            if set(r["instruments"]) == {"piano", "drums"} and r["genre"] == "Jazz"]  # fmt: skip
    assert jazz
    for i in jazz:
        assert (copied["each"][i], copied["found_in"][i]) == (2 * (3 * 8 + 6 * 2), "train0")
    assert form["training"]["descriptors"]["notes_per_bar"] == copied["each"][jazz[0]] / 9
    assert ours["descriptors"]["empty_bars"] == 0
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "similarity error" in output.with_suffix(".md").read_text()

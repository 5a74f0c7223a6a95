"""Fine-tuning in one command: from MIDI files to a playable folder; finished steps are kept, too few songs named."""

import json

import pytest
from safetensors.torch import load_file

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM
from partimento.pipelines import MidiGenerator
from partimento.tokenization import MidiProcessor
from partimento.training import comparison_runs, evaluate_lm, fine_tune, prepare_data
from partimento.training.token_corpus import TokenCorpus

SMALL = {"hidden_size": 32, "intermediate_size": 48, "bar_embedding_size": 8, "beat_embedding_size": 8}


@pytest.fixture
def base(tmp_path):
    """A folder with an untrained model and its processor."""
    processor = MidiProcessor.from_preset("multitrack", genres=["Jazz"])
    config = MuseformerConfig.from_preset("tiny", **SMALL, **processor.model_config_kwargs())
    MuseformerForCausalLM(config).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def in_this_process(monkeypatch, run_training):
    """Run the steps here; returns their titles."""
    titles = []
    programs = {"evaluate_lm.py": evaluate_lm, "prepare_data.py": prepare_data}

    def run_step(step):
        titles.append(step.title)
        if step.program == "train.py":
            assert run_training(step.arguments[1], *step.arguments[2:]) == 0
        elif step.program in programs:
            assert programs[step.program].main(list(step.arguments)) == 0
        else:
            comparison_runs.run_step(step)

    monkeypatch.setattr(fine_tune, "run_step", run_step)
    return titles


def write_songs(make_score, folder, number: int):
    folder.mkdir()
    for seed in range(number):
        make_score(seed, num_bars=6, programs=(0, 33)).dump_midi(str(folder / f"{seed}.mid"))
    return folder


def test_a_folder_of_songs_becomes_a_model(base, in_this_process, make_score, tmp_path, capsys):
    songs, output = write_songs(make_score, tmp_path / "mine", 14), tmp_path / "out"
    command = [str(songs), "--model", str(base), "--lora", "2", "--scratch", "-o", str(output), "--set"]
    command += ["train.max_updates=3", "train.warmup_updates=0", "train.cooldown_updates=0"]
    command += ["train.eval_every=1", "train.num_threads=1"]
    assert fine_tune.main(command) == 0
    report = json.loads((output / "fine_tune.json").read_text())
    assert sum(report["songs"].values()) == 14
    figures = report["nats_per_token"]
    assert set(figures) == {"before", "tuned", "scratch"}
    assert figures["tuned"]["train"] < figures["before"]["train"]  # random weights learn from three updates
    scratch = json.loads((output / "scratch" / "run.json").read_text())["model_config"]
    assert {key: scratch[key] for key in SMALL} == SMALL
    tuned, before = load_file(output / "model" / "model.safetensors"), load_file(base / "model.safetensors")
    assert tuned.keys() == before.keys()
    assert "museformer" in (output / "model" / "config.json").read_text()
    assert "| fine-tuned |" in (output / "model" / "README.md").read_text()
    assert TokenCorpus.from_parquet(output / "corpus", "train", MidiProcessor.from_pretrained(base).vocabulary)
    piece = MidiGenerator.from_pretrained(output / "model").generate(bars=2, seed=0)[0]
    assert piece.num_bars == 2

    done = len(in_this_process)
    assert fine_tune.main(command) == 0
    assert len(in_this_process) == done
    assert fine_tune.main([*command, "train.seed=1"]) == 1
    assert "holds runs with other training: choose another --output" in capsys.readouterr().err


def test_too_few_songs_are_named_before_anything_is_trained(base, in_this_process, make_score, tmp_path, capsys):
    songs = write_songs(make_score, tmp_path / "mine", 2)
    assert fine_tune.main([str(songs), "--model", str(base), "-o", str(tmp_path / "out")]) == 1
    assert "2 usable songs" in (error := capsys.readouterr().err)
    assert "at least ten are needed" in error
    assert in_this_process == ["preparing the songs"]

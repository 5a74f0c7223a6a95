"""Exporting a run: the folder is complete, half precision, and its card quotes the figures of the reports."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.modeling.museformer import MuseformerConfig, MuseformerForCausalLM
from partimento.tokenization import MidiProcessor, MusicVAEProcessor
from partimento.training.export_to_hub import export, fill_card, run_figures


@pytest.fixture
def run(tmp_path):
    """The folder of a short run with an untrained model in best/."""
    best = tmp_path / "run" / "best"
    processor = MidiProcessor.from_preset("multitrack", genres=["Jazz"])
    MuseformerForCausalLM(MuseformerConfig.from_preset("tiny", **processor.model_config_kwargs())).save_pretrained(best)
    processor.save_pretrained(best)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"commit": "abc"}))
    lines = [
        {"kind": "validation", "update": 0, "best": True},
        {"kind": "train", "update": 5, "tokens_seen": 50, "seconds": 60},
        {"kind": "validation", "update": 5, "best": True},
        {"kind": "train", "update": 9, "tokens_seen": 90, "seconds": 120},
        {"kind": "validation", "update": 9, "best": False},
    ]
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "run" / "curves.png").write_bytes(b"picture")
    return tmp_path / "run"


def test_export_is_complete_and_repeatable(run, tmp_path):
    output = tmp_path / "model"
    export(run / "best", output, torch.float16, card="---\nlicense: x\n---\n")
    config = json.loads((output / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_museformer.MuseformerModel"
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_museformer.MuseformerForCausalLM"
    names = {path.name for path in output.iterdir()}
    assert {"README.md", "curves.png", "generation_config.json", "miditok.json", "processor_config.json"} <= names
    weights = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    original = AutoModelForCausalLM.from_pretrained(run / "best").state_dict()
    assert all(torch.equal(weights[name], original[name].half()) for name in original)

    before = (output / "model.safetensors").read_bytes()
    export(output, output, torch.float16)  # new code into an old folder: card, picture and weights stay
    assert (output / "README.md").read_text() == "---\nlicense: x\n---\n"
    assert (output / "curves.png").is_file()
    assert (output / "model.safetensors").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert AutoConfig.from_pretrained(output).vocab_size == config["vocab_size"]


def test_export_of_an_autoencoder(tmp_path, monkeypatch):
    source, output = tmp_path / "run" / "best", tmp_path / "model"
    processor = MusicVAEProcessor("drums")
    sizes = {"z_size": 4, "encoder_hidden_sizes": (8,), "decoder_hidden_sizes": (8,)}
    model = MusicVAEModel(MusicVAEConfig(**processor.model_config_kwargs(), **sizes))
    model.save_pretrained(source)
    processor.save_pretrained(source)
    (source / "latent_info.json").write_text("{}")
    (tmp_path / "strips.png").write_bytes(b"picture")
    export(source, output, torch.float16, card="---\n---\n", files=[tmp_path / "strips.png"])
    config = json.loads((output / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_musicvae.MusicVAEModel"
    assert config["auto_map"]["AutoModelForSeq2SeqLM"] == "modeling_musicvae.MusicVAEModel"
    assert config["auto_map"]["AutoConfig"] == "configuration_musicvae.MusicVAEConfig"
    names = {path.name for path in output.iterdir()}
    assert {"README.md", "strips.png", "latent_info.json", "processor_config.json", "encoder_musicvae.py"} <= names
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float16}
    half = AutoModel.from_pretrained(output)  # as it is stored: half precision works on a CPU too
    ids = torch.randint(512, (2, 32))
    assert half.decode(half.encode(ids).mu).shape == (2, 32)
    assert torch.isfinite(half(ids, labels=ids).loss)

    export(output, output, torch.float16)
    assert {path.name for path in output.iterdir()} == names
    with pytest.raises(ValueError, match=r"there is no .*absent\.json"):
        export(source, output, torch.float16, files=[tmp_path / "absent.json"])
    MusicVAEProcessor("drums", num_bars=4).save_pretrained(source)
    with pytest.raises(ValueError, match="num_bars is 2 in the model, 4 in the processor"):
        export(source, output, torch.float16)


def test_card_quotes_the_reports(run):
    figures = {"likelihood": {"test": {"nats": 1.23456, "songs": 1234}}, **run_figures(run)}
    text = (
        "{{likelihood.test.nats:.3f}} over {{likelihood.test.songs:,}} songs, update {{run.update}} at {{run.commit}}"
    )
    assert fill_card(text, figures) == "1.235 over 1,234 songs, update 5 at abc"
    assert figures["run"]["tokens_seen"] == 50
    assert fill_card("{{a.1:.1f}} {{b}}", {"a": [1, 2.5], "b": True}) == "2.5 yes"
    with pytest.raises(ValueError, match=r"likelihood\.train"):
        fill_card("{{likelihood.train.nats}}", figures)

"""A recurrent model exported for the Hub writes music through the pipeline like any other checkpoint."""

import json

import pytest
import torch
from safetensors.torch import load_file

from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
from partimento.pipelines import MidiGenerator
from partimento.pipelines.description import describe_model
from partimento.tokenization import MidiProcessor
from partimento.training.export_to_hub import export, fill_card


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported GRU with random weights."""
    source = tmp_path_factory.mktemp("run") / "best"
    processor = MidiProcessor.from_preset("multitrack", genres=["Jazz"])
    names = ("vocab_size", "bar_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
    facts = {name: processor.model_config_kwargs()[name] for name in names}
    torch.manual_seed(0)
    config = RecurrentConfig(cell_type="gru", hidden_size=16, embedding_size=8, **facts)
    RecurrentForCausalLM(config).save_pretrained(source)
    processor.save_pretrained(source)
    output = source.parent / "model"
    export(source, output, torch.float16, card="---\nlicense: x\n---\n")
    return output


def test_the_folder_is_complete(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_recurrent.RecurrentModel"
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_recurrent.RecurrentForCausalLM"
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "generation_config.json", "processor_config.json", "tokenizer.json"} <= names
    assert {f"{part}_recurrent.py" for part in ("cache", "cells", "configuration", "modeling")} <= names
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}


def test_it_writes_what_is_asked_bar_by_bar(folder):
    generator = MidiGenerator.from_pretrained(folder, device="cpu")
    bars = []
    request = {"genre": "Jazz", "instruments": ["piano", "drums"], "tempo": 120, "bars": 3, "seed": 5}
    piece = generator.generate(**request, top_k=1, on_bar=lambda output, bar, total: bars.append((bar, total)))[0]
    generator.processor.validate(piece.ids)
    assert piece.num_bars == 3
    assert [total for _, total in bars] == [3, 3, 3]
    programs = {-1 if track.is_drum else track.program for track in piece.score.tracks if len(track.notes)}
    assert programs <= {-1, *range(8)}
    assert generator.generate(**request, top_k=1)[0].ids == piece.ids
    longer = generator.continue_midi(piece.score, bars=1, seed=1)[0]
    assert longer.num_bars == 4
    facts = describe_model(str(folder))
    assert (facts["architecture"], facts["hidden_size"], facts["genres"]) == ("music_recurrent", 16, ["Jazz"])


def test_a_card_may_name_an_interval():
    figures = {"by_length": {"1-1,024": {"nats": 1.25}, "over 10,240": {"songs": 1234}}}
    assert fill_card("{{by_length.1-1,024.nats:.1f}}, {{by_length.over 10,240.songs:,}}", figures) == "1.2, 1,234"

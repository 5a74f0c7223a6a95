"""The configuration is strict and survives a round trip."""

import dataclasses

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM, MuseformerModel

INVALID = (ValueError, TypeError, StrictDataclassError)


@pytest.mark.parametrize(
    "field",
    [
        {"vocab_size": "abc"},
        {"hidden_size": 30},
        {"num_attention_heads": 0},
        {"fine_offsets": (1, 1, 2)},
        {"fine_offsets": (2, 1)},
        {"fine_offsets": (0, 1)},
        {"fine_offsets": "1,2"},
        {"coarse_attention": "yes"},
        {"dropout": 1.0},
        {"attention_dropout": -0.1},
        {"bar_embedding_size": 3},
        {"bar_token_id": 640},
        {"bar_token_id": 7},
        {"eos_token_id": 0},
        {"num_positions": 1000},
        {"pad_token_id": None},
        {"tie_word_embeddings": True},
        {"hiden_size": 128},
        {"fine_offset": (1, 2)},
    ],
)
def test_bad_values_are_rejected(field):
    with pytest.raises(INVALID):
        MuseformerConfig(**field)


def test_integer_dropout_is_accepted():
    assert MuseformerConfig(dropout=0, attention_dropout=0).dropout == 0


def test_validation_reaches_overrides_on_load(tmp_path):
    MuseformerForCausalLM(MuseformerConfig.from_preset("tiny")).save_pretrained(tmp_path)
    with pytest.raises(INVALID):
        MuseformerForCausalLM.from_pretrained(tmp_path, num_attention_heads=5)


@pytest.mark.parametrize("offsets", [(1, 2, 4), (), None])
def test_round_trip(tmp_path, offsets):
    config = MuseformerConfig.from_preset("small", fine_offsets=offsets, coarse_attention=False, num_positions=144)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MuseformerConfig
    for field in dataclasses.fields(MuseformerConfig):
        if field.name != "transformers_version":
            assert getattr(loaded, field.name) == getattr(config, field.name), field.name


def test_presets():
    with pytest.raises(ValueError, match="unknown preset"):
        MuseformerConfig.from_preset("huge")
    with pytest.raises(ValueError, match="hiden_size"):
        MuseformerConfig.from_preset("tiny", hiden_size=1)
    assert len(MuseformerConfig.__annotations__) <= 25


@pytest.mark.parametrize(
    ("preset", "vocab_size", "expected"),
    [("paper", 560, 16_141_312), ("paper", 640, 16_223_232), ("small", 640, 4_228_608), ("tiny", 640, 680_704)],
)
def test_parameter_count(preset, vocab_size, expected):
    with torch.device("meta"):
        model = MuseformerForCausalLM(MuseformerConfig.from_preset(preset, vocab_size=vocab_size))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_auto_classes():
    config = MuseformerConfig.from_preset("tiny")
    assert type(AutoModel.from_config(config)) is MuseformerModel
    assert type(AutoModelForCausalLM.from_config(config)) is MuseformerForCausalLM


def test_auto_processor_finds_the_midi_processor(tmp_path):
    from transformers import AutoProcessor

    from partimento.tokenization import MidiProcessor

    MidiProcessor.from_preset("six_track").save_pretrained(tmp_path)
    MuseformerConfig.from_preset("tiny").save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is MidiProcessor


def test_unknown_attention_is_rejected():
    with pytest.raises(ValueError, match="bar_gather"):
        MuseformerForCausalLM._from_config(
            MuseformerConfig.from_preset("tiny"), attn_implementation="flash_attention_2"
        )

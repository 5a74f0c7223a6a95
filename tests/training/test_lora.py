"""Adapters: nothing changes before training, only they are trained, and the merged export equals the adapted model."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM, RecurrentConfig, RecurrentForCausalLM
from partimento.training.lora import add_lora, has_lora, merged_state_dict
from partimento.training.model_setup import export_model


def tiny(processor) -> MuseformerForCausalLM:
    torch.manual_seed(0)
    facts = processor.model_config_kwargs()
    config = MuseformerConfig.from_preset("tiny", hidden_size=32, intermediate_size=48, **facts)
    return MuseformerForCausalLM(config).eval()


@pytest.fixture
def music(train_processor):
    """Two rows of five bars with notes: the last bar sees the first two through their summaries."""
    ids, names = train_processor.vocabulary.ids, ["Bar_None", "Position_0", "Program_0", "Pitch_60", "Velocity_99"]
    bar = [
        ids[name] for name in [*names, "Duration_1.0.12", "Position_12", "Pitch_62", "Velocity_99", "Duration_1.0.12"]
    ]
    row = [train_processor.bos_token_id, *bar * 5]
    return torch.tensor([row, row])


def test_museformer_learns_through_every_adapter_and_its_export_is_plain(train_processor, music, tmp_path):
    model = tiny(train_processor)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(music).logits
    assert not has_lora(model)
    add_lora(model, rank=2)
    assert has_lora(model)
    assert torch.equal(model(music).logits, expected)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert sum(name.endswith("qkv_proj.lora_A.default.weight") for name in trained) == model.config.num_hidden_layers
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # B is zero at first, so A moves from the second step on
        model(music, labels=music).loss.backward()
        optimizer.step()
    unmoved = {name for name in trained if not dict(model.named_parameters())[name].grad.abs().sum()}
    assert not unmoved
    adapted = model(music).logits
    assert not torch.allclose(adapted, expected, atol=1e-3)
    state = model.state_dict()
    assert all(torch.equal(state[name.replace(".base_layer", "")], before[name.replace(".base_layer", "")]) for name in
               state if "lora" not in name and "base_layer" not in name)  # fmt: skip
    assert all(torch.equal(tensor, before[name.replace("base_layer.", "")]) for name, tensor in state.items()
               if "base_layer" in name)  # fmt: skip
    assert merged_state_dict(model, state).keys() == before.keys()

    export_model(tmp_path / "model", model, train_processor, state)
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == before.keys()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(plain(music).logits, adapted, atol=1e-5, rtol=1e-5)


def test_decoding_with_adapters_equals_the_whole_sequence(train_processor, music):
    model = tiny(train_processor)
    add_lora(model, rank=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.1)
        expected = model(music).logits
        outputs, steps = None, []
        for token in music.split(1, 1):
            outputs = model(token, past_key_values=None if outputs is None else outputs.past_key_values, use_cache=True)
            steps.append(outputs.logits)
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-5, rtol=1e-5)


def test_a_run_with_adapters_resumes_exactly_and_its_best_folder_loads(recipe, run_training, logged, tmp_path):
    base = recipe("base", train__max_updates=2)
    assert run_training(base) == 0
    start = {"model__init_from": str(tmp_path / "base" / "final"), "model__lora_rank": 2, "model__preset": None}
    whole = recipe("whole", **start, train__max_updates=6, model__config={})
    assert run_training(whole) == 0
    half = recipe("half", **start, train__max_updates=3, model__config={})
    assert run_training(half) == 0
    assert run_training(half, "--resume", "auto", "--set", "train.max_updates=6") == 0
    last = [entry for entry in logged(tmp_path / "whole") if entry["kind"] == "train"][-1]
    assert last["loss"] == [entry for entry in logged(tmp_path / "half") if entry["kind"] == "train"][-1]["loss"]
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("base", "whole", "half")]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])
    changed = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert any("qkv_proj" in name for name in changed)
    assert all("_proj" in name for name in changed)


def test_what_cannot_be_adapted_is_named(recipe, run_training, capsys):
    assert run_training(recipe("new", model__lora_rank=4)) == 2
    assert "adapters need trained weights; give model.init_from" in capsys.readouterr().err
    model = RecurrentForCausalLM(RecurrentConfig(vocab_size=50, hidden_size=8, embedding_size=8))
    with pytest.raises(ValueError, match="music_recurrent has no linear layers to adapt"):
        add_lora(model, 4)

"""Loss, initialisation, saving, checkpointing, precision, batches, and that it learns."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM


def labelled(toy, left=True):
    ids, mask = toy.stack(toy.ragged_rows(), left)
    return ids, mask, ids.masked_fill(mask == 0, -100)


def test_loss_is_the_shifted_cross_entropy(toy):
    ids, mask, labels = labelled(toy)
    model = toy.tiny_model()
    output = model(ids, attention_mask=mask, labels=labels)
    targets = labels[:, 1:].flatten()
    sums = F.cross_entropy(output.logits[:, :-1].float().flatten(0, 1), targets, ignore_index=-100, reduction="sum")
    assert torch.allclose(output.loss, sums / (targets != -100).sum())
    scaled = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=torch.tensor(7)).loss
    assert torch.allclose(scaled, sums / 7)


def test_logits_to_keep(toy):
    ids, mask, _ = labelled(toy)
    model = toy.tiny_model()
    full = model(ids, attention_mask=mask).logits
    for keep, expected in ((3, full[:, -3:]), (torch.tensor([0, 5]), full[:, [0, 5]])):
        kept = model(ids, attention_mask=mask, logits_to_keep=keep).logits
        assert kept.shape == expected.shape
        assert (kept - expected).abs().max() < 1e-12


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "bar_gather"])
def test_batch_equals_single_and_padding_is_invisible(toy, implementation):
    rows = toy.ragged_rows()
    model = toy.tiny_model(implementation)
    for left in (True, False):
        ids, mask = toy.stack(rows, left)
        logits = model(ids, attention_mask=mask, use_cache=False).logits
        assert logits.isfinite().all()
        for i, row in enumerate(rows):
            alone = model(torch.tensor([row]), use_cache=False).logits[0]
            assert (logits[i][mask[i] == 1] - alone).abs().max() < 1e-12
    wider = torch.cat([torch.zeros(len(ids), 300, dtype=torch.long), ids], 1)
    padded = model(wider, attention_mask=(wider != 0).long(), use_cache=False).logits
    assert (padded[:, 300:] - logits)[mask == 1].abs().max() < 1e-12


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "bar_gather"])
def test_row_of_padding_only(toy, implementation):
    ids, mask = toy.stack([toy.random_row(5), [toy.PAD]])
    model = toy.tiny_model(implementation)
    output = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    assert output.logits.isfinite().all()
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_bar_offset_equals_the_position_in_the_song(toy):
    """Where bars see the prefix and themselves only, nothing but its number tells a crop from the whole song."""
    model = toy.tiny_model(fine_offsets=(), coarse_attention=False)
    crop, first_bars = toy.row([4, 4], eos=False), toy.row([2, 2, 2], eos=False)
    ids, song = torch.tensor([crop]), torch.tensor([[*first_bars, *crop[2:]]])
    with torch.no_grad():
        whole, plain, shifted = model(song).logits, model(ids).logits, model(ids, bar_offset=3).logits
        assert (shifted[:, 2:] - whole[:, -8:]).abs().max() < 1e-12
        assert (shifted[:, :2] - whole[:, :2]).abs().max() < 1e-12
        assert torch.equal(plain[:, :2], shifted[:, :2])  # the prefix has no bar
        assert (plain[:, 2:] - shifted[:, 2:]).abs().max() > 1e-3
        per_row = model(ids.repeat(2, 1), bar_offset=torch.tensor([0, 3])).logits
        assert (per_row - torch.cat([plain, shifted])).abs().max() < 1e-12


def test_bar_offset_reaches_the_summaries(toy):
    model = toy.tiny_model().model
    columns = torch.tensor([[1, 2, 3], [1, 0, 0]])
    with torch.no_grad():
        shifted = model._embed_summaries(columns, torch.tensor([5, 2]))
        expected = model._embed_summaries(torch.tensor([[6, 7, 8], [3, 0, 0]]), None)
    assert torch.equal(shifted, expected)


def test_every_trainable_parameter_gets_a_gradient(toy, ablation):
    """And only the summaries' parameters are frozen, where the configuration leaves them unused."""
    ids, mask, labels = labelled(toy)
    for implementation in ("eager", "sdpa", "bar_gather"):
        model = toy.tiny_model(implementation, torch.float32, **ablation).train()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        frozen = set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
            else:
                frozen.add(name)
        names = ("embed_summary", "summary_projection", "summary_bias", "summary_proj")
        unused = {name for name in model.state_dict() if any(part in name.split(".") for part in names)}
        assert frozen == (set() if model.config.uses_summaries else unused)


def test_unused_parameters_stay_frozen_after_loading(toy, tmp_path):
    model = toy.tiny_model(dtype=torch.float32, coarse_attention=False)
    model.save_pretrained(tmp_path)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(frozen) == 7  # a table, a linear layer with bias, and two tensors in each of the two layers
    for loaded in (
        MuseformerForCausalLM.from_pretrained(tmp_path),
        MuseformerForCausalLM.from_pretrained(tmp_path, output_loading_info=True)[0],
    ):
        assert {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == frozen
        assert loaded.state_dict().keys() == model.state_dict().keys()
    used = MuseformerForCausalLM.from_pretrained(tmp_path, coarse_attention=True)
    assert all(parameter.requires_grad for parameter in used.parameters())


def test_activation_checkpointing_is_exact(toy):
    ids, mask, labels = labelled(toy)
    for implementation, dropout in (("sdpa", 0.0), ("bar_gather", 0.1)):
        model = toy.tiny_model(implementation, dropout=dropout, attention_dropout=dropout).train()
        results = []
        for checkpoint in (False, True):
            if checkpoint:
                model.activation_checkpointing_enable()
            model.zero_grad()
            torch.manual_seed(0)
            loss = model(ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            results.append((loss, [p.grad.clone() for p in model.parameters()]))
        assert all(layer.gradient_checkpointing for layer in model.model.layers)
        assert torch.equal(results[0][0], results[1][0])
        assert all((a - b).abs().max() < 1e-12 for a, b in zip(results[0][1], results[1][1]))


def test_save_and_load_are_bit_equal(toy, tmp_path):
    ids, mask, _ = labelled(toy)
    model = toy.tiny_model(dtype=torch.float32, fine_offsets=(1, 3), num_positions=40)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.config.fine_offsets == (1, 3)
    assert all(p.device.type != "meta" for p in loaded.parameters())
    assert not list(loaded.buffers())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    with torch.no_grad():
        assert torch.equal(loaded(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert torch.equal(base(ids, attention_mask=mask)[0], model.model(ids, attention_mask=mask)[0])
    assert loaded.generation_config.eos_token_id == toy.EOS
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_partial_checkpoint(toy, tmp_path):
    from safetensors.torch import load_file, save_file

    model = toy.tiny_model(dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = [
        "model.layers.0.attention.qkv_proj.weight",
        "model.layers.1.attention.content_bias",
        "model.embed_summary.weight",
        "model.layers.1.feed_forward.up_proj.bias",
        "lm_head.weight",
    ]
    for name in missing:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = MuseformerForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == set(missing)
    for name, value in loaded.state_dict().items():
        assert ((value == 3).all() and name not in missing) or (value.isfinite().all() and (value != 3).any()), name
    assert (loaded.model.embed_summary.weight[0] == 0).all()
    assert abs(loaded.lm_head.weight.std() - 128**-0.5) < 0.005
    assert abs(loaded.model.layers[0].attention.qkv_proj.weight.abs().max() - (1.5 / 128) ** 0.5) < 1e-3


def test_initialisation():
    torch.manual_seed(0)
    model = MuseformerForCausalLM(MuseformerConfig.from_preset("small"))
    d, inner = model.config.hidden_size, model.model
    assert abs(inner.embed_tokens.weight[1:].std() - 1) < 0.02
    assert (inner.embed_tokens.weight[0] == 0).all()
    assert abs(model.lm_head.weight.std() - d**-0.5) < 0.002
    layer = inner.layers[0]
    xavier = (6 / (2 * d)) ** 0.5
    for weight in (layer.attention.qkv_proj.weight, layer.attention.summary_proj.weight):
        assert abs(weight.abs().max() - xavier / 2**0.5) < 1e-3
    assert abs(layer.attention.out_proj.weight.abs().max() - xavier) < 1e-3
    for bias in (layer.attention.content_bias, layer.attention.summary_bias, layer.attention.out_proj.bias):
        assert (bias == 0).all()
    assert abs(layer.feed_forward.up_proj.weight.abs().max() - d**-0.5) < 1e-3
    assert (layer.attention_norm.weight == 1).all()


def test_resized_vocabulary(toy):
    model = toy.tiny_model(dtype=torch.float32)
    model.resize_token_embeddings(toy.VOCAB + 8)
    ids = torch.tensor([[*toy.random_row(3, eos=False), toy.VOCAB + 7]])
    assert model(ids).logits.shape[2] == toy.VOCAB + 8 == model.config.vocab_size


def test_bfloat16_is_finite(toy):
    ids, mask, labels = labelled(toy)
    for implementation in ("eager", "sdpa", "bar_gather"):
        reference = toy.tiny_model(implementation, torch.float32)
        expected = reference(ids, attention_mask=mask, use_cache=False).logits[mask == 1]
        model = toy.tiny_model(implementation, torch.bfloat16)
        output = model(ids, attention_mask=mask, labels=labels)
        assert output.logits.dtype == torch.bfloat16
        assert output.logits.isfinite().all()
        assert (output.logits[mask == 1].float() - expected).abs().mean() < 0.05
        output.loss.backward()
        with torch.autocast("cpu", torch.bfloat16):
            loss = reference.train()(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in reference.parameters())


def test_hidden_states(toy):
    ids = torch.tensor([toy.random_row(5)])
    output = toy.tiny_model()(ids, output_hidden_states=True)
    assert [h.shape for h in output.hidden_states] == [(1, ids.shape[1], 128)] * 3


def test_training_step_with_long_rows_uses_no_square(toy):
    """Operations and stored activations of bar_gather, four times the length: dense attention takes 16 times more."""
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    model = toy.tiny_model("bar_gather", torch.float32, attention_dropout=0.1).train()
    ids = torch.tensor([toy.random_row(400, 20, 40, seed=2)[:8192]])
    flops, stored = [], []
    for length in (2048, 8192):
        sizes = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        counter = FlopCounterMode(display=False)
        with saved_tensors_hooks(keep, lambda tensor: tensor), counter:
            model(ids[:, :length], labels=ids[:, :length]).loss.backward()
        flops.append(counter.get_total_flops())
        stored.append(sum(sizes))
    assert flops[1] < 7 * flops[0]
    assert stored[1] < 4.5 * stored[0]


@pytest.mark.slow
def test_tiny_overfits_one_song(toy):
    """Less than 0.05 nats per token on one song of 500 tokens."""
    torch.manual_seed(0)
    model = toy.MuseformerForCausalLM(toy.tiny_config()).train()
    ids = torch.tensor([toy.random_row(40, 8, 18, seed=1)[:500]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss < 0.04:
            break
    with torch.no_grad():
        assert model.eval()(ids, labels=ids).loss < 0.05

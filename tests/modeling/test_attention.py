"""All back-ends against the dense reference; causality; gradients; the cheap dropout."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from partimento.modeling.museformer.attention_museformer import (
    add_residual,
    choose_backend,
    eager_attention,
    gathered_attention,
    keep_mask,
)
from partimento.modeling.museformer.structure_museformer import content_chunks, content_mask

BACKENDS = ("eager", "sdpa", "bar_gather")
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LONG_ROW = """
import torch
from partimento.modeling import MuseformerConfig, MuseformerForCausalLM

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

torch.manual_seed(0)
model = MuseformerForCausalLM(MuseformerConfig.from_preset("tiny", vocab_size=96)).eval()
model.set_attn_implementation("bar_gather")
ids = torch.cat([torch.tensor([1]), *(torch.tensor([4, *range(53, 53 + 40 + i % 3)]) for i in range(1000))])
before = 0
for length in (200, 40_000):
    with torch.no_grad():
        logits = model(ids[None, :length], use_cache=False, logits_to_keep=5).logits
    assert logits.isfinite().all()
    before, after = peak(), before
print(before - after)
"""


def run(model, ids, mask):
    """Logits, and gradients of the loss by parameter name."""
    model.zero_grad()
    output = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    output.loss.backward()
    return output.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("left", [True, False])
def test_backends_agree_forward_and_backward(toy, ablation, left):
    model = toy.tiny_model(**ablation)
    ids, mask = toy.stack(toy.ragged_rows(), left)
    results = {}
    for name in BACKENDS:
        model.set_attn_implementation(name)
        results[name] = run(model, ids, mask)
    logits, gradients = results["eager"]
    assert logits.isfinite().all()
    for name in BACKENDS[1:]:
        assert (results[name][0] - logits).abs().max() < 1e-12
        assert results[name][1].keys() == gradients.keys()
        for key, gradient in gradients.items():
            assert (results[name][1][key] - gradient).abs().max() < 1e-12, key


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 129, 1000])
def test_odd_lengths(toy, length):
    ids = torch.tensor([toy.random_row(60, 1, 60, seed=length)[:length]])
    model = toy.tiny_model("eager")
    logits, gradients = run(model, ids, torch.ones_like(ids)) if length > 1 else (model(ids).logits, {})
    model.set_attn_implementation("bar_gather")
    other, other_gradients = run(model, ids, torch.ones_like(ids)) if length > 1 else (model(ids).logits, {})
    assert (logits - other).abs().max() < 1e-12
    for key, gradient in gradients.items():
        assert (other_gradients[key] - gradient).abs().max() < 1e-12, key


@pytest.mark.parametrize("left", [True, False])
def test_uninitialised_memory_is_never_read(toy, monkeypatch, left):
    """Whatever `empty` returns is NaN: outputs and gradients stay finite and equal to the dense reference."""
    model = toy.tiny_model("eager", attention_dropout=0.0)
    ids, mask = toy.stack(toy.ragged_rows(), left)
    expected, gradients = run(model, ids, mask)

    def poisoned(function):
        def call(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return call

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what operators allocate themselves, too
    try:
        for name in BACKENDS[1:]:
            model.set_attn_implementation(name)
            logits, other = run(model, ids, mask)
            assert (logits - expected).abs().max() < 1e-12
            assert max((other[key] - gradient).abs().max() for key, gradient in gradients.items()) < 1e-12
    finally:
        torch.use_deterministic_algorithms(before)


def test_odd_lengths_match_in_chunked_tiles(toy, monkeypatch):
    """Small tiles and budgets: bars are split, many chunks, partly filled."""
    from partimento.modeling.museformer import attention_museformer

    monkeypatch.setattr(attention_museformer, "TILE", 5)
    monkeypatch.setitem(attention_museformer.CHUNK_WEIGHTS, "cpu", 512)
    ids, mask = toy.stack(toy.ragged_rows())
    model = toy.tiny_model("eager")
    logits, gradients = run(model, ids, mask)
    model.set_attn_implementation("bar_gather")
    other, other_gradients = run(model, ids, mask)
    assert (logits - other).abs().max() < 1e-12
    assert max((other_gradients[k] - g).abs().max() for k, g in gradients.items()) < 1e-12


@pytest.mark.parametrize("implementation", [*BACKENDS, pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_no_leak_at_any_position(toy, implementation):
    """Other tokens after j, Bar tokens among them, leave the logits up to j unchanged, for every j, BOS included."""
    is_flex = implementation == "flex_attention"  # has no float64
    model = toy.tiny_model(implementation, torch.float32 if is_flex else torch.float64)
    ids = torch.tensor(toy.random_row(12, 1, 5, seed=3))
    generator = torch.Generator().manual_seed(7)
    other = torch.randint(toy.NOTE, toy.VOCAB, ids.shape, generator=generator)
    other[torch.rand(ids.shape, generator=generator) < 0.3] = toy.BAR
    other[torch.rand(ids.shape, generator=generator) < 0.1] = toy.EOS
    j = torch.arange(len(ids))
    changed = torch.where(j[None] <= j[:, None], ids, other)
    with torch.no_grad():
        reference = model(ids[None], use_cache=False).logits
        logits = torch.cat([model(rows, use_cache=False).logits for rows in changed.split(8)])
    difference = (logits - reference).abs().amax(2)
    assert difference.tril().max() < (1e-5 if is_flex else 1e-12)
    assert (
        difference.triu(1).amax(1)[:-1] > (1e-4 if is_flex else 1e-6)
    ).all()  # the test can fail: later logits do change


@pytest.mark.parametrize("implementation", [*BACKENDS, pytest.param("flex_attention", marks=GPU)])
def test_gradients_to_future_embeddings_are_zero(toy, implementation):
    from partimento.modeling.museformer.structure_museformer import derive_segments

    is_flex = implementation == "flex_attention"
    model = toy.tiny_model(implementation, torch.float32 if is_flex else torch.float64).requires_grad_(False)
    model.to("cuda" if is_flex else "cpu")
    ids = torch.tensor([toy.random_row(10, 1, 5, seed=3)], device=model.device)
    segments = derive_segments(model.config, ids)
    for j in range(0, ids.shape[1], 3):
        embeds = (model.model.embed_tokens(ids) * 128**0.5).detach().requires_grad_()
        logits = model(inputs_embeds=embeds, bar_ids=segments.bar_ids, beat_ids=segments.beat_ids).logits
        logits[0, j].square().sum().backward()
        assert (embeds.grad[0, j + 1 :] == 0).all()
        assert (embeds.grad[0, j] != 0).any()
        assert (embeds.grad[0, 0] != 0).any()  # the prefix is always visible


def test_embeddings_without_bars_are_an_error(toy):
    model = toy.tiny_model()
    with pytest.raises(ValueError, match="bar_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 128, dtype=torch.float64))


@pytest.mark.parametrize("coarse", [True, False])
def test_summary_weights_are_exactly_zero_where_invisible(toy, coarse):
    model = toy.tiny_model("eager", coarse_attention=coarse)
    ids = torch.tensor([toy.random_row(40, 1, 4, seed=2)])
    output = model(ids, output_attentions=True, use_cache=False)
    assert len(output.attentions) == 2
    bars = torch.tensor(toy.naive_ids(ids[0].tolist(), [1] * ids.shape[1])[0])
    for weights in output.attentions:
        num_summaries = weights.shape[3] - ids.shape[1]
        assert num_summaries == (40 if coarse else 0)
        for bar in range(1, num_summaries + 1):
            delta = bars - bar
            visible = (delta >= 1) & ~torch.isin(delta, torch.tensor(model.config.fine_offsets))
            assert (weights[0, :, ~visible, bar - 1] == 0).all()
            assert (weights[0, :, visible, bar - 1] > 0).all()


def test_gathered_attention_passes_gradcheck(toy):
    config = toy.tiny_config(fine_offsets=(1, 3))
    bars = torch.tensor([[0, 0, 1, 1, 2, 3, 3, 4], [-1, -1, 0, 1, 1, 1, 2, 2]])
    columns = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0]])
    chunks = content_chunks(config, bars, bars, columns, tile=2, budget=30)
    torch.manual_seed(0)
    query = torch.randn(16, 4, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(24, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def attend(query, key, value):
        torch.manual_seed(5)  # the same dropout in every evaluation
        return gathered_attention(query, key, value, chunks, 2, dropout=0.3, scaling=0.7)

    assert torch.autograd.gradcheck(attend, (query, key, value))

    mask = content_mask(config, bars, bars, columns)
    heads = [t.view(2, -1, 2, 2).transpose(1, 2) for t in (query, key, value)]
    dense, _ = eager_attention(None, *heads, mask, scaling=0.7)
    gathered = gathered_attention(query, key, value, chunks, 2, dropout=0.0, scaling=0.7)
    present = (bars >= 0).flatten()
    assert (dense.flatten(2).flatten(0, 1) - gathered)[present].abs().max() < 1e-14


def test_dropout_is_unbiased_and_reproducible():
    generator = torch.Generator()
    share = []
    for seed in range(400):
        share.append(keep_mask((50, 41), 0.1, torch.float32, "cpu", generator.manual_seed(seed)).mean())
    assert abs(torch.stack(share).mean() - 0.9) < 1.5e-3  # standard error 0.0004
    mask = keep_mask((7, 13), 0.5, torch.bfloat16, "cpu", generator.manual_seed(1))
    assert mask.unique().tolist() == [0, 1]
    assert torch.equal(mask, keep_mask((7, 13), 0.5, torch.bfloat16, "cpu", generator.manual_seed(1)))
    torch.manual_seed(0)
    states, update = torch.zeros(300, 300), torch.ones(300, 300)
    assert abs(add_residual(states, update, 0.1, True).mean() - 1) < 0.01
    assert torch.equal(add_residual(states, update, 0.1, False), update)


def test_attention_dropout_has_the_right_mean(toy):
    """Averaged over masks, dropout leaves the output of bar_gather unchanged."""
    config = toy.tiny_config()
    bars = torch.tensor([[0, 0, *(b for b in range(1, 9) for _ in range(6))]])
    columns = torch.arange(1, 9)[None]
    chunks = content_chunks(config, bars, bars, columns, tile=4, budget=200)
    torch.manual_seed(0)
    query, key, value = torch.randn(50, 8), torch.randn(58, 8), torch.randn(58, 8)
    clean = gathered_attention(query, key, value, chunks, 2, dropout=0.0, scaling=0.5)
    noisy = [gathered_attention(query, key, value, chunks, 2, dropout=0.2, scaling=0.5) for _ in range(800)]
    assert not torch.equal(noisy[0], noisy[1])
    assert (torch.stack(noisy).mean(0) - clean).abs().max() < 0.1


def test_auto_takes_the_dense_mask_for_short_rows_only(toy):
    assert choose_backend(100, 100) == "sdpa"
    assert choose_backend(1, 5000) == "sdpa"
    assert choose_backend(2048, 2048) == "bar_gather"
    model = toy.tiny_model()
    assert model.config._attn_implementation == "auto"
    for length in (100, 900):
        ids = torch.tensor([toy.random_row(80, 5, 30)[:length]])
        model.set_attn_implementation("auto")
        auto = model(ids, use_cache=False).logits
        model.set_attn_implementation("eager")
        assert (auto - model(ids, use_cache=False).logits).abs().max() < 1e-12


def test_long_row_needs_no_square():
    """40,000 tokens: an n x n mask alone would be 1.6 GB. A process of its own: the peak of this one may be higher."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("the peak memory of a process is read from /proc")
    process = subprocess.run([sys.executable, "-c", LONG_ROW], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 900_000  # kilobytes


@pytest.mark.slow
@pytest.mark.parametrize("left", [True, False])
def test_flex_attention_agrees(toy, ablation, left):
    """Inference on a CPU; compiles once with and once without summaries."""
    ids, mask = toy.stack([toy.random_row(30, 1, 20, seed=1), toy.row([60, 1, 3, 20])], left)
    model = toy.tiny_model("eager", torch.float32, **ablation)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, use_cache=False).logits
        model.set_attn_implementation("flex_attention")
        assert (model(ids, attention_mask=mask, use_cache=False).logits - expected).abs().max() < 1e-4


@pytest.mark.slow
def test_flex_attention_compiles_a_few_lengths_only(toy):
    """Twelve ragged batches between 60 and 1,500 tokens, with other numbers of rows and bars, take two sizes."""
    from torch._dynamo.utils import counters

    model = toy.tiny_model("flex_attention", torch.float32)
    compiled = counters["stats"]["unique_graphs"]
    for i, length in enumerate((60, 97, 128, 129, 200, 256, 311, 480, 640, 777, 1024, 1500)):
        rows = [toy.random_row(5 + 4 * i, 1, 40, seed=i), toy.random_row(90, 17, 30, seed=i)[:length]]
        ids, mask = toy.stack([ids[:length] for ids in rows[i % 2 if length <= 480 else 1 :]])
        with torch.no_grad():
            model.set_attn_implementation("flex_attention")
            logits = model(ids, attention_mask=mask, use_cache=False).logits
            model.set_attn_implementation("eager")
            assert (logits - model(ids, attention_mask=mask, use_cache=False).logits).abs().max() < 1e-4
    assert counters["stats"]["unique_graphs"] - compiled <= 2


@pytest.mark.parametrize("implementation", [pytest.param("flex_attention", marks=GPU)])
def test_backends_agree_on_a_gpu(toy, ablation, implementation):
    """Forward and backward, float32."""
    model = toy.tiny_model("eager", torch.float32, **ablation).cuda()
    ids, mask = (t.cuda() for t in toy.stack(toy.ragged_rows()))
    logits, gradients = run(model, ids, mask)
    model.set_attn_implementation(implementation)
    other, other_gradients = run(model, ids, mask)
    assert (other - logits).abs().max() < 1e-3
    assert other_gradients.keys() == gradients.keys()
    for key, gradient in gradients.items():
        assert (other_gradients[key] - gradient).abs().max() < 1e-3, key


def test_flex_attention_says_that_it_does_not_continue_a_cache(toy, monkeypatch):
    from partimento.modeling.museformer import attention_museformer

    warnings = []
    monkeypatch.setattr(attention_museformer.logger, "warning_once", warnings.append)
    ids = torch.tensor([toy.random_row(12, 3, 9)])
    model = toy.tiny_model("sdpa")
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits[:, 20:]
        cache = model(ids[:, :20]).past_key_values
        model.set_attn_implementation("flex_attention")
        logits = model(ids[:, 20:], past_key_values=cache).logits
    assert (logits - expected).abs().max() < 1e-12
    assert len(warnings) == 1
    assert "flex_attention" in warnings[0]


def test_flex_attention_refuses_what_it_cannot_do(toy):
    ids = torch.tensor([toy.random_row(5)])
    model = toy.tiny_model("flex_attention", torch.float32)
    with pytest.raises(ValueError, match="no backward pass on a CPU"):
        model(ids, labels=ids)
    model = toy.tiny_model("flex_attention", torch.float32, attention_dropout=0.1).train()
    with pytest.raises(ValueError, match="no dropout"):
        model(ids, labels=ids)

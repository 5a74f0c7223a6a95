"""Cached decoding equals the full forward pass, whatever the split, and stays bounded."""

import copy

import pytest
import torch
from transformers import DynamicCache

from partimento.modeling import MuseformerCache
from partimento.modeling.museformer.visible_museformer import VisibleStreams


@torch.no_grad()
def decode(model, ids, mask, sizes):
    """Logits of a row fed in consecutive chunks of the given sizes, the last repeated."""
    cache, logits, start, sizes = None, [], 0, iter(sizes)
    size = 1
    while start < ids.shape[1]:
        size = next(sizes, size)
        output = model(
            ids[:, start : start + size],
            attention_mask=mask[:, : start + size],
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        logits.append(output.logits)
        start += size
    return torch.cat(logits, 1), cache


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("sizes", [[1], [100, 1], [2, 1, 17, 1, 1, 3, 30, 5]], ids=["tokens", "prefill", "chunks"])
def test_cached_equals_full(toy, ablation, sizes, left):
    """Ragged rows, one of them with 60 bars: long after the first eviction."""
    rows = [toy.random_row(60, 1, 4, seed=1), toy.row([3, 1, 6, 2]), toy.row([9]), toy.row([], prefix=4)]
    rows.append(toy.random_row(45, 1, 4, seed=5, eos=False))
    ids, mask = toy.stack(rows, left)
    model = toy.tiny_model(**ablation)
    with torch.no_grad():
        full = model(ids, attention_mask=mask, use_cache=False).logits
    cached, cache = decode(model, ids, mask, sizes)
    assert (cached - full).abs().max() < 1e-12
    assert cache.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "bar_gather"])
def test_every_backend_fills_the_cache(toy, implementation):
    ids, mask = toy.stack(toy.ragged_rows())
    model = toy.tiny_model(implementation)
    with torch.no_grad():
        full = model(ids, attention_mask=mask, use_cache=False).logits
    for sizes in ([1], [50, 9, 1]):
        assert (decode(model, ids, mask, sizes)[0] - full).abs().max() < 1e-12


def test_laid_out_weights_equal_the_modules(toy, ablation):
    """A step without gradients takes `StepWeights`, one with gradients the modules; a bar offset moves both."""
    ids, mask = toy.stack(toy.ragged_rows())
    model = toy.tiny_model(**ablation)
    offset = torch.tensor([3, 0, 7, 1, 0, 2])
    caches = [model(ids[:, :20], attention_mask=mask[:, :20], bar_offset=offset).past_key_values for _ in range(2)]
    for i in range(20, ids.shape[1]):
        arguments = {"input_ids": ids[:, i : i + 1], "attention_mask": mask[:, : i + 1]}
        with torch.no_grad():
            laid_out = model(**arguments, past_key_values=caches[0]).logits
        modules = model(**arguments, past_key_values=caches[1]).logits
        assert (laid_out - modules).abs().max() < 1e-12
    assert caches[0].step_weights is not None
    assert caches[1].step_weights is None


@torch.no_grad()
def test_changed_modules_are_called(toy):
    """Hooks and replaced layers take effect in steps too."""
    ids = torch.tensor([toy.random_row(6, 2, 6, seed=1)])

    def last_logits(model):
        return decode(model, ids, torch.ones_like(ids), [10, 1])[0]

    model = toy.tiny_model()
    before = last_logits(model)
    handle = model.model.layers[0].feed_forward.register_forward_hook(lambda module, args, output: output * 2)
    hooked = last_logits(model)
    assert (hooked - before)[:, 12:].abs().amax(2).min() > 1e-3
    assert (hooked - model(ids, use_cache=False).logits).abs().max() < 1e-12
    handle.remove()

    class Doubled(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.weight, self.bias = base.weight, base.bias

        def forward(self, states):
            return 2 * torch.nn.functional.linear(states, self.weight, self.bias)

    model.model.layers[1].feed_forward.up_proj = Doubled(model.model.layers[1].feed_forward.up_proj)
    replaced = last_logits(model)
    assert (replaced - before)[:, 12:].abs().amax(2).min() > 1e-3
    assert (replaced - model(ids, use_cache=False).logits).abs().max() < 1e-12


@torch.no_grad()
def test_steps_see_weights_of_the_time_their_cache_was_made(toy):
    """A new cache sees new weights; a copied one goes on like its original."""
    ids = torch.tensor([toy.random_row(6, 2, 6, seed=1)])
    model = toy.tiny_model()
    _, cache = decode(model, ids[:, :12], torch.ones_like(ids), [8, 1])
    twin = copy.deepcopy(cache)
    logits = [model(ids[:, 12:13], past_key_values=c).logits for c in (cache, twin)]
    assert torch.equal(*logits)
    for parameter in model.parameters():
        parameter.mul_(1.1)
    assert (decode(model, ids, torch.ones_like(ids), [1])[0] - model(ids, use_cache=False).logits).abs().max() < 1e-12


@pytest.mark.parametrize("sizes", [[1], [200, 1]], ids=["tokens", "prefill"])
def test_one_row_whose_lines_are_laid_out_again(toy, ablation, sizes):
    """One row has a layout of its own: bars longer than a line's spare room, then short ones."""
    ids = torch.tensor([toy.row([150, 3, 290, 2, 40, 1, 1, 30, *[5] * 12], seed=4)])
    model = toy.tiny_model(**ablation)
    with torch.no_grad():
        full = model(ids, use_cache=False).logits
    cached, cache = decode(model, ids, torch.ones_like(ids), sizes)
    assert (cached - full).abs().max() < 1e-12
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert isinstance(cache.visible, VisibleStreams)


@torch.no_grad()
@pytest.mark.parametrize("threads", [2, 3])
def test_one_row_with_several_threads(toy, threads):
    before = torch.get_num_threads()
    ids = torch.tensor([toy.random_row(12, 1, 6, seed=4)])
    model = toy.tiny_model()
    try:
        torch.set_num_threads(threads)
        cached, _ = decode(model, ids, torch.ones_like(ids), [5, 1])
    finally:
        torch.set_num_threads(before)
    assert (cached - model(ids, use_cache=False).logits).abs().max() < 1e-12


@torch.no_grad()
def test_padding_after_one_row(toy):
    """A padded position sees itself only and leaves no trace."""
    ids = torch.tensor([toy.random_row(6, 2, 6, seed=1, eos=False)])
    model = toy.tiny_model()
    logits = model(ids, use_cache=False).logits[:, -3:]
    cache = model(ids[:, :-3]).past_key_values
    pad = torch.tensor([[toy.PAD]])
    mask = torch.cat([torch.ones(1, ids.shape[1] - 3), torch.zeros(1, 2)], 1)
    for _ in range(2):
        assert model(pad, attention_mask=mask, past_key_values=cache).logits.isfinite().all()
    for i in range(-3, 0):
        step = model(ids[:, [i]], past_key_values=cache).logits
        assert (step - logits[:, [i]]).abs().max() < 1e-12


@torch.no_grad()
def test_one_row_becomes_several(toy):
    ids = torch.tensor([toy.random_row(14, 1, 6, seed=1)])
    model = toy.tiny_model()
    full = model(ids, use_cache=False).logits[:, 25:]
    cache = decode(model, ids[:, :25], torch.ones(1, 25), [20, 1])[1]
    cache.batch_repeat_interleave(3)
    steps = [model(ids[:, [i]].expand(3, 1), past_key_values=cache).logits for i in range(25, ids.shape[1])]
    assert (torch.cat(steps, 1) - full).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize(("weights", "mean", "largest"), [("half", 1e-3, 4e-3), ("int8", 2e-2, 5e-2)])
@pytest.mark.parametrize("num_rows", [1, 6])
def test_lossy_weights_are_close_and_leave_the_prompt_exact(toy, weights, mean, largest, num_rows):
    ids, mask = toy.stack(toy.ragged_rows()[:num_rows])
    model = toy.tiny_model(dtype=torch.float32)
    prompt = model(ids[:, :30], attention_mask=mask[:, :30], use_cache=False).logits
    full = model(ids, attention_mask=mask, use_cache=False).logits[:, 30:]
    cache, logits = MuseformerCache(model.config, weights=weights), []
    cached = model(ids[:, :30], attention_mask=mask[:, :30], past_key_values=cache).logits
    assert (cached - prompt).abs().max() < 1e-5
    for i in range(30, ids.shape[1]):
        step = model(ids[:, i : i + 1], attention_mask=mask[:, : i + 1], past_key_values=cache)
        logits.append(step.logits)
    error = (torch.cat(logits, 1) - full).norm(dim=2) / full.norm(dim=2)
    assert 0 < error.mean() < mean
    assert error.max() < largest


def test_lossy_weights_refuse_what_they_cannot_do(toy):
    model = toy.tiny_model()
    with pytest.raises(ValueError, match="int4"):
        MuseformerCache(model.config, weights="int4")
    model.model.norm.register_forward_hook(lambda module, args, output: output)
    ids = torch.tensor([toy.random_row(3)])
    with torch.no_grad():
        cache = model(ids, past_key_values=MuseformerCache(model.config, weights="int8")).past_key_values
        with pytest.raises(ValueError, match="hooks"):
            model(ids[:, :1], past_key_values=cache)


def test_float32_tolerance(toy):
    ids, mask = toy.stack(toy.ragged_rows())
    model = toy.tiny_model(dtype=torch.float32)
    with torch.no_grad():
        full = model(ids, attention_mask=mask, use_cache=False).logits
    assert (decode(model, ids, mask, [20, 1])[0] - full).abs().max() < 1e-4


def test_bar_offset_is_remembered(toy):
    ids, mask = toy.stack([toy.random_row(9, seed=1), toy.random_row(7, seed=2)])
    model = toy.tiny_model()
    offset = torch.tensor([5, 0])
    with torch.no_grad():
        full = model(ids, attention_mask=mask, bar_offset=offset, use_cache=False).logits
        cache = model(ids[:, :9], attention_mask=mask[:, :9], bar_offset=offset, use_cache=True).past_key_values
        rest = model(ids[:, 9:], attention_mask=mask, past_key_values=cache).logits
        assert (rest - full[:, 9:]).abs().max() < 1e-12
        assert (model(ids, attention_mask=mask, use_cache=False).logits - full).abs().amax((1, 2))[0] > 1e-3


@pytest.mark.parametrize("left", [True, False])
def test_size_is_bounded(toy, left):
    """Slots: prefix, 32 bars back, the current bar, and a quarter of dead ones; then what is visible, then b rows."""
    model = toy.tiny_model()
    bar = 6
    ids, mask = toy.stack([toy.row([bar] * 150, prefix=3, eos=False), toy.row([bar] * 20, eos=False)], left)
    with torch.no_grad():
        cache = model(ids[:, :700], attention_mask=mask[:, :700], use_cache=True).past_key_values
        sizes = []
        for start in range(700, ids.shape[1]):
            step = ids[:, start : start + 1]
            model(step, attention_mask=mask[:, : start + 1], past_key_values=cache)
            sizes.append((cache.max_slots, cache.max_visible))
    slots, visible = (max(column) for column in zip(*sizes))
    bars = 150
    assert slots <= (3 + 33 * bar) * 4 / 3 + bar
    assert visible <= 3 + 9 * bar + bars
    d, layers = model.config.hidden_size, model.config.num_hidden_layers
    assert cache.num_values() <= layers * 2 * d * ((3 + 33 * bar) * 4 / 3 + 10 * bar + 3 + 2 * bars)
    assert all(buffer.shape[1] <= 1.6 * (slots + 64) for buffer in cache.slots)
    assert cache.slots[0].shape[1] < ids.shape[1] / 2  # a full cache would keep every token


def test_buffers_are_not_reallocated_per_token(toy):
    model = toy.tiny_model()
    ids = torch.tensor([toy.row([200], eos=False)])
    with torch.no_grad():
        cache = model(ids[:, :20], use_cache=True).past_key_values
        seen = set()
        for start in range(20, ids.shape[1]):
            model(ids[:, start : start + 1], past_key_values=cache)
            seen.add((cache.slots[0].data_ptr(), cache.visible.buffers[0].data_ptr()))
    assert len(seen) < 12


def test_reorder_repeat_select_reset(toy):
    rows = [toy.random_row(40, 1, 4, seed=1), toy.random_row(9, seed=2), toy.row([], prefix=3)]
    ids, mask = toy.stack(rows)
    model = toy.tiny_model()
    split = ids.shape[1] - 8
    order = torch.tensor([2, 0, 0, 1])

    def continued(change):
        cache = model(ids[:, :split], attention_mask=mask[:, :split], use_cache=True).past_key_values
        chosen = change(cache)
        logits = [
            model(ids[chosen, i : i + 1], attention_mask=mask[chosen, : i + 1], past_key_values=cache).logits
            for i in range(split, ids.shape[1])
        ]
        return torch.cat(logits, 1), chosen

    def reorder(cache):
        cache.reorder_cache(order)
        return order

    def repeat(cache):
        cache.batch_repeat_interleave(2)
        return torch.arange(3).repeat_interleave(2)

    def select(cache):
        cache.batch_select_indices(torch.tensor([1]))
        return torch.tensor([1])

    with torch.no_grad():
        full = model(ids, attention_mask=mask, use_cache=False).logits[:, split:]
        for change in (reorder, repeat, select):
            logits, chosen = continued(change)
            assert (logits - full[chosen]).abs().max() < 1e-12

        cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
        cache.reset()
        assert cache.get_seq_length() == 0
        again = model(ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
        assert (again[:, split:] - full).abs().max() < 1e-12


def test_cache_refuses_misuse(toy):
    model = toy.tiny_model()
    ids = torch.tensor([toy.random_row(3)])
    cache = model(ids, use_cache=True).past_key_values
    assert isinstance(cache, MuseformerCache)
    assert not cache.is_croppable
    assert cache.batch_size == 1
    with pytest.raises(ValueError, match="cropped"):
        cache.crop(1)
    with pytest.raises(ValueError, match="rows"):
        model(ids.repeat(2, 1), past_key_values=cache)
    with pytest.raises(ValueError, match="MuseformerCache"):
        model(ids, past_key_values=DynamicCache())


def test_no_cache_in_training(toy):
    model = toy.tiny_model()
    ids = torch.tensor([toy.random_row(3)])
    assert model(ids).past_key_values is not None
    assert model(ids, labels=ids).past_key_values is None
    assert model.train()(ids).past_key_values is None


def test_cost_per_token_is_flat(toy):
    """Operations per token do not grow with the history: a token at 3,000 launches as many as one at 300."""
    from torch.profiler import ProfilerActivity, profile

    model = toy.tiny_model(dtype=torch.float32)
    ids = torch.tensor([toy.row([40] * 100, eos=False)])
    counts = []
    with torch.no_grad():
        for start in (310, 3030):
            cache = model(ids[:, :start], use_cache=True, logits_to_keep=1).past_key_values
            model(ids[:, start : start + 1], past_key_values=cache)
            with profile(activities=[ProfilerActivity.CPU]) as trace:
                model(ids[:, start + 1 : start + 2], past_key_values=cache)
            counts.append(sum(event.count for event in trace.key_averages()))
    assert counts[0] == counts[1]

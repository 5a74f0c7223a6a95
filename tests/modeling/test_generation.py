"""generate(): cached equals uncached, batch equals single, constrained samples decode."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from partimento.modeling import MuseformerCache

MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 8, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
}


class Musical(LogitsProcessor):
    """Makes bars and endings frequent."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, 4] += 2.0
        scores[:, 2] += 1.0
        return scores


class EndsAtBar(LogitsProcessor):
    """EOS as soon as a row has 24 bars."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[(input_ids == 4).sum(1) >= 24, 2] = 100.0
        return scores


def generate(model, ids, mask, extra=(), **kwargs):
    torch.manual_seed(0)
    processors = LogitsProcessorList([Musical(), *extra])
    return model.generate(ids, attention_mask=mask, max_new_tokens=50, logits_processor=processors, **kwargs)


@pytest.mark.parametrize("mode", MODES)
def test_cached_equals_uncached(toy, mode):
    """Ragged left-padded prompts, 33 bars and more, rows that end early."""
    rows = [toy.random_row(36, 1, 4, seed=1, eos=False), toy.random_row(3, eos=False), toy.row([], prefix=2, eos=False)]
    ids, mask = toy.stack(rows)
    model = toy.tiny_model()
    cached, full = (generate(model, ids, mask, use_cache=use, **MODES[mode]) for use in (True, False))
    assert torch.equal(cached, full)
    assert (cached[:, ids.shape[1] :] == toy.BAR).any()
    if mode == "sampling":
        assert (cached == toy.EOS).any()
        assert not torch.equal(cached[0], cached[1])


@pytest.mark.parametrize("weights", ["exact", "half", "int8"])
def test_a_cache_can_be_handed_in(toy, weights):
    ids, mask = toy.stack([toy.random_row(12, 1, 4, seed=1, eos=False), toy.random_row(3, eos=False)])
    model = toy.tiny_model(dtype=torch.float32)
    cache = MuseformerCache(model.config, weights=weights)
    output = generate(model, ids, mask, past_key_values=cache, do_sample=False)
    assert cache.get_seq_length() == output.shape[1] - 1
    assert cache.step_weights is not None
    if weights == "exact":
        assert torch.equal(output, generate(model, ids, mask, do_sample=False))


def test_ablations(toy, ablation):
    ids, mask = toy.stack([toy.random_row(36, 1, 3, seed=1, eos=False), toy.random_row(3, eos=False)])
    model = toy.tiny_model(**ablation)
    assert torch.equal(*(generate(model, ids, mask, use_cache=use, num_beams=2) for use in (True, False)))


def test_batch_equals_single(toy):
    """Greedy, with rows that finish early and are fed PAD from then on."""
    rows = [toy.random_row(n, 1, 4, seed=n, eos=False) for n in (19, 21, 23)] + [toy.row([], eos=False)]
    ids, mask = toy.stack(rows)
    model = toy.tiny_model(seed=1)
    model.generation_config.update(do_sample=False)
    batch = generate(model, ids, mask, [EndsAtBar()])
    lengths = []
    for i, single in enumerate(rows):
        alone = generate(model, torch.tensor([single]), torch.ones(1, len(single)), [EndsAtBar()])[0, len(single) :]
        new = batch[i, ids.shape[1] :]
        assert torch.equal(new[: len(alone)], alone)
        assert (new[len(alone) :] == toy.PAD).all()
        lengths.append(len(alone))
    assert min(lengths) < max(lengths)


def test_same_seed_same_output(toy):
    ids, mask = toy.stack([toy.random_row(3, eos=False)])
    model = toy.tiny_model()
    first, second = (generate(model, ids, mask, do_sample=True) for _ in range(2))
    assert torch.equal(first, second)


def test_returned_cache_can_be_continued(toy):
    ids, mask = toy.stack([toy.random_row(30, 1, 4, eos=False), toy.random_row(3, eos=False)])
    model = toy.tiny_model()
    settings = {"do_sample": False, "suppress_tokens": [toy.EOS, toy.PAD]}
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=30, **settings)
    part = model.generate(ids, attention_mask=mask, max_new_tokens=12, return_dict_in_generate=True, **settings)
    longer = torch.cat([mask, torch.ones(2, 12, dtype=mask.dtype)], 1)
    rest = model.generate(
        part.sequences, attention_mask=longer, past_key_values=part.past_key_values, max_new_tokens=18, **settings
    )
    assert torch.equal(rest, whole)


def test_bar_offset_in_generate(toy):
    ids, mask = toy.stack([toy.random_row(3, seed=1, eos=False), toy.random_row(5, seed=2, eos=False)])
    model = toy.tiny_model()
    offset = torch.tensor([20, 0])
    cached, full = (generate(model, ids, mask, bar_offset=offset, num_beams=2, use_cache=use) for use in (True, False))
    assert torch.equal(cached, full)


def test_constrained_samples_decode(toy):
    """Grammar, max_bars and token budget with an untrained model: every sample is a piece of music."""
    from partimento.tokenization import GenerationConstraints, GrammarLogitsProcessor, MidiProcessor

    processor = MidiProcessor.from_preset("multitrack")
    torch.manual_seed(0)
    config = toy.MuseformerConfig.from_preset("tiny", **processor.model_config_kwargs())
    model = toy.MuseformerForCausalLM(config).eval()
    prompts = [processor.grammar.random_sequence(np.random.default_rng(s), n)[:-1] for s, n in ((0, 2), (1, 1))]
    ids, mask = toy.stack([list(map(int, p)) for p in prompts])
    budget = ids.shape[1] + 120
    constraints = GenerationConstraints(min_bars=3, max_bars=4, token_budget=budget)
    outputs = []
    for use_cache in (True, True, False):
        torch.manual_seed(3)
        outputs.append(
            model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=8,
                num_return_sequences=2,
                max_length=budget,
                use_cache=use_cache,
                logits_processor=LogitsProcessorList([GrammarLogitsProcessor(processor.grammar, constraints)]),
            )
        )
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    for song in outputs[0].tolist():
        tokens = [t for t in song if t != processor.pad_token_id]
        assert tokens[-1] == processor.eos_token_id
        assert processor.count_bars(tokens) <= 4
        processor.grammar.validate(tokens, complete=True)
        assert processor.decode(tokens).note_num() > 0

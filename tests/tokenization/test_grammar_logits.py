"""The logits processor: equal to the walker in every state, constraints kept, always a legal token."""

import numpy as np
import pytest
import torch

from partimento.tokenization import GenerationConstraints, GrammarLogitsProcessor
from partimento.tokenization.grammar import START, GrammarState
from partimento.tokenization.vocabulary import TokenType

FREE = GenerationConstraints(forbid_condition_tokens=False, no_empty_final_bar=False)  # the bare grammar
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])]


def reference_mask(grammar, ids) -> torch.Tensor:
    """Legal tokens after one sequence by the walker, token by token."""
    state = GrammarState()
    for token in ids:
        if not (state.phase == START and token == grammar.vocabulary.pad):
            grammar.advance(state, token)
    mask = torch.zeros(len(grammar.vocabulary), dtype=torch.bool)
    mask[grammar.legal_ids(state)] = True
    return mask


def ragged_batch(grammar, seed, num_rows, num_bars=2) -> torch.Tensor:
    """Random complete sequences [rows, longest], padded left."""
    rng = np.random.default_rng(seed)
    rows = [grammar.random_sequence(rng, int(rng.integers(1, num_bars + 1))) for _ in range(num_rows)]
    length = max(map(len, rows))
    return torch.tensor([[0] * (length - len(row)) + row for row in rows])


def generate(processor, constraints, seed, num_rows=4, steps=400, prompt=None) -> torch.Tensor:
    """Uniform sampling from the legal tokens until all rows end or the steps are used."""
    logits, generator = GrammarLogitsProcessor(processor.grammar, constraints), torch.Generator().manual_seed(seed)
    ids = torch.full((num_rows, 1), processor.bos_token_id) if prompt is None else prompt
    kinds = torch.as_tensor(processor.vocabulary.types.astype(int))
    weight = torch.ones(len(kinds)) / torch.bincount(kinds, minlength=14)[kinds]  # every type equally likely
    for _ in range(steps):
        scores = logits(ids, torch.log(weight).expand(len(ids), -1))
        assert (scores > float("-inf")).any(1).all()
        ids = torch.cat([ids, torch.multinomial(scores.softmax(-1), 1, generator=generator)], 1)
        if (ids[:, -1] == processor.pad_token_id).all():
            break
    return ids


@pytest.mark.parametrize("device", DEVICES)
def test_masks_equal_the_walker(any_processor, device):
    """Ragged left-padded rows, one column at a time, and the same states rebuilt from history."""
    grammar = any_processor.grammar
    for seed in range(3):
        ids = ragged_batch(grammar, seed, num_rows=5).to(device)
        stepwise = GrammarLogitsProcessor(grammar, FREE)
        for end in range(1, ids.shape[1] + 1):
            mask = stepwise.legal(ids[:, :end])
            rebuilt = GrammarLogitsProcessor(grammar, FREE).legal(ids[:, :end])
            assert torch.equal(mask, rebuilt)
            if end % 3 == 0 or end > ids.shape[1] - 6:
                expected = torch.stack([reference_mask(grammar, row[:end].tolist()) for row in ids])
                assert torch.equal(mask.cpu(), expected)


def test_advance_and_rebuild_agree_on_any_tokens(any_processor):
    """Also where the history is not grammatical: the state is a total function of the tokens."""
    rng, grammar = np.random.default_rng(4), any_processor.grammar
    starts = any_processor.vocabulary.starts
    frequent = [starts[kind] + k for kind in (TokenType.BAR, TokenType.POSITION, TokenType.PROGRAM) for k in range(1)]
    for _ in range(10):
        ids = torch.as_tensor(rng.integers(0, len(any_processor.vocabulary), (4, 60)))
        ids[torch.as_tensor(rng.random(ids.shape) < 0.3)] = frequent[int(rng.integers(len(frequent)))]
        ids[ids == any_processor.eos_token_id] = any_processor.bar_token_id
        stepwise = GrammarLogitsProcessor(grammar, FREE)
        for end in range(1, ids.shape[1] + 1):
            assert torch.equal(stepwise.legal(ids[:, :end]), GrammarLogitsProcessor(grammar, FREE).legal(ids[:, :end]))


def test_reordered_beams(processor):
    grammar, generator = processor.grammar, torch.Generator().manual_seed(1)
    logits, ids = GrammarLogitsProcessor(grammar, FREE), ragged_batch(grammar, 9, num_rows=6)[:, :40]
    for _ in range(40):
        scores = logits(ids, torch.zeros(len(ids), len(processor.vocabulary)))
        chosen = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, chosen], 1)[torch.randint(len(ids), (len(ids),), generator=generator)]
        assert torch.equal(logits.legal(ids), GrammarLogitsProcessor(grammar, FREE).legal(ids))
        assert torch.equal(logits.legal(ids)[0], reference_mask(grammar, ids[0].tolist()))


def test_another_batch_and_another_prompt(processor):
    logits, grammar = GrammarLogitsProcessor(processor.grammar, FREE), processor.grammar
    for seed, rows in ((0, 2), (1, 3), (2, 3)):
        ids = ragged_batch(grammar, seed, rows)[:, :30]
        assert torch.equal(logits.legal(ids), GrammarLogitsProcessor(grammar, FREE).legal(ids))


def test_finished_rows_may_only_pad(processor):
    ids = torch.tensor([[1, 4, 2], [1, 4, 4]])
    logits = GrammarLogitsProcessor(processor.grammar, FREE)
    for _ in range(3):
        assert logits.legal(ids)[0].nonzero().flatten().tolist() == [processor.pad_token_id]
        ids = torch.cat([ids, torch.tensor([[0], [4]])], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_keep_dtype_and_extra_columns_are_closed(processor, dtype):
    size = len(processor.vocabulary)
    logits, ids = GrammarLogitsProcessor(processor, GenerationConstraints()), torch.tensor([[1]])
    scores = torch.randn(1, size + 70).to(dtype)
    masked = logits(ids, scores)
    assert masked.dtype == dtype
    assert (masked > float("-inf")).nonzero().tolist() == [[0, processor.bar_token_id]]
    assert masked[0, 4] == scores[0, 4]
    with pytest.raises(ValueError, match="columns"):
        logits(ids, scores[:, :10])


def test_a_bar_line_that_may_not_come_is_an_ending_and_the_reverse(processor):
    names = ("BOS_None", "Bar_None", "Position_0", "Program_0", "Pitch_60", "Velocity_67", "Duration_1.0.12")
    ids = torch.tensor([[processor.vocabulary.ids[name] for name in names]])
    bar, eos = processor.bar_token_id, processor.eos_token_id
    scores = torch.full((1, len(processor.vocabulary)), -20.0)
    scores[0, bar], scores[0, eos] = 5.0, -20.0
    last = GrammarLogitsProcessor(processor, GenerationConstraints(min_bars=1, max_bars=1))(ids, scores)
    assert last.argmax() == eos
    assert last[0, bar] == float("-inf")
    first = GrammarLogitsProcessor(processor, GenerationConstraints(min_bars=2, max_bars=2))(ids, scores)
    assert first.argmax() == bar
    scores[0, bar], scores[0, eos] = -20.0, 5.0
    early = GrammarLogitsProcessor(processor, GenerationConstraints(min_bars=2))(ids, scores)
    assert early.argmax() == bar
    assert early[0, eos] == float("-inf")
    free = GrammarLogitsProcessor(processor, GenerationConstraints(max_bars=2))(ids, scores)
    assert torch.equal(free[0, [bar, eos]], scores[0, [bar, eos]])


@pytest.mark.parametrize("seed", range(3))
def test_sampled_sequences_are_grammatical(any_processor, seed):
    ids = generate(any_processor, GenerationConstraints(max_bars=3), seed)
    for row in ids.tolist():
        any_processor.validate(row)
        score = any_processor.decode(row)
        assert score.note_num() == int((any_processor.vocabulary.types[row] == TokenType.DURATION).sum())


def test_allowed_programs_and_pitch_range(processor):
    constraints = GenerationConstraints(allowed_programs={0, 33, -1}, pitch_range=(60, 62), max_bars=6)
    ids = generate(processor, constraints, seed=0, num_rows=8)
    pieces = [processor.decode_piece(row) for row in ids.tolist()]
    assert {program for piece in pieces for program in piece.programs.tolist()} == {0, 33, 128}
    pitched = [pitch for piece in pieces for pitch in piece.pitches[piece.programs < 128].tolist()]
    assert set(pitched) == {60, 61, 62}
    drums = {pitch for piece in pieces for pitch in piece.pitches[piece.programs == 128].tolist()}
    assert max(drums) > 62


def test_one_pitch_of_one_program_never_runs_dry(processor):
    """The narrowest choice: after the only note of an onset nothing but the next onset, bar or end is left."""
    constraints = GenerationConstraints(
        allowed_programs={5, 9}, pitch_range=(60, 60), tempo=100, min_bars=4, max_bars=4
    )
    ids = generate(processor, constraints, seed=1, num_rows=8, steps=3000)
    for row in ids.tolist():
        processor.grammar.validate(row, complete=processor.eos_token_id in row)
        assert processor.count_bars(row) == 4
    assert (ids == processor.eos_token_id).any(1).all()


def test_prompt_that_breaks_the_constraints(processor):
    """A prompt may end in the middle of a note of a forbidden program; that note is finished."""
    names = ["BOS_None", "Bar_None", "Position_47", "Tempo_100.92", "Program_7"]
    prompt = torch.tensor([[processor.vocabulary.ids[name] for name in names]] * 3)
    constraints = GenerationConstraints(allowed_programs={0}, pitch_range=(60, 60), tempo=60, max_bars=2)
    ids = generate(processor, constraints, seed=2, prompt=prompt)
    for row in ids.tolist():
        processor.validate(row)
        assert processor.decode_piece(row).programs.tolist().count(7) == 1


def test_fixed_tempo(processor):
    fixed = processor.vocabulary.ids["Tempo_94.25"]
    ids = generate(processor, GenerationConstraints(tempo=95, min_bars=2, max_bars=3), seed=3)
    for row in ids.tolist():
        assert row[1:4] == [processor.bar_token_id, processor.vocabulary.ids["Position_0"], fixed]
        tempos = [token for token in row if processor.vocabulary.types[token] == TokenType.TEMPO]
        assert tempos == [fixed]
    names = "BOS_None Bar_None Position_0 Tempo_60.0 Program_7 Pitch_60 Velocity_99 Duration_1.0.12"
    prompt = [processor.vocabulary.ids[n.replace("Tempo_60.0", "Tempo_58.39")] for n in names.split()]
    ids = generate(processor, GenerationConstraints(tempo=95, max_bars=3), seed=3, prompt=torch.tensor([prompt] * 4))
    for row in ids.tolist():
        processor.validate(row)
        later = processor.decode_piece(row)
        assert set(later.tempos[1:].tolist()) <= {20}
        new_onsets = later.onsets[later.onsets > 0]
        if len(new_onsets):
            assert later.tempo_ticks[1] <= new_onsets[0]


@pytest.mark.parametrize("preset", ["multitrack", "metres"])
def test_bars(processors, preset):
    processor = processors[preset]
    ids = generate(processor, GenerationConstraints(min_bars=3, max_bars=5), seed=4, num_rows=8, steps=1500)
    counts = [processor.count_bars(row) for row in ids.tolist() if processor.eos_token_id in row]
    assert len(counts) == 8
    assert min(counts) >= 3
    assert max(counts) <= 5
    for row in ids.tolist():
        last_bar = len(row) - 1 - row[::-1].index(processor.bar_token_id)
        assert (processor.vocabulary.types[row[last_bar:]] == TokenType.DURATION).any()


@pytest.mark.parametrize("preset", ["multitrack", "metres"])
@pytest.mark.parametrize("settings", [{}, {"tempo": 90}, {"min_bars": 50}, {"no_empty_final_bar": False}])
def test_token_budget(processors, preset, settings):
    processor = processors[preset]
    for budget in (12, 13, 14, 15, 16, 30, 61):
        constraints = GenerationConstraints(token_budget=budget, **settings)
        ids = generate(processor, constraints, seed=budget, num_rows=8, steps=budget + 20)
        for row in ids.tolist():
            processor.grammar.validate(row, complete=True)
            assert row.index(processor.eos_token_id) + 1 <= budget
            last_bar = len(row) - 1 - row[::-1].index(processor.bar_token_id)
            has_note = (processor.vocabulary.types[row[last_bar:]] == TokenType.DURATION).any()
            assert has_note or not constraints.no_empty_final_bar


def test_budget_smaller_than_the_prompt_closes_at_once(processor):
    text = "BOS_None Bar_None Position_0 Tempo_100.92 Program_0 Pitch_60 Velocity_99 Duration_1.0.12"
    note = text.split()
    rest = {8: 1, 7: 2, 6: 3, 5: 4, 4: 1, 2: 1}  # tokens of the prompt -> tokens until EOS
    for length, needed in rest.items():
        prompt = torch.tensor([[processor.vocabulary.ids[name] for name in note[:length]]] * 2)
        ids = generate(processor, GenerationConstraints(token_budget=3, min_bars=9), seed=0, prompt=prompt)
        assert all(row.index(processor.eos_token_id) == length + needed - 1 for row in ids.tolist())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"allowed_programs": {128}}, "allowed_programs"),
        ({"pitch_range": (70, 60)}, "pitch_range"),
        ({"tempo": 0}, "tempo"),
        ({"min_bars": 5, "max_bars": 4}, "min_bars=5, max_bars=4"),
        ({"max_bars": 0}, "max_bars=0"),
        ({"token_budget": 0}, "token_budget"),
    ],
)
def test_impossible_constraints(settings, words):
    with pytest.raises(ValueError, match=words):
        GenerationConstraints(**settings)


def test_programs_outside_the_preset(processors):
    logits = GrammarLogitsProcessor(processors["six_track"], GenerationConstraints(allowed_programs={1}))
    with pytest.raises(ValueError, match="none is in the vocabulary"):
        logits.legal(torch.tensor([[1]]))


def test_inside_generate(processor):
    """With transformers' own loop: sampling and beams, prompts of different lengths, budget as max_new_tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, set_seed

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    facts = {"vocab_size": len(processor.vocabulary), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    set_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **facts)).eval()
    prompts = [[1], [1, *processor.condition_ids({"genre": "Jazz", "bars": 2}), 4]]
    batch = processor.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    for settings in ({"do_sample": True, "top_k": 8}, {"num_beams": 3, "num_return_sequences": 2}):
        constraints = GenerationConstraints(token_budget=60, max_bars=4, allowed_programs={0, -1})
        logits = LogitsProcessorList([GrammarLogitsProcessor(processor.grammar, constraints)])
        width = batch["input_ids"].shape[1]
        ids = model.generate(**batch, logits_processor=logits, max_new_tokens=60 - width, **settings)
        for row in ids.tolist():
            processor.grammar.validate(row, complete=True)
            assert processor.decode(row).note_num() > 0

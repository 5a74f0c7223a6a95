"""generate() on recurrent models, and their folder as code on the Hub."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList
from transformers.dynamic_module_utils import check_imports, get_relative_imports

import partimento.modeling.recurrent as recurrent
from partimento.modeling import RecurrentConfig, RecurrentForCausalLM

CELLS = ("rnn_tanh", "rnn_relu", "gru", "gru_thesis", "lstm", "lstm_peephole")
MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "do_sample": False},
}
FOLDER = Path(recurrent.__file__).parent
PAYLOAD = sorted(path.name for path in FOLDER.glob("*_recurrent.py"))


def make_model(cell_type, input_mode="embedding", seed=0):
    torch.manual_seed(seed)
    config = RecurrentConfig(
        cell_type=cell_type,
        input_mode=input_mode,
        vocab_size=13,
        hidden_size=16,
        embedding_size=8,
        initializer_range=1.0,
    )
    return RecurrentForCausalLM(config).double().eval()


def prompts():
    """Left-padded rows of 6, 2 and 4 tokens."""
    ids = torch.randint(3, 13, (3, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row, pads in ((1, 4), (2, 2)):
        ids[row, :pads], mask[row, :pads] = 0, 0
    return ids, mask


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell_type", CELLS)
@pytest.mark.parametrize("input_mode", ["embedding", "one_hot"])
def test_cached_equals_uncached(cell_type, input_mode, mode):
    model = make_model(cell_type, input_mode)
    ids, mask = prompts()
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        outputs.append(model.generate(ids, attention_mask=mask, max_new_tokens=15, use_cache=use_cache, **MODES[mode]))
    assert torch.equal(*outputs)
    assert len(outputs[0]) == 3 * MODES[mode].get("num_return_sequences", 1)
    assert len(torch.unique(outputs[0][:, 6:], dim=0)) > 1


@pytest.mark.parametrize("cell_type", CELLS)
def test_batch_equals_single(cell_type):
    model = make_model(cell_type)
    ids, mask = prompts()
    batch = model.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False)
    for row in range(3):
        prompt = ids[row, mask[row].bool()][None]
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=15, do_sample=False)
        new = alone[0, prompt.shape[1] :]
        assert torch.equal(batch[row, 6 : 6 + len(new)], new)
        assert (batch[row, 6 + len(new) :] == 0).all()


def test_returned_cache_can_be_continued():
    model = make_model("lstm")
    ids, mask = prompts()
    settings = {"do_sample": False, "suppress_tokens": [0, 2]}
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=20, **settings)
    part = model.generate(ids, attention_mask=mask, max_new_tokens=8, return_dict_in_generate=True, **settings)
    longer = torch.cat([mask, torch.ones(3, 8, dtype=mask.dtype)], 1)
    rest = model.generate(
        part.sequences, attention_mask=longer, past_key_values=part.past_key_values, max_new_tokens=12, **settings
    )
    assert torch.equal(rest, whole)


def test_constrained_samples_decode():
    from partimento.tokenization import GenerationConstraints, GrammarLogitsProcessor, MidiProcessor

    processor = MidiProcessor.from_preset("multitrack")
    torch.manual_seed(0)
    values = {k: v for k, v in processor.model_config_kwargs().items() if hasattr(RecurrentConfig, k)}
    model = RecurrentForCausalLM(RecurrentConfig(hidden_size=16, embedding_size=8, **values)).eval()
    processor.check_model_config(model.config)
    prompt = processor.grammar.random_sequence(np.random.default_rng(0), 1)[:-1]
    ids = torch.tensor([[int(t) for t in prompt]])
    budget = ids.shape[1] + 100
    constraints = GenerationConstraints(min_bars=2, max_bars=3, token_budget=budget)
    songs = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        num_return_sequences=2,
        max_length=budget,
        logits_processor=LogitsProcessorList([GrammarLogitsProcessor(processor.grammar, constraints)]),
    )
    for song in songs.tolist():
        tokens = [t for t in song if t != processor.pad_token_id]
        processor.grammar.validate(tokens, complete=True)
        assert processor.decode(tokens).note_num() > 0


EXPORT = """
import sys, torch
from partimento.modeling import RecurrentConfig, RecurrentForCausalLM
RecurrentConfig.register_for_auto_class()
RecurrentForCausalLM.register_for_auto_class("AutoModelForCausalLM")
torch.manual_seed(0)
model = RecurrentForCausalLM(RecurrentConfig(cell_type="lstm_peephole", vocab_size=50, hidden_size=16)).eval()
model.save_pretrained(sys.argv[1])
ids = torch.tensor([[1, *([4, 40, 41, 42] * 10)]])
torch.save([ids, model(ids).logits, model.generate(ids, max_new_tokens=20, num_beams=2)], sys.argv[2])
"""

IMPORT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "partimento":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
ids, logits, song = torch.load(sys.argv[2])
assert "transformers_modules" in type(model).__module__, type(model)
assert torch.allclose(model(ids).logits, logits, atol=1e-5)
assert torch.equal(model.generate(ids, max_new_tokens=20, num_beams=2), song)
assert not any(name.partition(".")[0] == "partimento" for name in sys.modules)
"""


def test_payload_imports_are_allowed():
    assert PAYLOAD == [
        "cache_recurrent.py",
        "cells_recurrent.py",
        "configuration_recurrent.py",
        "modeling_recurrent.py",
    ]
    for name in PAYLOAD:
        siblings = check_imports(FOLDER / name)
        assert all(f"{sibling}.py" in PAYLOAD for sibling in siblings)
        assert "partimento" not in (FOLDER / name).read_text()
        assert get_relative_imports(FOLDER / name) == siblings


def test_exported_model_runs_without_the_package(tmp_path):
    folder, result = tmp_path / "model", tmp_path / "result.pt"
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    for code, flags in ((EXPORT, []), (IMPORT, ["-I"])):
        process = subprocess.run(
            [sys.executable, *flags, "-c", code, str(folder), str(result)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
        )
        assert process.returncode == 0, process.stderr
    assert (folder / "cells_recurrent.py").is_file()

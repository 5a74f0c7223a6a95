"""The embedded checkpoints: complete folders that load with and without the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer
from transformers.dynamic_module_utils import check_imports

import partimento.modeling
from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.tokenization import MidiProcessor

NAMES = list_embedded()
IDS = torch.tensor([[1, 4, 4, 60, 4]])
# `partimento` is made impossible to import: the folder's own code has to be enough.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "partimento":
            raise ImportError("partimento is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
base = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = torch.tensor([[1, 4, 4, 60, 4]])
with torch.no_grad():
    found = {"logits": model(ids).logits, "hidden": base(ids).last_hidden_state, "tokens": len(tokenizer)}
torch.save(found, sys.argv[2])
generated = model.generate(ids, max_new_tokens=5, do_sample=False)
assert generated.shape[1] > ids.shape[1]
assert "partimento" not in sys.modules
"""


def test_there_is_an_embedded_checkpoint():
    assert "museformer-small" in NAMES
    with pytest.raises(ValueError, match="museformer-small"):
        embedded_checkpoint("absent")


@pytest.mark.parametrize("name", NAMES)
def test_loads_with_an_empty_report_and_tokenizer_fits(name):
    folder = embedded_checkpoint(name)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, MidiProcessor)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder)) == len(processor.tokenizer)
    assert model.config.bar_token_id == processor.bar_token_id
    assert type(AutoModel.from_pretrained(folder)).__name__ == "MuseformerModel"


@pytest.mark.parametrize("name", NAMES)
def test_same_logits_without_the_package(name, tmp_path):
    folder = embedded_checkpoint(name)
    out = tmp_path / "out.pt"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), str(out)],
        capture_output=True, text=True, cwd=tmp_path, env={**_environment(tmp_path)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = torch.load(out, weights_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, alone["logits"])
        assert torch.equal(model.model(IDS).last_hidden_state, alone["hidden"])
    assert alone["tokens"] == model.config.vocab_size


def _environment(tmp_path):
    import os

    return {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("name", NAMES)
def test_payload_is_the_code_of_the_package(name):
    folder = embedded_checkpoint(name)
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    sources = Path(partimento.modeling.__file__).parent / model_type
    payload = sorted(folder.glob("*.py"))
    assert {path.name for path in payload} == {path.name for path in sources.glob("*.py")} - {"__init__.py"}
    for path in payload:
        assert path.read_text() == (sources / path.name).read_text(), (
            f"{path.name}: run training/export_to_hub.py again"
        )
        check_imports(path)


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_small_and_safe(name):
    folder = embedded_checkpoint(name)
    weights = folder / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert not [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    assert (folder / "generation_config.json").is_file()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    for word in ("license", "Freedoom", "Groove", "Limits", "bits per bar"):
        assert word in card

"""The embedded checkpoints: complete folders that load with and without the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer
from transformers.dynamic_module_utils import check_imports

import partimento.modeling
from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.pipelines import LoopGenerator
from partimento.tokenization import MidiProcessor, MusicVAEProcessor
from partimento.tokenization.melody_attributes import ATTRIBUTES

NAMES = list_embedded()


def of_type(*model_types):
    """Names of the embedded checkpoints of some architectures."""
    configs = {name: json.loads((embedded_checkpoint(name) / "config.json").read_text()) for name in NAMES}
    return [name for name, config in configs.items() if config["model_type"] in model_types]


LANGUAGE_MODELS, MUSICVAES = of_type("museformer", "music_recurrent"), of_type("musicvae")
IDS = torch.tensor([[1, 4, 4, 60, 4]])
# `partimento` is made impossible to import: the folder's own code has to be enough.
WITHOUT_PACKAGE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "partimento":
            raise ImportError("partimento is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
"""
ALONE = f"""{WITHOUT_PACKAGE}
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
base = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = torch.tensor([[1, 4, 4, 60, 4]])
with torch.no_grad():
    found = {{"logits": model(ids).logits, "hidden": base(ids).last_hidden_state, "tokens": len(tokenizer)}}
torch.save(found, sys.argv[2])
generated = model.generate(ids, max_new_tokens=5, do_sample=False)
assert generated.shape[1] > ids.shape[1]
assert "partimento" not in sys.modules
"""
MUSICVAE_ALONE = f"""{WITHOUT_PACKAGE}
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32).eval()
z = torch.linspace(-1, 1, 2 * model.config.z_size).reshape(2, -1)
music = model.decode(z)
found = {{"music": music, "mu": model.encode(music).mu, "generated": model.generate(music, do_sample=False)[:, 1:]}}
torch.save(found, sys.argv[2])
assert "partimento" not in sys.modules
"""


def test_there_is_an_embedded_checkpoint():
    assert "museformer-small" in NAMES
    with pytest.raises(ValueError, match="museformer-small"):
        embedded_checkpoint("absent")


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_loads_with_an_empty_report_and_tokenizer_fits(name):
    folder = embedded_checkpoint(name)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, MidiProcessor)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder)) == len(processor.tokenizer)
    assert model.config.bar_token_id == processor.bar_token_id
    base = type(AutoModel.from_pretrained(folder)).__name__
    assert type(model).__name__ == base.removesuffix("Model") + "ForCausalLM"


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_same_logits_without_the_package(name, tmp_path):
    folder = embedded_checkpoint(name)
    alone = run_without_package(ALONE, folder, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, alone["logits"])
        assert torch.equal(model.model(IDS).last_hidden_state, alone["hidden"])
    assert alone["tokens"] == model.config.vocab_size


def run_without_package(code, folder, tmp_path):
    """What the code saves when it runs in a process that cannot import partimento."""
    out = tmp_path / "out.pt"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(out)],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", MUSICVAES)
def test_musicvae_with_and_without_the_package(name, tmp_path):
    folder = embedded_checkpoint(name)
    model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, MusicVAEProcessor)
    assert processor.model_config_kwargs().items() <= model.config.to_dict().items()
    alone = run_without_package(MUSICVAE_ALONE, folder, tmp_path)
    z = torch.linspace(-1, 1, 2 * model.config.z_size).reshape(2, -1)
    assert torch.equal(model.eval().decode(z), alone["music"])
    assert torch.equal(model.encode(alone["music"]).mu, alone["mu"])
    assert torch.equal(model.decode(alone["mu"]), alone["generated"])


@pytest.mark.parametrize("name", MUSICVAES)
def test_musicvae_facts_belong_to_it(name):
    generator = LoopGenerator.from_pretrained(name)
    assert generator.latent is not None
    assert generator.latent.kl_bits.shape == (generator.z_size,)
    assert generator.attributes == (tuple(sorted(ATTRIBUTES)) if generator.tracks == ["melody"] else ())
    assert sum(loop.num_notes for loop in generator.sample(8, seed=0)) > 16


@pytest.mark.parametrize("name", NAMES)
def test_payload_is_the_code_of_the_package(name):
    folder = embedded_checkpoint(name)
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    sources = Path(partimento.modeling.__file__).parent / model_type.removeprefix("music_")  # of music_recurrent
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
    assert weights.stat().st_size <= (10_000_000 if name in MUSICVAES else 12_000_000)
    assert not [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    assert (folder / "generation_config.json").is_file()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    figure = "bits per bar" if name in LANGUAGE_MODELS else "KL"
    for word in ("license", "Freedoom", "Groove", "Limits", figure):
        assert word in card

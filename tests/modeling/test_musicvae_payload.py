"""The folder of MusicVAE as code on the Hub: importable rules, and loading where the package is absent."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import check_imports, get_relative_imports

import partimento.modeling.musicvae as musicvae

FOLDER = Path(musicvae.__file__).parent
PAYLOAD = sorted(path.name for path in FOLDER.glob("*_musicvae.py"))

EXPORT = """
import sys, torch
from safetensors.torch import save_file
from partimento.modeling import MusicVAEConfig, MusicVAEModel
MusicVAEConfig.register_for_auto_class()
MusicVAEModel.register_for_auto_class("AutoModel")
torch.manual_seed(0)
model = MusicVAEModel(MusicVAEConfig.from_preset("mel_16bar_tiny", num_bars=2)).eval()
model.save_pretrained(sys.argv[1])
save_file({"note_density": torch.ones(64)}, sys.argv[1] + "/attributes.safetensors")
ids, z = torch.randint(90, (2, 32)), torch.randn(2, 64)
torch.save([ids, z, model(ids).logits, model.generate(ids, num_beams=2), model.decode(z + 0.5)], sys.argv[2])
"""

IMPORT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "partimento":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
ids, z, logits, beams, music = torch.load(sys.argv[2])
assert "transformers_modules" in type(model).__module__, type(model)
assert torch.equal(model(ids).logits, logits)
assert torch.equal(model.generate(ids, num_beams=2), beams)
assert torch.equal(model.decode(model.apply_attribute(z, "note_density", 0.5)), music)
assert not any(name.partition(".")[0] == "partimento" for name in sys.modules)
"""


def test_payload_is_complete():
    assert PAYLOAD == [
        "cache_musicvae.py",
        "configuration_musicvae.py",
        "decoder_musicvae.py",
        "encoder_musicvae.py",
        "latent_musicvae.py",
        "modeling_musicvae.py",
        "outputs_musicvae.py",
        "recurrent_musicvae.py",
    ]


@pytest.mark.parametrize("name", PAYLOAD)
def test_imports_are_allowed(name):
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
    assert (folder / "modeling_musicvae.py").is_file()

"""The folder of the dense VAE as code on the Hub: importable rules, and loading where the package is absent."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import check_imports, get_relative_imports

import partimento.modeling.dense_vae as dense_vae

FOLDER = Path(dense_vae.__file__).parent
PAYLOAD = sorted(path.name for path in FOLDER.glob("*_dense_vae.py"))

EXPORT = """
import sys, torch
from partimento.modeling import DenseVAEConfig, DenseVAEModel
DenseVAEConfig.register_for_auto_class()
DenseVAEModel.register_for_auto_class("AutoModel")
torch.manual_seed(0)
model = DenseVAEModel(DenseVAEConfig(input_shape=(16, 9), hidden_sizes=(20,), latent_size=4)).eval()
model.save_pretrained(sys.argv[1])
x = torch.rand(3, 16, 9).round()
seen = torch.rand(3, 16, 9) > 0.3
torch.save([x, seen, model.reconstruct(x), model.restore(x, seen, "optimise")], sys.argv[2])
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
x, seen, logits, restored = torch.load(sys.argv[2])
assert "transformers_modules" in type(model).__module__, type(model)
assert torch.equal(model.reconstruct(x), logits)
assert torch.equal(model.restore(x, seen, "optimise"), restored)
assert not any(name.partition(".")[0] == "partimento" for name in sys.modules)
"""


def test_payload_is_complete():
    assert PAYLOAD == [
        "configuration_dense_vae.py",
        "latent_dense_vae.py",
        "modeling_dense_vae.py",
        "networks_dense_vae.py",
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
    assert (folder / "modeling_dense_vae.py").is_file()

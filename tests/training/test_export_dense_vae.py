"""A dense VAE exported for the Hub: of music with its processor, of images without one."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from partimento.modeling import DenseVAEConfig, DenseVAEModel
from partimento.tokenization import DenseVAEProcessor
from partimento.training.export_to_hub import export

SIZES = {"hidden_sizes": (20,), "latent_size": 4}
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "partimento":
            raise ImportError("partimento is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32).eval()
torch.save(model.decode(torch.linspace(-1, 1, 8).reshape(2, 4)), sys.argv[2])
"""


@pytest.fixture
def source(tmp_path):
    """best/ of a run on bars of drums."""
    folder = tmp_path / "run" / "best"
    processor = DenseVAEProcessor("drums")
    torch.manual_seed(0)
    DenseVAEModel(DenseVAEConfig(**processor.model_config_kwargs(), **SIZES)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_drum_model_keeps_its_processor_and_loads_alone(source, tmp_path):
    output = tmp_path / "model"
    export(source, output, torch.float16, card="---\nlicense: apache-2.0\n---\n")
    config = json.loads((output / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_dense_vae.DenseVAEConfig",
        "AutoModel": "modeling_dense_vae.DenseVAEModel",
    }
    names = {path.name for path in output.iterdir()}
    assert {f"{part}_dense_vae.py" for part in ("configuration", "latent", "modeling", "networks")} <= names
    assert {"README.md", "processor_config.json", "model.safetensors"} <= names
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float16}
    assert isinstance(AutoProcessor.from_pretrained(output), DenseVAEProcessor)

    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(output), str(tmp_path / "alone.pt")],
        capture_output=True,
        text=True,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model = AutoModel.from_pretrained(output, dtype=torch.float32).eval()
    here = model.decode(torch.linspace(-1, 1, 8).reshape(2, 4))
    assert torch.equal(here, torch.load(tmp_path / "alone.pt"))


def test_a_model_of_images_has_no_processor(tmp_path):
    source, output = tmp_path / "run" / "model", tmp_path / "model"
    DenseVAEModel(DenseVAEConfig(input_shape=(8, 8), **SIZES)).save_pretrained(source)
    export(source, output, torch.float32)
    assert not (output / "processor_config.json").exists()
    model, report = AutoModel.from_pretrained(output, output_loading_info=True)
    assert not any(report.values()), report
    original = AutoModel.from_pretrained(source).state_dict()
    assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())


def test_a_processor_of_other_grids_is_refused(source, tmp_path):
    DenseVAEProcessor("drums", num_bars=2).save_pretrained(source)
    with pytest.raises(ValueError, match=r"input_shape is \(16, 9\) in the model, \(32, 9\) in the processor"):
        export(source, tmp_path / "model", torch.float16)
    assert not (tmp_path / "model").exists()

"""The model folder as code on the Hub: importable rules, and loading where the package is absent."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import check_imports, get_relative_imports

import partimento.modeling.museformer as museformer

FOLDER = Path(museformer.__file__).parent
PAYLOAD = sorted(path.name for path in FOLDER.glob("*_museformer.py"))

EXPORT = """
import sys, torch
from partimento.modeling import MuseformerConfig, MuseformerForCausalLM
MuseformerConfig.register_for_auto_class()
MuseformerForCausalLM.register_for_auto_class("AutoModelForCausalLM")
torch.manual_seed(0)
model = MuseformerForCausalLM(MuseformerConfig.from_preset("tiny", vocab_size=96)).eval()
model.save_pretrained(sys.argv[1])
ids = torch.tensor([[1, *([4, 60, 61, 62] * 40), 2]])
torch.save([ids, model(ids).logits, model.generate(ids[:, :30], max_new_tokens=20, do_sample=False)], sys.argv[2])
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
assert torch.equal(model(ids).logits, logits)
assert torch.equal(model.generate(ids[:, :30], max_new_tokens=20, do_sample=False), song)
assert not any(name.partition(".")[0] == "partimento" for name in sys.modules)
"""


def test_payload_is_complete():
    assert PAYLOAD == [
        "attention_museformer.py",
        "cache_museformer.py",
        "configuration_museformer.py",
        "decoding_museformer.py",
        "layers_museformer.py",
        "modeling_museformer.py",
        "products_museformer.py",
        "structure_museformer.py",
        "visible_museformer.py",
    ]


@pytest.mark.parametrize("name", PAYLOAD)
def test_imports_are_allowed(name):
    siblings = check_imports(FOLDER / name)
    assert all(f"{sibling}.py" in PAYLOAD for sibling in siblings)
    source = (FOLDER / name).read_text()
    assert "partimento" not in source.replace("partimento.modeling", "")
    assert "import partimento" not in source
    assert "from partimento" not in source
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
    assert (folder / "modeling_museformer.py").is_file()


def test_import_does_not_load_the_midi_libraries():
    code = (
        "import sys, partimento.modeling; "
        "print([m for m in ('miditok', 'gradio', 'evaluate', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"

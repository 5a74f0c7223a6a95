"""What is pushed to a Hub comes back: the commands, the code that travels along, and clear words where it fails."""

import hashlib

import pytest
import torch
from transformers import AutoModelForCausalLM

from partimento.modeling import MuseformerConfig, MuseformerForCausalLM
from partimento.tokenization import MidiProcessor
from partimento.training import export_to_hub

SCRIPT = export_to_hub.__file__
IDS = [[1, 4, 4, 60, 4, 80]]
PUSH = """
import sys
from pathlib import Path
from partimento.training.hub_push import PushError, push
try:
    print(push(Path(sys.argv[1]), sys.argv[2]))
except PushError as error:
    sys.exit(str(error))
"""
LOAD = f"""
import sys
sys.path.insert(0, sys.argv[3])
import importlib.util
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
for name in ("partimento", "miditok", "symusic", "datasets", "accelerate"):
    assert importlib.util.find_spec(name) is None, name
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32).eval()
base = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32).eval()
with torch.no_grad():
    ids = torch.tensor({IDS})
    found = {{"logits": model(ids).logits, "hidden": base(ids).last_hidden_state}}
torch.save({{**found, "tokens": len(AutoTokenizer.from_pretrained(sys.argv[1]))}}, sys.argv[2])
"""


@pytest.fixture
def clean_site(make_site):
    """What `pip install transformers torch` would make of an empty environment: links to these distributions alone."""
    return make_site("transformers", "torch")


@pytest.fixture
def run_folder(tmp_path):
    """best/ of a run: a Museformer with random weights and its processor."""
    folder = tmp_path / "run" / "best"
    processor = MidiProcessor.from_preset("multitrack", genres=["Jazz"])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, **processor.model_config_kwargs()}
    MuseformerForCausalLM(MuseformerConfig.from_preset("tiny", **sizes)).save_pretrained(folder)
    processor.save_pretrained(folder)
    (tmp_path / "card.md").write_text("---\nlicense: apache-2.0\ntags: [midi]\n---\n# A model\n")
    return folder


def test_a_pushed_model_loads_where_only_transformers_and_torch_are(run_folder, run_online, hub, clean_site, tmp_path):
    name, model = "orchestra/tiny", tmp_path / "model"
    pushed = run_online(SCRIPT, run_folder, "-o", model, "--card", tmp_path / "card.md", "--push", name)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.splitlines()[-1] == f"{hub.url}/{name}/commit/{hub.repos['model', name]['sha']}"
    assert hub.files(name) == {path.name: path.read_bytes() for path in model.iterdir()}
    assert ("PUT", f"/lfs/{hashlib.sha256((model / 'model.safetensors').read_bytes()).hexdigest()}") in hub.requests

    loaded = run_online("-I", "-S", "-c", LOAD, name, tmp_path / "found.pt", clean_site, token=None)
    assert loaded.returncode == 0, loaded.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(reference(torch.tensor(IDS)).logits, found["logits"])
        assert torch.equal(reference.model(torch.tensor(IDS)).last_hidden_state, found["hidden"])
    assert found["tokens"] == reference.config.vocab_size

    hub.requests.clear()  # pushed again: nothing is uploaded, nothing is committed
    again = run_online("-c", PUSH, model, name)
    assert again.stdout == pushed.stdout.splitlines()[-1] + "\n", again.stderr
    assert len(hub.repos["model", name]["commits"]) == 1
    assert "PUT" not in {method for method, _ in hub.requests}


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("orchestra/tiny", {"token": None}, "not logged in to {url}: run `hf auth login`, or set HF_TOKEN."),
        ("orchestra/tiny", {"token": "hf_old"}, "the Hub does not accept the token: run `hf auth login` again"),
        ("stranger/tiny", {}, "the token may not write to stranger/tiny: make one with the role `write`"),
        ("a/b/c", {}, "'a/b/c' is no name of a repository: give owner/name"),
        ("orchestra/tiny", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing was uploaded"),
        ("orchestra/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9: "),
    ],
)
def test_a_push_that_fails_says_what_to_do(name, variables, message, run_folder, run_online, hub, tmp_path):
    done = run_online("-c", PUSH, run_folder, name, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(message.format(url=hub.url)), done.stderr
    assert len(done.stderr.splitlines()) == 1
    if name != "a/b/c":
        assert done.stderr.endswith(f"{run_folder} is complete; later: hf upload {name} {run_folder} .\n")
    assert not hub.repos


def test_a_card_that_the_hub_refuses_ends_the_push(run_folder, run_online, hub):
    (run_folder / "README.md").write_text("---\nlicense: my-own\n---\n")
    done = run_online("-c", PUSH, run_folder, "orchestra/tiny")
    assert done.returncode == 1
    assert "Invalid metadata in README.md. - license: 'my-own' is no identifier of the Hub" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.files("orchestra/tiny") == {}

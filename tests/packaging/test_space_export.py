"""An exported Space: complete, free of the checkout, and alive where only its requirements are installed."""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from symusic import Score

from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.training import export_to_hub
from partimento.training.space_export import export_space, space_requirements

ROOT = Path(__file__).parents[2]
SCRIPT = export_to_hub.__file__
pytestmark = pytest.mark.skipif(not (ROOT / "spaces").is_dir(), reason="runs outside the checkout: no spaces/ there")
CHECKPOINTS = {
    "composer": {"museformer-small", "recurrent-lstm-small", "musicvae-mel-2bar-small"},
    "loops": {name for name in list_embedded() if name.startswith("musicvae-")},
}
CARD = """---
title: Mine
sdk: gradio
python_version: "3.12"
app_file: app.py
colorFrom: red
colorTo: blue
---
Text.
"""
# app.py runs as `python app.py` runs it; then it is told where the modules that it has loaded lie.
START = """
import atexit, runpy, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
def tell():
    found = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "partimento"}
    strangers = [path for path in found.values() if not path.startswith(sys.argv[1])]
    print("ALL FROM HERE" if found and not strangers else strangers, len(found), flush=True)
atexit.register(tell)
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
runpy.run_path(sys.argv[1] + "/app.py", run_name="__main__")
"""


@pytest.fixture(scope="module", params=["composer", "loops"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / request.param
    export_space(ROOT / "spaces" / request.param, folder)
    return folder


def distributions(requirements: str) -> dict[str, str]:
    """{name: version specifier} of the lines that are no comments."""
    lines = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    return {found.name: str(found.specifier) for found in map(Requirement, lines)}


def test_the_folder_is_complete_and_safe(exported, stand_in):
    source = ROOT / "spaces" / exported.name
    files = {path.relative_to(exported).as_posix(): path for path in exported.rglob("*") if path.is_file()}
    assert not [path for path in exported.rglob("*") if path.is_symlink()]
    assert not [name for name in files if "__pycache__" in name or name.endswith((".pyi", ".pyc", ".bin", ".pt"))]
    for name in ("app.py", "README.md", "packages.txt"):
        assert files[name].read_bytes() == (source / name).read_bytes()
    assert {name for name in files if name.startswith("static/")} == {
        path.relative_to(source).as_posix() for path in (source / "static").rglob("*") if path.is_file()
    }
    embedded = {name.split("/")[2] for name in files if name.startswith("partimento/checkpoints/")}
    assert embedded - {"__init__.py"} == CHECKPOINTS[exported.name]
    parts = {name.split("/")[1] for name in files if name.startswith("partimento/")}
    assert parts == {"__init__.py", "LICENSE", "modeling", "tokenization", "pipelines", "checkpoints"}
    assert stand_in.card_problems(files["README.md"].read_text(), "space") == []


def test_requirements_are_those_of_the_package_without_it(exported):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = distributions("\n".join(project["dependencies"] + project["optional-dependencies"]["space"]))
    assert wanted.pop("torch")
    found = distributions((exported / "requirements.txt").read_text())
    assert found.pop("torch") == ""  # ZeroGPU decides
    assert found == wanted


def test_requirements_keep_what_a_space_adds():
    text = space_requirements("# mine\nlibrosa==0.11\npartimento[plot] >= 0.1, <0.2  # the music\npartimento-extras\n")
    lines = text.splitlines()
    assert lines[:2] == ["# mine", "librosa==0.11"]
    assert lines[-1] == "partimento-extras"
    assert {"torch", "symusic", "matplotlib"} <= {re.split(r"[<>=]", line)[0] for line in lines}
    assert "gradio" not in text


@contextmanager
def started(folder: Path, site: Path, home: Path, **variables: str):
    """The address of an exported Space that runs where nothing but `site` is installed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HOME": str(home), "HF_HOME": str(home), "GRADIO_TEMP_DIR": str(home / "gradio")}
    environment |= {"OMP_NUM_THREADS": "1", "GRADIO_SERVER_PORT": str(port), **variables}
    log = home / "log"
    with log.open("w") as output:
        command = [sys.executable, "-I", "-S", "-u", "-c", START, str(folder), str(site)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=home)
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and "To create a public link" not in log.read_text():
            assert time.monotonic() < deadline, f"not ready within five minutes:\n{log.read_text()}"
            time.sleep(0.25)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in log.read_text(), log.read_text()
    assert "ALL FROM HERE" in log.read_text(), log.read_text()


@pytest.mark.slow
def test_it_runs_where_only_its_requirements_are(exported, make_site, tmp_path):
    from gradio_client import Client

    site = make_site(*distributions((exported / "requirements.txt").read_text()))
    assert not (site / "partimento").exists()
    with started(exported, site, tmp_path) as url:
        client = Client(url, verbose=False)
        facts = client.predict(api_name="/describe")
        if exported.name == "composer":
            assert facts["model"] == "museformer-small"
            events = list(client.submit("piano, 2 bars", {"seed": 3}, api_name="/generate"))
            assert events[-1]["state"] == "done"
            (midi,) = events[-1]["files"].values()
        else:
            assert {model["name"] for model in facts["models"]} == CHECKPOINTS["loops"]
            midi = client.predict(1, {"seed": 7}, api_name="/sample")[0]["midi"]
    assert Score.from_midi(base64.b64decode(midi)).note_num() > 0


@pytest.mark.slow
def test_a_model_of_ones_own_goes_along(make_site, tmp_path):
    from gradio_client import Client

    run = tmp_path / "runs" / "my-melodies" / "best"
    shutil.copytree(embedded_checkpoint("musicvae-mel-2bar-small"), run)
    (run / "training_state.pt").write_bytes(b"not for visitors")
    folder = tmp_path / "loops"
    export_space(ROOT / "spaces" / "loops", folder, str(run), checkpoints=[])
    assert not list(folder.rglob("*.pt"))
    assert [path.name for path in (folder / "partimento" / "checkpoints").iterdir() if path.is_dir()] == ["my-melodies"]
    site = make_site(*distributions((folder / "requirements.txt").read_text()))
    with started(folder, site, tmp_path) as url:
        (model,) = Client(url, verbose=False).predict(api_name="/describe")["models"]
    assert model["name"] == "my-melodies"


def test_a_hub_model_is_named_and_preloaded(tmp_path):
    folder = tmp_path / "space"
    export_space(ROOT / "spaces" / "composer", folder, "orchestra/large", checkpoints=["museformer-small"])
    assert (folder / "model_id.txt").read_text() == "orchestra/large\n"
    data = SpaceCard.load(folder / "README.md").data
    assert data["models"] == data["preload_from_hub"] == ["orchestra/large"]
    assert data["title"] == "Symbolic Composer"
    assert SpaceCard.load(ROOT / "spaces" / "composer" / "README.md").text.strip() in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"README.md": CARD.replace("gradio", "docker")}, [], "sdk is 'docker', not gradio"),
        ({"README.md": CARD.replace("3.12", "3.10")}, [], 'add python_version: "3.12"; partimento needs 3.11 or newer'),
        ({"README.md": CARD.replace("app.py", "main.py")}, [], "app_file 'main.py' is not there"),
        ({"partimento/__init__.py": ""}, [], "it is an exported Space, which can be uploaded as it is"),
        (
            {},
            ["--model", "absent"],
            "--model absent: no model folder, no Hub id (owner/model) and no embedded checkpoint",
        ),
        ({}, ["--model", "."], "--model .: the folder has no config.json, model.safetensors, processor_config.json"),
        ({}, ["--checkpoints", "absent"], "no embedded checkpoint called 'absent'"),
        ({}, ["-o", "mine"], "-o mine is the Space itself: choose another folder"),
    ],
)
def test_what_cannot_be_exported_says_why(change, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", change)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("as it was")
    monkeypatch.setattr(sys, "argv", ["export_to_hub.py", "mine", "-o", "out", *options])
    assert export_to_hub.main() == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert (tmp_path / "out" / "kept").read_text() == "as it was"
    assert not list(tmp_path.glob(".*.partial"))


def write(folder: Path, more: dict[str, str]) -> None:
    """The smallest Space."""
    for name, text in ({"app.py": "import gradio\n", "README.md": CARD} | more).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_pushed_space_arrives_whole(run_online, hub, tmp_path):
    name, folder = "orchestra/mine", tmp_path / "out"
    write(tmp_path / "mine", {"checkpoints.txt": "musicvae-trio-*\n"})
    done = run_online(SCRIPT, tmp_path / "mine", "-o", folder, "--push", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"/{name}/commit/{hub.repos['space', name]['sha']}")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files(name, "space") == files
    assert "partimento/checkpoints/musicvae-trio-16bar-tiny/model.safetensors" in files
    assert distributions(files["requirements.txt"].decode()).keys() >= {"torch", "gradio", "symusic"}

    done = run_online(SCRIPT, tmp_path / "mine", "-o", folder, "--push", name, token=None)
    assert done.returncode == 1
    assert done.stderr.endswith(f"later: hf upload {name} {folder} . --repo-type space\n")

"""Cards and folders as the Hub takes them: metadata that it accepts, Spaces that `hf upload` takes as they are."""

import re
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, SpaceCard

from partimento.checkpoints import embedded_checkpoint, list_embedded
from partimento.training import export_to_hub
from partimento.training.space_export import export_space

ROOT = Path(__file__).parents[2]
SPACES = [path for path in (ROOT / "spaces").glob("*") if (path / "app.py").is_file()]
HF = Path(sys.executable).with_name("hf")


@pytest.mark.parametrize("name", list_embedded())
def test_model_cards(name, stand_in):
    text = (embedded_checkpoint(name) / "README.md").read_text()
    assert stand_in.card_problems(text, "model") == []
    card = ModelCard(text)
    assert card.data.library_name == "transformers"
    assert card.data.license == "apache-2.0"
    assert {"midi", "symbolic-music"} <= set(card.data.tags)
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (embedded_checkpoint(name) / picture).is_file(), picture


def test_templates_of_cards(stand_in):
    folder = Path(export_to_hub.__file__).parent / "cards"
    for path in sorted(folder.glob("*.md")):
        text = re.sub(r"\{\{[^}]*\}\}", "0", path.read_text())
        assert stand_in.card_problems(text, "model") == [], path.name


@pytest.mark.parametrize("folder", SPACES, ids=[path.name for path in SPACES])
def test_space_cards(folder, stand_in):
    text = (folder / "README.md").read_text()
    assert stand_in.card_problems(text, "space") == []
    data = SpaceCard(text).data
    assert (folder / data.app_file).is_file()
    assert data.python_version >= "3.11"
    requirements = (folder / "requirements.txt").read_text()
    assert "partimento" in requirements


@pytest.mark.parametrize("folder", SPACES, ids=[path.name for path in SPACES])
def test_hf_upload_takes_an_exported_space_as_it_is(folder, run_online, hub, tmp_path):
    name, exported = f"orchestra/{folder.name}", tmp_path / folder.name
    export_space(folder, exported, checkpoints=[])
    done = run_online(HF, "upload", name, exported, ".", "--repo-type", "space")
    assert done.returncode == 0, done.stderr
    wanted = {
        path.relative_to(exported).as_posix(): path.read_bytes() for path in exported.rglob("*") if path.is_file()
    }
    assert hub.files(name, "space") == wanted


@pytest.mark.parametrize(
    ("content", "repo_type", "problem"),
    [
        ("# no metadata", "model", "no YAML block"),
        ("---\nlicense: [mit\n---\n", "model", "expected ',' or ']'"),
        ("---\nlicense: Apache License\n---\n", "model", "'Apache License' is no identifier"),
        ("---\nsize_categories: [many]\n---\n", "dataset", "size_categories"),
        ("---\nsdk: gradio\ncolorFrom: teal\ncolorTo: red\n---\n", "space", "colorFrom: 'teal'"),
        ("---\nsdk: flask\ncolorFrom: blue\ncolorTo: red\n---\n", "space", "sdk: 'flask'"),
    ],
)
def test_the_validation_finds_mistakes(content, repo_type, problem, stand_in):
    assert problem in " ".join(stand_in.card_problems(content, repo_type))

"""README is executed: its Python blocks run, its commands parse, its links to files exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from symusic import Score

from partimento.checkpoints import list_embedded
from partimento.pipelines.cli import make_parser

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not (ROOT / "modeling").is_dir(), reason="runs outside the checkout: no README there")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("console")).replace("\\\n", " ").splitlines()
    return [line[2:].split("#")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.mark.skipif(not list_embedded(), reason="no embedded checkpoint is installed")
def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")))
    runpy.run_path(str(script))
    assert Score(tmp_path / "jazz.mid").note_num() > 50
    assert Score(tmp_path / "jazz-longer.mid").note_num() > Score(tmp_path / "jazz.mid").note_num()


def test_partimento_commands_parse():
    ours = [shlex.split(command)[1:] for command in commands() if command.startswith("partimento ")]
    assert len(ours) >= 5
    for arguments in ours:
        make_parser().parse_args(arguments)


def test_scripts_recipes_and_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), command
        for word in words:
            if word.endswith((".py", ".yaml")):
                assert (ROOT / word).is_file(), f"{command}: {word} is missing"


def test_nothing_is_left_to_fill_in():
    for path in (README, *ROOT.glob("checkpoints/*/README.md")):
        assert "@@" not in path.read_text(), path
        assert "{{" not in path.read_text(), path


def test_links_to_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target

"""Every command that README or a notebook shows is one that the programs accept, and notebooks are executed."""

import ast
import importlib
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from partimento.pipelines import cli
from partimento.training.arguments import load_arguments

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "training").glob("notebooks/*.ipynb"))
pytestmark = pytest.mark.skipif(not (ROOT / "modeling").is_dir(), reason="runs outside the checkout: no README there")


def console_commands(text: str) -> list[str]:
    """Commands of the console blocks of a Markdown text."""
    lines = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def shown_commands() -> list[tuple[str, list[str]]]:
    """(where it stands, its words) of all commands; variables in front and `&&` chains are taken apart."""
    found = []
    readme = ROOT / "README.md"
    if readme.is_file():
        found += [("README", command) for command in console_commands(readme.read_text())]
    for path in NOTEBOOKS:
        for cell in cells(path, "markdown"):
            found += [(path.stem, command) for command in console_commands(source(cell))]
        code = [source(cell) for cell in cells(path, "code")]
        found += [(path.stem, text[1:].replace("\\\n", " ")) for text in code if text.startswith("!")]
    commands = []
    for where, line in found:
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            commands.append((where, words))
    return commands


COMMANDS = shown_commands()


def of_program(name: str) -> list:
    return [pytest.param(words, id=f"{where}-{i}") for i, (where, words) in enumerate(COMMANDS) if words[0] == name]


def script_and_options(words: list[str]) -> tuple[str, list[str]]:
    """The first word that ends in .py, and what follows it."""
    place = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return words[place], words[place + 1 :]


def check_script(words: list[str]) -> None:
    script, options = script_and_options(words)
    assert (ROOT / script).is_file(), script
    module = importlib.import_module(f"partimento.{Path(script).with_suffix('').as_posix().replace('/', '.')}")
    parsed = module.make_parser().parse_args(options)
    if Path(script).name == "train.py":
        load_arguments(ROOT / parsed.config, parsed.overrides)


@pytest.mark.parametrize("words", of_program("python"))
def test_scripts_take_their_options(words):
    check_script(words)


@pytest.mark.parametrize("words", of_program("accelerate") + of_program("torchrun"))
def test_launched_scripts_take_their_options(words):
    check_script(words)
    for name, value in itertools.pairwise(words):
        if name == "--config_file":
            assert (ROOT / value).is_file(), value


@pytest.mark.parametrize("words", of_program("partimento"))
def test_partimento_takes_its_options(words):
    cli.make_parser().parse_args(words[1:])


@pytest.fixture(scope="module")
def help_of_hf():
    """The help text of a command of `hf`."""
    texts: dict[str, str] = {}

    def read(command: str) -> str:
        if command not in texts:
            program = Path(sys.executable).with_name("hf")
            done = subprocess.run([program, *command.split(), "--help"], capture_output=True, text=True, check=True)
            texts[command] = done.stdout
        return texts[command]

    return read


@pytest.mark.parametrize("words", of_program("hf"))
def test_hf_takes_its_options(words, help_of_hf):
    text = help_of_hf(" ".join(words[1:3]) if words[1] == "auth" else words[1])
    for name, value in itertools.pairwise([*words, ""]):
        if name.startswith("--"):
            assert re.search(rf"{name}\b", text), name
        if name == "--repo-type":
            assert re.search(rf"--repo-type \[[a-z|]*\b{value}\b", text), value
    if words[1] == "upload":
        place = 3 if len(words) > 3 else 2
        assert not words[place].startswith("-"), "name the folder"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_executed_and_speaks_of_no_machine(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names))
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        if not source(cell).startswith("!"):
            ast.parse(source(cell))
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "execute_result"}, source(cell)
    assert sum(bool(cell["outputs"]) for cell in code) > len(code) // 2
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = "\n".join(str(output.get("text") or output["data"]["text/plain"]) for output in outputs)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|Users|opt|var)/", text)
    assert "Traceback" not in text


def test_there_is_something_to_check():
    assert NOTEBOOKS
    assert len(COMMANDS) > 30

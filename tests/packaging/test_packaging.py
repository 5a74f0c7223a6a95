"""The package as it is installed: every folder is in it, imports point one way, importing it stays cheap."""

import ast
import os
import socket
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import partimento.modeling

INSTALLED = Path(partimento.modeling.__file__).parents[1]
CHECKOUT = Path(__file__).parents[2]
FOLDERS = {"modeling", "tokenization", "pipelines", "training", "checkpoints"}
SPACES = ("composer", "loops")
in_checkout = pytest.mark.skipif(not (CHECKOUT / "modeling").is_dir(), reason="runs outside the checkout")


def sources(package: str) -> list[Path]:
    return sorted((INSTALLED / package).rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@in_checkout
def test_every_package_folder_is_declared():
    declared = set(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        "partimento." + ".".join(file.parent.relative_to(CHECKOUT).parts)
        for folder in FOLDERS
        for file in (CHECKOUT / folder).rglob("__init__.py")
    }
    assert declared == found | {"partimento.spaces"}  # folders that are run, not imported


@in_checkout
def test_the_spaces_travel_in_the_wheel_whole():
    patterns = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    spaces = CHECKOUT / "spaces"
    packed = {path for pattern in patterns["partimento.spaces"] for path in spaces.glob(pattern) if path.is_file()}
    for name in SPACES:
        files = {path for path in (spaces / name).rglob("*") if path.is_file() and path.suffix not in (".pyi", ".pyc")}
        assert files <= packed
    assert not [path for path in packed if path.suffix in (".pyi", ".pyc")]


@pytest.mark.skipif(not os.environ.get("PARTIMENTO_EXPECT_WHEEL"), reason="tests/spaces does it in a checkout")
@pytest.mark.parametrize("name", SPACES)
def test_an_installed_space_starts(name, tmp_path):
    from gradio_client import Client

    assert (INSTALLED / "spaces" / name / "static" / "roll.js").is_file()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-u", "-m", "partimento.pipelines.cli", "space", name, "--port", port]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and "To create a public link" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.25)
        assert process.poll() is None, log.read_text()
        facts = Client(f"http://127.0.0.1:{port}/", verbose=False).predict(api_name="/describe")
        assert "museformer-small" in str(facts) or "musicvae-mel-2bar-small" in str(facts)
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in log.read_text()


@in_checkout
def test_no_folder_shadows_a_library():
    assert not (CHECKOUT / "__init__.py").exists()
    assert not list((CHECKOUT / "spaces").rglob("__init__.py"))
    stems = {path.stem for path in (CHECKOUT / "training").iterdir()}
    libraries = set(sys.stdlib_module_names) | {"datasets", "evaluate", "tokenizers", "transformers", "accelerate"}
    assert not stems & libraries, "training/ is first on sys.path when one of its scripts is launched"


def test_the_suite_runs_on_what_it_claims_to():
    if os.environ.get("PARTIMENTO_EXPECT_WHEEL"):
        assert "site-packages" in partimento.modeling.__file__
    assert version("partimento").count(".") == 2


FORBIDDEN = {
    "modeling": ("partimento.pipelines", "partimento.training", "partimento.checkpoints"),
    "tokenization": ("partimento.modeling", "partimento.pipelines", "partimento.training", "partimento.checkpoints"),
    "pipelines": ("partimento.training",),
    "checkpoints": ("partimento.modeling", "partimento.tokenization", "partimento.pipelines", "partimento.training"),
    "training": ("spaces",),
}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_import_directions(package):
    for path in sources(package):
        for name in imported_names(path):
            assert not name.startswith(FORBIDDEN[package]), f"{path.name} imports {name}"


def test_model_folders_import_only_what_travels_to_the_hub():
    allowed = ("torch", "transformers", "huggingface_hub", "safetensors", *sys.stdlib_module_names)
    for path in sources("modeling"):
        if path.parent.name == "modeling":
            continue  # the package file that registers the Auto classes
        if path.name == "__init__.py":
            continue
        for name in imported_names(path):
            single_dot = name.startswith(".") and not name.startswith("..") and "." not in name[1:]
            assert single_dot or name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_importing_is_cheap():
    code = (
        "import sys, partimento.modeling, partimento.tokenization\n"
        "heavy = {'miditok', 'gradio', 'evaluate', 'datasets', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"

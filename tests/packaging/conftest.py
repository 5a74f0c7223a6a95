"""A stand-in for the Hub, and processes that talk to it as a user's would."""

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def stand_in():
    """The module `hub_stand_in`, which lies beside this file."""
    spec = importlib.util.spec_from_file_location("hub_stand_in", FOLDER / "hub_stand_in.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(stand_in):
    """A running Hub without repositories."""
    server = stand_in.Hub()
    yield server
    server.close()


@pytest.fixture
def run_online(hub, stand_in, tmp_path):
    """Run Python with a fresh cache and `hub` as the only Hub; `token` is the right one unless said otherwise."""

    def run(*arguments, token: str | None = stand_in.TOKEN, **variables: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **variables}
        if token is not None:
            environment["HF_TOKEN"] = token
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)

    return run


def requirements(name: str) -> set[str]:
    """A distribution and all that it cannot do without."""
    names, open_ends = set(), [name]
    while open_ends:
        current = canonicalize_name(open_ends.pop())
        if current not in names:
            names.add(current)
            needed = map(Requirement, metadata.requires(current) or [])
            open_ends += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return names


@pytest.fixture
def make_site(tmp_path):
    """A function of names: what `pip install` of these would make of an empty environment, as links."""

    def make(*names: str) -> Path:
        folder = tmp_path / "site-packages"
        folder.mkdir()
        for name in set().union(*map(requirements, names)):
            distribution = metadata.distribution(name)
            for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(distribution.locate_file(top))
        return folder

    return make

"""The programs that a comparison of models consists of, one after the other, each skipped when its result is there."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.training.checkpointing import write_atomically

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """A program of this folder, and the file that exists when it has ended well."""

    title: str
    done: Path
    program: str
    arguments: tuple[str, ...]


def training_step(recipe: Path, folder: Path, corpus: Path, seed: int, overrides: Sequence[str]) -> Step:
    """Train a recipe into `folder`, or go on where an earlier attempt stopped."""
    settings = [*overrides, f"train.seed={seed}", f"train.output={folder}", f"data.corpus={corpus}"]
    arguments = ("--config", str(recipe), "--resume", "auto", "--set", *settings)
    return Step("training", folder / "final" / "model.safetensors", "train.py", arguments)


def report_step(name: str, program: str, folder: Path, arguments: Sequence[str]) -> Step:
    """Write the report `<folder>/<name>.json`."""
    report = folder / f"{name}.json"
    return Step(name, report, program, (*arguments, "-o", str(report)))


def run_step(step: Step) -> None:
    """Run the program; its tables are not shown. Raises ValueError with the command when it fails."""
    command = [sys.executable, str(FOLDER / step.program), *step.arguments]
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if status in (-2, 130):
        raise KeyboardInterrupt
    if status:
        raise ValueError(f"exit status {status} of: {shlex.join(command)}")


def keep_identity(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Remember in `<folder>/identity.json` what its runs depend on, and refuse to mix them with others.

    Recipes are kept by name and may be added; every other entry of `wanted` must be what it was, once it was given.

    Raises: ValueError: the folder holds runs of other recipes or settings.
    """
    file = folder / "identity.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    wanted = json.loads(json.dumps(dict(wanted)))
    shared = [key for key in wanted if key in found and key != "recipes"]
    different = [key for key in shared if found[key] != wanted[key]]
    recipes = found.get("recipes", {})
    different += sorted(name for name in recipes.keys() & wanted["recipes"] if recipes[name] != wanted["recipes"][name])
    if different:
        raise ValueError(f"{folder} holds runs with other {', '.join(different)}: choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    merged = {**found, **wanted, "recipes": {**recipes, **wanted["recipes"]}}
    write_atomically(file, json.dumps(merged, indent=1) + "\n")

"""Checkpoints that are either complete or absent.

Everything is written into `.tmp-step-N`; when all processes are done, `manifest.json` with the hash of every file is
added, files and folder are flushed to disk, and the folder is renamed to `step-N`. `latest` (a one-line file with the
name of the newest folder) is replaced atomically. A process killed at any moment leaves the previous checkpoint intact
and at most a `.tmp-` folder, which resuming ignores and removes.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.other import load

MANIFEST = "manifest.json"
LOOP_STATE = "loop_state.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used."""


@dataclass
class LoopState:
    """All that the loop knows beside model, optimiser and random states."""

    update: int = 0  # updates made
    epoch: int = 0
    position: int = 0  # updates of this epoch already made
    planned_updates: int = 0  # the last update, once a limit is in sight
    limit: str = "max_minutes"  # the limit in sight
    tokens_seen: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_update: int | None = None
    validations_without_gain: int = 0
    last_validation: int = -1  # update of the last validation
    skipped_updates: int = 0
    scaler_skips_in_a_row: int = 0
    recent_norms: list[float] = field(default_factory=list)
    window: dict[str, float] = field(default_factory=dict)  # sums since the last train line of the log
    finished: str | None = None  # why the run ended


def save_checkpoint(
    output: Path,
    accelerator: Accelerator,
    state: LoopState,
    write_extra: Callable[[Path], None] | None = None,
    name: str | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write a complete checkpoint; all processes call it, at an update boundary.

    Args:
        output: the run's folder.
        write_extra: called on the main process with the temporary folder (moving average, crash report).
        name: the folder's name, by default `step-<update>`.
        facts: stored in the manifest and compared on resume (data hash, vocabulary hash).
    """
    name = name or f"step-{state.update}"
    temporary, final = output / f".tmp-{name}", output / name
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    if accelerator.is_main_process:
        (temporary / LOOP_STATE).write_text(json.dumps(dataclasses.asdict(state), indent=1), encoding="utf-8")
        if write_extra is not None:
            write_extra(temporary)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_manifest(temporary, {"num_processes": accelerator.num_processes, **(facts or {})})
        flush_folder(temporary)
        replace_folder(temporary, final)
        if name.startswith("step-"):
            write_atomically(output / "latest", name + "\n")
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(folder: Path, accelerator: Accelerator, allow_resharding: bool = False) -> LoopState:
    """Restore model, optimiser, scaler and random states in place and return the loop state.

    Raises:
        CheckpointError: written by another number of processes, or random states that could not be restored.
    """
    facts = read_facts(folder)
    same_count = facts["num_processes"] == accelerator.num_processes
    if not same_count and not allow_resharding:
        raise CheckpointError(
            f"{folder} was written by {facts['num_processes']} processes, this run has {accelerator.num_processes}: "
            "start as many, or pass --allow-resharding and accept other random states"
        )
    accelerator.load_state(str(folder))
    random_states = folder / f"random_states_{accelerator.process_index}.pkl"
    if same_count:
        # Accelerate only logs a failure here; a wrong dropout mask would then be the only symptom.
        saved = load(random_states)
        if not torch.equal(saved["torch_manual_seed"], torch.get_rng_state()):
            raise CheckpointError(f"{random_states}: the random state was not restored")
    values = json.loads((folder / LOOP_STATE).read_text(encoding="utf-8"))
    known = {f.name for f in dataclasses.fields(LoopState)}
    return LoopState(**{key: value for key, value in values.items() if key in known})


def find_checkpoint(output: Path) -> tuple[Path | None, list[str]]:
    """Return the newest `step-N` folder whose manifest verifies, and what is wrong with each newer one.

    Returns:
        (None, []) where there is no `step-N` folder at all.

    Raises:
        CheckpointError: there are folders, but none verifies.
    """
    problems = []
    for folder in reversed(list_checkpoints(output)):
        problem = verify_checkpoint(folder)
        if problem is None:
            return folder, problems
        problems.append(f"{folder.name}: {problem}")
    if problems:
        raise CheckpointError(
            f"{output}: no checkpoint can be used ({'; '.join(problems)}); restore one, or give another train.output"
        )
    return None, []


def list_checkpoints(output: Path) -> list[Path]:
    """Return the `step-N` folders, oldest first."""
    folders = [path for path in output.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def verify_checkpoint(folder: Path) -> str | None:
    """Return None if every file has the hash that the manifest states, else what is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"no usable {MANIFEST}: {error}"
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if hash_file(path) != digest:
            return f"{name} has changed"
    return None


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what was stored beside the hashes."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["facts"]


def clean_partial(output: Path) -> list[str]:
    """Remove what a killed process left behind; return the names."""
    removed = []
    for path in sorted(output.glob(".tmp-*")) + sorted(output.glob(".old-*")):
        original = output / path.name.removeprefix(".old-")
        if path.name.startswith(".old-") and not original.exists():
            path.replace(original)  # killed between the two renames of `replace_folder`
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        removed.append(path.name)
    return removed


def rotate_checkpoints(output: Path, keep: int, best_update: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the one of the best update."""
    for folder in list_checkpoints(output)[:-keep]:
        if folder.name != f"step-{best_update}":
            shutil.rmtree(folder)


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `manifest.json` with the SHA-256 of every other file."""
    files = {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / MANIFEST).write_text(json.dumps({"facts": facts, "files": files}, indent=1), encoding="utf-8")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Force every file of a folder, and the folder itself, to disk."""
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`; an existing target stays readable as `.old-<name>` until the new one is there."""
    old = target.with_name(f".old-{target.name}")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.replace(old)
    source.replace(target)
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new content, nothing between."""
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(text, encoding="utf-8")
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

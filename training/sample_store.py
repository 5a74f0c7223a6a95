"""Generated samples on disk, one line of JSON each, written as soon as a sample is finished."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partimento.training.checkpointing import write_atomically


@dataclass(frozen=True)
class StoredSample:
    """What the generator returned for one request."""

    ids: list[int]
    seconds: float
    complete: bool
    transposed: int = 0
    """Semitones by which it was moved to the asked key."""


class SampleStore:
    """A file `samples.jsonl`: a first line that says of what model and settings, then one sample a line.

    A line cut short by an interruption is dropped.

    Args:
        identity: everything but the request that a sample depends on.
    Raises: ValueError: the file holds samples of another identity, or is no such file.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]):
        self.path = Path(path)
        self.samples: dict[tuple[str, int], dict[str, Any]] = {}
        wanted = json.loads(json.dumps(dict(identity)))
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps({"identity": wanted}) + "\n")
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        try:
            header, *entries = [json.loads(line) for line in whole.splitlines()]
            found = header["identity"]
            self.samples = {(entry["mode"], entry["index"]): entry for entry in entries}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path}: not a file of samples; choose another output, or remove the file") from None
        if found != wanted:
            different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise ValueError(
                f"{self.path}: samples with another {', '.join(different)}; choose another output, or remove the file"
            )
        if whole != text:
            write_atomically(self.path, whole)

    def get(self, mode: str, index: int, request: Mapping[str, Any]) -> StoredSample | None:
        """The sample of a request, None when it has not been generated yet.

        Raises: ValueError: the sample with this number is the answer to another request.
        """
        entry = self.samples.get((mode, index))
        if entry is None:
            return None
        wanted = json.loads(json.dumps(dict(request)))
        if entry["request"] != wanted:
            raise ValueError(
                f"{self.path}: sample {index} ({mode}) answers {entry['request']}, now {wanted} is asked; choose "
                "another output, or remove the file"
            )
        return StoredSample(entry["ids"], entry["seconds"], entry["complete"], entry["transposed"])

    def add(self, mode: str, index: int, request: Mapping[str, Any], sample: StoredSample) -> None:
        """Append a sample; it is on disk when this returns."""
        entry = {"mode": mode, "index": index, "request": dict(request), **asdict(sample)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.samples[mode, index] = entry

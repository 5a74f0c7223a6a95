"""The log of a run: one JSON object per line, `kind` being `train`, `validation` or `event`, always with `update`."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class RunLog:
    """Append-only JSON Lines file. With `path=None` (all processes but the main one) every call does nothing."""

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)

    def write(self, kind: str, update: int, **values: Any) -> None:
        """Append one entry and hand it to the operating system at once, so that a killed process loses no line."""
        if self.path is None:
            return
        entry = {"kind": kind, "update": update, **{key: _plain(value) for key, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def cut_back(self, update: int) -> int:
        """Drop the entries after `update` (a resumed run writes them again) and return how many were dropped."""
        if self.path is None or not self.path.exists():
            return 0
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [json.dumps(entry, ensure_ascii=False) for entry in read_log(self.path) if entry["update"] <= update]
        temporary = self.path.with_name(f".tmp-{self.path.name}")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)
        return len(lines) - len(kept)


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log; a last line that was cut off by a kill is skipped.

    Raises:
        ValueError: a line before the last one is not JSON.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return
            raise ValueError(f"{path}:{number}: not a JSON line; is this the log of a run?") from error
        yield entry


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they are written as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

"""A score to a file that appears complete or not at all."""

import os
import secrets
from pathlib import Path

from symusic import Score


def write_midi(score: Score, path: str | os.PathLike) -> Path:
    """Writes a Standard MIDI File and returns its path; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = score.dumps_midi()
    partial = path.parent / f".{secrets.token_hex(8)}.tmp"  # mkstemp's would be closed to other users
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path

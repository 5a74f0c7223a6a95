"""Where the commands write: names of several outputs, and checks before the work begins."""

from importlib.util import find_spec
from pathlib import Path

__all__ = ["check_output", "numbered", "picture_path"]


def numbered(path: Path, number: int, total: int) -> Path:
    """`path` itself when it is the only one, else with _1, _2, ... before its ending."""
    return path if total == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")


def picture_path(midi: Path, asked: Path | bool, number: int, total: int) -> Path:
    """The picture of output `number`: beside its MIDI file, or (numbered) where it was asked for."""
    return midi.with_suffix(".png") if asked is True else numbered(Path(asked), number, total)


def check_output(path: Path, piano_roll: Path | bool | None) -> None:
    """Refuse what would fail after the work.

    Raises:
        ValueError: `path` is a folder, or pictures are asked for and cannot be drawn.
    """
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder; name the MIDI file to write")
    if piano_roll and find_spec("matplotlib") is None:
        raise ValueError("--piano-roll needs matplotlib: pip install 'partimento[plot]'")

"""Where the commands write: names of several outputs, and checks before the work begins."""

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path

__all__ = [
    "DEFAULT_OUTPUT",
    "OUTPUT_HELP",
    "check_output",
    "numbered",
    "picture_option",
    "picture_path",
    "with_picture_option",
]

DEFAULT_OUTPUT = Path("partimento.mid")
OUTPUT_HELP = (
    f"MIDI file to write (default {DEFAULT_OUTPUT}, or partimento-2.mid, ... where that exists; a file that you name "
    "is written over); several outputs get _1, _2, ..."
)
_MIDI_ENDINGS = (".mid", ".midi")
_PICTURE_ENDINGS = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")
# Endings that promise something else than MIDI.
_OTHER_ENDINGS = (*_PICTURE_ENDINGS, ".wav", ".mp3", ".flac", ".ogg", ".aif", ".aiff", ".m4a", ".xml", ".musicxml",
                  ".mxl", ".json", ".txt", ".gif", ".als", ".flp", ".logicx")  # fmt: skip


def numbered(path: Path, number: int, total: int) -> Path:
    """`path` itself when it is the only one, else with _1, _2, ... before its ending."""
    return path if total == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")


def picture_path(midi: Path, asked: Path | bool, number: int, total: int) -> Path:
    """The picture of output `number`: beside its MIDI file, or (numbered) where it was asked for."""
    return midi.with_suffix(".png") if asked is True else numbered(Path(asked), number, total)


def with_picture_option(arguments: Sequence[str]) -> list[str]:
    """`--piano-roll TEXT` as `--piano-roll= TEXT` where TEXT is no file name of a picture: argparse would take it."""
    arguments = list(arguments)
    for place, following in enumerate(arguments[1:]):
        ending = Path(following).suffix.lower()
        plain = " " in following or not ending or ending in (*_MIDI_ENDINGS, ".kar")
        if arguments[place] == "--piano-roll" and ending not in _PICTURE_ENDINGS and plain:
            arguments[place] = "--piano-roll="
    return arguments


def picture_option(text: str) -> Path | bool:
    """The value of `--piano-roll`: a file name, or True beside the MIDI file."""
    if text and Path(text).suffix.lower() not in _PICTURE_ENDINGS:
        raise argparse.ArgumentTypeError(f"{text}: a picture ends in {', '.join(_PICTURE_ENDINGS)}")
    return Path(text) if text else True


def check_output(path: Path | None, piano_roll: Path | bool | None, total: int = 1) -> Path:
    """The MIDI file to write (before numbering); what would fail after the work is refused.

    Args:
        path: as the user named it; .mid is added where the name has no ending of MIDI. None: the first free default.
        total: number of outputs.

    Raises:
        ValueError: `path` is a folder or names another kind of file, a folder of it cannot be written, or pictures are
            asked for and cannot be drawn.
    """
    if path is None:
        names = (
            DEFAULT_OUTPUT.with_stem(f"{DEFAULT_OUTPUT.stem}-{n}" if n > 1 else DEFAULT_OUTPUT.stem) for n in count(1)
        )
        path = next(name for name in names if not any(numbered(name, n, total).exists() for n in range(1, total + 1)))
    if path.is_dir() or not path.name:
        raise ValueError(f"{path}: this is a folder; name the MIDI file to write, such as {path / 'song.mid'}")
    ending = path.suffix.lower()
    if ending in _OTHER_ENDINGS:
        raise ValueError(f"{path}: MIDI is written, not {ending}; name the file {path.with_suffix('.mid')}")
    if ending not in _MIDI_ENDINGS:
        path = path.with_name(f"{path.name}.mid")
    for file in (path, *([piano_roll] if isinstance(piano_roll, Path) else [])):
        _check_folder(file)
    if piano_roll and find_spec("matplotlib") is None:
        raise ValueError("--piano-roll needs matplotlib: pip install 'partimento[plot]'")
    return path


def _check_folder(file: Path) -> None:
    """That `file` can be made: in the last of its folders that exists one may write."""
    folder = next(parent for parent in (*file.parents, Path()) if parent.exists())
    if not folder.is_dir():
        raise ValueError(f"{file}: {folder} is a file, not a folder; choose another place with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{file}: the folder {folder.absolute()} may not be written; choose another place with -o")

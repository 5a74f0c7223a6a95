"""What the modules of `spaces/metrics` share: how pieces come in, and how figures of several pieces go out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partimento.tokenization import MidiProcessor
from partimento.training.bar_similarity import BarNotes, bar_notes, programs_of_families
from partimento.training.metrics.notes import Notes, skyline

PIECES = """A piece is the path of a MIDI file, or a list of notes (onset, duration, pitch, program) with times in
quarters from the beginning and program -1 for drums; all pieces of a call have the same form. `quarters_per_bar` is the
length of the bars of lists (4); a MIDI file has its own time signatures and is read on a grid of twelfths of a quarter.
"""


def piece_features() -> list[Any]:
    """The two forms of `predictions`."""
    from datasets import Features, List, Value

    return [Features({"predictions": Value("string")}), Features({"predictions": List(List(Value("float64")))})]


def read_pieces(pieces: Sequence[Any], quarters_per_bar: float = 4) -> list[Notes]:
    """Pieces as `Notes`, see `PIECES`.

    Raises: ValueError (a MidiError for files): a piece that cannot be read; the message names it.
    """
    processor = MidiProcessor.from_preset("metres") if any(isinstance(p, str | Path) for p in pieces) else None
    result = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, str | Path):
            result.append(Notes.from_midi(piece, processor))
            continue
        try:
            result.append(Notes.from_list(piece, quarters_per_bar))
        except ValueError as error:
            raise ValueError(f"piece {number}: {error}") from None
    return result


def read_bars(
    pieces: Sequence[Any], tracks: str | Sequence[str] = "all", quarters_per_bar: float = 4
) -> list[BarNotes]:
    """The sets of notes of all bars.

    Args:
        tracks: "all" (notes of different programs differ), "skyline" (the highest note at each onset), or families
            such as ["synth-lead"] whose programs are the melody.
    """
    notes = read_pieces(pieces, quarters_per_bar)
    if tracks == "all":
        return [bar_notes(piece) for piece in notes]
    if tracks == "skyline":
        return [bar_notes(skyline(piece), with_program=False) for piece in notes]
    programs = programs_of_families(*([tracks] if isinstance(tracks, str) else tracks))
    return [bar_notes(piece, programs, with_program=False) for piece in notes]


def describe(name: str, measure: Callable[[Notes], float | None], pieces: Sequence[Notes]) -> dict[str, Any]:
    """`name`: mean over the pieces that have the figure (None without any); each piece's; how many were left out."""
    each = [measure(piece) for piece in pieces]
    measured = [value for value in each if value is not None]
    return {name: float(np.mean(measured)) if measured else None, "each": each, "skipped": len(each) - len(measured)}

"""A score as a picture: one colour per track, bar lines, drums in a panel of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from partimento.tokenization.general_midi import program_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from symusic import Score

__all__ = ["plot_piano_roll"]

# Okabe and Ito (2008), distinguishable with colour vision deficiencies, and two more; from the ninth track on hatched.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C564B")


def plot_piano_roll(score: Score, path: str | Path | None = None, title: str | None = None) -> Figure:
    """Draws `score` as a piano roll over bars (4/4 assumed where the score names no time signature).

    Args:
        score: any symusic score in ticks.
        path: where to write the picture (the ending decides the format); nothing is written when None.
        title: text above the picture.

    Returns:
        The matplotlib figure, width growing with the number of bars.

    Raises:
        ImportError: matplotlib is not installed (`pip install partimento[plot]`).
        ValueError: the score has no notes.
    """
    try:
        from matplotlib.collections import PatchCollection
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch, Rectangle
    except ImportError as error:
        raise ImportError("piano rolls need matplotlib: pip install 'partimento[plot]'") from error

    pitched = [track for track in score.tracks if not track.is_drum and len(track.notes)]
    drums = [track for track in score.tracks if track.is_drum and len(track.notes)]
    if not pitched and not drums:
        raise ValueError("the score has no notes to draw")
    signature = score.time_signatures[0] if len(score.time_signatures) else None
    beats_per_bar = signature.numerator * 4 / signature.denominator if signature else 4
    ticks_per_bar = score.ticks_per_quarter * beats_per_bar
    last_onset = max(int(track.notes.numpy()["time"].max()) for track in (*pitched, *drums))
    num_bars = int(last_onset // ticks_per_bar) + 1  # as the pieces count; what rings on is cut at the edge

    figure = Figure(figsize=(min(40.0, 3 + 0.55 * num_bars), 5.5 if drums and pitched else 4), layout="constrained")
    ratios = [3, 1.3] if pitched and drums else [1]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    legend = []
    panels = [(axes[0], pitched)] if pitched else []
    panels += [(axes[-1], drums)] if drums else []
    colour_index = 0
    for axis, tracks in panels:
        pitches: set[int] = set()
        for track in tracks:
            notes = track.notes.numpy()
            colour = "#444444" if track.is_drum else _COLOURS[colour_index % len(_COLOURS)]
            hatch = "///" if colour_index >= len(_COLOURS) and not track.is_drum else None
            colour_index += not track.is_drum
            smallest = ticks_per_bar / 64
            boxes = [
                Rectangle((time / ticks_per_bar + 1, pitch - 0.42), max(duration, smallest) / ticks_per_bar, 0.84)
                for time, duration, pitch in zip(notes["time"], notes["duration"], notes["pitch"])
            ]
            axis.add_collection(PatchCollection(boxes, facecolor=colour, edgecolor="white", linewidth=0.3, hatch=hatch))
            pitches.update(int(pitch) for pitch in notes["pitch"])
            legend.append(
                Patch(facecolor=colour, hatch=hatch, label=program_name(-1 if track.is_drum else track.program))
            )
        axis.set_ylim(min(pitches) - 1.5, max(pitches) + 1.5)
        axis.set_ylabel("drum" if tracks is drums else "pitch")
        axis.set_xlim(1, num_bars + 1)
        axis.set_xticks(range(1, num_bars + 1, max(1, num_bars // 32)))
        axis.grid(axis="x", color="#bbbbbb", linewidth=0.6)
        axis.set_axisbelow(True)
        if tracks is not drums:
            octaves = range(12 * (min(pitches) // 12), max(pitches) + 12, 12)
            axis.set_yticks(list(octaves), [f"C{pitch // 12 - 1}" for pitch in octaves])
            axis.set_ylim(min(pitches) - 1.5, max(pitches) + 1.5)
    axes[-1].set_xlabel("bar")
    if title:
        axes[0].set_title(title)
    figure.legend(handles=legend, loc="outside lower center", ncols=min(6, len(legend)), frameon=False)
    if path is not None:
        _save_atomically(figure, Path(path))
    return figure


def _save_atomically(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(partial, dpi=110)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

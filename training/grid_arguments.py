"""Typed settings of training on grid windows: the group `grids` of a recipe."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class GridArguments:
    """What a MusicVAE or a dense VAE is trained on. A row is one window of the model's number of bars."""

    corpus: str | None = None  # a folder made by prepare_grids.py; None: the model is trained on tokens, see `data`
    roll: Literal["", "drums", "melody", "piano_roll"] = ""  # the grid of a dense VAE, see DenseVAEProcessor
    num_bars: int = 1  # bars of a window of that grid; a MusicVAE's stand in its configuration
    train_split: str = "train"
    validation_split: str = "validation"
    rows_per_batch: int = 128  # windows of one micro-batch
    hop: int = 1  # bars between the starts of windows
    transpose: list[int] = field(default_factory=list)  # semitones, both ends included; [] is off
    min_onsets: int = 1  # fewest onsets of each track
    max_rest_bars: int = -1  # most bars in a row without onset, in each track; -1: no limit
    max_dropped_share: float = 1.0  # a melody of its own is a track that loses at most this share of its notes
    windows_per_song: int = 0  # at most so many of a song, drawn anew each epoch; 0: all
    validation_windows: int = 0  # spread over the split; 0: all


def validate_grid_arguments(grids: GridArguments) -> None:
    """Check the values. Raises ValueError naming the argument, the value and the remedy."""
    for name in ("rows_per_batch", "hop", "num_bars"):
        if getattr(grids, name) < 1:
            raise ValueError(f"grids.{name} is {getattr(grids, name)}: it must be positive")
    for name in ("min_onsets", "windows_per_song", "validation_windows"):
        if getattr(grids, name) < 0:
            raise ValueError(f"grids.{name} is {getattr(grids, name)}: it must not be negative")
    if grids.max_rest_bars < -1:
        raise ValueError(f"grids.max_rest_bars is {grids.max_rest_bars}: give a number of bars, or -1 for no limit")
    if not 0 <= grids.max_dropped_share <= 1:
        raise ValueError(f"grids.max_dropped_share is {grids.max_dropped_share}: give a share between 0 and 1")
    if grids.transpose and (len(grids.transpose) != 2 or grids.transpose[0] > grids.transpose[1]):
        raise ValueError(f"grids.transpose is {grids.transpose}: give [lowest, highest], or [] to switch it off")

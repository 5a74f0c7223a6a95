"""Windows of fixed length: where they may start, and filters with a reason.

A window is a fixed slice of the grid with explicit rests: silence neither shifts, shrinks nor rejects it. Starts are
bar lines from which `num_bars` bars of 4/4 follow each other without gap.
"""

import numpy as np

from partimento.tokenization.grid_songs import STEPS_PER_BAR
from partimento.tokenization.melody_lines import FIRST_NOTE_ON


def window_starts(bars: np.ndarray, num_bars: int, hop: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Indices into `bars` of the windows' first bars, and the step `[n]` at which the music of each window ends.

    Args:
        bars: ascending steps of bar lines of 4/4.
        hop: bars between the starts of windows.

    A run of bars shorter than a window gives one window, to be padded; no other bar is padded or left out but for
    the last ones that a hop of several bars does not reach.
    """
    if num_bars < 1 or hop < 1:
        raise ValueError(f"num_bars={num_bars} and hop={hop} must be positive")
    breaks = np.flatnonzero(np.diff(bars) != STEPS_PER_BAR) + 1
    first, ends = [], []
    for run in np.split(np.arange(len(bars)), breaks):
        if len(run):
            starts = run[: max(1, len(run) - num_bars + 1) : hop]
            first.append(starts)
            ends.append(np.full(len(starts), bars[run[-1]] + STEPS_PER_BAR))
    if not first:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(first), np.concatenate(ends)


def count_onsets(windows: np.ndarray, is_drums: bool) -> np.ndarray:
    """Onsets per window `[n]`: note-ons, or steps with a hit."""
    return (windows > 0).sum(1) if is_drums else (windows >= FIRST_NOTE_ON).sum(1)


def longest_rest(windows: np.ndarray, is_drums: bool) -> np.ndarray:
    """Longest run of bars without an onset, per window `[n]`."""
    onsets = (windows > 0) if is_drums else (windows >= FIRST_NOTE_ON)
    by_bar = np.asarray(onsets).reshape(len(windows), -1, STEPS_PER_BAR).any(2)
    longest = run = np.zeros(len(windows), np.int64)
    for bar in np.moveaxis(by_bar, 1, 0):
        run = np.where(bar, 0, run + 1)
        longest = np.maximum(longest, run)
    return longest


def passing_windows(
    tracks: list[tuple[np.ndarray, bool]], min_onsets: int = 0, max_rest_bars: int | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """Which windows pass, and how many fail for which reason.

    Args:
        tracks: windows `[n, steps]` and whether they are drums, per track; every track has to pass.
        min_onsets: fewest onsets of each track.
        max_rest_bars: most consecutive bars without onset in each track; `None` is no limit.
    """
    few, rests = (np.zeros(len(tracks[0][0]), bool) for _ in range(2))
    for windows, is_drums in tracks:
        few |= count_onsets(windows, is_drums) < min_onsets
        if max_rest_bars is not None:
            rests |= longest_rest(windows, is_drums) > max_rest_bars
    counts = {"few_onsets": int(few.sum()), "long_rest": int((rests & ~few).sum())}
    return ~(few | rests), {reason: count for reason, count in counts.items() if count}

"""The filters on one song, in the order in which they are tried; the first that fails names the reason.

The thresholds of Museformer (Yu et al., 2022) are the defaults of `SongSettings`.
"""

import math

import numpy as np
from symusic.core import ScoreTick

from partimento.training.corpus_arranging import DRUMS, bar_starts, has_melody, note_arrays
from partimento.training.corpus_settings import SongSettings


def count_empty_bars(onsets: np.ndarray, ends: np.ndarray, starts: np.ndarray) -> int:
    """Bars between the first and the last onset in which no note sounds.

    Args:
        onsets, ends: [notes] ticks. starts: [bars + 1] bar starts, the last one after the last onset.
    """
    first = np.searchsorted(starts, onsets, side="right") - 1
    last = np.minimum(np.searchsorted(starts, np.maximum(ends, onsets + 1), side="left") - 1, first.max())
    change = np.zeros(first.max() + 2, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last + 1, -1)
    return int((np.cumsum(change)[first.min() : first.max() + 1] == 0).sum())


def signatures(score: ScoreTick) -> list[str]:
    """Time signatures in force up to the last onset, e.g. ["4/4"]; 4/4 where the file names none."""
    last = max(int(t.notes.numpy()["time"].max()) for t in score.tracks if len(t.notes))
    events = sorted((s.time, f"{s.numerator}/{s.denominator}") for s in score.time_signatures if s.time <= last)
    if not events or events[0][0] > 0:
        events.insert(0, (0, "4/4"))
    by_time = dict(events)  # of several at one time the last one counts
    return sorted(set(by_time.values()))


def first_failure(score: ScoreTick, original: ScoreTick, settings: SongSettings) -> tuple[str, str] | None:
    """Reason and detail of the first filter that rejects the song, or None.

    Args:
        score: canonical and trimmed. original: as parsed (and compressed), where tempi and lengths are still exact.
    """
    found = signatures(score)
    if not set(found) <= set(settings.time_signatures):
        return "time_signature", ", ".join(found)
    notes = note_arrays(score)
    programs = np.unique(notes["program"])
    if len(programs) < settings.min_instruments:
        return "too_few_instruments", f"{len(programs)} < {settings.min_instruments}"
    if settings.require_melody and not has_melody(list(original.tracks)):
        return "no_melody", f"programs {programs.tolist()}"
    last = max(int(t.notes.numpy()["time"].max()) for t in original.tracks if len(t.notes))
    tempi = [60e6 / t.mspq if t.mspq else math.inf for t in original.tempos if t.time <= last] or [120.0]
    if not settings.min_tempo - 0.005 <= min(tempi) <= max(tempi) <= settings.max_tempo + 0.005:
        return "tempo", f"{min(tempi):.1f}-{max(tempi):.1f} bpm"
    pitched = notes["pitch"][notes["program"] != DRUMS]
    if len(pitched) and not settings.min_pitch <= pitched.min() <= pitched.max() <= settings.max_pitch:
        return "pitch_range", f"{pitched.min()}-{pitched.max()}"
    longest = max(t.notes.numpy()["duration"].max() for t in original.tracks if len(t.notes)) / original.tpq
    if longest > settings.max_note_beats:
        return "long_note", f"{longest:.1f} beats"
    ends = notes["time"] + notes["duration"]
    empty = count_empty_bars(notes["time"], ends, bar_starts(score, int(notes["time"].max()) + 1))
    if empty > settings.max_empty_bars:
        return "empty_bars", f"{empty} > {settings.max_empty_bars}"
    if settings.reject_single_pitch and len(np.unique(notes["pitch"])) == 1:
        return "single_pitch", str(notes["pitch"][0])
    if settings.reject_single_duration and len(np.unique(notes["duration"])) == 1:
        return "single_duration", f"{notes['duration'][0] / score.tpq:.2f} beats"
    return None

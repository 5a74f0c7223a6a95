"""Which window of a MIDI file a loop is made of: the track, the bars, and what had to be left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from partimento.tokenization import MissingTrackError, MusicVAEProcessor, WindowError
from partimento.tokenization.general_midi import program_name
from partimento.tokenization.grid_songs import MELODY_NAMES, STEPS_PER_BAR, GridPart, GridSong, choose_part
from partimento.tokenization.grid_windows import count_onsets
from partimento.tokenization.reading import MidiSource, read_score

__all__ = ["LoopWindow", "read_window"]

FEWEST_ONSETS = 3  # a window with fewer is not chosen unasked
ALL_TRACKS = "all"
NO_MELODY = {
    *range(32, 40),
    47,
    *range(112, 128),
}  # basses, timpani, percussion, effects: chosen only for want of others
DEFAULT_TEMPO = 120.0


@dataclass(frozen=True, eq=False)
class LoopWindow:
    """A window of a piece on the grid of a model.

    Args:
        ids: `[steps * tracks]`.
        bar: its first bar, counted from 1 among the bars of 4/4.
        tempo: the piece's first tempo, in quarters per minute.
        remarks: which window and track it is and what was left out, in words.
    """

    ids: np.ndarray
    bar: int
    tempo: float
    remarks: tuple[str, ...]


def read_window(
    processor: MusicVAEProcessor,
    midi: MidiSource,
    bar: int | None = None,
    track: int | str | None = None,
    any_metre: bool = False,
) -> LoopWindow:
    """One window of a piece.

    Args:
        bar: its first bar, from 1; behind the end of the piece it is padded with rests, and it may be silent. None
            takes the first window with three onsets in every track, or else the one with the most.
        track: which of the pitched tracks is the melody: its number from 1, or a part of its name or instrument; `all`
            joins them and keeps the highest notes. None takes the one called melody, vocal or alike, or else the one
            that plays in most bars and loses fewest notes; a bass or percussion only where there is nothing else.
        any_metre: cut every 16 sixteenths whatever the time signature says.

    Raises:
        MidiError: unreadable, empty, no bar of 4/4, no such track or bar: each its own subclass.
    """
    song = processor.read(midi, any_metre)
    num_notes = sum(len(part.notes.starts) for part in song.parts)
    song, melody = _choose_track(song, processor, track)
    _, report = processor.lines(song)
    if bar is None:
        ids, index = _first_usable(processor, song)
    elif 1 <= bar <= len(song.bars):
        ids, index = processor.encode(song, bar - 1), bar - 1
    else:
        raise WindowError(song.source, f"has {len(song.bars)} bars of 4/4: choose bar 1 to {len(song.bars)}, not {bar}")
    remarks = [_place(processor, song, index) + (f", {melody}" if melody else "")]
    remarks += _left_out(processor, report)
    if song.other_metres:
        remarks.append(f"only its bars of 4/4 are counted; others are in {', '.join(song.other_metres)}")
    if not _onsets(processor, ids[None])[0].any():
        remarks.append("the window is silent" if num_notes else "the piece is silent")
    return LoopWindow(ids, index + 1, _tempo(midi), tuple(remarks))


def _choose_track(song: GridSong, processor: MusicVAEProcessor, track: int | str | None) -> tuple[GridSong, str]:
    """The song with one melodic track, and that track in words."""
    if "melody" not in processor.tracks:
        if track is not None:
            raise ValueError(f"track={track!r}: a model of {' and '.join(processor.tracks)} has no track to choose")
        return song, ""
    candidates = song.find(processor.programs("melody"))
    if track == ALL_TRACKS or not candidates:
        return song, "the highest notes of all tracks" if candidates else ""
    names = [f"{i} {_name(part)}" for i, part in enumerate(candidates, 1)]
    if track is None:
        usual = [part for part in candidates if part.program not in NO_MELODY or MELODY_NAMES.search(part.name)]
        chosen = choose_part(usual or candidates, song.num_steps)
    else:
        chosen = next((part for i, part in enumerate(candidates, 1) if _is_meant(part, i, track)), None)
    if chosen is None:
        raise MissingTrackError(song.source, f"has no melodic track {track!r}", f"Choose among: {'; '.join(names)}")
    others = [part for part in song.parts if part not in candidates]
    text = f"track {names[candidates.index(chosen)]}" if len(candidates) > 1 else _name(chosen)
    return dataclasses.replace(song, parts=[chosen, *others]), text


def _name(part: GridPart) -> str:
    instrument = program_name(part.program)
    return f"{part.name.strip()} ({instrument})" if part.name.strip() else instrument


def _is_meant(part: GridPart, number: int, track: int | str) -> bool:
    if isinstance(track, int) or track.isdigit():
        return int(track) == number
    return track.lower() in _name(part).lower()


def _first_usable(processor: MusicVAEProcessor, song: GridSong) -> tuple[np.ndarray, int]:
    windows = processor.windows(song)
    onsets = _onsets(processor, windows.ids).min(0)
    enough = np.flatnonzero(onsets >= FEWEST_ONSETS)
    row = int(enough[0]) if len(enough) else int(_onsets(processor, windows.ids).sum(0).argmax())
    return windows.ids[row], int(windows.bars[row])


def _onsets(processor: MusicVAEProcessor, ids: np.ndarray) -> np.ndarray:
    """Onsets `[tracks, windows]`."""
    tracks = zip(processor.tracks, processor.split_tracks(ids))
    return np.stack([count_onsets(windows, name == "drums") for name, windows in tracks])


def _place(processor: MusicVAEProcessor, song: GridSong, index: int) -> str:
    total = len(song.bars)
    run = song.bars[index : index + processor.num_bars]
    length = int(np.append(True, np.diff(run) == STEPS_PER_BAR).cumprod().sum())
    last = f"-{index + length}" if length > 1 else ""
    padded = f", {processor.num_bars - length} of rest" if length < processor.num_bars else ""
    return f"bar{'s' if last else ''} {index + 1}{last} of {total}{padded}"


def _left_out(processor: MusicVAEProcessor, report: dict[str, int]) -> list[str]:
    remarks = []
    for name in processor.tracks:
        if count := report.get(f"{name}_notes_dropped"):
            side = "above" if name == "bass" else "below"
            remarks.append(f"{name}: one voice is kept; {count} notes of the piece sound {side} or within it")
        if count := report.get(f"{name}_notes_out_of_range"):
            remarks.append(f"{name}: {count} notes of the piece were moved by octaves into the range of the model")
        if count := report.get(f"{name}_hits_dropped"):
            remarks.append(f"{name}: {count} hits of the piece belong to no drum class")
        if report.get(f"{name}_absent"):
            remarks.append(f"{name}: there is none, it is silent")
    return remarks


def _tempo(midi: MidiSource) -> float:
    score, _ = read_score(midi)
    return round(float(score.tempos[0].qpm), 3) if len(score.tempos) else DEFAULT_TEMPO

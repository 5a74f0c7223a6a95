"""MusicVAEProcessor: MIDI files and sequences of grid ids into each other.

A sequence holds one id per step and track, step by step in the order of the tracks; the ids of a track are shifted by
the sizes of the tracks before it (a trio: melody 0-89, bass 90-179, drums 180-691).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from symusic import Note, Score, Tempo, TimeSignature, Track
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from partimento.tokenization.drum_classes import NUM_DRUM_IDS, ids_to_hits
from partimento.tokenization.grid_errors import MissingTrackError, PitchRangeError, PolyphonyError, WindowError
from partimento.tokenization.grid_songs import (
    STEPS_PER_BAR,
    STEPS_PER_BEAT,
    GridPart,
    GridSong,
    choose_line,
    drum_line,
    read_grid_song,
)
from partimento.tokenization.grid_windows import passing_windows, window_starts
from partimento.tokenization.melody_lines import (
    FIRST_NOTE_ON,
    LEFT_EDGES,
    POLICIES,
    RANGE_POLICIES,
    cut_windows,
    fit_range,
    line_notes,
)
from partimento.tokenization.reading import MidiSource
from partimento.tokenization.writing import write_midi

TRACK_PROGRAMS = {"melody": range(32), "bass": range(32, 40), "drums": range(-1, 0)}
ALL_PROGRAMS = range(128)
OUTPUT_PROGRAMS = {"melody": 0, "bass": 33, "drums": 0}
TICKS_PER_STEP = 120
VELOCITY, TEMPO = 80, 120.0


@dataclass(eq=False)
class GridWindows:
    """Windows of a piece.

    Args:
        ids: `[windows, steps * tracks]` int64.
        bars: `[windows]` first bar of each, counted from 0 among the bars of 4/4.
        report: what was changed or left out: name -> count.
    """

    ids: np.ndarray
    bars: np.ndarray
    report: dict[str, int] = field(default_factory=dict)


class MusicVAEProcessor(ProcessorMixin):
    """Owns everything between MIDI and the ids of a MusicVAE; its arguments are stored in `processor_config.json`.

    Args:
        tracks: any of `melody`, `bass`, `drums`, in the order of the model. A melody alone takes every pitched
            program; beside others it takes 0-31; a bass takes 32-39; drums are channel 10.
        num_bars: bars of a window.
        pitch_min, pitch_max: MIDI pitches of melody and bass: 21 ... 108 gives 90 ids, 0 ... 127 gives 130.
        monophony: how one voice is made of many: `skyline`, `lowest` or `track`, see `choose_line`. A bass keeps the
            lowest notes.
        out_of_range: pitches outside move by octaves (`octave`), become silent (`drop`) or are refused (`error`).
        left_edge: a note held into a window is struck again (`retrigger`) or silent (`drop`).
    """

    def __init__(
        self,
        tracks=("melody",),
        num_bars=2,
        pitch_min=21,
        pitch_max=108,
        monophony="skyline",
        out_of_range="octave",
        left_edge="retrigger",
        **kwargs,
    ):
        self.tracks = [tracks] if isinstance(tracks, str) else list(tracks)
        if not self.tracks or len(set(self.tracks)) < len(self.tracks) or set(self.tracks) - set(TRACK_PROGRAMS):
            raise ValueError(f"tracks={self.tracks}: choose among {', '.join(TRACK_PROGRAMS)}, each once")
        for name, value, choices in (
            ("monophony", monophony, POLICIES),
            ("out_of_range", out_of_range, RANGE_POLICIES),
            ("left_edge", left_edge, LEFT_EDGES),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
        if num_bars < 1:
            raise ValueError(f"num_bars={num_bars} must be positive")
        if not 0 <= pitch_min <= pitch_max <= 127:
            raise ValueError(f"pitch_min={pitch_min}, pitch_max={pitch_max}: give 0 <= pitch_min <= pitch_max <= 127")
        self.num_bars, self.pitch_min, self.pitch_max = num_bars, pitch_min, pitch_max
        self.monophony, self.out_of_range, self.left_edge = monophony, out_of_range, left_edge
        super().__init__(**kwargs)

    @classmethod
    def for_model(cls, config, **settings) -> "MusicVAEProcessor":
        """The processor of a MusicVAEConfig (tracks, number of bars, range of pitches)."""
        names = [track["name"] for track in config.tracks]
        facts = {"num_bars": config.num_bars, "pitch_min": config.pitch_min, "pitch_max": config.pitch_max}
        if len(names) > 1:
            facts["monophony"] = "track"
        return cls(tracks=names, **(facts | settings))

    @property
    def num_steps(self) -> int:
        return self.num_bars * STEPS_PER_BAR

    @property
    def vocab_sizes(self) -> list[int]:
        """Ids of each track."""
        pitched = self.pitch_max - self.pitch_min + 1 + FIRST_NOTE_ON
        return [NUM_DRUM_IDS if name == "drums" else pitched for name in self.tracks]

    @property
    def offsets(self) -> list[int]:
        """First id of each track."""
        return [sum(self.vocab_sizes[:i]) for i in range(len(self.tracks))]

    @property
    def start_token_id(self) -> int:
        """Id before the first step, also padding: the one behind all tracks."""
        return sum(self.vocab_sizes)

    @property
    def vocab_hash(self) -> str:
        """16 hexadecimal digits of what the ids mean: equal for processors that agree on it."""
        facts = {"steps_per_bar": STEPS_PER_BAR, **self.model_config_kwargs()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def model_config_kwargs(self) -> dict:
        """The fields that join a model to these ids."""
        tracks = [
            {"name": name, "kind": "drums" if name == "drums" else "categorical", "vocab_size": size}
            for name, size in zip(self.tracks, self.vocab_sizes)
        ]
        return {
            "tracks": tracks,
            "num_bars": self.num_bars,
            "pitch_min": self.pitch_min,
            "pitch_max": self.pitch_max,
        }

    # MIDI -> ids

    def windows(
        self,
        midi: MidiSource | GridSong,
        hop: int = 1,
        min_onsets: int = 0,
        max_rest_bars: int | None = None,
        any_metre: bool = False,
        allow_empty: bool = False,
        allow_polyphony: bool = True,
    ) -> GridWindows:
        """All windows of a piece, `hop` bars apart.

        Args:
            min_onsets, max_rest_bars: filters on every track, off by default; the report counts what they reject.
            any_metre: bars of 16 sixteenths whatever the time signature.
            allow_empty: a piece without notes is silence.
            allow_polyphony: make one voice of chords; else refuse them.

        Raises:
            MidiError: unreadable, empty, no 4/4, no such track, polyphonic, out of range: each its own subclass.
        """
        song = midi if isinstance(midi, GridSong) else self.read(midi, any_metre, allow_empty)
        lines, report = self.lines(song, allow_empty, allow_polyphony)
        if song.other_metres:
            report["bars_of_other_metres"] = song.num_steps // STEPS_PER_BAR - len(song.bars)
        first, ends = window_starts(song.bars, self.num_bars, hop)
        tracks = [(self.cut_track(line, name, song.bars[first], ends), name == "drums") for name, line in lines]
        passing, reasons = passing_windows(tracks, min_onsets, max_rest_bars)
        ids = self.join_tracks([windows[passing] for windows, _ in tracks])
        return GridWindows(ids, first[passing], report | reasons)

    def read(self, midi: MidiSource, any_metre: bool = False, allow_empty: bool = False) -> GridSong:
        """The piece on the grid. Raises: MidiError."""
        return read_grid_song(midi, any_metre=any_metre, allow_empty=allow_empty)

    def encode(self, midi: MidiSource | GridSong, bar: int = 0, **options) -> np.ndarray:
        """Ids `[steps * tracks]` of the window that begins at `bar` (from 0), padded with rests.

        Args:
            options: as `windows`.

        Raises:
            WindowError: the piece has no such bar. MidiError: as `windows`.
        """
        any_metre, allow_empty = (options.get(name, False) for name in ("any_metre", "allow_empty"))
        song = midi if isinstance(midi, GridSong) else self.read(midi, any_metre, allow_empty)
        if not 0 <= bar < len(song.bars):
            raise WindowError(song.source, f"has bars 0 ... {len(song.bars) - 1} in 4/4, not bar {bar}")
        lines, _ = self.lines(song, allow_empty, options.get("allow_polyphony", True))
        run = song.bars[bar : bar + self.num_bars]
        end = run[np.append(True, np.diff(run) == STEPS_PER_BAR).cumprod().astype(bool)][-1:] + STEPS_PER_BAR
        return self.join_tracks([self.cut_track(line, name, run[:1], end) for name, line in lines])[0]

    def lines(
        self, song: GridSong, allow_empty: bool = False, allow_polyphony: bool = True
    ) -> tuple[list[tuple[str, np.ndarray]], dict[str, int]]:
        """Name and ids `[song steps]` of each track, in the model's range, and counts of what was changed.

        Raises:
            MissingTrackError, PolyphonyError, PitchRangeError.
        """
        candidates = {name: song.find(self.programs(name)) for name in self.tracks}
        if not any(candidates.values()) and not allow_empty:
            found = ", ".join(sorted({"drums" if p.program < 0 else f"program {p.program}" for p in song.parts}))
            wanted = " or ".join(f"{name} ({_describe(self.programs(name))})" for name in self.tracks)
            raise MissingTrackError(song.source, f"has no {wanted}, only {found or 'silence'}")
        lines, report = [], {}
        for name, parts in candidates.items():
            ids, counts = self.line(song, name, parts, allow_polyphony)
            lines.append((name, ids))
            report |= {f"{name}_{reason}": count for reason, count in counts.items() if count}
            if not parts:
                report[f"{name}_absent"] = 1
        return lines, report

    def programs(self, name: str) -> range:
        """Programs from which a track is taken, -1 being drums."""
        return ALL_PROGRAMS if self.tracks == ["melody"] else TRACK_PROGRAMS[name]

    def line(
        self, song: GridSong, name: str, parts: list[GridPart], allow_polyphony: bool = True
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Ids `[song steps]` of one track made of the candidate `parts`, and counts. Raises: as `lines`."""
        if name == "drums":
            line = drum_line(parts, song.num_steps)
            return line.ids, {"hits_dropped": line.num_dropped}
        policy = "lowest" if name == "bass" else self.monophony
        line = choose_line(parts, song.num_steps, policy)
        if line.num_dropped and not allow_polyphony:
            raise PolyphonyError(
                song.source,
                f"is not monophonic: {line.num_dropped} of {line.num_notes} notes sound below or within others",
                'Pass allow_polyphony=True to keep one voice, or choose a track with monophony="track"',
            )
        try:
            ids, moved = fit_range(line.ids, self.pitch_min, self.pitch_max, self.out_of_range)
        except ValueError as error:
            raise PitchRangeError(song.source, str(error)) from error
        return ids, {"notes_dropped": line.num_dropped, "notes_out_of_range": moved}

    def cut_track(self, line: np.ndarray, name: str, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Windows `[n, steps]` of one track that begin at `starts`; behind `ends` they are silent."""
        if name == "drums":
            padded = np.append(line, np.zeros(self.num_steps, line.dtype))
            steps = starts[:, None] + np.arange(self.num_steps)
            return np.where(steps < ends[:, None], padded[steps], 0)
        windows = np.zeros((len(starts), self.num_steps), line.dtype)
        for end in np.unique(ends):  # one per run of bars
            rows = ends == end
            windows[rows] = cut_windows(line[:end], starts[rows], self.num_steps, self.left_edge)
        return windows

    def join_tracks(self, tracks: Sequence[np.ndarray]) -> np.ndarray:
        """Sequences `[n, steps * tracks]` of windows `[n, steps]` per track."""
        shifted = [np.asarray(ids, np.int64) + offset for ids, offset in zip(tracks, self.offsets)]
        return np.stack(shifted, -1).reshape(len(shifted[0]), -1)

    def split_tracks(self, ids) -> list[np.ndarray]:
        """Ids `[..., steps]` of each track, counted from 0, of sequences `[..., steps * tracks]`.

        Raises:
            ValueError: not a whole number of steps, or an id in the place of another track.
        """
        if hasattr(ids, "detach"):
            ids = ids.detach().cpu().numpy()
        array = np.asarray(ids, np.int64)
        if array.shape[-1] % len(self.tracks):
            raise ValueError(f"{array.shape[-1]} ids are no whole number of steps of {len(self.tracks)} tracks")
        by_track = array.reshape(*array.shape[:-1], -1, len(self.tracks))
        result = []
        for i, (name, offset, size) in enumerate(zip(self.tracks, self.offsets, self.vocab_sizes)):
            track = by_track[..., i] - offset
            if track.size and not (track.min() >= 0 and track.max() < size):
                low, high = track.min() + offset, track.max() + offset
                raise ValueError(f"ids of {name} must lie in {offset} ... {offset + size - 1}, got {low} ... {high}")
            result.append(track)
        return result

    def __call__(self, midi: MidiSource | list | None = None, return_tensors=None, **options) -> BatchFeature:
        """`input_ids` `[windows, steps * tracks]` of all windows of one or several sources."""
        sources = midi if isinstance(midi, list) else [midi]
        ids = np.concatenate([self.windows(source, **options).ids for source in sources])
        return BatchFeature({"input_ids": ids}, tensor_type=return_tensors)

    # ids -> MIDI

    def decode(self, ids, tempo: float = TEMPO, velocity: int = VELOCITY) -> Score:
        """Score of one sequence `[steps * tracks]` of any number of whole steps.

        Args:
            tempo: quarters per minute.

        Raises:
            ValueError: more than one sequence, or ids outside their track.
        """
        tracks = self.split_tracks(ids)
        if tracks[0].ndim != 1:
            raise ValueError(f"ids must be one sequence, got {tracks[0].ndim} axes; batch_decode takes several")
        score = Score(TICKS_PER_STEP * STEPS_PER_BEAT)
        score.tempos.append(Tempo(0, tempo))
        score.time_signatures.append(TimeSignature(0, 4, 4))
        for name, track_ids in zip(self.tracks, tracks):
            if name == "drums":
                starts, pitches = ids_to_hits(track_ids)
                ends = starts + 1
            else:
                starts, ends, pitches = line_notes(track_ids, self.pitch_min)
            track = Track(program=OUTPUT_PROGRAMS[name], is_drum=name == "drums", name=name.capitalize())
            track.notes = Note.from_numpy(
                time=(starts * TICKS_PER_STEP).astype(np.int32),
                duration=((ends - starts) * TICKS_PER_STEP).astype(np.int32),
                pitch=pitches.astype(np.int8),
                velocity=np.full(len(starts), velocity, np.int8),
            )
            score.tracks.append(track)
        return score

    def batch_decode(self, sequences: Iterable, **kwargs) -> list[Score]:
        """Scores of several sequences."""
        return [self.decode(ids, **kwargs) for ids in sequences]

    def save_midi(self, ids, path: str | os.PathLike, **kwargs) -> Path:
        """Write the decoded score; the file appears complete or not at all."""
        return write_midi(self.decode(ids, **kwargs), path)


def _describe(programs: range) -> str:
    return "channel 10" if programs.start < 0 else f"programs {programs.start}-{programs.stop - 1}"

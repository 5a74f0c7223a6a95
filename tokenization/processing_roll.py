"""DenseVAEProcessor: MIDI files and grids of ones and zeros `[steps, width]` into each other.

drums       16 steps per bar x 9 classes of General MIDI percussion; several in a step
melody      16 x 90 events of one voice (nothing new, note-off, 88 note-ons); one in a step
piano_roll  16 x 88 pitches that sound, all pitched tracks together; a repeated note melts into the one before it
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from symusic import Note, Score, Tempo, TimeSignature, Track
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from partimento.tokenization.drum_classes import DRUM_CLASSES
from partimento.tokenization.grid_errors import MissingTrackError
from partimento.tokenization.grid_songs import STEPS_PER_BAR, STEPS_PER_BEAT, GridSong, read_grid_song
from partimento.tokenization.grid_windows import passing_windows, window_starts
from partimento.tokenization.melody_lines import canonical_line
from partimento.tokenization.processing_grid import ALL_PROGRAMS, TEMPO, TICKS_PER_STEP, VELOCITY, MusicVAEProcessor
from partimento.tokenization.reading import MidiSource

KINDS = {"drums": "bernoulli", "melody": "categorical", "piano_roll": "bernoulli"}  # -> likelihood that fits


@dataclass(eq=False)
class RollWindows:
    """Windows of a piece.

    Args:
        values: `[windows, steps, width]` uint8, ones and zeros.
        bars: `[windows]` first bar of each, counted from 0 among the bars of 4/4.
        report: what was changed or left out: name -> count.
    """

    values: np.ndarray
    bars: np.ndarray
    report: dict[str, int] = field(default_factory=dict)


class DenseVAEProcessor(ProcessorMixin):
    """Owns everything between MIDI and the grids of a dense VAE; its arguments are stored in `processor_config.json`.

    Args:
        kind: `drums`, `melody` or `piano_roll`.
        num_bars: bars of a window.
        pitch_min, pitch_max: MIDI pitches of melody (others move by octaves) and piano roll (others are left out).
    """

    def __init__(self, kind="drums", num_bars=1, pitch_min=21, pitch_max=108, **kwargs):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
        self.kind, self.num_bars, self.pitch_min, self.pitch_max = kind, num_bars, pitch_min, pitch_max
        self.line_processor()  # names what is wrong with the other arguments
        super().__init__(**kwargs)

    @property
    def num_steps(self) -> int:
        return self.num_bars * STEPS_PER_BAR

    @property
    def width(self) -> int:
        """Cells of a step."""
        if self.kind == "drums":
            return len(DRUM_CLASSES)
        return self.pitch_max - self.pitch_min + 1 + (2 if self.kind == "melody" else 0)

    @property
    def vocab_hash(self) -> str:
        """16 hexadecimal digits of what the cells mean: equal for processors that agree on it."""
        facts = {name: getattr(self, name) for name in ("kind", "num_bars", "pitch_min", "pitch_max")}
        text = json.dumps({"steps_per_bar": STEPS_PER_BAR, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def model_config_kwargs(self) -> dict:
        """The fields that join a model to these grids."""
        return {"input_shape": (self.num_steps, self.width), "likelihood": KINDS[self.kind]}

    def line_processor(self) -> MusicVAEProcessor:
        """What reads and writes the ids behind drums and melody."""
        track = "drums" if self.kind == "drums" else "melody"
        return MusicVAEProcessor(track, self.num_bars, self.pitch_min, self.pitch_max)

    # MIDI -> grids

    def windows(
        self,
        midi: MidiSource | GridSong,
        hop: int = 1,
        min_onsets: int = 0,
        max_rest_bars: int | None = None,
        any_metre: bool = False,
        allow_empty: bool = False,
    ) -> RollWindows:
        """All windows of a piece, `hop` bars apart.

        Args:
            min_onsets: fewest steps with an onset; max_rest_bars: most bars in a row without one. Off by default.
            any_metre: bars of 16 sixteenths whatever the time signature.
            allow_empty: a piece without notes is silence.

        Raises:
            MidiError: unreadable, empty, no 4/4, no such track: each its own subclass.
        """
        song = midi
        if not isinstance(song, GridSong):
            song = read_grid_song(song, any_metre=any_metre, allow_empty=allow_empty)
        if self.kind != "piano_roll":
            found = self.line_processor().windows(song, hop, min_onsets, max_rest_bars, allow_empty=allow_empty)
            return RollWindows(self.rolls(found.ids), found.bars, found.report)
        first, ends = window_starts(song.bars, self.num_bars, hop)
        roll, onsets, dropped = self._piano_roll(song, allow_empty)
        steps = song.bars[first][:, None] + np.arange(self.num_steps)
        steps = np.where(steps < ends[:, None], steps, len(roll) - 1)  # the last step is silent
        passing, reasons = passing_windows([(onsets[steps], True)], min_onsets, max_rest_bars)
        report = ({"notes_out_of_range": dropped} if dropped else {}) | reasons
        return RollWindows(roll[steps[passing]], first[passing], report)

    def _piano_roll(self, song: GridSong, allow_empty: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Cells `[song steps + 1, width]`, whether a note begins `[song steps + 1]`, notes out of range."""
        parts = song.find(ALL_PROGRAMS)
        if not parts and not allow_empty:
            raise MissingTrackError(song.source, "has no pitched track, only drums")
        changes = np.zeros((song.num_steps + 1, self.width), np.int32)
        onsets = np.zeros(song.num_steps + 1, bool)
        dropped = 0
        for part in parts:
            starts, ends, pitches = part.notes
            inside = (pitches >= self.pitch_min) & (pitches <= self.pitch_max)
            dropped += int((~inside).sum())
            columns = pitches[inside] - self.pitch_min
            np.add.at(changes, (starts[inside], columns), 1)
            np.add.at(changes, (np.minimum(ends[inside], song.num_steps), columns), -1)
            onsets[starts[inside]] = True
        roll = (changes.cumsum(0) > 0).astype(np.uint8)
        roll[-1] = 0
        return roll, onsets, dropped

    def rolls(self, ids: np.ndarray) -> np.ndarray:
        """Grids `[..., steps, width]` of drum or melody ids `[..., steps]`."""
        if self.kind == "piano_roll":
            raise ValueError("a piano roll has no ids; call windows")
        cells = np.arange(self.width)
        ids = np.asarray(ids)[..., None]
        return ((ids >> cells & 1) if self.kind == "drums" else ids == cells).astype(np.uint8)

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Drum or melody ids `[..., steps]` of grids `[..., steps, width]`; the largest cell of a melody's step."""
        if self.kind == "drums":
            return ((np.asarray(values) > 0.5) << np.arange(self.width)).sum(-1)
        return np.asarray(values).argmax(-1)

    def __call__(self, midi: MidiSource | list | None = None, return_tensors=None, **options) -> BatchFeature:
        """`input_values` `[windows, steps, width]` float32 of all windows of one or several sources."""
        sources = midi if isinstance(midi, list) else [midi]
        values = np.concatenate([self.windows(source, **options).values for source in sources])
        return BatchFeature({"input_values": values.astype(np.float32)}, tensor_type=return_tensors)

    # Grids -> MIDI

    def decode(self, values, tempo: float = TEMPO, velocity: int = VELOCITY) -> Score:
        """Score of one grid `[steps, width]` of any number of steps; a cell above 1/2 is on.

        Args:
            tempo: quarters per minute.

        Raises:
            ValueError: another shape.
        """
        if hasattr(values, "detach"):
            values = values.detach().cpu().numpy()
        values = np.asarray(values)
        if values.ndim != 2 or values.shape[1] != self.width:
            raise ValueError(f"values must be [steps, {self.width}], not {list(values.shape)}")
        if self.kind != "piano_roll":
            ids = self.ids(values)
            return self.line_processor().decode(ids if self.kind == "drums" else canonical_line(ids), tempo, velocity)
        edges = np.diff((values > 0.5).astype(np.int8), axis=0, prepend=0, append=0).T  # by pitch, then time
        pitches, starts = np.nonzero(edges > 0)
        ends = np.nonzero(edges < 0)[1]
        score = Score(TICKS_PER_STEP * STEPS_PER_BEAT)
        score.tempos.append(Tempo(0, tempo))
        score.time_signatures.append(TimeSignature(0, 4, 4))
        track = Track(program=0, is_drum=False, name="Piano")
        track.notes = Note.from_numpy(
            time=(starts * TICKS_PER_STEP).astype(np.int32),
            duration=((ends - starts) * TICKS_PER_STEP).astype(np.int32),
            pitch=(pitches + self.pitch_min).astype(np.int8),
            velocity=np.full(len(starts), velocity, np.int8),
        )
        track.notes.sort()
        score.tracks.append(track)
        return score

    def batch_decode(self, grids: Iterable, **kwargs) -> list[Score]:
        """Scores of several grids."""
        return [self.decode(values, **kwargs) for values in grids]

    save_midi = MusicVAEProcessor.save_midi  # writes what `decode` returns

"""The canonical form of a piece: quantised, one track per program, no overlaps, sorted.

Encoding starts from it and decoding ends in it. Without it the tokens would depend on the order of tracks, and
overlapping notes of one pitch would change their lengths whenever a file is written and read again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from symusic import Note, Score, Tempo, TimeSignature, TimeUnit, Track

from partimento.tokenization.errors import (
    EmptyMidiError,
    MidiParseError,
    NoProgramLeftError,
    TimeSignatureError,
)
from partimento.tokenization.general_midi import program_name
from partimento.tokenization.vocabulary import DRUM_RANK, FOUR_FOUR, POSITIONS_PER_BEAT, Vocabulary

DEFAULT_MICROSECONDS = 500_000  # MIDI's tempo before the first tempo event: 120 quarters per minute
MAX_TICK = 2**31 - 1  # symusic counts ticks in 32 bits
METRES_REMEDY = 'The preset "metres" also knows 2, 3, 6 over 4 and 3, 6, 9, 12 over 8'
FAMILIES = (
    "piano", "chromatic-percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "synth-lead", "synth-pad", "synth-effects", "ethnic", "percussive", "sound-effects",
)  # fmt: skip
FAMILY_PROGRAMS = {name: range(8 * i, 8 * i + 8) for i, name in enumerate(FAMILIES)} | {"drums": range(-1, 0)}


@dataclass(frozen=True, eq=False)
class Metre:
    """Time signatures as segments: each starts at a bar line, at a tick and at a bar (from 0)."""

    ticks: np.ndarray
    bars: np.ndarray
    indices: np.ndarray  # into Vocabulary.time_signatures
    bar_ticks: np.ndarray
    step_ticks: np.ndarray  # ticks of one grid position

    @classmethod
    def from_changes(cls, changes: list[tuple[int, int]], vocabulary: Vocabulary) -> "Metre":
        """changes: (tick, index of the time signature), ascending, the first at tick 0, all at bar lines."""
        ticks, indices = (np.array(column, np.int64) for column in zip(*changes))
        numerators, denominators = np.array(vocabulary.time_signatures).T[:, indices]
        bar_ticks = numerators * (vocabulary.ticks_per_quarter * 4 // denominators)
        bars = np.concatenate([[0], np.cumsum(np.diff(ticks) // bar_ticks[:-1])])
        return cls(ticks, bars, indices, bar_ticks, vocabulary.ticks_per_position(denominators))

    def segment(self, ticks: np.ndarray) -> np.ndarray:
        if len(self.ticks) == 1:
            return np.zeros(np.shape(ticks), np.int64)
        return np.searchsorted(self.ticks, ticks, side="right") - 1

    def segment_of_bar(self, bars: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.bars, bars, side="right") - 1

    def bar(self, ticks: np.ndarray) -> np.ndarray:
        """Bar (from 0) in which a tick lies."""
        segment = self.segment(ticks)
        return self.bars[segment] + (ticks - self.ticks[segment]) // self.bar_ticks[segment]

    def bar_start(self, bars: np.ndarray) -> np.ndarray:
        """Tick of a bar line."""
        segment = self.segment_of_bar(bars)
        return self.ticks[segment] + (bars - self.bars[segment]) * self.bar_ticks[segment]


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece in canonical form. Notes are sorted by (onset, program rank, pitch); arrays have one entry per note."""

    vocabulary: Vocabulary
    metre: Metre
    onsets: np.ndarray  # ticks
    programs: np.ndarray  # rank: 0-127, 128 = drums
    pitches: np.ndarray
    velocities: np.ndarray  # index into Vocabulary.velocities
    durations: np.ndarray  # index into Vocabulary.durations
    tempo_ticks: np.ndarray
    tempos: np.ndarray  # index into Vocabulary.tempos
    dropped_programs: tuple[int, ...] = ()
    source: str = "score"  # what messages call it: the path of the file it was read from, or a kind
    exact_tempos: Mapping[int, float] = field(default_factory=dict)  # bpm as written, by index of Vocabulary.tempos

    @property
    def num_notes(self) -> int:
        return len(self.onsets)

    @property
    def num_bars(self) -> int:
        """Bars up to the last onset."""
        return int(self.metre.bar(self.onsets[-1:])[0]) + 1 if self.num_notes else 0

    def first_bars(self, num_bars: int) -> "Piece":
        """The piece cut at a bar line (notes that sound across it keep their length)."""
        end = self.metre.bar_start(np.array([num_bars]))[0]
        keep = self.onsets < end
        names = ("onsets", "programs", "pitches", "velocities", "durations")
        piece = replace(self, **{name: getattr(self, name)[keep] for name in names})
        return piece.without_late_changes()

    def without_late_changes(self) -> "Piece":
        """Drops changes of tempo and metre behind the bar of the last onset: nothing sounds there any more."""
        if not self.num_notes:
            return self
        end = self.metre.bar_start(np.array([self.num_bars]))[0]
        keep, metre = self.tempo_ticks < end, self.metre
        if len(metre.ticks) > 1:
            kept = metre.ticks < end
            metre = Metre(*(getattr(metre, name)[kept] for name in Metre.__dataclass_fields__))
        return replace(self, tempo_ticks=self.tempo_ticks[keep], tempos=self.tempos[keep], metre=metre)

    def bpm(self, exact: bool = False) -> np.ndarray:
        """Quarters per minute of each tempo change: of the vocabulary, or with `exact` as written where it is known."""
        steps = self.vocabulary.tempos[self.tempos].astype(np.float64)
        if exact and self.exact_tempos:
            steps = np.array([self.exact_tempos.get(int(index), bpm) for index, bpm in zip(self.tempos, steps)])
        return steps

    def to_score(self, exact_tempos: bool = False) -> Score:
        """The piece as a score: one track per program ascending, drums last; see `bpm` for `exact_tempos`."""
        vocabulary = self.vocabulary
        score = Score(vocabulary.ticks_per_quarter)
        steps = self.metre.step_ticks[self.metre.segment(self.onsets)]
        columns = {
            "time": self.onsets.astype(np.int32),
            "duration": (vocabulary.durations[self.durations] * steps).astype(np.int32),
            "pitch": self.pitches.astype(np.int8),
            "velocity": vocabulary.velocities[self.velocities].astype(np.int8),
        }
        for rank in np.unique(self.programs).tolist():
            mine = self.programs == rank
            is_drum = rank == DRUM_RANK
            track = Track(name=program_name(-1 if is_drum else rank), program=0 if is_drum else rank, is_drum=is_drum)
            track.notes = Note.from_numpy(**{name: np.ascontiguousarray(c[mine]) for name, c in columns.items()})
            score.tracks.append(track)
        for tick, bpm in zip(self.tempo_ticks.tolist(), self.bpm(exact_tempos).tolist()):
            score.tempos.append(Tempo(tick, bpm))
        for tick, index in zip(self.metre.ticks.tolist(), self.metre.indices.tolist()):
            score.time_signatures.append(TimeSignature(tick, *vocabulary.time_signatures[index]))
        return score


def assemble(vocabulary, metre, onsets, programs, pitches, velocities, durations, tempo_ticks, tempos, dropped=()):
    """Sorts notes, removes doubled ones (the longest, then loudest stays) and cuts a note where its pitch restarts.

    All arguments are arrays of quantised values as in Piece, in any order; tempo changes are sorted by tick.
    """
    key = (programs * 128 + pitches).astype(np.int64)
    if len(onsets):
        packed = ((key << 31 | onsets) << 7 | durations) << 5 | velocities
        packed.sort()
        velocities, durations = packed & 31, packed >> 5 & 127
        onsets, key = packed >> 12 & MAX_TICK, packed >> 43
        last = np.ones(len(packed), bool)  # of notes with equal program, pitch and onset
        last[:-1] = packed[1:] >> 12 != packed[:-1] >> 12
        if not last.all():
            key, onsets, durations, velocities = key[last], onsets[last], durations[last], velocities[last]
        durations = cut_overlaps(vocabulary, metre, key, onsets, durations)
        order = np.argsort(onsets * (129 * 128) + key, kind="stable")
        key, onsets, durations, velocities = key[order], onsets[order], durations[order], velocities[order]
    piece = Piece(
        vocabulary, metre, onsets, key // 128, key % 128, velocities, durations, tempo_ticks, tempos, tuple(dropped)
    )
    return piece.without_late_changes()


def cut_overlaps(vocabulary, metre, key, onsets, durations):
    """Shortens a note to the longest duration that ends by the next onset of its program and pitch."""
    gap = np.diff(onsets)
    gap[key[1:] != key[:-1]] = MAX_TICK
    gap //= metre.step_ticks[metre.segment(onsets[:-1])]
    longest = vocabulary.durations[-1]
    too_long = np.flatnonzero(vocabulary.durations[durations[:-1]] > np.minimum(gap, longest))
    if len(too_long):
        durations = durations.copy()
        durations[too_long] = vocabulary.longest_duration_within[gap[too_long]]
    return durations


def from_score(score: Score, vocabulary: Vocabulary, path: str = "score") -> Piece:
    """Checks a parsed score and brings it into canonical form.

    Raises: MidiError: a subclass for each thing that MidiTok would silently swallow.
    """
    if score.ttype != TimeUnit.tick:
        score = score.to(TimeUnit.tick)
    division = score.ticks_per_quarter
    if division <= 0:
        raise MidiParseError(path, f"illegal time division of {division} ticks per quarter")
    columns = [(track, track.notes.numpy()) for track in score.tracks if len(track.notes)]
    if not columns:
        raise EmptyMidiError(path, "contains no notes")
    ranks = [DRUM_RANK if track.is_drum else track.program for track, _ in columns]
    dropped = sorted({-1 if r == DRUM_RANK else r for r in ranks if vocabulary.program_ids[r] < 0})
    kept = [(r, notes) for r, (_, notes) in zip(ranks, columns) if vocabulary.program_ids[r] >= 0]
    if not kept:
        raise NoProgramLeftError(
            path,
            f"no note is left: it uses only programs {names_of_programs(dropped)}",
            f"This preset knows {names_of_programs(sorted(vocabulary.programs.tolist()))}",
        )
    time, length, pitch, velocity = (
        np.concatenate([notes[name] for _, notes in kept]).astype(np.int64)
        for name in ("time", "duration", "pitch", "velocity")
    )
    programs = np.repeat([r for r, _ in kept], [len(notes["time"]) for _, notes in kept])
    if min(time.min(), length.min(), pitch.min(), velocity.min()) < 0 or time.max() * 24 // division > MAX_TICK // 2:
        raise MidiParseError(path, "illegal note data (time, pitch or velocity out of range)")
    metre = read_metre(score, vocabulary, int(time.max()), path)
    onsets, steps_per_quarter = quantise(time, division, vocabulary, metre)
    longest = vocabulary.durations[-1]
    steps = np.clip((2 * length * steps_per_quarter + division) // (2 * division), 1, longest)
    tempo_ticks, tempos, exact_tempos = read_tempos(score, vocabulary, metre)
    piece = assemble(
        vocabulary,
        metre,
        onsets,
        programs,
        pitch,
        vocabulary.nearest_velocity[velocity],
        vocabulary.nearest_duration[steps],
        tempo_ticks,
        tempos,
        dropped,
    )
    return replace(piece, source=path, exact_tempos=exact_tempos)


def names_of_programs(programs: list[int]) -> str:
    return ", ".join("drums" if program == -1 else str(program) for program in programs)


def quantise(time: np.ndarray, division: int, vocabulary: Vocabulary, metre: Metre):
    """Ticks on the grid, and grid steps per quarter at each of them (24 where the beat is an eighth)."""
    coarse = (2 * time * POSITIONS_PER_BEAT + division) // (2 * division)
    if not vocabulary.has_metres:
        return coarse, POSITIONS_PER_BEAT
    coarse = coarse * 2
    segment = metre.segment(coarse)
    fine = np.maximum((4 * time * POSITIONS_PER_BEAT + division) // (2 * division), metre.ticks[segment])
    is_fine = metre.step_ticks[segment] == 1
    onsets = np.where(is_fine, fine, coarse)
    return onsets, POSITIONS_PER_BEAT * (3 - metre.step_ticks[metre.segment(onsets)])


def read_metre(score: Score, vocabulary: Vocabulary, last_onset: int, path: str) -> Metre:
    """Time signatures up to the last onset; a change inside a bar waits for the next bar line (MIDI 1.0, p. 54)."""
    known = {signature: index for index, signature in enumerate(vocabulary.time_signatures)}
    division, resolution = score.ticks_per_quarter, vocabulary.ticks_per_quarter
    effective = {0: FOUR_FOUR}  # the last one at a tick wins
    for change in score.time_signatures:
        if 0 <= change.time <= last_onset:
            effective[change.time] = (change.numerator, change.denominator)
    changes: list[tuple[int, int]] = []
    start, bar, bar_ticks = 0, 0, 1  # of the latest change
    for time, signature in sorted(effective.items()):
        tick = (2 * time * resolution + division) // (2 * division)
        num_bars = -(-max(tick - start, 0) // bar_ticks)
        start, bar = start + num_bars * bar_ticks, bar + num_bars
        if signature not in known:
            legal = ", ".join(f"{n}/{d}" for n, d in known)
            reason = f"time signature {signature[0]}/{signature[1]} in bar {bar + 1} is outside the preset ({legal})"
            remedy = None if vocabulary.has_metres else METRES_REMEDY
            raise TimeSignatureError(path, reason, remedy)
        if changes and changes[-1][0] == start:
            changes.pop()
        if not changes or changes[-1][1] != known[signature]:
            changes.append((start, known[signature]))
        bar_ticks = signature[0] * resolution * 4 // signature[1]
    return Metre.from_changes(changes, vocabulary)


def read_tempos(score: Score, vocabulary: Vocabulary, metre: Metre) -> tuple[np.ndarray, np.ndarray, dict[int, float]]:
    """Tempo changes on the grid: the last one of a tick, without repetitions, the first at tick 0. With them the bpm
    as written of each index; of several that come to the same, the first."""
    columns = score.tempos.numpy()
    time, microseconds = columns["time"].astype(np.int64), columns["mspq"].astype(np.float64)
    legal = time >= 0
    time, microseconds = time[legal], microseconds[legal]
    order = np.argsort(time, kind="stable")
    ticks = quantise(time[order], score.ticks_per_quarter, vocabulary, metre)[0]
    tempos = vocabulary.nearest_tempo(microseconds[order])
    if not len(ticks) or ticks[0] > 0:
        ticks = np.concatenate([[0], ticks])
        tempos = np.concatenate([vocabulary.nearest_tempo([DEFAULT_MICROSECONDS]), tempos])
        microseconds = np.concatenate([[DEFAULT_MICROSECONDS], microseconds[order]])
    else:
        microseconds = microseconds[order]
    exact = {int(index): 60e6 / value for index, value in zip(tempos[::-1], microseconds[::-1]) if value > 0}
    return *clean_tempos(ticks, tempos), exact


def clean_tempos(ticks: np.ndarray, tempos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the last change of each tick and drops changes that repeat the running tempo."""
    if len(ticks) > 1:
        last = np.append(ticks[1:] != ticks[:-1], True)
        ticks, tempos = ticks[last], tempos[last]
        new = np.append(True, tempos[1:] != tempos[:-1])
        ticks, tempos = ticks[new], tempos[new]
    return ticks, tempos

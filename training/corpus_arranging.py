"""Changes to one song: six-track compression, trimming of empty bars, key normalisation.

Times are ticks; a canonical score has 12 ticks per quarter note (24 where beats may be eighths). Six-track compression
follows PopMAG (Ren et al., 2020) as used by Museformer (Yu et al., 2022).
"""

from collections.abc import Iterable

import numpy as np
from symusic import Tempo, TimeSignature
from symusic.core import NoteTickList, ScoreTick, TrackTick

from partimento.tokenization.conditions import KEYS, parse_key

TICKS = 12  # per quarter note in a canonical score
DRUMS = -1
MELODY, PIANO, GUITAR, STRINGS, BASS = 80, 0, 25, 48, 43  # target programs: square lead stands for the melody
NOTE_TYPES = {"time": np.int32, "duration": np.int32, "pitch": np.int8, "velocity": np.int8}


def make_track(notes: dict[str, np.ndarray], program: int) -> TrackTick:
    """A track from note arrays, sorted by time; program -1 means drums."""
    arrays = [np.ascontiguousarray(notes[name], dtype=kind) for name, kind in NOTE_TYPES.items()]
    track = TrackTick("", max(program, 0), program == DRUMS)
    track.notes.extend(NoteTickList.from_numpy(*arrays))
    track.notes.sort(inplace=True)
    return track


def make_score(like: ScoreTick, tracks: Iterable[TrackTick], tempos=None, time_signatures=None) -> ScoreTick:
    """A score with the resolution and, unless given, the tempi and time signatures of another one."""
    score = ScoreTick(like.ticks_per_quarter)
    for track in tracks:
        score.tracks.append(track)
    score.tempos.extend(like.tempos if tempos is None else tempos)
    score.time_signatures.extend(like.time_signatures if time_signatures is None else time_signatures)
    return score


def monophony(onsets: np.ndarray) -> float:
    """Share of notes that start alone. onsets: [notes] in ticks."""
    return len(np.unique(onsets)) / max(len(onsets), 1)


def predict_melody(tracks: list[TrackTick]) -> TrackTick | None:
    """Highest-pitched mostly monophonic non-drum track, basses aside; None if there is none."""
    best, best_pitch = None, -1.0
    for track in tracks:
        if track.is_drum or not len(track.notes) or 32 <= track.program <= 39:
            continue
        notes = track.notes.numpy()
        pitch = float(notes["pitch"].mean())
        if monophony(notes["time"]) >= 0.8 and pitch > best_pitch:
            best, best_pitch = track, pitch
    return best


def predict_bass(tracks: list[TrackTick]) -> TrackTick | None:
    """Lowest mostly monophonic non-drum track with a mean pitch below C3 (48); None if there is none."""
    best, best_pitch = None, 48.0
    for track in tracks:
        if track.is_drum or not len(track.notes):
            continue
        notes = track.notes.numpy()
        pitch = float(notes["pitch"].mean())
        if monophony(notes["time"]) >= 0.8 and pitch < best_pitch:
            best, best_pitch = track, pitch
    return best


def _target(track: TrackTick) -> int | None:
    if track.is_drum:
        return DRUMS
    ranges = ((73, 88, MELODY), (32, 39, BASS), (0, 7, PIANO), (24, 31, GUITAR), (40, 54, STRINGS))
    return next((target for low, high, target in ranges if low <= track.program <= high), None)


def has_melody(tracks: list[TrackTick]) -> bool:
    """Whether a track has a melody program (73-88) or is predicted to be the melody."""
    return any(_target(t) == MELODY and len(t.notes) for t in tracks) or predict_melody(tracks) is not None


def compress_six_tracks(score: ScoreTick) -> tuple[ScoreTick | None, list[int]]:
    """Merge all tracks into melody, piano, guitar, strings, bass and drums.

    Notes of the same pitch that overlap after merging are cut at the next onset when the score is brought into
    canonical form.

    Returns:
        the compressed score, None for a song without melody, and the programs that were dropped.
    """
    tracks = [t for t in score.tracks if len(t.notes)]
    targets = [_target(t) for t in tracks]
    for target, predict in ((MELODY, predict_melody), (BASS, predict_bass)):
        if target not in targets:
            chosen = predict([t for t, taken in zip(tracks, targets) if taken not in (MELODY, BASS)])
            targets = [target if t is chosen else old for t, old in zip(tracks, targets)]
    dropped = sorted({t.program for t, target in zip(tracks, targets) if target is None})
    if MELODY not in targets:
        return None, dropped
    merged = (
        merge_tracks([t for t, x in zip(tracks, targets) if x == target], target)
        for target in (PIANO, GUITAR, BASS, STRINGS, MELODY, DRUMS)
        if target in targets
    )
    return make_score(score, merged), dropped


def merge_tracks(tracks: list[TrackTick], program: int) -> TrackTick:
    """All notes of several tracks in one."""
    arrays = [t.notes.numpy() for t in tracks]
    return make_track({name: np.concatenate([a[name] for a in arrays]) for name in NOTE_TYPES}, program)


def bar_starts(score: ScoreTick, end: int) -> np.ndarray:
    """Ticks at which bars start, up to and including the first start >= `end`; 4/4 until a signature says otherwise."""
    changes = sorted((s.time, s.numerator * 4 * score.tpq // s.denominator) for s in score.time_signatures)
    if not changes or changes[0][0] > 0:
        changes.insert(0, (0, 4 * score.tpq))
    starts = [0]
    while starts[-1] < end:
        length = next(n for time, n in reversed(changes) if time <= starts[-1])
        starts.append(starts[-1] + max(length, 1))
    return np.array(starts)


def note_arrays(score: ScoreTick) -> dict[str, np.ndarray]:
    """All notes as arrays [notes]: program (-1 for drums), time, duration, pitch, velocity."""
    arrays = [(DRUMS if t.is_drum else t.program, t.notes.numpy()) for t in score.tracks]
    joined = {
        name: np.concatenate([np.empty(0, np.int64)] + [a[name].astype(np.int64) for _, a in arrays])
        for name in NOTE_TYPES
    }
    joined["program"] = np.concatenate([np.empty(0, np.int64)] + [np.full(len(a["time"]), p) for p, a in arrays])
    return joined


def trim_empty_bars(score: ScoreTick) -> ScoreTick:
    """Start at the bar of the first note; the tempo and signature running there move to the front.

    Empty bars at the end need no work: they have no tokens.
    """
    first = min(int(t.notes.numpy()["time"].min()) for t in score.tracks if len(t.notes))
    starts = bar_starts(score, first + 1)
    shift = int(starts[starts <= first][-1])
    if shift == 0:
        return score
    tracks = []
    for track in score.tracks:
        notes = track.notes.numpy()
        tracks.append(make_track({**notes, "time": notes["time"] - shift}, DRUMS if track.is_drum else track.program))
    tempos = _shifted(score.tempos, shift, lambda e, time: Tempo(time, mspq=e.mspq))
    changes = _shifted(score.time_signatures, shift, lambda e, time: TimeSignature(time, e.numerator, e.denominator))
    return make_score(score, tracks, tempos, changes)


def _shifted(events, shift: int, rebuild) -> list:
    """Events moved to the front by `shift`; of those before it only the last one stays, at time 0."""
    events = sorted(events, key=lambda e: e.time)
    before = [e for e in events if e.time <= shift]
    return [rebuild(e, 0) for e in before[-1:]] + [rebuild(e, e.time - shift) for e in events if e.time > shift]


def key_shift(key: str) -> int:
    """Semitones (-6...5) that bring a key such as `Bb-major` to C major or A minor; 0 for an empty key."""
    if not key:
        return 0
    number = KEYS.index(parse_key(key))
    return ((9 if number >= 12 else 0) - number % 12 + 6) % 12 - 6


def transpose(score: ScoreTick, semitones: int, min_pitch: int = 0, max_pitch: int = 127) -> ScoreTick:
    """Move all pitched notes; a note that leaves the range moves by octaves until it is inside. Drums stay."""
    tracks = []
    for track in score.tracks:
        notes = track.notes.numpy()
        if not track.is_drum:
            pitch = notes["pitch"].astype(np.int64) + semitones
            pitch = np.where(pitch > max_pitch, pitch - 12 * -(-(pitch - max_pitch) // 12), pitch)
            pitch = np.where(pitch < min_pitch, pitch + 12 * -(-(min_pitch - pitch) // 12), pitch)
            notes = {**notes, "pitch": pitch}
        tracks.append(make_track(notes, DRUMS if track.is_drum else track.program))
    return make_score(score, tracks)

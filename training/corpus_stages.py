"""What happens to one song: parse, six-track compression, time normalisation, filters, length, key normalisation.

Everything here looks at a single file and runs in worker processes; duplicates, groups and splits need all songs and
follow in `corpus_merging`.
"""

import dataclasses
import functools
import hashlib
import json
import re
import warnings
from pathlib import Path

import numpy as np
from symusic.core import ScoreTick

from partimento.tokenization import DroppedTracksWarning, MidiError, MidiProcessor
from partimento.tokenization.conditions import parse_key
from partimento.training.corpus_arranging import (
    DRUMS,
    bar_starts,
    compress_six_tracks,
    key_shift,
    note_arrays,
    transpose,
    trim_empty_bars,
)
from partimento.training.corpus_filters import first_failure
from partimento.training.corpus_grouping import bar_shingles, invariant_hash, melody_shingles
from partimento.training.corpus_settings import SongSettings

NO_LIMIT = 10**9


class RejectedError(Exception):
    """Ends the way of one song; carries the stage, the reason counted in the report, and a detail for the list."""

    def __init__(self, stage: str, reason: str, detail: str = ""):
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage, self.reason, self.detail = stage, reason, detail


@functools.cache
def processors(preset: str, six_track: bool) -> tuple[MidiProcessor, MidiProcessor]:
    """Processors for reading and for writing tokens; what is to be compressed is read with all its programs."""
    writer = MidiProcessor.from_preset(preset)
    return MidiProcessor.from_preset("multitrack") if six_track else writer, writer


def error_reason(error: MidiError) -> str:
    """`EmptyMidiError` -> `empty_midi`."""
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def known_key(text: str) -> str:
    """A key from the metadata in canonical spelling; empty if there is none or it is not understood."""
    try:
        return parse_key(text)
    except ValueError:
        return ""


def process_song(data: bytes, key: str, settings: SongSettings) -> dict:
    """Run one file through the stages.

    Args:
        data: bytes of the MIDI file.
        key: key from the metadata, e.g. `A-minor`; empty to estimate it.

    Returns:
        a flat record; `stage` and `reason` are empty for a song that passed, and a song rejected for its length still
        carries what is needed to find duplicates.
    """
    record = {"stage": "", "reason": "", "detail": ""}
    try:
        _run_stages(record, data, key, settings)
    except RejectedError as exc:
        record |= {"stage": exc.stage, "reason": exc.reason, "detail": exc.detail}
    except MidiError as exc:
        record |= {"stage": "parse", "reason": error_reason(exc), "detail": exc.reason}
    return record


def _run_stages(record: dict, data: bytes, key: str, settings: SongSettings) -> None:
    parsed, original, score = _parse(record, data, settings)
    if settings.trim:
        score = trim_empty_bars(score)
    failure = first_failure(score, original, settings)
    if failure is not None:
        raise RejectedError("filters", *failure)
    record |= duplicate_keys(score)
    _measure_length(record, score, settings)
    score, conditions = _normalise_key(record, score, key, settings)
    record |= {
        "tempo": float(conditions["tempo"]),
        "programs": sorted(set(note_arrays(score)["program"].tolist())),
        "conditions": json.dumps(conditions, sort_keys=True),
        "invariant": invariant_hash(score),
        "bar_shingles": bar_shingles(score),
        "melody_shingles": melody_shingles(parsed),
        "midi": score.dumps_midi() if settings.midi == "processed" else data,
        "body": np.asarray(_encode(score, settings), dtype=np.int32),
    }


def _parse(record: dict, data: bytes, settings: SongSettings) -> tuple[ScoreTick, ScoreTick, ScoreTick]:
    """The score as parsed, the same after six-track compression (if any), and its canonical form."""
    reader, _ = processors(settings.preset, settings.six_track)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedTracksWarning)  # counted below instead
        score = reader.load(data)
        parsed = original = ScoreTick.from_midi(data)
        if settings.six_track:
            original, dropped = compress_six_tracks(parsed)
            if original is None:
                raise RejectedError("six_track", "no_melody", f"programs {programs_of(parsed)}")
            score = reader.load(original)
        else:
            dropped = sorted(set(programs_of(parsed)) - set(programs_of(score)))
    record["dropped_programs"] = dropped
    return parsed, original, score


def _encode(score: ScoreTick, settings: SongSettings) -> list[int]:
    _, writer = processors(settings.preset, settings.six_track)
    return writer.encode(score, add_special_tokens=False, max_bars=NO_LIMIT, max_tokens=NO_LIMIT)


def _measure_length(record: dict, score: ScoreTick, settings: SongSettings) -> None:
    _, writer = processors(settings.preset, settings.six_track)
    ids = _encode(score, settings)
    bars = writer.count_bars(ids)
    record |= {"num_bars": bars, "num_tokens": len(ids), "num_notes": score.note_num()}
    if not settings.min_bars <= bars <= settings.max_bars:
        raise RejectedError("length", "bars", f"{bars} bars, allowed {settings.min_bars}-{settings.max_bars}")
    if len(ids) > settings.max_tokens:
        raise RejectedError("length", "tokens", f"{len(ids)} tokens, allowed {settings.max_tokens}")


def _normalise_key(record: dict, score: ScoreTick, key: str, settings: SongSettings) -> tuple[ScoreTick, dict]:
    """The score, shifted if asked for, and its measured conditions; records the original key and the shift."""
    _, writer = processors(settings.preset, settings.six_track)
    conditions = writer.measure_conditions(score)
    original_key = known_key(key) or conditions.get("key") or ""
    shift = key_shift(original_key) if settings.normalise_key else 0
    if shift:
        score = writer.load(transpose(score, shift, settings.min_pitch, settings.max_pitch))
        conditions = writer.measure_conditions(score)
    if original_key:
        mode = original_key.rpartition("-")[2]
        conditions["key"] = {"major": "C-major", "minor": "A-minor"}[mode] if shift else original_key
    record |= {"key": original_key, "key_shift": shift, "num_notes": score.note_num()}
    return score, conditions


def programs_of(score: ScoreTick) -> list[int]:
    """Programs that have notes, -1 for drums."""
    return sorted({DRUMS if t.is_drum else t.program for t in score.tracks if len(t.notes)})


def duplicate_keys(score: ScoreTick) -> dict[str, str]:
    """`content`: hash of all canonical notes; `signature`: the paper's duration, bars, notes, onsets, instruments."""
    notes = note_arrays(score)
    columns = [notes[name] for name in ("program", "time", "pitch", "velocity", "duration")]
    rows = np.stack([c[np.lexsort(columns[::-1])] for c in columns]).astype("<i4")
    content = hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()
    end = int((notes["time"] + notes["duration"]).max())
    num_bars = len(bar_starts(score, int(notes["time"].max()) + 1)) - 1
    parts = (end, num_bars, len(notes["time"]), len(np.unique(notes["time"])))
    programs = np.unique(notes["program"]).tolist()
    return {"content": content, "signature": json.dumps([*parts, programs])}


@dataclasses.dataclass(frozen=True)
class SongTask:
    """One file for a worker: where it lies, the key its metadata gives, and the settings."""

    path: str
    key: str
    settings: SongSettings


def process_file(task: SongTask) -> dict:
    """Read one file and process it; called in workers."""
    try:
        data = Path(task.path).read_bytes()
    except OSError as exc:
        return {"stage": "collect", "reason": "unreadable_file", "detail": exc.strerror or str(exc)}
    return process_song(data, task.key, task.settings)

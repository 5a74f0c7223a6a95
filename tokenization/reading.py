"""Bytes to a parsed score, with an error that says what was wrong with the bytes."""

import os
from pathlib import Path

from symusic import Score
from symusic.core import ScoreQuarter, ScoreSecond, ScoreTick

from partimento.tokenization.errors import MidiParseError, NotMidiError

MAX_BYTES = 64 * 2**20  # more than any score; keeps a mistaken upload from filling the memory
KNOWN_HEADERS = {
    b"PK\x03\x04": "a ZIP archive",
    b"RIFF": "a RIFF container",
    b"ID3": "MP3 audio",
    b"OggS": "Ogg audio",
    b"fLaC": "FLAC audio",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"\x89PNG": "a PNG image",
    b"<?xml": "an XML document",
    b"<": "markup",
    b"X:": "ABC notation",
}
SCORE_TYPES = (ScoreTick, ScoreQuarter, ScoreSecond)
MidiSource = str | os.PathLike | bytes | ScoreTick


def name_of(midi) -> str:
    """What messages call a source: its path, or its kind."""
    if isinstance(midi, (str, os.PathLike)):
        return str(midi)
    return "bytes" if isinstance(midi, (bytes, bytearray, memoryview)) else "score"


def read_score(midi: MidiSource) -> tuple[Score, str]:
    """Parsed score and the name for messages.

    Raises: NotMidiError: wrong type or other bytes. MidiParseError: unreadable, truncated or illegal.
    """
    path = name_of(midi)
    if isinstance(midi, SCORE_TYPES):
        return _checked(midi, path), path
    if isinstance(midi, (str, os.PathLike)):
        try:
            size = Path(midi).stat().st_size
            data = Path(midi).read_bytes() if size <= MAX_BYTES else b""
        except (OSError, ValueError) as error:
            raise MidiParseError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    elif isinstance(midi, (bytes, bytearray, memoryview)):
        data = bytes(midi)
        size = len(data)
    else:
        raise NotMidiError(path, f"has type {type(midi).__name__}", "Pass a path, bytes or a symusic.Score")
    if size > MAX_BYTES:
        raise MidiParseError(path, f"has {size} bytes, limit {MAX_BYTES}")
    if data[:4] != b"MThd":
        kind = next((name for header, name in KNOWN_HEADERS.items() if data.startswith(header)), "no known format")
        raise NotMidiError(path, f"is not MIDI: starts with {data[:8]!r}, {kind}" if data else "is not MIDI: 0 bytes")
    try:
        score = Score.from_midi(data)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise MidiParseError(path, f"cannot be parsed ({str(error).strip()})") from error
    return _checked(score, path), path


def _checked(score: Score, path: str) -> Score:
    if score.ticks_per_quarter <= 0:
        raise MidiParseError(path, f"illegal time division of {score.ticks_per_quarter} ticks per quarter")
    return score

"""Uploaded MIDI: limits, tracks to choose from, and what visitors are told when something cannot be used."""

from __future__ import annotations

from loops_models import RequestError

from partimento.pipelines import LoopGenerator
from partimento.tokenization import (
    EmptyMidiError,
    MidiError,
    MidiParseError,
    MidiTooLongError,
    MissingTrackError,
    NotMidiError,
    TimeSignatureError,
)
from partimento.tokenization.general_midi import program_name

MAX_UPLOAD_BYTES, MAX_UPLOAD_NOTES, MAX_UPLOAD_BARS, MAX_FILES = 2_000_000, 20_000, 512, 8
ANY_METRE = "Choose other bars, or tick “any metre” to cut every 16 sixteenths."


def check_upload(generator: LoopGenerator, midi: bytes, any_metre: bool = False) -> tuple[int, list[str]]:
    """(bars, names of the melodic tracks) of a file within the limits.

    Raises:
        RequestError: too large, or not to be read.
    """
    if len(midi) > MAX_UPLOAD_BYTES:
        raise RequestError(f"The file has {len(midi):,} bytes; the limit is {MAX_UPLOAD_BYTES:,}.")
    processor = generator.processor
    with plain_words():
        song = processor.read(midi, any_metre)
    notes = sum(len(part.notes.starts) for part in song.parts)
    if notes > MAX_UPLOAD_NOTES:
        raise RequestError(f"The file has {notes:,} notes; the limit is {MAX_UPLOAD_NOTES:,}.")
    if len(song.bars) > MAX_UPLOAD_BARS:
        raise RequestError(f"The file has {len(song.bars):,} bars; the limit is {MAX_UPLOAD_BARS:,}.")
    parts = song.find(processor.programs("melody")) if "melody" in processor.tracks else []
    names = [f"{part.name.strip()} ({program_name(part.program)})".removeprefix(" ") for part in parts]
    return len(song.bars), names


class plain_words:  # noqa: N801 - a context manager, used like a function
    """Errors of the input as sentences for the visitor; errors of the program as one that says nothing about it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if error is None or isinstance(error, RequestError) or not isinstance(error, Exception):
            return False
        raise RequestError(sentence_for(error)) from error


def sentence_for(error: BaseException) -> str:
    """What a visitor is told of an error."""
    if isinstance(error, EmptyMidiError):
        return "This MIDI contains no notes."
    if isinstance(error, (MidiParseError, NotMidiError)):
        return "This file could not be read as MIDI. It may be damaged; export it again as Standard MIDI (.mid)."
    if isinstance(error, TimeSignatureError):
        return f"This model works in 4/4; the file {error.reason}. {ANY_METRE}"
    if isinstance(error, MissingTrackError) and error.remedy:
        return f"This file {error.reason}. {error.remedy}."
    if isinstance(error, (MidiError, MidiTooLongError)):
        return f"This file {error.reason}."
    if isinstance(error, ValueError):
        text = str(error)
        return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    return "Something went wrong on our side. Please try again."

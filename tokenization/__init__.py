"""MIDI <-> token ids: vocabulary, canonical form, conditions, grammar, augmentation."""

from partimento.tokenization.canonical import FAMILY_PROGRAMS
from partimento.tokenization.errors import (
    DroppedTracksWarning,
    EmptyMidiError,
    GrammarError,
    MidiError,
    MidiParseError,
    MidiTooLongError,
    NoProgramLeftError,
    NotMidiError,
    TimeSignatureError,
)
from partimento.tokenization.grammar import Grammar
from partimento.tokenization.grammar_logits import GrammarLogitsProcessor
from partimento.tokenization.grammar_tables import GenerationConstraints
from partimento.tokenization.processing_midi import MidiProcessor

__all__ = [
    "FAMILY_PROGRAMS",
    "DroppedTracksWarning",
    "EmptyMidiError",
    "GenerationConstraints",
    "Grammar",
    "GrammarError",
    "GrammarLogitsProcessor",
    "MidiError",
    "MidiParseError",
    "MidiProcessor",
    "MidiTooLongError",
    "NoProgramLeftError",
    "NotMidiError",
    "TimeSignatureError",
]

"""MIDI <-> token ids: vocabulary, canonical form, conditions, grammar, augmentation.

Importing this package makes ``AutoProcessor`` know MidiProcessor.
"""

from transformers import AutoProcessor

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
from partimento.tokenization.grid_errors import MissingTrackError, PitchRangeError, PolyphonyError, WindowError
from partimento.tokenization.processing_grid import GridWindows, MusicVAEProcessor
from partimento.tokenization.processing_midi import MidiProcessor
from partimento.tokenization.processing_roll import DenseVAEProcessor, RollWindows

# AutoProcessor finds a saved processor by the name of its class among all registered ones. The key is looked up only
# for folders without processor_config.json, where a model registers its config; here the class stands for itself.
AutoProcessor.register(MidiProcessor, MidiProcessor, exist_ok=True)
AutoProcessor.register(MusicVAEProcessor, MusicVAEProcessor, exist_ok=True)
AutoProcessor.register(DenseVAEProcessor, DenseVAEProcessor, exist_ok=True)

__all__ = [
    "FAMILY_PROGRAMS",
    "DenseVAEProcessor",
    "DroppedTracksWarning",
    "EmptyMidiError",
    "GenerationConstraints",
    "Grammar",
    "GrammarError",
    "GrammarLogitsProcessor",
    "GridWindows",
    "MidiError",
    "MidiParseError",
    "MidiProcessor",
    "MidiTooLongError",
    "MissingTrackError",
    "MusicVAEProcessor",
    "NoProgramLeftError",
    "NotMidiError",
    "PitchRangeError",
    "PolyphonyError",
    "RollWindows",
    "TimeSignatureError",
    "WindowError",
]

"""A model and a processor joined: conditions or MIDI in, MIDI out."""

from partimento.pipelines.generation import GeneratedMidi, MidiGenerator
from partimento.pipelines.latent_info import LatentInfo
from partimento.pipelines.loops import Loop, LoopGenerator, join_loops
from partimento.pipelines.piano_roll import plot_piano_roll
from partimento.pipelines.prompt import PromptReader, PromptReading
from partimento.pipelines.rewriting import Rewriting, rewrite_bars

__all__ = [
    "GeneratedMidi",
    "LatentInfo",
    "Loop",
    "LoopGenerator",
    "MidiGenerator",
    "PromptReader",
    "PromptReading",
    "Rewriting",
    "join_loops",
    "plot_piano_roll",
    "rewrite_bars",
]

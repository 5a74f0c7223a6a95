"""A model and a processor joined: conditions or MIDI in, MIDI out."""

from partimento.pipelines.generation import GeneratedMidi, MidiGenerator
from partimento.pipelines.piano_roll import plot_piano_roll
from partimento.pipelines.prompt import PromptReader, PromptReading

__all__ = ["GeneratedMidi", "MidiGenerator", "PromptReader", "PromptReading", "plot_piano_roll"]

"""Errors of MIDI input that no grid can be made of; each message says which file, what is wrong and what to do."""

from partimento.tokenization.errors import MidiError


class PolyphonyError(MidiError):
    """Notes sound together where one voice was demanded; the reason counts them."""


class MissingTrackError(MidiError):
    """No track has a program of the wanted kind; the reason lists what there is."""


class PitchRangeError(MidiError):
    """A note lies outside the pitches of the model and may neither be moved nor left out."""


class WindowError(MidiError):
    """No such window, or none passes the filters; the reason gives the number of bars or the counts."""

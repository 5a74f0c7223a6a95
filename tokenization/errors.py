"""Errors of MIDI input: each says which file, what is wrong with it and, where there is one, what to do."""


class MidiError(ValueError):
    """A MIDI input that cannot be encoded; the message reads ``path: reason. remedy``."""

    def __init__(self, path: str, reason: str, remedy: str | None = None):
        self.path, self.reason, self.remedy = str(path), reason, remedy
        super().__init__(f"{self.path}: {reason}" + (f". {remedy}" if remedy else ""))

    def __reduce__(self):
        return type(self), (self.path, self.reason, self.remedy)


class MidiParseError(MidiError):
    """Unreadable, truncated or illegal MIDI; the reason carries the parser's message."""


class NotMidiError(MidiError):
    """The bytes are something else than MIDI, or the argument has a type that cannot hold MIDI."""


class EmptyMidiError(MidiError):
    """The file contains no notes."""


class TimeSignatureError(MidiError):
    """A time signature outside the preset; the reason names it and its bar."""


class MidiTooLongError(MidiError):
    """More bars or tokens than allowed; the reason gives the measured length and the limit."""


class NoProgramLeftError(MidiError):
    """No note is left after the program filter; the reason lists the programs found."""


class DroppedTracksWarning(UserWarning):
    """Tracks whose program the preset does not know were left out."""


class GrammarError(ValueError):
    """A token sequence leaves the grammar; carries ``position``, ``token`` and ``expected`` (what was legal)."""

    def __init__(self, position: int, token: str, expected: str):
        self.position, self.token, self.expected = position, token, expected
        super().__init__(f"token {position} is {token}, legal here: {expected}")

    def __reduce__(self):
        return type(self), (self.position, self.token, self.expected)

"""Free text in English or Spanish -> conditions of a model. Offline, deterministic, driven by `prompt_words.toml`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from partimento.pipelines.prompt_resolution import resolve_findings
from partimento.pipelines.prompt_scan import scan_prompt
from partimento.pipelines.prompt_tables import Lexicon, fold
from partimento.tokenization import MidiProcessor
from partimento.tokenization.general_midi import program_name

__all__ = ["PromptMatch", "PromptReader", "PromptReading"]

_MAX_TEXT = 5000  # characters
_FOREIGN_WORDS = 4  # unread words from which on a text may be in another language


@dataclass(frozen=True)
class PromptMatch:
    """One thing that was understood."""

    words: str
    """The words of the prompt."""
    slot: str
    """genre, artist, mood, key, tempo, density, bars, instruments or without."""
    value: Any
    note: str = ""
    """How the words came to mean the value, where that is not plain."""


@dataclass
class PromptReading:
    """A prompt as it was understood."""

    text: str
    conditions: dict[str, Any] = field(default_factory=dict)
    """As `MidiProcessor.condition_ids` takes them; instruments are General MIDI families."""
    instruments: list[str] = field(default_factory=list)
    """Families, and General MIDI programs where the words name one."""
    programs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The General MIDI programs that stand for the families, -1 = drums."""
    without: list[str] = field(default_factory=list)
    """Families and programs that may not sound."""
    matches: list[PromptMatch] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    """Words that were not used, as they were written."""
    nearest: dict[str, list[str]] = field(default_factory=dict)
    """Known words and labels near to unmatched ones."""
    contradictions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What the model cannot do, and numbers that were brought into their range."""

    def request(self) -> dict[str, Any]:
        """Arguments of [`MidiGenerator.generate`][partimento.pipelines.MidiGenerator]."""
        names = {"instruments": list(self.instruments), "without": list(self.without)}
        return self.conditions | {slot: value for slot, value in names.items() if value}

    def explain(self) -> list[str]:
        """Lines for a reader: what was understood and from which words, what was not used, what is contradictory."""
        lines = []
        for slot in dict.fromkeys(match.slot for match in self.matches):
            found = [match for match in self.matches if match.slot == slot]
            value = {"instruments": self._instruments(), "without": ", ".join(self.without)}.get(slot)
            value = value or f"{self.conditions[slot]}".removesuffix(".0")
            reasons = "; ".join(f'"{match.words}"' + (f": {match.note}" if match.note else "") for match in found)
            lines.append(f"{slot:<12}{value}  ({reasons})")
        lines += [f"note        {text}" for text in (*self.contradictions, *self.warnings)]
        if self.unmatched:
            near = (f"{word} (nearest: {', '.join(self.nearest[word])})" if word in self.nearest else word
                    for word in self.unmatched)  # fmt: skip
            lines.append(f"not used    {', '.join(near)}")
        return lines

    def _instruments(self) -> str:
        def name(family: str, programs: Iterable[int]) -> str:
            names = [program_name(program) for program in programs]
            return family if names == ["Drums"] else f"{family} ({', '.join(names)})"

        return ", ".join(name(family, programs) for family, programs in self.programs.items())


class PromptReader:
    """Reads prompts for one model: its genre, artist and mood labels, its ranges of tempo and bars.

    Example:
        >>> reading = PromptReader(generator.processor).read("slow sad jazz, no drums, 32 bars")
        >>> generator.generate(**reading.request())
    """

    def __init__(self, processor: MidiProcessor):
        self.lexicon = Lexicon(processor)

    def read(self, text: str) -> PromptReading:
        """What `text` asks for.

        Raises:
            ValueError: the text is longer than 5,000 characters.
        """
        if len(text) > _MAX_TEXT:
            raise ValueError(f"the prompt has {len(text):,} characters; the limit is {_MAX_TEXT:,}")
        reading = PromptReading(text)
        findings, reading.unmatched = scan_prompt(text, self.lexicon)
        resolve_findings(reading, findings, self.lexicon)
        reading.unmatched = list(dict.fromkeys(reading.unmatched))
        unread = sum(len(words.split()) for words in reading.unmatched)
        if unread >= _FOREIGN_WORDS and unread > len(text.split()) / 2:
            reading.warnings.append("most of the text was not understood: prompts are read in English and Spanish")
        known = sorted(word for word in self.lexicon.content_words if len(word) > 3)
        for word in reading.unmatched:
            near = difflib.get_close_matches(fold(word), known, n=3, cutoff=0.75) if len(word) > 3 else []
            if near and fold(word) not in near:
                reading.nearest[word] = near
        return reading

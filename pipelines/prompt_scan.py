"""From the words of a prompt to single findings: phrases, numbers with their units, keys, negations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from partimento.pipelines.prompt_tables import Lexicon, read_number, tokenise
from partimento.tokenization.conditions import KEYS

__all__ = ["Finding", "scan_prompt"]

_NOTES = dict(zip(("c", "d", "e", "f", "g", "a", "b"), (0, 2, 4, 5, 7, 9, 11)))
_NOTES |= dict(zip(("do", "re", "mi", "fa", "sol", "la", "si"), (0, 2, 4, 5, 7, 9, 11)))
_NOTE = re.compile(r"(do|re|mi|fa|sol|la|si|[a-g])([#b]?)(m?)")
_MODES = {"major", "maj", "mayor", "minor", "min", "menor"}
_EVERYDAY_NOTES = {"la", "mi", "si", "a"}  # also other words: a key only with a mode, or at the end of a clause
_LISTING = {"without", "sin", "minus", "except", "excepto", "menos", "salvo", "omit", "avoid", "evita", "evitando"}
_LISTING |= {"excluding", "exclude", "sans", "ohne", "sem", "senza"}
_NO_TEMPO_BEFORE = {"los", "the", "anos", "ano", "year", "years", "opus", "op", "numero", "number", "vol"}
_NO_TEMPO_AFTER = set("/:-–%°'#+")


@dataclass(frozen=True)
class Finding:
    """A meaning found in the text. `slot` is a slot of the word table, or key, mode, bars, seconds, metre, artist."""

    slot: str
    data: Any
    words: str
    note: str = ""
    negated: bool = False
    exact: bool = False
    """A number, which goes before a word."""


def scan_prompt(text: str, lexicon: Lexicon) -> tuple[list[Finding], list[str]]:
    """(findings in the order of the text, words that mean nothing here)."""
    scan = _Scan(text, lexicon)
    scan.run()
    return scan.findings, scan.unmatched


class _Scan:
    def __init__(self, text: str, lexicon: Lexicon):
        self.text, self.lexicon = text, lexicon
        self.tokens = lexicon.corrected(tokenise(text))
        self.shouted = text.isupper()
        self.findings: list[Finding] = []
        self.unmatched: list[str] = []

    def run(self) -> None:
        place = 0
        readers = (
            self.idle, self.unsupported, self.style, self.duration, self.number, self.key, self.negation, self.content,
            self.mode,
        )  # fmt: skip
        while place < len(self.tokens):
            used = next((used for reader in readers if (used := reader(place))), 0)
            if not used:
                token = self.tokens[place]
                if not token.is_sign and token.word not in self.lexicon.filler:
                    self.unmatched.append(token.text)
            place += used or 1

    # Each reader returns the number of tokens that it has used from `start` on, 0 when it finds nothing.

    def idle(self, start: int) -> int:
        return self.role("idle", start)

    def unsupported(self, start: int) -> int:
        """ "half-time", "fade out": nothing that a model can be told."""
        used = self.role("unsupported", start)
        if used:
            self.unmatched.append(self.span(start, start + used))
        return used

    def content(self, start: int) -> int:
        found = self.lexicon.content.find(self.tokens, start)
        if not found:
            return 0
        entry, length = found
        self.add(entry.slot, entry.data, start, start + length)
        return length

    def style(self, start: int) -> int:
        """ "in the style of somebody": an artist, unless it is a genre."""
        used = self.role("style", start)
        if not used:
            return 0
        first = self.skip(start + used, "article")
        if first >= len(self.tokens) or self.lexicon.content.find(self.tokens, first):
            return used
        end = first
        stops = ("and", "or", "but", "negation", "key", "tempo")
        while end < min(first + 4, len(self.tokens)) and not self.tokens[end].is_sign:
            stop = any(self.role(name, end) for name in stops) or self.tokens[end].word in ("with", "con")
            if stop or self.lexicon.content.find(self.tokens, end) or read_number(self.tokens, end):
                break
            end += 1
        if end == first:
            return used
        self.unmatched.append(self.span(first, end))
        self.add("artist", {"labels": [], "name": self.span(first, end)}, first, end)
        return end - start

    def duration(self, start: int) -> int:
        """ "a minute", "half a minute", "2:30", "1 minute 30 seconds", "dos minutos y medio"."""
        found, place = read_number(self.tokens, start), start
        if found:
            value, place = found[0], start + found[1]
            below = read_number(self.tokens, place + 1) if self.word(place) == ":" else None
            if below and value < 10 and len(self.word(place + 1)) == 2 and below[0] < 60:
                place += 2
                place += self.role("minutes", place)
                self.add("seconds", {"seconds": 60 * value + below[0]}, start, place, exact=True)
                return place - start
            place += self.word(place) in ("of", "de")
        else:
            place += self.role("article", place) if self.word(place) in ("a", "an", "un", "one") else 0
            half = self.role("half", place)
            value, place = (0.5 if half else 1.0), place + half
            if place == start:
                return 0
        unit = next((name for name in ("seconds", "minutes") if self.role(name, place)), "")
        if not unit:
            return 0
        place += self.role(unit, place)
        if half := self.role("and_a_half", place):
            value, place = value + 0.5, place + half
        seconds = value * (60 if unit == "minutes" else 1)
        rest = place + self.role("and", place)
        found = read_number(self.tokens, rest) if unit == "minutes" else None
        if found and (more := self.role("seconds", rest + found[1])):
            seconds, place = seconds + found[0], rest + found[1] + more
        self.add("seconds", {"seconds": seconds}, start, place, exact=True)
        return place - start

    def number(self, start: int) -> int:
        """A number with its unit, or behind "tempo" or "bars"."""
        lead = next((name for name in ("tempo", "bars") if self.role(name, start)), None)
        place = start
        if lead:
            place += self.role(lead, start)
            while place < len(self.tokens) and (self.tokens[place].word in ":=~" or self.role("about", place)):
                place += self.role("about", place) or 1
        found = read_number(self.tokens, place)
        if not found:
            return 0
        value, place = found[0], place + found[1]
        if self.word(place) == "/" and (below := read_number(self.tokens, place + 1)):
            self.add("metre", f"{value:.0f}/{below[0]:.0f}", start, place + 1 + below[1])
            return place + 1 + below[1] - start
        place, upper = self.upper_end(place)
        unit = next(
            (name for name in ("notes_per_bar", "bpm", "bars", "seconds", "minutes") if self.role(name, place)), ""
        )
        if unit:
            place += self.role(unit, place)
        elif lead == "bars" or (lead == "tempo" and 20 <= value <= 400):
            unit = lead
        elif start and self.word(start - 1) in ("a", "@", "=") and 40 <= value <= 240:
            unit = "tempo"
        elif self.stands_alone(start, place, value):
            self.add("tempo", {"bpm": value if upper is None else (value + upper) / 2, "bare": True}, start, place)
            return place - start
        else:
            return 0
        value = value if upper is None else (value + upper) / 2
        if unit in ("seconds", "minutes"):
            unit, value = "seconds", value * (60 if unit == "minutes" else 1)
        slot = {"bpm": "tempo", "notes_per_bar": "density"}.get(unit, unit)
        name = {"tempo": "bpm", "density": "notes_per_bar"}.get(slot, slot)
        self.add(slot, {name: value}, start, place, exact=True)
        return place - start

    def upper_end(self, place: int) -> tuple[int, float | None]:
        """The second number of a range such as "90-100" or "90 to 100" before a unit."""
        sign = 1 if self.word(place) in ("-", "–") else self.role("to", place)
        found = read_number(self.tokens, place + sign) if sign else None
        end = place + sign + found[1] if found else place
        units = ("bpm", "bars", "seconds", "minutes")
        if found and (any(self.role(unit, end) for unit in units) or self.stands_alone(place, end, found[0])):
            return end, found[0]
        return place + (sign if self.word(place) in ("-", "–") else 0), None

    def stands_alone(self, start: int, end: int, value: float) -> bool:
        """Whether a number without a unit may be a tempo: of that size, at the end of a clause, no decade or opus."""
        closed = end >= len(self.tokens) or (self.tokens[end].is_sign and self.word(end) not in _NO_TEMPO_AFTER)
        closed |= self.word(end) in ("with", "con", "in", "en") or bool(self.role("negation", end))
        before = self.word(start - 1) if start else ""
        return closed and 40 <= value <= 240 and before not in _NO_TEMPO_BEFORE

    def key(self, start: int) -> int:
        """ "in A minor", "Bb", "la menor", "en do": letters of a key alone count only behind "in" or "key of"."""
        lead = self.role("key", start)
        place = start + lead
        match = _NOTE.fullmatch(self.word(place)) if self.word(place) else None
        if not match:
            return 0
        note, accidental, small_m = match.groups()
        written = self.tokens[place].text
        place += 1
        if sign := next((name for name in ("sharp", "flat") if self.role(name, place)), ""):
            place += self.role(sign, place)
        mode_start = place + (self.word(place) == "-")
        mode = "minor" if small_m else next((m for m in ("major", "minor") if self.role(m, mode_start)), "")
        church = self.word(mode_start) if mode and not small_m and self.word(mode_start) not in _MODES else ""
        if mode and not small_m:
            place = mode_start + self.role(mode, mode_start)
        elif not small_m and self.word(place) == "m":
            mode, place = "minor", place + 1
        followed_by_mode_word = bool(self.role("mode_word", place))
        capital = written[0].isupper() and not self.shouted
        at_end = place >= len(self.tokens) or self.tokens[place].is_sign
        if note == "a" and mode and not capital:  # the article, unless "in a minor" or "..., a minor"
            article = followed_by_mode_word or self.word(mode_start) in ("mayor", "menor")
            if article or not (lead or at_end):
                return 0
        if small_m and not (capital or lead):
            return 0
        if not mode:
            plain = capital if len(note) == 1 else self.word(start) not in ("in", "key")
            if not lead or not plain or (note in _EVERYDAY_NOTES and not at_end):
                return 0
        shift = {"#": 1, "b": -1, "": 0}[accidental] + {"sharp": 1, "flat": -1, "": 0}[sign]
        tonic = (_NOTES[note] + shift) % 12
        place += self.role("mode_word", place)
        data = {"tonic": tonic, "key": KEYS[tonic + 12 * (mode == "minor")], "mode": mode, "church": church}
        self.add("key", data, start, place)
        return place - start

    def mode(self, start: int) -> int:
        """ "a minor key", "en modo menor", "minor": a mode without its tonic."""
        place = start + self.role("key", start)
        place += self.role("mode_word", place)
        named = place > start
        mode = next((mode for mode in ("major", "minor") if self.role(mode, place)), "")
        if not mode or self.word(place) in ("min", "maj"):
            return 0
        place += 1
        named |= bool(self.role("mode_word", place))
        if mode == "major" and not named:
            return 0
        place += self.role("mode_word", place)
        self.add("mode", {"mode": mode}, start, place)
        return place - start

    def negation(self, start: int) -> int:
        """ "no drums", "without piano or bass", "sin bajo ni batería"."""
        used = self.role("negation", start)
        longer = self.lexicon.content.find(self.tokens, start)
        if not used or (longer and longer[1] > used):
            return 0
        place = start + used
        wished = bool(self.role("wish", place))
        named = place = self.skip(place, "article", "wish", "negation")
        items, links = [], []
        while place < len(self.tokens) and (found := self.lexicon.content.find(self.tokens, place)):
            if items and found[0].slot != items[0][0].slot:
                break
            items.append((found[0], place, place + found[1]))
            place = items[-1][2]
            link = "," if self.word(place) == "," else ""
            place += bool(link)
            for name in ("or", "and"):
                if length := self.role(name, place):
                    link, place = name, place + length
                    break
            if not link:
                break
            links.append(link)
            place = self.skip(place, "article")
        if not items:  # "no melody" is told as one
            plain = self.word(named) in self.lexicon.filler or self.word(named) not in self.lexicon.known
            if named >= len(self.tokens) or self.tokens[named].is_sign or read_number(self.tokens, named) or not plain:
                return 0
            self.unmatched.append(self.span(start, named + 1))
            return named + 1 - start
        for entry, first, end in items[: self.reach(self.word(start), links[: len(items) - 1], wished) + 1]:
            self.add(entry.slot, entry.data, first, end, negated=True, shown=(start if first == items[0][1] else first))
            last = end
        return last - start

    @staticmethod
    def reach(opener: str, links: list[str], wished: bool) -> int:
        """How many further items of a list are negated: behind "without" all, behind "no" up to the last "or", behind
        "I don't want" also "and"."""
        joining = ("or", "and", ",") if opener in _LISTING else ("or", "and") if wished else ("or",)
        return max((index + 1 for index, link in enumerate(links) if link in joining), default=0)

    # Helpers

    def role(self, name: str, place: int) -> int:
        return self.lexicon.role(name, self.tokens, place)

    def word(self, place: int) -> str:
        return self.tokens[place].word if place < len(self.tokens) else ""

    def skip(self, place: int, *roles: str) -> int:
        while length := max(self.role(role, place) for role in roles):
            if self.lexicon.content.find(self.tokens, place):
                break
            place += length
        return place

    def span(self, start: int, end: int) -> str:
        return self.text[self.tokens[start].start : self.tokens[end - 1].end]

    def add(self, slot: str, data: Any, start: int, end: int, *, shown: int | None = None, **facts) -> None:
        changed = [t for t in self.tokens[start:end] if t.word.isalpha() and t.word != tokenise(t.text)[0].word]
        note = ", ".join(f"{token.text!r} read as {token.word!r}" for token in changed)
        words = self.span(start if shown is None else shown, end)
        self.findings.append(Finding(slot, data, words, note, **facts))

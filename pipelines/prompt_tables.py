"""The words that a prompt may hold: folding, tokens, phrases of `prompt_words.toml`, misspellings, numbers."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from itertools import product

from partimento.tokenization import FAMILY_PROGRAMS, MidiProcessor
from partimento.tokenization.general_midi import PROGRAM_NAMES

__all__ = ["Entry", "Lexicon", "PhraseTable", "Token", "fold", "nearest_words", "read_number", "tokenise"]

# Names such as "Rain" or "Crystal" are everyday words: these programs are not read from free text.
_EVERYDAY_FAMILIES = ("synth-effects", "sound-effects")
_DIMINUTIVE = re.compile(r"(\w{3,}?)(c?it|isim)[oa]")
_TOKEN = re.compile(r"\bw/o?(?=\s|$)|\d0['’]?s\b|\d+(?:[.,]\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)*[#♯♭]?|[^\s\w]|_")


@dataclass(frozen=True)
class Token:
    """A word, a number or a sign of a text."""

    text: str
    word: str
    """Folded: lower case, no accents, no apostrophes; the corrected spelling of a misspelt word."""
    start: int
    end: int

    @property
    def is_sign(self) -> bool:
        """Whether it is punctuation."""
        return not self.word[:1].isalnum()


@dataclass(frozen=True)
class Entry:
    """What a phrase means: a slot and the row of the word table behind it."""

    slot: str
    data: dict = field(compare=False)


def fold(text: str) -> str:
    """Lower case without accents and apostrophes."""
    decomposed = unicodedata.normalize("NFKD", text.replace("♯", "#").replace("♭", "b").casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char) and char not in "'’")


def tokenise(text: str) -> list[Token]:
    """Words, numbers and signs of a text; hyphens and underscores between words only separate."""
    tokens = []
    for match in _TOKEN.finditer(text):
        word = {"w/": "with", "w/o": "without", "&": "and"}.get(match[0].lower(), fold(match[0]))
        between = text[match.start() - 1 : match.start()].isalnum() and text[match.end() : match.end() + 1].isalnum()
        if not (match[0] in "-_–" and between and not text[match.start() - 1].isdigit()):
            tokens.append(Token(match[0], word, match.start(), match.end()))
    return tokens


def phrase(text: str) -> tuple[str, ...]:
    """The words of a phrase of the tables, as `tokenise` would find them."""
    return tuple(token.word for token in tokenise(text) if token.word != "-")


def forms(word: str) -> list[str]:
    """A word and what it may be the plural, the Spanish diminutive or the superlative of."""
    found = [word]
    if word.endswith("s") and len(word) > 3:
        found.append(word[:-1])
    if word.endswith("es") and len(word) > 4:
        found.append(word[:-2])
    for one in tuple(found):
        if match := _DIMINUTIVE.fullmatch(one):  # guitarrita, suavecito, tamborcitos, tristísima
            found += [match[1], *(match[1] + ending for ending in "aoe")]
    return found


class PhraseTable:
    """Phrases of one to several words, looked up by the longest that begins at a token."""

    def __init__(self):
        self.phrases: dict[tuple[str, ...], Entry] = {}
        self.longest: dict[str, int] = {}  # first word -> words of the longest phrase

    def add(self, text: str, entry: Entry) -> None:
        """The first meaning given to a phrase stays."""
        words = phrase(text)
        self.phrases.setdefault(words, entry)
        self.longest[words[0]] = max(self.longest.get(words[0], 0), len(words))

    def get(self, text: str) -> Entry | None:
        """The meaning of a whole phrase."""
        return self.phrases.get(phrase(text))

    def find(self, tokens: list[Token], start: int) -> tuple[Entry, int] | None:
        """(entry, number of tokens) of the longest phrase that begins at `start`."""
        reach = max((self.longest.get(form, 0) for form in forms(tokens[start].word)), default=0)
        as_written = tuple(token.word for token in tokens[start : start + reach])
        for length in range(min(reach, len(tokens) - start), 0, -1):
            for words in product(*(forms(token.word) for token in tokens[start : start + length])):
                entry = self.phrases.get(words)
                if entry and not (entry.data.get("as_written") and words != as_written[:length]):
                    return entry, length
        return None

    def words(self) -> set[str]:
        """All single words of the phrases."""
        return {word for words in self.phrases for word in words}


@lru_cache(maxsize=1)
def load_words() -> dict:
    """The content of `prompt_words.toml`."""
    text = files("partimento.pipelines").joinpath("prompt_words.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def content_table(processor: MidiProcessor) -> PhraseTable:
    """What can be asked of the model behind `processor`: its labels, General MIDI, and the words of the table."""
    table, words = PhraseTable(), load_words()
    for slot in ("genre", "artist", "mood"):
        for label in processor.labels(slot):
            synonyms = next((row for row in words.get(slot, ()) if label in row["labels"]), {})
            table.add(label, Entry(slot, synonyms | {"labels": [label]}))
    for slot in ("instrument", "genre", "mood", "tempo", "density", "group"):
        for row in words[slot]:
            for text in row["words"]:
                table.add(text, Entry(slot, row))
    families = {program: family for family, programs in FAMILY_PROGRAMS.items() for program in programs}
    for program, name in enumerate(PROGRAM_NAMES):
        if families[program] not in _EVERYDAY_FAMILIES:
            table.add(name, Entry("instrument", {"family": families[program], "programs": [program]}))
    for family in FAMILY_PROGRAMS:
        if family != "ensemble":
            table.add(family, Entry("instrument", {"family": family}))
    return table


class Lexicon:
    """All words that a prompt for one model may hold."""

    def __init__(self, processor: MidiProcessor):
        words = load_words()
        self.processor = processor
        self.content = content_table(processor)
        self.roles = {name: PhraseTable() for name in words["role"]}
        for name, phrases in words["role"].items():
            for text in phrases:
                self.roles[name].add(text, Entry(name, {}))
        self.filler = {token.word for token in tokenise(words["plain"]["filler"])}
        self.content_words = self.content.words()
        self.known = self.content_words.union(*(table.words() for table in self.roles.values()))
        self.correct = (
            self.known | self.filler | set(NUMBER_WORDS) | {t.word for t in tokenise(words["plain"]["real_words"])}
        )

    def corrected(self, tokens: list[Token]) -> list[Token]:
        """The tokens with misspelt words put right; of equally near words the one that makes the longest phrase."""
        tokens = list(tokens)
        for place, token in enumerate(tokens):
            if token.word.isalpha() and not any(form in self.correct for form in forms(token.word)):
                options = [replace(token, word=word) for word in nearest_words(token.word, self.content_words)]
                if options:
                    tokens[place] = max(options, key=lambda option: self._phrase_length(tokens, place, option))
        return tokens

    def _phrase_length(self, tokens: list[Token], place: int, option: Token) -> int:
        """Tokens of the longest phrase over `place`, were `option` there."""
        trial = [*tokens[:place], option, *tokens[place + 1 :]]
        found = [(start, self.content.find(trial, start)) for start in range(max(place - 4, 0), place + 1)]
        return max((hit[1] for start, hit in found if hit and start + hit[1] > place), default=0)

    def role(self, name: str, tokens: list[Token], start: int) -> int:
        """Number of tokens of the phrase with the role `name` that begins at `start`; 0 if none does."""
        found = self.roles[name].find(tokens, start) if start < len(tokens) else None
        return found[1] if found else 0


def nearest_words(word: str, known: Iterable[str]) -> list[str]:
    """The words that `word` may be a misspelling of, all equally near.

    First letters agree. Up to four letters: one letter left out, doubled, added, or two neighbours swapped (another
    letter would often be another word). From five letters on one edit of any kind, from eight letters on two.
    """
    if len(word) < 3:
        return []
    near: dict[str, int] = {}
    for candidate in sorted(known):
        if len(candidate) < 4 or candidate[0] != word[0] or abs(len(candidate) - len(word)) > 2:
            continue
        edits = edit_distance(word, candidate)
        short = min(len(word), len(candidate)) <= 4
        substituted = len(word) == len(candidate) and sorted(word) != sorted(candidate)
        allowed = 2 if min(len(word), len(candidate)) >= 8 else 1
        if edits > allowed or (short and substituted) or (len(word) == 3 and not candidate.startswith(word)):
            continue
        near[candidate] = edits
    return [candidate for candidate, edits in near.items() if edits == min(near.values())]


def edit_distance(one: str, two: str) -> int:
    """Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours (Damerau, 1964)."""
    rows = [list(range(len(two) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == two[j - 2] and one[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciseis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidos veintitres veinticuatro veinticinco veintiseis veintisiete "
    "veintiocho veintinueve",
)
_TENS = (
    "twenty thirty forty fifty sixty seventy eighty ninety",
    "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
)
_HUNDREDS = {"hundred": 100, "cien": 100, "ciento": 100, "doscientos": 200, "trescientos": 300}
NUMBER_WORDS = {word: value for names in _UNITS for value, word in enumerate(names.split())}
NUMBER_WORDS |= {word: 20 + 10 * index for names in _TENS for index, word in enumerate(names.split())}
NUMBER_WORDS |= _HUNDREDS | {"veintiun": 21, "dozen": 12, "docena": 12, "couple": 2, "par": 2}


def read_number(tokens: list[Token], start: int) -> tuple[float, int] | None:
    """(value, number of tokens) of the number that begins at `start`: digits, or words below a thousand."""
    if start >= len(tokens):
        return None
    if tokens[start].word[0].isdigit():
        digits = tokens[start].word.replace(",", ".")
        return None if digits.endswith("s") else (float(digits), 1)  # "80s" is a decade
    total, used, index, last = 0, 0, start, 1000
    while index < len(tokens):
        word = tokens[index].word
        if word in ("and", "y") and used:
            index += 1
            continue
        value = NUMBER_WORDS.get(word)
        if word == "hundred" and used:
            total, last = total * 100, 100
        elif value is None or value >= last:
            break
        else:
            total, last = (
                total + value,
                min(100 if value >= 100 else 10 if value % 10 == 0 and value >= 20 else 1, value),
            )
        index += 1
        used = index - start
    return (float(total), used) if used else None

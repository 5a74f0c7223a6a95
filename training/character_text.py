"""A text as a sequence of symbols, for the character experiment: alphabet, held-out span, facts for the report."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from partimento.training.checkpointing import write_atomically

Unit = Literal["char", "byte"]
PHRASES = ("don Quijote", "Sancho Panza")
DASHES = ("—", "–", "--")  # that open a line of dialogue; Gutenberg's plain texts write two hyphens


@dataclass(frozen=True)
class CharacterTokenizer:
    """Ids of the symbols of a text, in sorted order; there are no special tokens.

    Args:
        symbols: the alphabet; with the unit `byte` the Latin-1 characters of the byte values.
        unit: `char`: a symbol is a character; `byte`: a byte of the UTF-8 text.
    """

    symbols: tuple[str, ...]
    unit: Unit = "char"

    @classmethod
    def from_text(cls, text: str, unit: Unit = "char") -> "CharacterTokenizer":
        """The alphabet of `text`. Raises ValueError for an empty text or an unknown unit."""
        if unit not in ("char", "byte"):
            raise ValueError(f"unit is {unit!r}: give char or byte")
        if not text:
            raise ValueError("the text is empty")
        return cls(tuple(sorted(set(_units(text, unit)))), unit)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Ids `[n]`, int64.

        Raises:
            ValueError: a symbol that the alphabet lacks.
        """
        ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        try:
            return np.array([ids[symbol] for symbol in _units(text, self.unit)], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"the symbol {error} is not among the {len(self)} of the alphabet") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 become the replacement character."""
        text = "".join(self.symbols[int(i)] for i in ids)
        return text if self.unit == "char" else text.encode("latin-1").decode("utf-8", errors="replace")

    def save(self, path: Path) -> None:
        """Write the alphabet as JSON."""
        write_atomically(path, json.dumps({"unit": self.unit, "symbols": self.symbols}, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "CharacterTokenizer":
        """Read what `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(content["symbols"]), content["unit"])


def _units(text: str, unit: Unit) -> str:
    return text if unit == "char" else text.encode("utf-8").decode("latin-1")


@dataclass(frozen=True)
class TextData:
    """A text cut into what is learned and what is held out, the last span."""

    tokenizer: CharacterTokenizer
    train: np.ndarray
    held_out: np.ndarray
    words: frozenset[str]
    facts: dict[str, Any]
    train_text: str = ""


def read_text(path: Path, unit: Unit = "char", held_out: float = 0.05) -> TextData:
    """Read a UTF-8 text.

    Args:
        held_out: share of the symbols, at the end of the text, that are never trained on.

    Raises:
        ValueError: not UTF-8, or too short to be cut.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); convert the file first") from None
    tokenizer = CharacterTokenizer.from_text(text, unit)
    ids = tokenizer.encode(text)
    border = round(len(ids) * (1 - held_out))
    if border < 2 or len(ids) - border < 2:
        raise ValueError(f"{path}: {len(ids)} symbols are too few to hold out {held_out:.0%} of them")
    facts = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "unit": unit,
        "symbols": len(ids),
        "alphabet": len(tokenizer),
        "train_symbols": border,
        "held_out_symbols": len(ids) - border,
    }
    train_text = tokenizer.decode(ids[:border])
    return TextData(tokenizer, ids[:border], ids[border:], frozenset(find_words(text)), facts, train_text)


def find_words(text: str) -> list[str]:
    """Maximal runs of letters, in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


def share_of_known_words(text: str, known: frozenset[str]) -> float | None:
    """Share of the words of `text` that are in `known`; the first and last word, perhaps cut, do not count.

    None without words.
    """
    words: Sequence[str] = find_words(text)[1:-1]
    return sum(word in known for word in words) / len(words) if words else None


def surface_figures(text: str, phrases: Sequence[str] = PHRASES) -> dict[str, float | None]:
    """What the thesis praises in its samples, counted: question marks that close, dashes, names; braces, line ends.

    Returns:
        Shares from 0 to 1, None where the text has nothing of the kind, and for every phrase its rate per 10,000
        symbols, upper and lower case alike.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    openings = [place for place, symbol in enumerate(text) if symbol == "¿"]
    ends = [*openings[1:], len(text)]
    closed = sum("?" in text[start:end] for start, end in zip(openings, ends))
    depth = matched = 0
    for symbol in text:
        depth += symbol == "{"
        if symbol == "}" and depth:
            depth, matched = depth - 1, matched + 2
    braces = text.count("{") + text.count("}")
    includes = [line for line in lines if line.lstrip().startswith("#include")]
    whole = sum(bool(re.fullmatch(r'\s*#include\s*(<[^<>]+>|"[^"]+")', line)) for line in includes)
    code = bool(braces or includes)
    figures = {
        "questions closed": _share(closed, len(openings)),
        "lines of dialogue": _share(sum(line.lstrip().startswith(DASHES) for line in lines), len(lines)),
        "braces matched": _share(matched, braces),
        "includes closed": _share(whole, len(includes)),
        "lines ending in ; { }": _share(sum(line.endswith((";", "{", "}")) for line in lines), len(lines) * code),
    }
    low = text.lower()
    rates = {f"{phrase}, per 10,000": low.count(phrase.lower()) / max(1, len(text)) * 1e4 for phrase in phrases}
    return {**figures, **rates}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

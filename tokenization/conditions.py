"""Condition tokens: their names, the bins behind them and how a piece is measured.

Key estimate: correlation of the duration-weighted pitch-class histogram with the 24 rotated probe-tone profiles of
Krumhansl (Cognitive Foundations of Musical Pitch, 1990).
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from partimento.tokenization.canonical import FAMILIES, FAMILY_PROGRAMS, Piece
from partimento.tokenization.vocabulary import DRUM_RANK, TokenType, Vocabulary

SLOTS = ("Genre", "Artist", "Mood", "Key", "TempoBin", "Inst", "Density", "Bars")  # in the order of the prefix
FIELDS = ("genre", "artist", "mood", "key", "tempo", "instruments", "density", "bars")  # names in a conditions dict
LABEL_SLOTS = ("Genre", "Artist", "Mood")
MAJOR_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
KEYS = tuple(f"{name}-major" for name in MAJOR_NAMES) + tuple(f"{name}-minor" for name in MINOR_NAMES)
MAJOR_PROFILE = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR_PROFILE = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
KEY_PROFILES = np.array([np.roll(profile, tonic) for profile in (MAJOR_PROFILE, MINOR_PROFILE) for tonic in range(12)])

TEMPO_EDGES = (60.0, 75.0, 90.0, 105.0, 120.0, 140.0, 165.0)  # quarters per minute; 7 inner edges make 8 bins
DENSITY_EDGES = (6.0, 12.0, 18.0, 24.0, 32.0, 44.0, 60.0)  # notes per bar
BAR_EDGES = (8, 16, 32, 64, 96, 128, 192, 256)  # upper edges; longer pieces count as the last


def instrument_token(family: str) -> str:
    return "Inst_" + "-".join(word.capitalize() for word in family.split("-"))


def normalise_label(label: str) -> str:
    """Spelling of a label inside a token: blanks, underscores and control characters become hyphens."""
    normal = re.sub(r"[\s_\x00-\x1f]+", "-", str(label).strip())
    if not normal.strip("-"):
        raise ValueError(f"label {label!r} has no visible character")
    return normal


def computed_tokens() -> tuple[str, ...]:
    """Condition tokens that every vocabulary has, in id order. They precede the labels, so labels may be added."""
    return (
        *(f"Key_{key}" for key in KEYS),
        *(f"TempoBin_{index}" for index in range(len(TEMPO_EDGES) + 1)),
        *(instrument_token(family) for family in FAMILY_PROGRAMS),
        *(f"Density_{index}" for index in range(len(DENSITY_EDGES) + 1)),
        *(f"Bars_{edge}" for edge in BAR_EDGES),
    )


def label_tokens(genres: Iterable[str] = (), artists: Iterable[str] = (), moods: Iterable[str] = ()) -> tuple[str, ...]:
    """Tokens of the label lists, each once, in the given order."""
    lists = zip(LABEL_SLOTS, (genres, artists, moods))
    return tuple(dict.fromkeys(f"{slot}_{normalise_label(label)}" for slot, labels in lists for label in labels))


def parse_key(text: str) -> str:
    """Canonical spelling of a key: ``a minor``, ``Am``, ``A#-major`` -> ``A-minor``, ``A-minor``, ``Bb-major``.

    Raises: ValueError: not one of the 24 keys.
    """
    match = re.fullmatch(r"\s*([A-Ga-g])([#b♯♭]?)[\s_-]*(major|minor|maj|min|m|M)?\s*", text)
    if not match:
        raise ValueError(f"key={text!r} is no key; write for example C-major or A-minor")
    note, accidental, mode = match.groups()
    pitch_class = "C D EF G A B".index(note.upper()) + {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}[accidental]
    is_minor = mode in ("minor", "min", "m")
    return KEYS[pitch_class % 12 + 12 * is_minor]


def estimate_key(weights: np.ndarray) -> str | None:
    """Key of a pitch-class histogram [12] (any unit of duration); None if it is flat or empty."""
    centred = weights - weights.mean()
    if not np.any(np.abs(centred) > 1e-9 * max(weights.sum(), 1e-9)):
        return None
    profiles = KEY_PROFILES - KEY_PROFILES.mean(1, keepdims=True)
    correlation = profiles @ centred / np.linalg.norm(profiles, axis=1)
    return KEYS[int(np.argmax(correlation))]


def mean_tempo(tempo_ticks: np.ndarray, tempos: np.ndarray, end: int) -> float | None:
    """Mean weighted by sounding time: quarters played divided by minutes needed, from the first tempo to ``end``."""
    if not len(tempos):
        return None
    span = np.diff(np.append(tempo_ticks, max(end, tempo_ticks[-1] + 1)))
    return float(span.sum() / (span / tempos).sum())


def measure(piece: Piece, exact_tempo: bool = False) -> dict:
    """The computed slots of a piece: tempo (bpm), instruments (families), density (notes per bar), bars, key."""
    vocabulary = piece.vocabulary
    end = int(piece.metre.bar_start(np.array([piece.num_bars]))[0])
    families = np.unique(np.where(piece.programs == DRUM_RANK, len(FAMILIES), piece.programs // 8)).tolist()
    names = tuple(FAMILY_PROGRAMS)
    pitched = piece.programs != DRUM_RANK
    steps = piece.metre.step_ticks[piece.metre.segment(piece.onsets)]
    lengths = (vocabulary.durations[piece.durations] * steps)[pitched]
    weights = np.bincount(piece.pitches[pitched] % 12, weights=lengths, minlength=12)
    measured = {
        "key": estimate_key(weights),
        "tempo": mean_tempo(piece.tempo_ticks, piece.bpm(exact_tempo), end),
        "instruments": [names[index] for index in families],
        "density": piece.num_notes / max(piece.num_bars, 1),
        "bars": piece.num_bars,
    }
    return {name: value for name, value in measured.items() if value is not None}


@dataclass(frozen=True)
class Conditions:
    """Condition values <-> condition ids for one vocabulary and one set of bin edges."""

    vocabulary: Vocabulary
    tempo_edges: tuple[float, ...] = TEMPO_EDGES
    density_edges: tuple[float, ...] = DENSITY_EDGES
    bar_edges: tuple[int, ...] = BAR_EDGES

    def labels(self, slot: str) -> list[str]:
        """Labels of Genre, Artist or Mood, in id order."""
        prefix = f"{slot}_"
        tokens = (self.vocabulary.tokens[index] for index in self.vocabulary.of_type(TokenType.CONDITION))
        return [token[len(prefix) :] for token in tokens if token.startswith(prefix)]

    def label_token(self, slot: str, label: str) -> str:
        """Raises: ValueError: unknown label; the message names the nearest ones."""
        wanted = normalise_label(label)
        if f"{slot}_{wanted}" in self.vocabulary.ids:
            return f"{slot}_{wanted}"
        folded = {known.casefold(): known for known in self.labels(slot)}
        if wanted.casefold() in folded:
            return f"{slot}_{folded[wanted.casefold()]}"
        raise ValueError(unknown(slot.lower(), label, list(folded.values())))

    def tempo_token(self, tempo: float) -> str:
        return f"TempoBin_{int(np.searchsorted(self.tempo_edges, tempo, side='right'))}"

    def tokens(self, values: Mapping) -> list[str]:
        """Condition tokens in slot order; a missing or None value leaves its slot absent.

        Raises: ValueError: unknown field, label, key or instrument.
        """
        for name in values:
            if name not in FIELDS:
                raise ValueError(unknown("condition", name, FIELDS))
        given = {name: value for name, value in values.items() if value is not None}
        tokens = [self.label_token(slot, given[slot.lower()]) for slot in LABEL_SLOTS if slot.lower() in given]
        if "key" in given:
            tokens.append(f"Key_{parse_key(given['key'])}")
        if "tempo" in given:
            tokens.append(self.tempo_token(positive("tempo", given["tempo"])))
        if "instruments" in given:
            tokens += self.instrument_tokens(given["instruments"])
        if "density" in given:
            index = int(np.searchsorted(self.density_edges, positive("density", given["density"]), side="right"))
            tokens.append(f"Density_{index}")
        if "bars" in given:
            index = int(np.searchsorted(self.bar_edges, positive("bars", given["bars"]), side="left"))
            tokens.append(f"Bars_{self.bar_edges[min(index, len(self.bar_edges) - 1)]}")
        return tokens

    def instrument_tokens(self, families: Iterable[str]) -> list[str]:
        if isinstance(families, str):
            families = [families]
        names = tuple(FAMILY_PROGRAMS)
        wanted = {str(family).strip().lower().replace(" ", "-").replace("_", "-") for family in families}
        for family in sorted(wanted - set(names)):
            raise ValueError(unknown("instrument", family, names))
        return [instrument_token(family) for family in names if family in wanted]

    def parse(self, tokens: Iterable[str]) -> dict:
        """Inverse of ``tokens``; a bin is represented by a value inside it. Other tokens are passed over."""
        values: dict = {}
        families = {instrument_token(family): family for family in FAMILY_PROGRAMS}
        for token in tokens:
            slot, _, value = token.partition("_")
            if slot in LABEL_SLOTS or slot == "Key":
                values[slot.lower()] = value
            elif slot == "TempoBin":
                values["tempo"] = representative(self.tempo_edges, int(value))
            elif slot == "Inst":
                values.setdefault("instruments", []).append(families[token])
            elif slot == "Density":
                values["density"] = representative(self.density_edges, int(value))
            elif slot == "Bars":
                values["bars"] = int(value)
        return values


def representative(edges: tuple[float, ...], index: int) -> float:
    """A value inside a bin: its middle, or a little outside the outermost edges."""
    if index == 0:
        return float(edges[0]) * 0.8
    if index == len(edges):
        return float(edges[-1]) * 1.1
    return (edges[index - 1] + edges[index]) / 2


def positive(name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not number > 0 or number == float("inf"):
        raise ValueError(f"{name}={value!r} must be a positive number")
    return number


def unknown(kind: str, name, known: Iterable[str]) -> str:
    """Message for an unknown name, with the nearest known ones."""
    spelled = {entry.casefold(): entry for entry in known}
    close = [spelled[entry] for entry in difflib.get_close_matches(str(name).casefold(), spelled, n=3, cutoff=0.4)]
    if close:
        return f"unknown {kind} {name!r}; nearest: {', '.join(close)}"
    return f"unknown {kind} {name!r}; known: {', '.join(list(spelled.values())[:20]) or 'none'}"

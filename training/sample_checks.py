"""Does generated music do what was asked? Requests, checks of one sample, and their rates over many.

A check is True or False, or None where it does not apply (no key was asked); a rate counts only those it applies to.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from partimento.tokenization import MidiProcessor
from partimento.tokenization.conditions import KEYS
from partimento.training.songs import note_token_ids

DEFAULT_INSTRUMENTS = (
    ("piano", "bass", "drums"),
    ("guitar", "bass", "drums"),
    ("strings", "piano"),
    ("organ", "bass", "drums"),
    ("guitar", "strings", "bass", "drums"),
    ("piano",),
)
DEFAULT_TEMPOS = (80.0, 100.0, 120.0, 140.0)
CHECKS = {
    "decodes": "decodes to the notes that its tokens hold",
    "grammatical": "satisfies the grammar",
    "complete": "ends in EOS and was not cut short",
    "bars": "has the asked number of bars",
    "bars_bin": "is in the bin of the asked number of bars",
    "tempo": "is in the asked tempo bin",
    "instruments": "every asked instrument sounds",
    "no_other_instrument": "no other instrument sounds",
    "drums": "drums sound where asked",
    "key": "estimated key is the asked one",
    "key_or_relative": "… or its relative",
    "key_untransposed": "… or its relative, as the model wrote it",
}


@dataclass(frozen=True)
class Request:
    """What is asked of the model; `instruments` are General MIDI families, `tempo` quarters per minute."""

    genre: str | None
    instruments: tuple[str, ...]
    bars: int
    tempo: float | None
    key: str | None
    seed: int

    @property
    def has_pitch(self) -> bool:
        """Whether anything but drums is asked, so that a key can be heard."""
        return set(self.instruments) != {"drums"}

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `MidiGenerator.generate`."""
        return {
            "genre": self.genre,
            "instruments": list(self.instruments),
            "bars": self.bars,
            "tempo": self.tempo,
            "key": self.key,
            "seed": self.seed,
        }


@dataclass
class CheckedSample:
    """A request, the checks of what came out, and measurements."""

    request: Request
    checks: dict[str, bool | None]
    asked_heard: dict[str, bool] = field(default_factory=dict)
    num_bars: int = 0
    num_empty_bars: int = 0
    num_notes: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    body: tuple[int, ...] = ()  # the music without its conditions
    error: str | None = None


def conditions_by_genre(prefixes: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Conditions of training songs that name a genre and instruments, by genre: what is realistic to ask."""
    table: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for conditions in prefixes:
        if conditions.get("genre") and conditions.get("instruments"):
            table[conditions["genre"]].append(conditions)
    return dict(table)


def plan_requests(
    genres: Sequence[str],
    count: int,
    bars: int,
    seed: int,
    table: dict[str, list[dict[str, Any]]],
    key_share: float = 0.5,
) -> list[Request]:
    """`count` seeded requests over all genres in turn; one round of genres shares its sampling seed.

    Instruments, tempo and key are those of a random training song of the genre in `table`; a genre that is not there
    gets a small default line-up and any key. A key is asked in `key_share` of the requests.
    """
    rng = np.random.default_rng(seed)
    choices = list(genres) or [None]
    requests = []
    for i in range(count):
        genre = choices[i % len(choices)]
        songs = table.get(genre, []) if genre else []
        song = songs[rng.integers(len(songs))] if songs else {}
        instruments = song.get("instruments") or DEFAULT_INSTRUMENTS[rng.integers(len(DEFAULT_INSTRUMENTS))]
        tempo = float(song.get("tempo") or rng.choice(DEFAULT_TEMPOS))
        key = song.get("key") or str(rng.choice(KEYS))
        asked_key = key if rng.random() < key_share else None
        requests.append(Request(genre, tuple(instruments), bars, tempo, asked_key, seed + i // len(choices)))
    return requests


def check_sample(request: Request, output: Any, processor: MidiProcessor, constrained: bool) -> CheckedSample:
    """All checks of one `GeneratedMidi`. An exception of the decoder is a failed check, not a failed evaluation.

    A constrained piece is cut short when its token budget ends before its bars; without constraints any length is the
    model's own, and only EOS is asked for.
    """
    ids = list(output.ids)
    _, body = processor.split_prefix(ids)
    notes_of_bars = _notes_of_bars(body, processor)
    sample = CheckedSample(
        request,
        dict.fromkeys(CHECKS),
        num_bars=len(notes_of_bars),
        num_empty_bars=notes_of_bars.count(0),
        num_notes=sum(notes_of_bars),
        num_tokens=len(ids),
        seconds=float(output.seconds),
        body=tuple(body),
    )
    checks = sample.checks
    checks["bars"] = sample.num_bars == request.bars
    checks["bars_bin"] = sample.num_bars > 0 and _same_tokens(processor, "bars", sample.num_bars, request.bars)
    checks["complete"] = ids[-1] == processor.eos_token_id and (output.complete or not constrained)
    try:
        processor.validate(ids)
        checks["grammatical"] = True
    except ValueError as error:
        checks["grammatical"] = False
        sample.error = str(error)
    try:
        measured = _measure_written_file(ids, sample.num_notes, processor)
        checks["decodes"] = True
    except ValueError as error:
        checks["decodes"] = False
        sample.error = str(error)
        return sample
    _compare(sample, measured, processor)
    if checks["key_or_relative"] is not None:
        checks["key_untransposed"] = bool(checks["key_or_relative"]) and not output.transposed
    return sample


def _measure_written_file(ids: list[int], num_notes: int, processor: MidiProcessor) -> dict[str, Any]:
    """Conditions of the piece as a MIDI file that was written and read again.

    Raises:
        ValueError: it cannot be read, or holds another number of notes than the tokens.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.mid"
        processor.save_midi(ids, path)
        if not num_notes:
            return {"instruments": []}
        score = processor.load(path)
    found = sum(len(track.notes) for track in score.tracks)
    if found != num_notes:
        raise ValueError(f"{found} notes in the file, {num_notes} in the tokens")
    return processor.measure_conditions(score)


def _compare(sample: CheckedSample, measured: dict[str, Any], processor: MidiProcessor) -> None:
    """Fill the checks that compare what was asked with what was measured."""
    request, checks = sample.request, sample.checks
    heard = set(measured.get("instruments") or ())
    sample.asked_heard = {family: family in heard for family in request.instruments}
    if request.instruments:
        checks["instruments"] = all(sample.asked_heard.values())
        checks["no_other_instrument"] = heard <= set(request.instruments)
    if "drums" in request.instruments:
        checks["drums"] = "drums" in heard
    if request.tempo is not None:
        tempo = measured.get("tempo")
        checks["tempo"] = tempo is not None and _same_tokens(processor, "tempo", tempo, request.tempo)
    if request.key is not None and request.has_pitch:
        checks["key"] = measured.get("key") == request.key
        checks["key_or_relative"] = measured.get("key") in (request.key, relative_key(request.key))


def _same_tokens(processor: MidiProcessor, name: str, measured: float, asked: float) -> bool:
    """Whether two values of a condition fall into the same bin."""
    return processor.condition_ids({name: measured}) == processor.condition_ids({name: asked})


def relative_key(key: str) -> str:
    """The key of the other mode with the same notes: `A-minor` for `C-major` and back."""
    tonic = KEYS.index(key) % 12  # twelve major keys from C upwards, then twelve minor ones
    return KEYS[12 + (tonic + 9) % 12] if KEYS.index(key) < 12 else KEYS[(tonic + 3) % 12]


def _notes_of_bars(body: Sequence[int], processor: MidiProcessor) -> list[int]:
    """Number of notes that begin in each bar."""
    is_note = np.zeros(len(processor.vocabulary.tokens), dtype=bool)
    is_note[note_token_ids(processor)] = True
    ids = np.asarray(body, dtype=np.int64)
    starts = np.flatnonzero(ids == processor.bar_token_id)
    return [int(n) for n in np.add.reduceat(is_note[ids].astype(np.int64), starts)] if len(starts) else []


def rate(values: Iterable[bool | None]) -> dict[str, Any] | None:
    """How many of those that apply hold, None when none applies."""
    applicable = [value for value in values if value is not None]
    if not applicable:
        return None
    return {"count": sum(applicable), "of": len(applicable), "rate": sum(applicable) / len(applicable)}


def summarise_samples(samples: Sequence[CheckedSample]) -> dict[str, Any]:
    """Rates of all checks, by instrument and by genre, and what the music looks like as a whole."""
    by_instrument = defaultdict(list)
    for sample in samples:
        for family, heard in sample.asked_heard.items():
            by_instrument[family].append(heard)
    bars, seconds = sum(s.num_bars for s in samples), sum(s.seconds for s in samples)
    return {
        "samples": len(samples),
        "checks": {name: rate(s.checks[name] for s in samples) for name in CHECKS},
        "asked_instruments_heard": rate(heard for values in by_instrument.values() for heard in values),
        "by_instrument": {family: rate(values) for family, values in sorted(by_instrument.items())},
        "empty_bars": {"count": sum(s.num_empty_bars for s in samples), "of": bars},
        "notes_per_bar": sum(s.num_notes for s in samples) / bars if bars else None,
        "bars": bars,
        "bars_per_sample": bars / len(samples),
        "tokens": sum(s.num_tokens for s in samples),
        "seconds": seconds,
        "tokens_per_second": sum(s.num_tokens for s in samples) / seconds if seconds else None,
        "duplicates": count_duplicates(samples),
        "errors": [s.error for s in samples if s.error],
    }


def count_duplicates(samples: Sequence[CheckedSample]) -> dict[str, int]:
    """Samples whose music equals another's, and equal pairs among those that share a seed but not a genre."""
    copies = Counter(sample.body for sample in samples)
    by_seed = defaultdict(list)
    for sample in samples:
        by_seed[sample.request.seed].append(sample)
    pairs = [
        (first, second)
        for group in by_seed.values()
        for first, second in combinations(group, 2)
        if first.request.genre != second.request.genre
    ]
    return {
        "samples": sum(count for count in copies.values() if count > 1),
        "same_seed_other_genre_pairs": len(pairs),
        "same_seed_other_genre_equal": sum(first.body == second.body for first, second in pairs),
    }


def by_genre(samples: Sequence[CheckedSample]) -> dict[str, dict[str, Any]]:
    """The summary of each genre."""
    genres = sorted({sample.request.genre or "unlabelled" for sample in samples})
    return {g: summarise_samples([s for s in samples if (s.request.genre or "unlabelled") == g]) for g in genres}

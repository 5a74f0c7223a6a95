"""Over-fitting by Fourier cross-correlation: does a piece sound like a place in the training set?

After J. Roman Morales, "Redes recurrentes para el analisis de series temporales" (UAM, 2018), who correlated generated
pieces with those of the training set. Here on piano rolls of the sixteenth grid, at every shift in time and in all
transpositions by up to six semitones; held-out music says how much of it music of the kind has anyway.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from partimento.training.metrics.notes import Notes
from partimento.training.sequence_metrics import roll_correlation

EXCERPT_STEPS = 256  # sixteen bars of 4/4 on the sixteenth grid
PERCENTILE = 95


def piano_roll(notes: Notes, steps_per_quarter: int = 4) -> np.ndarray:
    """`[steps, 128]` ones where a pitch sounds, drums left out; every note sounds for at least one step."""
    pitched = notes.select(~notes.is_drum)
    first = pitched.onsets * steps_per_quarter // notes.ticks_per_quarter
    ends = (pitched.onsets + pitched.durations) * steps_per_quarter // notes.ticks_per_quarter
    last = np.maximum(first + 1, ends)
    roll = np.zeros((int(last.max(initial=0)), 128), dtype=np.float32)
    for start, end, pitch in zip(first, last, pitched.pitches):
        roll[start:end, pitch] = 1
    return roll


def overfitting_limit(held_out: Sequence[float]) -> float | None:
    """The 95th percentile of what held-out pieces score; above it a piece is flagged. None without any."""
    return float(np.percentile(held_out, PERCENTILE)) if len(held_out) else None


def best_correlation(excerpt: np.ndarray, pieces: Sequence[np.ndarray]) -> float:
    """The highest score of an excerpt, moved in time and by up to six semitones, over pieces that are longer."""
    scores = [0.0]
    for piece in pieces if excerpt.any() else ():
        if len(piece) < len(excerpt):
            continue
        used = np.flatnonzero(piece.any(0) | excerpt.any(0))
        low, high = max(0, used[0] - 6), min(128, used[-1] + 7)  # the others stay silent in every transposition
        scores.append(roll_correlation(piece[:, low:high], excerpt[:, low:high])[0])
    return max(scores)


def correlation_table(
    training: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    generated: dict[str, list[np.ndarray]],
    seed: int = 0,
) -> dict[str, Any]:
    """Over-fitting test by cross-correlation with the training pieces; all arguments are rolls `[steps, 128]`.

    A training excerpt in the corpus that holds it scores 1; the same in the other pieces, and held-out excerpts in all
    of them, say what music of the kind shares anyway. Melodies above the 95th percentile of held-out excerpts are
    counted as `flagged`.
    """
    rng = np.random.default_rng(seed)
    cut = [first_excerpt(piece, rng) for piece in training]
    sets = {
        "training, with itself": [best_correlation(part, training) for part in cut],
        "training, with the others": [
            best_correlation(part, [piece for other, piece in enumerate(training) if other != number])
            for number, part in enumerate(cut)
        ],
        "held-out": [best_correlation(first_excerpt(piece, rng), training) for piece in held_out],
    }
    sets |= {
        name: [best_correlation(piece[:EXCERPT_STEPS], training) for piece in rolls]
        for name, rolls in generated.items()
    }
    limit = overfitting_limit(sets["held-out"])
    return {
        "limit": limit,
        "sets": {
            name: {
                "pieces": len(scores),
                "mean": float(np.mean(scores)) if scores else None,
                "highest": float(max(scores)) if scores else None,
                "flagged": None if limit is None else int(sum(score > limit for score in scores)),
                "each": scores,
            }
            for name, scores in sets.items()
        },
    }


def first_excerpt(piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sixteen bars from a random place of a piece; all of a shorter one."""
    start = int(rng.integers(max(1, len(piece) - EXCERPT_STEPS + 1)))
    return piece[start : start + EXCERPT_STEPS]


def correlation_summary(
    pieces: Sequence[Notes],
    training: Sequence[Notes],
    held_out: Sequence[Notes] = (),
    excerpt_steps: int = EXCERPT_STEPS,
) -> dict[str, Any]:
    """How like the training pieces the beginnings of `pieces` are, and how many more so than held-out music.

    Args:
        excerpt_steps: sixteenths from the beginning of a piece that are looked for; all of a shorter piece.

    Returns:
        `roll_correlation` (the mean), `highest` and `each`; `limit` and `flagged`, None without `held_out`.

    Raises:
        ValueError: no pieces, or no training pieces.
    """
    if not pieces or not training:
        raise ValueError(f"{len(pieces)} pieces and {len(training)} of training: give at least one of each")
    rolls = [piano_roll(piece) for piece in training]
    scores, known = (
        [best_correlation(piano_roll(piece)[:excerpt_steps], rolls) for piece in some] for some in (pieces, held_out)
    )
    limit = overfitting_limit(known)
    return {
        "roll_correlation": float(np.mean(scores)),
        "highest": max(scores),
        "each": scores,
        "limit": limit,
        "flagged": None if limit is None else sum(score > limit for score in scores),
    }

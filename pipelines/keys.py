"""A finished piece in the asked key."""

from __future__ import annotations

from partimento.tokenization.conditions import KEYS, parse_key

__all__ = ["semitones_between"]


def semitones_between(found: str, asked: str) -> int:
    """Transposition, -5 ... 6 semitones, that brings music in key `found` to `asked`.

    Music in the other mode goes to the relative of `asked`, which has the same notes: A-minor is met by C-major.

    Raises:
        ValueError: a name is no key.
    """
    is_minor, tonic = divmod(KEYS.index(parse_key(found)), 12)
    wants_minor, target = divmod(KEYS.index(parse_key(asked)), 12)
    target += 3 * (wants_minor - is_minor)  # the relative major lies a minor third above
    return (target - tonic + 5) % 12 - 5

"""Bars of a token sequence: counting, splitting off the prefix, cutting windows that restore running state."""

import numpy as np

from partimento.tokenization.vocabulary import TokenType, Vocabulary


def split_prefix(ids: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(BOS and condition tokens, everything from the first Bar on)."""
    bars = np.flatnonzero(ids == vocabulary.bar)
    first = int(bars[0]) if len(bars) else len(ids)
    if not len(bars):
        body = ~np.isin(vocabulary.types[ids], (TokenType.PAD, TokenType.BOS, TokenType.CONDITION))
        first = int(np.argmax(body)) if body.any() else len(ids)
    return ids[:first], ids[first:]


def cut_window(ids: np.ndarray, first_bar: int, num_bars: int, vocabulary: Vocabulary) -> np.ndarray:
    """Ids of ``num_bars`` bars from ``first_bar`` (from 0) with the running Program and Tempo restored.

    The running Tempo is written at Position_0 of the first bar unless a Tempo stands there; the running Program is
    written before the first note unless a Program precedes it. EOS stays if the window reaches it.
    Raises: ValueError: no such bar.
    """
    bars = np.flatnonzero(ids == vocabulary.bar)
    if not 0 <= first_bar < len(bars) or num_bars < 1:
        raise ValueError(f"first_bar={first_bar}, num_bars={num_bars}: the sequence has bars 0 to {len(bars) - 1}")
    start = bars[first_bar]
    end = bars[first_bar + num_bars] if first_bar + num_bars < len(bars) else len(ids)
    before, window = ids[:start], ids[start:end]
    types_before, types = vocabulary.types[before], vocabulary.types[window]
    insertions: list[tuple[int, list[int]]] = []  # (place in the window, tokens), descending places

    programs = np.flatnonzero(types_before == TokenType.PROGRAM)
    notes = np.flatnonzero((types == TokenType.PITCH) | (types == TokenType.DRUM))
    if len(programs) and len(notes) and not (types[: notes[0]] == TokenType.PROGRAM).any():
        insertions.append((int(notes[0]), [int(before[programs[-1]])]))
    tempos = np.flatnonzero(types_before == TokenType.TEMPO)
    if len(tempos):
        place = 2 if vocabulary.has_metres else 1  # behind Bar [TimeSig]
        has_zero = len(window) > place and window[place] == vocabulary.starts[TokenType.POSITION]
        if not has_zero:
            insertions.append((place, [vocabulary.starts[TokenType.POSITION], int(before[tempos[-1]])]))
        elif len(window) == place + 1 or types[place + 1] != TokenType.TEMPO:
            insertions.append((place + 1, [int(before[tempos[-1]])]))
    for place, tokens in insertions:
        window = np.insert(window, place, tokens)
    return window

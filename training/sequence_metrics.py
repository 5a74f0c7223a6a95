"""Entropy, conditional entropy and Fourier cross-correlation of sequences: pure functions on arrays.

The first and the last measure J. Roman Morales used on generated music ("Redes recurrentes para el analisis de series
temporales", UAM, 2018), the second he named as further work.

A low entropy is no merit of its own: a constant sequence has none. Compare with held-out music, and only windows of
equal length: the entropy of a short sample is too low (Miller, 1955).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

SEMITONES = tuple(range(-6, 7))


def entropy(sequence: Sequence[int], alphabet_size: int | None = None, miller_madow: bool = False) -> float:
    """`-sum p_i log_D p_i` over the relative frequencies of the symbols, in [0, 1] but for the correction.

    Args:
        alphabet_size: D, the number of symbols of the whole corpus; None: those that occur in `sequence`.
        miller_madow: add (K - 1) / 2n, the first-order bias of n observations of K symbols, before dividing by ln D.

    Returns:
        0 where D is 1.

    Raises:
        ValueError: an empty sequence, or more symbols than `alphabet_size`.
    """
    counts = Counter(sequence)
    size = _alphabet_size(counts, alphabet_size)
    return _entropy_nats(counts, miller_madow) / np.log(size) if size > 1 else 0.0


def conditional_entropy(
    sequence: Sequence[int], order: int, alphabet_size: int | None = None, miller_madow: bool = False
) -> float:
    """`-sum p(c, i) log_D p(i | c)`: what the next symbol i costs who knows the `order` symbols c before it.

    The difference of the entropies of blocks of `order` + 1 and of `order` symbols, over the same positions. Order 0 is
    `entropy`. Arguments, result and errors otherwise as there.

    Raises:
        ValueError: a negative order, or a sequence that is not longer than it.
    """
    if order < 0:
        raise ValueError(f"order={order}: give 0 or more symbols of context")
    if len(sequence) <= order:
        raise ValueError(f"sequence has {len(sequence)} symbols: order={order} needs more")
    symbols = list(sequence)
    blocks = Counter(tuple(symbols[i : i + order + 1]) for i in range(len(symbols) - order))
    size = _alphabet_size(Counter(symbols), alphabet_size)
    if size == 1:
        return 0.0
    contexts: Counter[tuple[int, ...]] = Counter()
    for block, count in blocks.items():
        contexts[block[:-1]] += count
    return (_entropy_nats(blocks, miller_madow) - _entropy_nats(contexts, miller_madow)) / float(np.log(size))


def windowed_entropies(
    sequences: Sequence[Sequence[int]],
    alphabet_size: int | None = None,
    orders: Sequence[int] = (1, 2, 3, 4),
    window: int | None = None,
) -> dict[str, Any]:
    """Mean entropy and conditional entropies over windows of equal length: only such are comparable.

    Args:
        alphabet_size: D, the base of the logarithms; None: the symbols that occur in any of the sequences.
        window: symbols of a window; each sequence is cut into as many as it holds. None: the shortest sequence.

    Returns:
        `entropy`; by order `conditional` and `conditional_corrected` (Miller and Madow); `windows`, `window`,
        `alphabet`.

    Raises:
        ValueError: no sequences, none as long as `window`, or a window no longer than an order.
    """
    window = min(map(len, sequences), default=0) if window is None else window
    cut = [list(s[i : i + window]) for s in sequences for i in range(0, len(s) - window + 1, max(1, window))]
    if not window or not cut:
        raise ValueError(f"window={window}: no sequence is so long, or one is empty; give a length they all reach")
    size = len({symbol for sequence in sequences for symbol in sequence}) if alphabet_size is None else alphabet_size

    def mean(order: int, corrected: bool = False) -> float:
        return float(np.mean([conditional_entropy(part, order, size, corrected) for part in cut]))

    return {
        "entropy": float(np.mean([entropy(part, size) for part in cut])),
        "conditional": {order: mean(order) for order in orders},
        "conditional_corrected": {order: mean(order, corrected=True) for order in orders},
        "windows": len(cut),
        "window": window,
        "alphabet": size,
    }


def _alphabet_size(counts: Counter, alphabet_size: int | None) -> int:
    if not counts:
        raise ValueError("sequence is empty: it has no entropy")
    if alphabet_size is not None and alphabet_size < len(counts):
        raise ValueError(f"alphabet_size={alphabet_size}, but the sequence has {len(counts)} different symbols")
    return len(counts) if alphabet_size is None else alphabet_size


def _entropy_nats(counts: Counter, miller_madow: bool) -> float:
    number = np.array(list(counts.values()), dtype=np.float64)
    total = number.sum()
    share = number / total
    plug_in = float(-(share * np.log(share)).sum())
    return plug_in + (len(number) - 1) / (2 * total) if miller_madow else plug_in


def cross_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cross-correlation of two signals at every shift, by Fourier transform, in [-1, 1].

    Both are made zero-mean. `r[k] = sum_t first[t + k] second[t]`, divided by the norm of `second` and that of the part
    of `first` under it: a fragment found in a longer piece scores 1.

    Args:
        first: `[n]`, the longer signal.
        second: `[m]`, m <= n, moved along `first`.

    Returns:
        `[n - m + 1]` for the shifts k = 0 ... n - m at which `second` lies inside `first`; 0 where either is silent.

    Raises:
        ValueError: no one-dimensional signals, `second` empty or longer than `first`.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 1 or second.ndim != 1:
        raise ValueError(f"signals must be one-dimensional, not {first.shape} and {second.shape}")
    if not 0 < len(second) <= len(first):
        raise ValueError(f"second has {len(second)} samples: give between 1 and those of first, {len(first)}")
    return _sliding_correlation((first - first.mean())[None], (second - second.mean())[None])


def roll_correlation(
    first: np.ndarray, second: np.ndarray, semitones: Sequence[int] = SEMITONES
) -> tuple[float, int, int]:
    """The best correlation of two piano rolls, added over pitches, at any shift in time and transposition.

    Args:
        first: `[n, pitches]`, the longer roll, on one grid with the second.
        second: `[m, pitches]`, m <= n; it is transposed.
        semitones: transpositions tried; pitches pushed out of the range are lost.

    Returns:
        score in [-1, 1], shift in steps, transposition in semitones. Zero-mean is the whole roll, not each pitch.

    Raises:
        ValueError: rolls of different pitch ranges, `second` empty or longer than `first`.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"rolls must be [steps, pitches] with equal pitches, not {first.shape} and {second.shape}")
    if not 0 < len(second) <= len(first):
        raise ValueError(f"second has {len(second)} steps: give between 1 and those of first, {len(first)}")
    best = (-np.inf, 0, 0)
    centred = (first - first.mean()).T
    for shift in semitones:
        moved = np.zeros_like(second)
        low, high = max(0, shift), min(second.shape[1], second.shape[1] + shift)
        moved[:, low:high] = second[:, low - shift : high - shift]
        scores = _sliding_correlation(centred, (moved - moved.mean()).T)
        place = int(scores.argmax())
        if scores[place] > best[0] + 1e-12:  # rounding does not decide between equal transpositions
            best = (float(scores[place]), place, shift)
    return best


def _sliding_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`[channels, n]` and `[channels, m]` to `[n - m + 1]`, channels added."""
    n, m = first.shape[1], second.shape[1]
    size = n + m - 1  # no wrapping around
    product = np.fft.rfft(first, size, axis=1) * np.conj(np.fft.rfft(second, size, axis=1))
    together = np.fft.irfft(product.sum(0), size)[: n - m + 1]
    energy = np.concatenate([[0.0], np.cumsum((first**2).sum(0))])
    local = np.sqrt(np.maximum(energy[m:] - energy[: n - m + 1], 0.0))
    norm = local * np.sqrt((second**2).sum())
    heard = norm > 1e-9 * max(1e-300, float(np.sqrt(energy[-1] * (second**2).sum())))
    scores = np.zeros(n - m + 1)
    scores[heard] = together[heard] / norm[heard]
    return np.clip(scores, -1.0, 1.0)

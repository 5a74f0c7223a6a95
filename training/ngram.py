"""Interpolated modified Kneser-Ney n-gram model over token ids, the baseline beside every neural language model.

Equations are those of Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (TR-10-98,
1998), section 3: for a history h of k-1 tokens and its suffix h' of k-2 tokens,

    p_k(w | h) = max(c(hw) - D(c(hw)), 0) / C(h)  +  gamma(h) p_{k-1}(w | h')
    gamma(h)   = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / C(h)

with raw counts c at the highest order and, below it, the number of distinct tokens seen before the k-gram. The
recursion ends in the uniform distribution over the vocabulary, so that no token has probability zero. Histories before
the first token are filled with a boundary symbol that is no member of the vocabulary and is never predicted.

An n-gram is one int64 (its ids side by side, most significant first), a model is one sorted array per order, and a
look-up is a binary search: about 20 million tokens fit on one core in well under a minute.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


def estimate_discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Discounts (D1, D2, D3+) from the n-gram counts of one order (Chen and Goodman 1998, equation 26).

    Where the counts of counts do not determine them (one of n1..n4 is zero, or a discount leaves [0, i]), as for the
    unigrams of a small vocabulary, `FALLBACK_DISCOUNTS` are used.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == i)) for i in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if any(not 0 < discount <= i for i, discount in enumerate(discounts, start=1)):
        return FALLBACK_DISCOUNTS
    return discounts


@dataclass
class NGramOrder:
    """One order of the model. Arrays are sorted by key; [m] n-grams, [c] histories."""

    keys: np.ndarray  # [m] int64, packed n-grams
    probabilities: np.ndarray  # [m] float64, discounted part of p(w | h)
    context_keys: np.ndarray  # [c] int64, packed histories
    backoff: np.ndarray  # [c] float64, gamma(h)
    discounts: tuple[float, float, float]


class NGramModel:
    """Language model of `order` tokens over ids 0 … `vocab_size` - 1; made by `NGramModel.fit`."""

    def __init__(self, vocab_size: int, orders: list[NGramOrder], num_train_tokens: int):
        self.vocab_size = vocab_size
        self.orders = orders
        self.num_train_tokens = num_train_tokens
        self.bits = _bits_per_id(vocab_size)

    @property
    def order(self) -> int:
        return len(self.orders)

    @classmethod
    def fit(
        cls,
        sequences: Sequence[np.ndarray],
        masks: Sequence[np.ndarray] | None = None,
        *,
        order: int = 5,
        vocab_size: int,
    ) -> "NGramModel":
        """Count `sequences` (1-D arrays of ids) and estimate all orders.

        Args:
            masks: one boolean array per sequence; tokens where it is False are history only. None: all are predicted.

        Raises:
            ValueError: an id outside the vocabulary, nothing to count, or an n-gram that does not fit 63 bits.
        """
        return cls.fit_parts([(sequences, masks)], order=order, vocab_size=vocab_size)

    @classmethod
    def fit_parts(
        cls,
        parts: Iterable[tuple[Sequence[np.ndarray], Sequence[np.ndarray] | None]],
        *,
        order: int = 5,
        vocab_size: int,
    ) -> "NGramModel":
        """Like `fit` for data that come as several (sequences, masks): only distinct n-grams are kept between them."""
        bits = _bits_per_id(vocab_size)
        if order < 1 or order * bits > 63:
            raise ValueError(
                f"order={order} needs {order * bits} bits at vocab_size={vocab_size}; use an order of 1 to {63 // bits}"
            )
        keys, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for sequences, masks in parts:
            added = _packed_ngrams(sequences, masks, order, vocab_size)
            added.sort()
            keys, counts = _merge_counts(keys, counts, *_unique_sorted(added))
        if not len(keys):
            raise ValueError("sequences: no token to count; give at least one sequence with a supervised token")
        num_tokens = int(counts.sum())
        orders = [_estimate_order(keys, counts, bits)]
        for length in range(order - 1, 0, -1):
            shorter = keys & ((1 << (bits * length)) - 1)
            shorter.sort()
            keys, counts = _unique_sorted(shorter)
            orders.append(_estimate_order(keys, counts, bits))
        return cls(vocab_size, orders[::-1], num_tokens)

    def token_nll(self, sequences: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Negative natural log-likelihood (nats) of every predicted token; one float64 array per sequence."""
        keys = _packed_ngrams(sequences, masks, self.order, self.vocab_size)
        nll = -np.log(self._probabilities(keys))
        lengths = [len(s) if masks is None else int(np.count_nonzero(masks[i])) for i, s in enumerate(sequences)]
        return np.split(nll, np.cumsum(lengths)[:-1])

    def distribution(self, history: Sequence[int]) -> np.ndarray:
        """p(· | history) over the vocabulary, [vocab_size] float64; a short history starts at the boundary."""
        context = 0
        for token in [self.vocab_size] * (self.order - 1) + [int(token) for token in history]:
            context = (context << self.bits | token) & ((1 << self.bits * (self.order - 1)) - 1)
        return self._probabilities((context << self.bits) + np.arange(self.vocab_size, dtype=np.int64))

    def _probabilities(self, keys: np.ndarray) -> np.ndarray:
        """Interpolated probability of the last id of each packed n-gram, from the unigrams upwards."""
        probabilities = np.full(len(keys), 1.0 / self.vocab_size)
        for length, level in enumerate(self.orders, start=1):
            ngrams = keys & ((1 << (self.bits * length)) - 1)
            contexts, known = _look_up(level.context_keys, ngrams >> self.bits)
            probabilities[known] *= level.backoff[contexts[known]]
            indices, seen = _look_up(level.keys, ngrams)
            probabilities[seen] += level.probabilities[indices[seen]]
        return probabilities


def _bits_per_id(vocab_size: int) -> int:
    """Bits for ids 0 … vocab_size, the last one being the boundary symbol."""
    if vocab_size < 1:
        raise ValueError(f"vocab_size={vocab_size} must be at least 1")
    return int(vocab_size).bit_length()


def _packed_ngrams(
    sequences: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None, order: int, vocab_size: int
) -> np.ndarray:
    """The n-grams that end at each predicted token, in reading order, packed into int64."""
    bits = _bits_per_id(vocab_size)
    boundary = np.full(order - 1, vocab_size, dtype=np.int32)  # between sequences, so that no n-gram joins two
    nothing = np.zeros(order - 1, dtype=bool)
    id_parts, mask_parts = [boundary], [nothing]
    for i, sequence in enumerate(sequences):
        mask = np.ones(len(sequence), dtype=bool) if masks is None else np.asarray(masks[i], dtype=bool)
        if len(mask) != len(sequence):
            raise ValueError(f"masks[{i}] has {len(mask)} entries for a sequence of {len(sequence)} ids")
        ids = np.asarray(sequence, dtype=np.int32)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(
                f"sequences[{i}] holds ids {ids.min()} to {ids.max()}; vocab_size={vocab_size} ends at {vocab_size - 1}"
            )
        id_parts += [ids, boundary]
        mask_parts += [mask, nothing]
    ids, ends = np.concatenate(id_parts), np.flatnonzero(np.concatenate(mask_parts))
    keys = np.zeros(len(ends), dtype=np.int64)
    for distance in range(order - 1, -1, -1):
        keys <<= bits
        keys |= ids[ends - distance]
    return keys


def _unique_sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sorted array and how often each occurs."""
    starts = _group_starts(keys)
    return keys[starts], np.diff(starts, append=len(keys))


def _group_starts(keys: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, dtype=int)


def _merge_counts(
    keys: np.ndarray, counts: np.ndarray, more_keys: np.ndarray, more_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of two sorted tables of counts."""
    if not len(keys):
        return more_keys, more_counts
    keys, counts = np.concatenate([keys, more_keys]), np.concatenate([counts, more_counts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = _group_starts(keys)
    return keys[starts], np.add.reduceat(counts, starts)


def _estimate_order(keys: np.ndarray, counts: np.ndarray, bits: int) -> NGramOrder:
    """Discounted probabilities and back-off weights of one order from its distinct n-grams and their counts."""
    discounts = estimate_discounts(counts)
    discount = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    histories = keys >> bits
    starts = _group_starts(histories)
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    group_sizes = np.diff(starts, append=len(keys))
    return NGramOrder(
        keys=keys,
        probabilities=(counts - discount) / np.repeat(totals, group_sizes),
        context_keys=histories[starts],
        backoff=np.add.reduceat(discount, starts) / totals,
        discounts=discounts,
    )


def _look_up(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `keys` in the sorted `table`, and which of them are in it."""
    indices = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return indices, table[indices] == keys

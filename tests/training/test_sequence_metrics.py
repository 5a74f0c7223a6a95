"""Entropies and correlations against values computed by hand and by direct sums."""

import itertools
import math

import numpy as np
import pytest

from partimento.training.sequence_metrics import (
    conditional_entropy,
    cross_correlation,
    entropy,
    roll_correlation,
    windowed_entropies,
)


def test_entropy_of_known_sequences():
    assert entropy([0, 1, 2, 3] * 5) == pytest.approx(1)
    assert entropy([7] * 9) == 0
    assert entropy([7] * 9, alphabet_size=4) == 0
    assert entropy([0, 1] * 4, alphabet_size=4) == pytest.approx(0.5)
    assert entropy([0, 0, 0, 1]) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert entropy([0, 0, 0, 1], miller_madow=True) == pytest.approx(entropy([0, 0, 0, 1]) + 1 / 8 / math.log(2))
    with pytest.raises(ValueError, match="empty"):
        entropy([])
    with pytest.raises(ValueError, match="alphabet_size=2"):
        entropy([0, 1, 2], alphabet_size=2)


def test_conditional_entropy_of_known_sequences():
    period_two = [0, 1] * 20
    assert conditional_entropy(period_two, 1) == pytest.approx(0, abs=1e-12)
    assert conditional_entropy(period_two, 0) == pytest.approx(entropy(period_two))
    # 0 -> 0, 1, 0 -> 1 and 1 -> 0, 0: pairs 00 01 10 00 01; after 0 (4 times) half 0, half 1; after 1 always 0
    assert conditional_entropy([0, 0, 1, 0, 0, 1], 1) == pytest.approx(4 / 5)
    assert conditional_entropy([0, 0, 1, 0, 0, 1], 2) == pytest.approx(0, abs=1e-12)
    # Miller-Madow: (3 pairs - 1)/10 - (2 contexts - 1)/10 nats more
    assert conditional_entropy([0, 0, 1, 0, 0, 1], 1, miller_madow=True) == pytest.approx(4 / 5 + 0.1 / math.log(2))
    assert conditional_entropy([5] * 8, 2) == 0
    with pytest.raises(ValueError, match="order=3"):
        conditional_entropy([1, 2, 3], 3)


def test_conditional_entropy_is_the_printed_sum_and_falls_with_the_context():
    sequence = np.random.default_rng(0).choice(5, 4000, p=[0.4, 0.3, 0.1, 0.1, 0.1]).tolist()
    sequence = [symbol if i % 3 else 0 for i, symbol in enumerate(sequence)]
    pairs = {}
    for a, b in itertools.pairwise(sequence):
        pairs[a, b] = pairs.get((a, b), 0) + 1
    total = len(sequence) - 1
    printed = 0.0
    for (context, _), count in pairs.items():
        known = sum(n for (other, _), n in pairs.items() if other == context)
        printed -= count / total * math.log(count / known, 5)
    assert conditional_entropy(sequence, 1) == pytest.approx(printed)
    values = [conditional_entropy(sequence, order) for order in range(4)]
    assert values == sorted(values, reverse=True)


def direct(first, second):
    first, second = first - first.mean(), second - second.mean()
    scores = []
    for k in range(len(first) - len(second) + 1):
        part = first[k : k + len(second)]
        norm = np.linalg.norm(part) * np.linalg.norm(second)
        scores.append(0.0 if norm < 1e-12 else part @ second / norm)
    return np.array(scores)


def test_correlation_equals_the_direct_sum():
    rng = np.random.default_rng(1)
    first, second = rng.normal(3, 1, 97), rng.normal(-1, 2, 31)
    assert np.allclose(cross_correlation(first, second), direct(first, second), atol=1e-12)
    assert cross_correlation(first, first) == pytest.approx([1])


def test_a_copied_fragment_is_found_where_it_stands():
    rng = np.random.default_rng(2)
    piece = rng.normal(size=500)
    piece -= piece.mean()
    fragment = 0.3 * piece[123:223]
    fragment = np.concatenate([fragment, -fragment])  # mean zero, so that it stays what it is
    piece[123:323] = fragment / 0.3
    piece -= piece.mean()
    scores = cross_correlation(piece, fragment)
    assert scores.argmax() == 123
    assert scores.max() == pytest.approx(1, abs=1e-3)
    assert np.abs(cross_correlation(rng.normal(size=500), fragment)).max() < 0.5
    assert (cross_correlation(np.zeros(50), fragment[:20]) == 0).all()
    with pytest.raises(ValueError, match="samples"):
        cross_correlation(fragment, piece)


def test_a_transposed_excerpt_of_a_roll_is_found():
    rng = np.random.default_rng(3)
    roll = (rng.random((64, 48)) < 0.05).astype(float)
    roll[:, :8] = roll[:, -8:] = 0
    excerpt = np.roll(roll[20:44], 3, axis=1)
    score, shift, semitones = roll_correlation(roll, excerpt)
    assert (shift, semitones) == (20, -3)
    assert score > 0.99
    stranger = (rng.random((24, 48)) < 0.05).astype(float)
    assert roll_correlation(roll, stranger)[0] < 0.6
    assert roll_correlation(roll, roll) == (pytest.approx(1), 0, 0)
    with pytest.raises(ValueError, match="pitches"):
        roll_correlation(roll, excerpt[:, :40])


def test_windows_of_equal_length_are_averaged():
    sequences = [[0, 1] * 5 + [2] * 10, [3] * 12]  # windows of 10: two and one, the last two symbols are left out
    found = windowed_entropies(sequences, orders=(0, 1), window=10)
    assert (found["windows"], found["window"], found["alphabet"]) == (3, 10, 4)
    assert found["entropy"] == found["conditional"][0] == pytest.approx(0.5 / 3)
    assert found["conditional"][1] == pytest.approx(0, abs=1e-12)
    assert found["conditional_corrected"][0] == pytest.approx((0.5 + 1 / 20 / math.log(4)) / 3)
    assert windowed_entropies(sequences)["window"] == 12
    with pytest.raises(ValueError, match="window=30"):
        windowed_entropies(sequences, window=30)
    with pytest.raises(ValueError, match="window=0"):
        windowed_entropies([])

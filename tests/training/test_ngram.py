"""The Kneser-Ney baseline: a case computed by hand, a brute-force reference, exact normalisation, masks."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from partimento.training.ngram import FALLBACK_DISCOUNTS, NGramModel, estimate_discounts


def random_corpus(rng, num_sequences=30, vocab_size=12):
    """Skewed, history-dependent sequences of uneven length, so that all counts of counts occur."""
    sequences = []
    for _ in range(num_sequences):
        ids = [int(rng.integers(vocab_size))]
        for _ in range(int(rng.integers(1, 60))):
            ids.append((ids[-1] * 3 + min(int(rng.geometric(0.5)), 6)) % vocab_size)
        sequences.append(np.array(ids, dtype=np.int32))
    masks = [np.arange(len(s)) >= int(rng.integers(3)) for s in sequences]
    return sequences, masks


class BruteForce:
    """The same equations over dictionaries of tuples, one probability at a time."""

    def __init__(self, sequences, masks, order, vocab_size):
        self.order, self.vocab_size = order, vocab_size
        raw = Counter()
        for sequence, mask in zip(sequences, masks):
            padded = ["^"] * (order - 1) + [int(i) for i in sequence]
            raw.update(tuple(padded[i : i + order]) for i in range(len(sequence)) if mask[i])
        self.counts = {order: raw}
        for length in range(order - 1, 0, -1):
            self.counts[length] = Counter(ngram[1:] for ngram in self.counts[length + 1])
        self.discounts = {k: estimate_discounts(np.array(list(c.values()))) for k, c in self.counts.items()}
        self.followers = {k: defaultdict(list) for k in self.counts}
        for k, counts in self.counts.items():
            for ngram, count in counts.items():
                self.followers[k][ngram[:-1]].append(count)

    def probability(self, history, token):
        history = (("^",) * (self.order - 1) + tuple(history))[-(self.order - 1) :] if self.order > 1 else ()
        return self._interpolated(history, token)

    def _interpolated(self, history, token):
        length = len(history) + 1
        lower = self._interpolated(history[1:], token) if history else 1 / self.vocab_size
        followers = self.followers[length].get(history)
        if followers is None:
            return lower
        discount = (0.0, *self.discounts[length])
        count = self.counts[length].get((*history, token), 0)
        backoff = sum(discount[min(c, 3)] for c in followers) / sum(followers)
        return (count - discount[min(count, 3)]) / sum(followers) + backoff * lower


def test_discounts_by_hand():
    # n1 = 4, n2 = 2, n3 = 1, n4 = 1: Y = 4/8, D1 = 1 - 2·½·2/4, D2 = 2 - 3·½·1/2, D3 = 3 - 4·½·1/1
    assert estimate_discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9])) == pytest.approx((0.5, 1.25, 1.0))


def test_undetermined_discounts_fall_back():
    assert estimate_discounts(np.array([700, 20, 5])) == FALLBACK_DISCOUNTS
    assert estimate_discounts(np.array([1, 2] + [3] * 50 + [4])) == FALLBACK_DISCOUNTS  # D2 would be negative


def test_bigram_by_hand():
    """Sequence a b a c with boundary ^: bigrams ^a ab ba ac, each once; a follows {^, b}, b and c follow {a}."""
    a, b, c = 0, 1, 2
    model = NGramModel.fit([np.array([a, b, a, c])], order=2, vocab_size=3)
    # unigrams: counts 2, 1, 1, discounts 1 and ½, back-off ½ to the uniform third
    unigram = [1 / 4 + 1 / 6, 1 / 8 + 1 / 6, 1 / 8 + 1 / 6]
    # after a: two followers, discounted to ¼ each, back-off ½; after ^ or b: one follower at ½; after c: unigrams
    expected = {
        (a,): [unigram[a] / 2, 1 / 4 + unigram[b] / 2, 1 / 4 + unigram[c] / 2],
        (b,): [1 / 2 + unigram[a] / 2, unigram[b] / 2, unigram[c] / 2],
        (): [1 / 2 + unigram[a] / 2, unigram[b] / 2, unigram[c] / 2],
        (c,): unigram,
    }
    for history, probabilities in expected.items():
        assert model.distribution(history) == pytest.approx(probabilities, abs=1e-15)
    nll = model.token_nll([np.array([a, b])])
    assert nll[0] == pytest.approx([math.log(24 / 17), math.log(48 / 19)])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_brute_force(order):
    rng = np.random.default_rng(order)
    sequences, masks = random_corpus(rng)
    model = NGramModel.fit(sequences, masks, order=order, vocab_size=13)
    reference = BruteForce(sequences, masks, order, 13)
    held_out, held_out_masks = random_corpus(rng, num_sequences=4)
    for sequence, mask, nll in zip(held_out, held_out_masks, model.token_nll(held_out, held_out_masks)):
        expected = [
            -math.log(reference.probability([int(t) for t in sequence[:i]], int(sequence[i])))
            for i in range(len(sequence))
            if mask[i]
        ]
        assert nll == pytest.approx(expected, abs=1e-12)


def test_every_distribution_sums_to_one():
    rng = np.random.default_rng(7)
    sequences, masks = random_corpus(rng)
    model = NGramModel.fit(sequences, masks, order=5, vocab_size=15)  # ids 12 to 14 never occur
    histories = [[], [0], [3, 9], [14, 14, 14, 14], *(s[: int(rng.integers(1, 9))] for s in sequences)]
    for history in histories:
        distribution = model.distribution(history)
        assert distribution.sum() == pytest.approx(1.0, abs=1e-12)
        assert distribution.min() > 0


def test_deterministic_language_is_learnt_and_unmasked_tokens_are_not_counted():
    sequences = [np.array([9, 7] + [0, 1, 2] * 200)] * 4
    masks = [np.arange(602) >= 2] * 4
    model = NGramModel.fit(sequences, masks, order=3, vocab_size=10)
    assert model.num_train_tokens == 4 * 600
    nll = model.token_nll(sequences[:1], masks[:1])[0]
    assert len(nll) == 600
    assert nll.mean() < 0.01
    assert not np.isin(model.orders[0].keys, [7, 9]).any()  # history only: never predicted


def test_no_ngram_joins_two_sequences():
    together = NGramModel.fit([np.array([0, 1]), np.array([2, 3])], order=2, vocab_size=4)
    assert together.distribution([1]) == pytest.approx(together.distribution([3]))  # 1 is nobody's history


def test_scores_of_a_batch_equal_scores_of_single_sequences():
    rng = np.random.default_rng(3)
    sequences, masks = random_corpus(rng)
    sequences.append(np.array([], dtype=np.int32))
    masks.append(np.array([], dtype=bool))
    model = NGramModel.fit(sequences, masks, order=4, vocab_size=12)
    together = model.token_nll(sequences, masks)
    assert len(together) == len(sequences)
    for sequence, mask, nll in zip(sequences, masks, together):
        assert np.array_equal(nll, model.token_nll([sequence], [mask])[0])


def test_counting_in_parts_equals_counting_at_once():
    sequences, masks = random_corpus(np.random.default_rng(5))
    whole = NGramModel.fit(sequences, masks, order=4, vocab_size=12)
    parts = [(sequences[:7], masks[:7]), ([], None), (sequences[7:20], masks[7:20]), (sequences[20:], masks[20:])]
    model = NGramModel.fit_parts(parts, order=4, vocab_size=12)
    assert model.num_train_tokens == whole.num_train_tokens
    for nll, expected in zip(model.token_nll(sequences, masks), whole.token_nll(sequences, masks)):
        assert np.array_equal(nll, expected)


@pytest.mark.parametrize(
    ("sequences", "masks", "order", "message"),
    [
        ([np.array([0, 8])], None, 2, "vocab_size=8 ends at 7"),
        ([np.array([0, -1])], None, 2, "vocab_size=8 ends at 7"),
        ([np.array([0, 1])], [np.array([True])], 2, "1 entries for a sequence of 2"),
        ([np.array([0, 1])], [np.array([False, False])], 2, "no token to count"),
        ([np.array([0, 1])], None, 16, "use an order of 1 to 15"),
        ([np.array([0, 1])], None, 0, "use an order of 1"),
    ],
)
def test_bad_arguments(sequences, masks, order, message):
    with pytest.raises(ValueError, match=message):
        NGramModel.fit(sequences, masks, order=order, vocab_size=8)

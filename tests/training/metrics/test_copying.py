"""Copied spans: cases by hand, brute force, transposed copies; n-gram novelty by hand."""

import numpy as np
import pytest

from partimento.training.metrics.copying import Copy, longest_copies, ngram_novelty, note_symbols
from partimento.training.metrics.notes import Notes


def brute(sample, training):
    best = 0
    for start in range(len(sample)):
        for song in training:
            for other in range(len(song)):
                length = 0
                while (
                    start + length < len(sample)
                    and other + length < len(song)
                    and sample[start + length] == song[other + length]
                ):
                    length += 1
                best = max(best, length)
    return best


def test_longest_copy_by_hand():
    training = [np.array([1, 2, 3, 4, 5]), np.array([9, 8, 7, 3, 4, 6])]
    samples = [np.array([0, 8, 7, 3, 4, 5]), np.array([2, 3, 4, 5, 9, 8]), np.array([20, 21]), np.array([], int)]
    assert longest_copies(samples, training) == [
        Copy(4, 1, 1, 1),  # 8 7 3 4; "3 4 5" is shorter
        Copy(4, 0, 0, 1),  # 2 3 4 5, and not on into the next song
        Copy(0, 0, -1, 0),
        Copy(0, 0, -1, 0),
    ]
    assert longest_copies([], training) == []
    assert longest_copies(samples[:1], []) == [Copy(0, 0, -1, 0)]


@pytest.mark.parametrize("alphabet", [1, 2, 3, 6])
def test_longest_copy_equals_brute_force(alphabet, monkeypatch):
    monkeypatch.setattr("partimento.training.metrics.copying.PAIRS_AT_ONCE", 7)
    rng = np.random.default_rng(alphabet)
    training = [rng.integers(0, alphabet, rng.integers(1, 30)) for _ in range(6)]
    samples = [rng.integers(0, alphabet + 1, rng.integers(1, 40)) for _ in range(12)]
    samples += [np.concatenate([[50], training[2], training[0], [51]])]
    copies = longest_copies(samples, training)
    assert [copy.length for copy in copies] == [brute(s.tolist(), [t.tolist() for t in training]) for s in samples]
    for sample, copy in zip(samples, copies):
        if copy.length:
            theirs = training[copy.song][copy.song_start : copy.song_start + copy.length]
            assert np.array_equal(sample[copy.start : copy.start + copy.length], theirs)


def test_a_piece_of_the_training_set_is_copied_whole():
    rng = np.random.default_rng(0)
    training = [rng.integers(0, 600, 3000) for _ in range(20)]
    (copy,) = longest_copies([training[7][100:2500]], training)
    assert copy == Copy(2400, 0, 7, 100)


def test_transposed_notes_are_the_same_copy():
    melody = [(0, 1, 60, 0), (1, 1, 64, 0), (1, 1, 36, -1), (2, 2, 67, 33)]
    plain = note_symbols(Notes.from_list(melody))
    higher = Notes.from_list([(on + 8, d, p if prog == -1 else p + 3, 5) for on, d, p, prog in melody[:2]])
    assert np.array_equal(note_symbols(higher)[1:], plain[1:2])
    moved = note_symbols(Notes.from_list([(on, d, p + 3 * (prog != -1), prog) for on, d, p, prog in melody]))
    assert np.array_equal(moved, plain)
    for changed in ((1, 1, 65, 0), (1, 2, 64, 0), (1.5, 1, 64, 0)):
        assert note_symbols(Notes.from_list([melody[0], changed, *melody[2:]]))[1] != plain[1]
    drum_moved = note_symbols(Notes.from_list([*melody[:2], (1, 1, 38, -1), melody[3]]))
    assert np.flatnonzero(drum_moved != plain).tolist() == [2]


def test_novelty_by_hand():
    training = [np.array([1, 2, 3, 4]), np.array([4, 1])]
    samples = [np.array([1, 2, 3, 1, 2]), np.array([3, 4, 1]), np.array([7])]
    # pairs 12 23 31 12: 31 is new; 34 41 are known
    assert ngram_novelty(samples, training, 2) == [0.25, 0.0, None]
    assert ngram_novelty(samples, training, 1) == [0.0, 0.0, 1.0]
    assert ngram_novelty(samples, training, 3) == [pytest.approx(2 / 3), 1.0, None]  # 341 spans two songs
    with pytest.raises(ValueError, match="n=0"):
        ngram_novelty(samples, training, 0)

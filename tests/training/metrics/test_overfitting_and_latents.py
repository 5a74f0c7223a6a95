"""Cross-correlation with a training set and use of a latent code, by hand and against torch."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from partimento.training.metrics.latents import latent_usage
from partimento.training.metrics.notes import Notes
from partimento.training.metrics.overfitting import correlation_summary, overfitting_limit, piano_roll


def song(seed: int, notes: int = 60) -> Notes:
    rng = np.random.default_rng(seed)
    return Notes.from_list([(i / 2, 0.5, int(pitch)) for i, pitch in enumerate(rng.integers(50, 75, notes))])


def test_roll_by_hand():
    roll = piano_roll(Notes.from_list([(0.25, 0.5, 60), (0, 0.1, 61, 40), (0, 1, 36, -1), (0.75, 0.1, 60)]))
    assert roll.shape == (4, 128)
    assert [np.flatnonzero(step).tolist() for step in roll] == [[61], [60], [60], [60]]
    assert piano_roll(Notes.from_list([(0, 1, 36, -1)])).shape == (0, 128)


def test_a_copy_is_flagged_and_new_music_is_not():
    training = [song(seed) for seed in range(3)]
    held_out = [song(seed) for seed in range(10, 14)]
    copy = Notes.from_list([(i / 2, 0.5, int(pitch) + 3) for i, pitch in enumerate(training[1].pitches[10:30])])
    drums = Notes.from_list([(0, 1, 36, -1)])
    found = correlation_summary([copy, song(20), drums], training, held_out, excerpt_steps=32)
    assert found["each"][0] == pytest.approx(1.0, abs=1e-6)
    assert found["each"][1] < 0.6
    assert found["each"][2] == 0.0
    assert found["highest"] == found["each"][0]
    assert found["roll_correlation"] == pytest.approx(np.mean(found["each"]))
    assert found["each"][1] < 1.0 > found["limit"]
    assert found["flagged"] == sum(score > found["limit"] for score in found["each"]) >= 1
    assert correlation_summary([copy], training)["flagged"] is None
    with pytest.raises(ValueError, match="0 pieces"):
        correlation_summary([], training)


def test_limit_is_the_95th_percentile():
    assert overfitting_limit(list(range(101))) == 95
    assert overfitting_limit([]) is None


def test_latent_usage_equals_torch():
    torch.manual_seed(0)
    mu, sigma = torch.randn(50, 3, dtype=torch.float64), torch.rand(50, 3, dtype=torch.float64) + 0.1
    mu[:, 2], sigma[:, 2] = 0, 1
    found = latent_usage(mu.numpy(), sigma.numpy())
    divergence = kl_divergence(Normal(mu, sigma), Normal(torch.zeros(3), torch.ones(3))).mean(0) / np.log(2)
    assert found["kl_bits"] == pytest.approx(float(divergence.sum()))
    assert found["kl_bits_per_dim"] == pytest.approx(divergence.tolist(), abs=1e-4)
    assert (found["active_by_sigma"], found["active_by_variance"]) == (2, 2)
    assert latent_usage([[5.0]], [[1.0]])["active_by_variance"] == 0
    for bad in ([[1.0, 0.0]], [[1.0]] * 2):
        with pytest.raises(ValueError, match="sigma"):
            latent_usage([[1.0, 2.0]], bad)

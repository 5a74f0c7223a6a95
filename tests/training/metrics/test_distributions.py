"""Fréchet distance and overlapping area against closed forms, and the embedding's parts by hand."""

import numpy as np
import pytest

from partimento.training.metrics.distributions import (
    EMBEDDING_SIZE,
    embedding,
    frechet_distance,
    kernel_density,
    overlapping_area,
)
from partimento.training.metrics.notes import Notes


def test_frechet_distance_by_hand():
    # one dimension: (m1 - m2)^2 + (s1 - s2)^2; here 0 and 5, variances 2 and 8
    ours, theirs = np.array([[-1.0], [1.0]]), np.array([[3.0], [7.0]])
    assert frechet_distance(ours, theirs) == pytest.approx(25 + (8**0.5 - 2**0.5) ** 2)


def test_frechet_distance_of_gaussians_with_known_covariances():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(400, 5))
    base = (base - base.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(base, rowvar=False))).T  # exactly white
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    a, b = np.array([1.0, 2, 3, 0, 0.5]), np.array([2.0, 2, 1, 1, 0])
    shift = np.arange(5.0)
    # covariances that commute: the distance is |m|^2 + sum (sqrt(a) - sqrt(b))^2; both are singular, too
    first, second = base * np.sqrt(a) @ turn, base * np.sqrt(b) @ turn + shift
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))
    with pytest.raises(ValueError, match="at least two vectors"):
        frechet_distance(first[:1], second)


def test_density_is_one_gaussian_around_each_value():
    values, grid = np.array([0.0, 1.0]), np.linspace(-10, 11, 4001)
    density = kernel_density(values, grid)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1)
    width = np.sqrt(0.5) * 2**-0.2
    assert kernel_density(values, np.array([0.0]))[0] == pytest.approx(
        (1 + np.exp(-0.5 / width**2)) / (2 * width * np.sqrt(2 * np.pi))
    )


def test_overlapping_area():
    rng = np.random.default_rng(1)
    reference, same, other = rng.normal(size=60), rng.normal(size=60), rng.normal(8, 0.1, size=60)
    alike, unlike = overlapping_area(same, reference), overlapping_area(other, reference)
    assert alike["overlapping_area"] > 0.9
    assert alike["kl_divergence"] < 0.05
    assert unlike["overlapping_area"] < 0.1
    assert unlike["kl_divergence"] > 1
    scaled = overlapping_area(same * 100 + 3, reference * 100 + 3)
    assert scaled == pytest.approx(alike)
    with pytest.raises(ValueError, match="at least two and three"):
        overlapping_area([1.0], reference)
    with pytest.raises(ValueError, match="all distances are equal"):
        overlapping_area([1.0, 1.0], [1.0, 1.0, 1.0])


def test_embedding_by_hand():
    # C and G of the piano in sixteenth 0 and 4, a drum in sixteenth 8 of the second bar
    vector = embedding(Notes.from_list([(0, 1, 60, 0), (1, 0.2, 67, 0), (6, 5, 36, -1)]))
    assert vector.shape == (EMBEDDING_SIZE,)
    classes, positions, lengths, intervals, families, figures = np.split(vector, np.cumsum([12, 16, 6, 25, 17]))
    assert classes[[0, 7]].tolist() == [0.5, 0.5]
    assert positions[[0, 4, 8]] == pytest.approx([1 / 3] * 3)
    assert lengths == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3])
    assert np.flatnonzero(intervals).tolist() == [12 + 7]
    assert families[[0, 16]] == pytest.approx([2 / 3, 1 / 3])
    assert figures == pytest.approx([1 / np.log2(12), 1, 13 / 16, 0.1, 0, 0.015])
    with pytest.raises(ValueError, match="without notes"):
        embedding(Notes.from_list([], num_bars=2))

"""Two sets of pieces against each other: how alike their figures are distributed.

Overlapping area: Yang and Lerch, On the evaluation of generative models in music (Neural Computing and Applications,
2020). Fréchet distance: Heusel et al., GANs trained by a two time-scale update rule (2017,
https://arxiv.org/abs/1706.08500), here on `embedding`, which is computed from the notes, so no model is needed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from partimento.tokenization.canonical import FAMILIES
from partimento.training.metrics.descriptors import DESCRIPTORS, pitch_class_counts
from partimento.training.metrics.notes import Notes

GRID_POINTS = 1000
DURATION_EDGES = (0.25, 0.5, 1.0, 2.0, 4.0)  # quarters
INTERVAL_LIMIT = 12
# What `embedding` holds, in order: 12 pitch classes, 16 onset positions in the bar, 6 durations, 25 melodic intervals,
# 17 families, 6 figures.
EMBEDDING_SIZE = 12 + 16 + 6 + 2 * INTERVAL_LIMIT + 1 + len(FAMILIES) + 1 + len(DESCRIPTORS)


def overlapping_area(generated: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Distances within the reference set and between the sets as two densities: their overlap and divergence.

    The densities are Gaussian kernel estimates with Scott's bandwidth of |x - y| for all pairs of the reference
    (intra-set) and for all pairs of a generated and a reference value (inter-set).

    Returns:
        `overlapping_area` 0 to 1, 1 when the densities are equal; `kl_divergence` of the inter-set from the intra-set
        density in nats.
    Raises: ValueError: fewer than two generated or three reference values, or values that are all equal.
    """
    ours, theirs = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    if len(ours) < 2 or len(theirs) < 3:
        raise ValueError(
            f"{len(ours)} generated and {len(theirs)} reference values: give at least two and three, better dozens"
        )
    first, second = np.triu_indices(len(theirs), 1)
    intra, inter = np.abs(theirs[first] - theirs[second]), np.abs(ours[:, None] - theirs).ravel()
    if intra.std() == 0 or inter.std() == 0:
        raise ValueError("all distances are equal: their density cannot be estimated")
    margin = 4 * max(bandwidth(intra), bandwidth(inter))
    grid = np.linspace(-margin, max(intra.max(), inter.max()) + margin, GRID_POINTS)
    step = grid[1] - grid[0]
    intra_density, inter_density = kernel_density(intra, grid), kernel_density(inter, grid)
    tiny = np.finfo(np.float64).tiny
    ratio = np.log(np.maximum(intra_density, tiny) / np.maximum(inter_density, tiny))
    return {
        "overlapping_area": float(np.minimum(intra_density, inter_density).sum() * step),
        "kl_divergence": float((intra_density * ratio).sum() * step),
    }


def compare_descriptors(generated: Sequence[Notes], reference: Sequence[Notes]) -> dict[str, Any]:
    """`overlapping_area` of every figure of `DESCRIPTORS`, and the means over those that have one.

    A figure's entry in `each` is None where its densities cannot be estimated: too few pieces have it, or all distances
    are equal.
    """
    each: dict[str, dict[str, float] | None] = {}
    for name, measure in DESCRIPTORS.items():
        ours, theirs = ([v for v in map(measure, pieces) if v is not None] for pieces in (generated, reference))
        try:
            each[name] = overlapping_area(ours, theirs)
        except ValueError:
            each[name] = None
    known = [entry for entry in each.values() if entry is not None]
    return {
        **{
            key: float(np.mean([entry[key] for entry in known])) if known else None
            for key in ("overlapping_area", "kl_divergence")
        },
        "each": each,
    }


def bandwidth(values: np.ndarray) -> float:
    """Scott's rule in one dimension: the standard deviation times n^(-1/5)."""
    return float(values.std(ddof=1) * len(values) ** -0.2)


def kernel_density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """[points] Gaussian kernel estimate of the density of values at the points of a grid."""
    width = bandwidth(values)
    density = np.zeros(len(grid))
    for some in np.array_split(values, len(values) // 10_000 + 1):
        density += np.exp(-0.5 * ((grid[:, None] - some) / width) ** 2).sum(1)
    return density / (len(values) * width * np.sqrt(2 * np.pi))


def frechet_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Squared Fréchet distance of Gaussians fitted to two sets of vectors [pieces, size].

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with the covariances of the samples (divisor n - 1). It is biased
    upwards for small sets: compare only figures of equally many pieces.

    Raises: ValueError: fewer than two vectors, or vectors of different sizes.
    """
    ours, theirs = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1] or min(len(ours), len(theirs)) < 2:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape}: give two sets of at least two vectors of one size")
    first, second = (np.atleast_2d(np.cov(vectors, rowvar=False)) for vectors in (ours, theirs))
    root = symmetric_root(first)
    # S1 S2 and S1^(1/2) S2 S1^(1/2) have the same eigenvalues; the latter is symmetric.
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    distance = ((ours.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross
    return float(max(distance, 0.0))


def frechet_music_distance(generated: Sequence[Notes], reference: Sequence[Notes]) -> dict[str, float | int]:
    """`frechet_distance` of the embeddings of two sets of pieces, and how many pieces without notes were left out."""
    vectors = [[embedding(piece) for piece in pieces if len(piece)] for pieces in (generated, reference)]
    if min(map(len, vectors)) < 2:
        raise ValueError(f"{len(vectors[0])} and {len(vectors[1])} pieces with notes: give at least two of each set")
    return {
        "frechet_music_distance": frechet_distance(np.array(vectors[0]), np.array(vectors[1])),
        "skipped": len(generated) + len(reference) - sum(map(len, vectors)),
    }


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def embedding(notes: Notes) -> np.ndarray:
    """[EMBEDDING_SIZE] what a piece is made of, as numbers of similar size.

    Shares of notes: pitch classes (12), onset position in sixteenths of the bar's length (16), duration up to a
    sixteenth, an eighth, a quarter, a half, a whole note and longer (6), interval from the highest note of one onset to
    that of the next, clipped at an octave (25); shares of families (17, drums last); and the figures of `DESCRIPTORS`
    (6): entropy over log2 12, polyphony over 10, notes per bar over 100, 0 where there is nothing to measure.

    Raises: ValueError: a piece without notes.
    """
    if not len(notes):
        raise ValueError("a piece without notes has no embedding: leave it out and count it")
    pitched = notes.select(~notes.is_drum)
    sixteenths = notes.bar_onsets * 16 // notes.bar_ticks[notes.bars]
    lengths = np.searchsorted(DURATION_EDGES, notes.durations / notes.ticks_per_quarter)
    order = np.lexsort((pitched.pitches, pitched.onsets))
    onsets, pitches = pitched.onsets[order], pitched.pitches[order]
    top = pitches[np.append(onsets[1:] != onsets[:-1], True)] if len(onsets) else pitches
    intervals = np.diff(top).clip(-INTERVAL_LIMIT, INTERVAL_LIMIT) + INTERVAL_LIMIT
    families = np.where(notes.is_drum, len(FAMILIES), notes.programs // 8)
    histograms = [
        pitch_class_counts(notes),
        np.bincount(sixteenths, minlength=16),
        np.bincount(lengths, minlength=len(DURATION_EDGES) + 1),
        np.bincount(intervals, minlength=2 * INTERVAL_LIMIT + 1),
        np.bincount(families, minlength=len(FAMILIES) + 1),
    ]
    scales = {"pitch_class_entropy": np.log2(12), "polyphony": 10, "notes_per_bar": 100}
    figures = [(measure(notes) or 0.0) / scales.get(name, 1) for name, measure in DESCRIPTORS.items()]
    return np.concatenate([*(h / max(1, h.sum()) for h in histograms), figures])

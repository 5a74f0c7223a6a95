"""What lies between two points of a latent space: figures of interpolations (Roberts et al. 2018, section 5.2).

Along a path: the share of ids that differ from its start (an even path falls off linearly), the largest jump between
neighbours, onsets, and what the music costs under an n-gram model of the training windows, which knows nothing of the
latent space. Beside the latent paths stands the mixture of both ends in data space: every step is taken from one end or
the other by chance.

Legend: n pairs, S points of a path, K tracks, T steps, Z latent size.
"""

from typing import Any

import numpy as np
import torch

from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.grid_windows import count_onsets
from partimento.training.ngram import NGramModel

NGRAM_ORDER = 5
MAX_NGRAM_TOKENS = 3_000_000
PATHS = ("linear", "slerp")
MIXTURE = "mixture_of_data"


class NGramCost:
    """Nats of windows `[n, K, T]` under one n-gram model per track, fitted on training windows."""

    def __init__(self, training_windows: np.ndarray, processor: MusicVAEProcessor):
        every = -(-training_windows[:, 0].size // MAX_NGRAM_TOKENS)
        fitted = training_windows[::every]
        self.models = [
            NGramModel.fit(list(fitted[:, i]), order=NGRAM_ORDER, vocab_size=size)
            for i, size in enumerate(processor.vocab_sizes)
        ]

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Nats `[n]`, summed over steps and tracks."""
        costs = [model.token_nll(list(windows[:, i])) for i, model in enumerate(self.models)]
        return np.sum([[nll.sum() for nll in track] for track in costs], axis=0)


def path_figures(music: np.ndarray, processor: MusicVAEProcessor, cost: NGramCost | None) -> dict[str, Any]:
    """Means over pairs along a path of windows `[S, n, K, T]`; `largest_jump` is the mean of each pair's largest."""
    jumps = (music[1:] != music[:-1]).mean((2, 3))
    onsets = np.sum(
        [
            [count_onsets(point[:, i], name == "drums").mean() for point in music]
            for i, name in enumerate(processor.tracks)
        ],
        axis=0,
    )
    return {
        "distance_from_start": (music != music[0]).mean((1, 2, 3)).tolist(),
        "distance_per_step": jumps.mean(1).tolist(),
        "largest_jump": float(jumps.max(0).mean()),
        "onsets": onsets.tolist(),
        "ngram_nats": None if cost is None else [float(cost(point).mean()) for point in music],
    }


def mixture_of_data(first: np.ndarray, second: np.ndarray, num_steps: int, seed: int) -> np.ndarray:
    """Paths `[S, n, K, T]` on which each step leaves `first` for `second` `[n, K, T]` at a time of its own."""
    thresholds = np.random.default_rng(seed).random((len(first), 1, first.shape[2]))
    weights = np.linspace(0, 1, num_steps)
    return np.stack([np.where(thresholds < weight, second, first) for weight in weights])


def interpolation_figures(
    model: Any,
    processor: MusicVAEProcessor,
    z1: torch.Tensor,
    z2: torch.Tensor,
    num_steps: int = 9,
    cost: NGramCost | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of the paths between pairs of points `[n, Z]`, and the music `[S, n, K, T]` of the straight ones."""

    def decode(points: torch.Tensor) -> np.ndarray:
        music = model.decode(points.flatten(0, 1))
        return np.stack(processor.split_tracks(music), 1).reshape(*points.shape[:2], len(processor.tracks), -1)

    result: dict[str, Any] = {"pairs": len(z1)}
    strips = {}
    for method in PATHS:
        points = model.interpolate(z1, z2, num_steps, method)
        strips[method] = decode(points)
        result[method] = {
            **path_figures(strips[method], processor, cost),
            "ends_exact": bool(torch.equal(points[0], z1) and torch.equal(points[-1], z2)),
            "finite": bool(torch.isfinite(points).all()),
        }
    straight = strips["linear"]
    mixed = mixture_of_data(straight[0], straight[-1], num_steps, seed)
    result[MIXTURE] = path_figures(mixed, processor, cost)
    special = {"equal": z1, "opposite": -z1, "zero": torch.zeros_like(z1)}
    result["finite_for_equal_opposite_and_zero"] = all(
        bool(torch.isfinite(model.interpolate(z1, other, num_steps, method)).all())
        for other in special.values()
        for method in PATHS
    )
    return result, straight

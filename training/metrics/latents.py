"""Use of a latent code, from the Gaussians that an encoder gives for many items."""

import math
from typing import Any

import numpy as np

ACTIVE_SIGMA, ACTIVE_VARIANCE = 0.98, 0.01


def latent_usage(mu: np.ndarray, sigma: np.ndarray) -> dict[str, Any]:
    """KL from N(0, 1) in bits, mean over items, in total and per dimension; active dimensions by both usual criteria.

    Args:
        mu, sigma: `[items, dimensions]` means and standard deviations.

    Returns:
        `kl_bits` and `kl_bits_per_dim`; `active_by_sigma`, dimensions whose mean sigma is below 0.98;
        `active_by_variance`, those whose mu has a variance above 0.01 (Burda et al., 2016), none for a single item.

    Raises:
        ValueError: other shapes, no items, or a standard deviation that is not positive.
    """
    mu, sigma = np.asarray(mu, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    if mu.ndim != 2 or mu.shape != sigma.shape or not len(mu):
        raise ValueError(f"mu and sigma must be [items, dimensions], both the same, not {mu.shape} and {sigma.shape}")
    if not (sigma > 0).all():
        raise ValueError("sigma holds standard deviations: all must be positive")
    bits = (0.5 * (mu**2 + sigma**2 - 1 - 2 * np.log(sigma))).mean(0) / math.log(2)
    return {
        "kl_bits": float(bits.sum()),
        "kl_bits_per_dim": [round(float(value), 4) for value in bits],
        "active_by_sigma": int((sigma.mean(0) < ACTIVE_SIGMA).sum()),
        "active_by_variance": int((mu.var(0, ddof=1) > ACTIVE_VARIANCE).sum()) if len(mu) > 1 else 0,
    }

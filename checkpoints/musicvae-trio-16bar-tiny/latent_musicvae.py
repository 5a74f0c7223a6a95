"""Arithmetic of the latent space: divergence, paths between points, neighbours. Functions of tensors alone.

Legend: B rows, Z latent dimensions.
"""

import torch
from torch.nn import functional as F


def softplus_and_log(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """softplus(x) and its logarithm, which tends to x where softplus(x) underflows."""
    value = F.softplus(x)
    small = x < -15
    return value, torch.where(small, x, torch.log(torch.where(small, torch.ones_like(x), value)))


def kl_to_prior(mu: torch.Tensor, sigma: torch.Tensor, log_sigma: torch.Tensor | None = None) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) per dimension, in nats: (mu^2 + sigma^2 - 1 - 2 ln sigma) / 2."""
    log_sigma = sigma.log() if log_sigma is None else log_sigma
    return 0.5 * (mu.square() + sigma.square() - 1 - 2 * log_sigma)


def log_normal(z: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
    """ln N(z; mu, sigma^2), summed over the last axis."""
    return (-0.5 * ((z - mu) / sigma).square() - log_sigma - 0.9189385332046727).sum(-1)


def linear_path(z1: torch.Tensor, z2: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`weights[i] * z1 + (1 - weights[i]) * z2`: `[n, ..., Z]`, exact at weights 1 and 0."""
    a = weights.reshape(-1, *[1] * z1.dim()).to(z1)
    mixed = a * z1 + (1 - a) * z2
    return torch.where(a == 1, z1, torch.where(a == 0, z2, mixed))


def spherical_path(z1: torch.Tensor, z2: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Along the great circle (Shoemake 1985), `[n, ..., Z]`, exact at weights 1 and 0.

    Straight where the angle is not defined or the circle not unique: parallel, opposite or zero vectors.
    """
    precision = _precision(z1.device)
    first, second = z1.to(precision), z2.to(precision)
    norms = first.norm(dim=-1, keepdim=True) * second.norm(dim=-1, keepdim=True)
    cosine = (first * second).sum(-1, keepdim=True) / norms.clamp(min=torch.finfo(precision).tiny)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = (norms == 0) | (sine < 1e-3)
    sine = torch.where(straight, torch.ones_like(sine), sine)
    a = weights.reshape(-1, *[1] * z1.dim()).to(first)
    curved = ((a * angle).sin() * first + ((1 - a) * angle).sin() * second) / sine
    line = linear_path(z1, z2, weights)
    inner = torch.where(straight, line, curved.to(z1.dtype))
    return torch.where(a == 1, z1, torch.where(a == 0, z2, inner))


def _precision(device: torch.device) -> torch.dtype:
    """Double precision, by which opposite vectors are told from nearly opposite ones, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


PATHS = {"linear": linear_path, "slerp": spherical_path}


def interpolate(z1: torch.Tensor, z2: torch.Tensor, num_steps: int, method: str = "linear") -> torch.Tensor:
    """Points from z1 to z2, both included: `[num_steps, ..., Z]`.

    Args:
        method: `linear`, c(a) = a z1 + (1 - a) z2 (Martin Ruiz 2020), or `slerp`.

    Raises:
        ValueError: unknown method, other shapes, or fewer than two steps.
    """
    if method not in PATHS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(PATHS)}")
    if z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 have the shapes {tuple(z1.shape)} and {tuple(z2.shape)}; give equal ones")
    if num_steps < 2:
        raise ValueError(f"num_steps={num_steps}: a path has at least its two ends")
    return PATHS[method](z1, z2, torch.linspace(1, 0, num_steps, dtype=_precision(z1.device), device=z1.device))


def interpolate_grid(corners: torch.Tensor, num_rows: int, num_columns: int) -> torch.Tensor:
    """Bilinear lattice `[num_rows, num_columns, Z]` between four corners `[4, Z]`.

    The corners are top left, top right, bottom left, bottom right, and exact.
    """
    if corners.dim() != 2 or len(corners) != 4:
        raise ValueError(f"corners must be [4, latent size], not {tuple(corners.shape)}")
    left = interpolate(corners[0], corners[2], num_rows)
    right = interpolate(corners[1], corners[3], num_rows)
    return interpolate(left, right, num_columns).transpose(0, 1)


def vary(z: torch.Tensor, similarity: float, noise: torch.Tensor) -> torch.Tensor:
    """`s z + sqrt(1 - s^2) noise`: keeps the norm of draws from the prior, unlike `s z + (1 - s) noise`.

    Raises:
        ValueError: similarity outside [0, 1].
    """
    if not 0 <= similarity <= 1:
        raise ValueError(f"similarity={similarity} must be between 0 (unrelated) and 1 (the same)")
    return similarity * z + (1 - similarity**2) ** 0.5 * noise

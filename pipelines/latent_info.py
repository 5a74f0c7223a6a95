"""What is known about the latent space of a model: the file `latent_info.json` beside its weights.

Legend: Z latent dimensions, D principal directions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils.hub import cached_file

__all__ = ["LATENT_INFO_FILE", "LatentInfo"]

LATENT_INFO_FILE = "latent_info.json"


@dataclass(frozen=True, eq=False)
class LatentInfo:
    """Figures of the posterior means of held-out music.

    Args:
        kl_bits: `[Z]` mean KL of each dimension to the prior, in bits: how much the model says with it.
        order: `[Z]` dimensions, the most informative first.
        mean: `[Z]`.
        quantile_levels: such as 0.05 ... 0.95.
        quantiles: `[levels, Z]`.
        directions: `[D, Z]` principal directions, of length 1, the widest first.
        deviations: `[D]` standard deviation along each.
        explained: `[D]` share of the variance.
    """

    kl_bits: torch.Tensor
    order: torch.Tensor
    mean: torch.Tensor
    quantile_levels: tuple[float, ...]
    quantiles: torch.Tensor
    directions: torch.Tensor
    deviations: torch.Tensor
    explained: torch.Tensor

    @classmethod
    def from_pretrained(cls, source: str, revision: str | None = None) -> LatentInfo | None:
        """Read the file of a model folder or Hub id; None where there is none."""
        path = cached_file(source, LATENT_INFO_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return None
        facts = json.loads(Path(path).read_text())
        pca = facts["pca"]
        return cls(
            kl_bits=torch.tensor(facts["kl_bits_per_dim"]),
            order=torch.tensor(facts["order_by_kl"]),
            mean=torch.tensor(facts["mu_mean"]),
            quantile_levels=tuple(facts["mu_quantiles"]["levels"]),
            quantiles=torch.tensor(facts["mu_quantiles"]["values"]),
            directions=torch.tensor(pca["directions"]),
            deviations=torch.tensor(pca["standard_deviations"]),
            explained=torch.tensor(pca["explained"]),
        )

    def coordinates(self, z: torch.Tensor) -> torch.Tensor:
        """Where `[..., Z]` lies along the principal directions, `[..., D]` in standard deviations from the mean."""
        return (z - self.mean) @ self.directions.T / self.deviations

    def with_coordinates(self, z: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        """z moved along the principal directions only, to the given `coordinates` `[..., D]`."""
        return z + ((coordinates - self.coordinates(z)) * self.deviations) @ self.directions

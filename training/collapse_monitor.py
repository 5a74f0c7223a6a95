"""Is the latent code used? Figures of a variational autoencoder on held-out batches.

KL in bits, in total and per dimension; active units by both usual criteria, mean sigma < 0.98 and variance of
mu > 0.01 (Burda et al. 2016); and how many nats a sequence costs more when the codes are shuffled within the batch:
zero means that the decoder ignores them.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from partimento.modeling import DenseVAEModel
from partimento.training.metrics.latents import latent_usage
from partimento.training.token_data import Batch
from partimento.training.validation import preserved_random_state

COLLAPSED_BITS = 1.0


@torch.no_grad()
def latent_figures(model: Any, batches: Iterable[Batch], device: torch.device | str = "cpu") -> dict[str, Any]:
    """The figures, over all rows of `batches`; the model is left in its mode, random states as they were."""
    mus, sigmas, gaps = [], [], []
    training = model.training
    model.eval()
    with preserved_random_state():
        for batch in batches:
            if not batch.num_supervised:
                continue
            items = batch.inputs[model.main_input_name].to(device)
            mu, sigma = posterior(model, items)
            mus.append(mu.double().cpu())
            sigmas.append(sigma.double().cpu())
            gaps.append(shuffled_gap(model, items, mu).cpu())
    model.train(training)
    usage = latent_usage(torch.cat(mus).numpy(), torch.cat(sigmas).numpy())
    return {**usage, "shuffled_nll_gap": float(torch.cat(gaps).double().mean())}


def posterior(model: Any, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """mu and sigma `[B, Z]` of a MusicVAE's ids or a dense VAE's grids."""
    if isinstance(model, DenseVAEModel):
        mu, logvar = model.encode(items)
        assert logvar is not None  # a plain autoencoder is not watched
        return mu, torch.exp(0.5 * logvar)
    mu, sigma, _ = model.encode(items)
    return mu, sigma


def shuffled_gap(model: Any, items: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Nats `[B]` that each item costs more with the code of its neighbour in the batch."""
    costs = []
    for codes in (z.roll(1, 0), z):
        if isinstance(model, DenseVAEModel):
            costs.append(-model.log_likelihood(model.decode(codes), items))
            continue
        sequences = items.reshape(len(items), model.config.num_steps, -1)
        logits = model.decoder(sequences, model.decoder.segment_latents(codes.to(model.dtype)))
        costs.append(model.track_nll(logits, sequences).sum(-1))
    return costs[0] - costs[1]


class CollapseMonitor:
    """Called at every validation; warns when the KL is below one bit twice in a row.

    Args:
        model: a MusicVAE or a dense VAE.
        batches: gives held-out batches.
        max_batches: how many of them are looked at.
    """

    def __init__(self, model: Any, batches: Callable[[], Iterable[Batch]], device: Any, max_batches: int = 8):
        self.model, self.batches, self.device, self.max_batches = model, batches, device, max_batches
        self.low_in_a_row = 0

    def __call__(self) -> dict[str, Any]:
        """Figures of the model as it is now."""
        figures = latent_figures(self.model, (b for _, b in zip(range(self.max_batches), self.batches())), self.device)
        self.low_in_a_row = self.low_in_a_row + 1 if figures["kl_bits"] < COLLAPSED_BITS else 0
        if self.low_in_a_row >= 2:
            warnings.warn(
                f"posterior collapse: the KL is {figures['kl_bits']:.3f} bits for {self.low_in_a_row} validations; "
                "lower beta, slow its schedule or give free bits",
                stacklevel=2,
            )
        return figures

"""How far the encoder's bound is from the likelihood: amortised ELBO, ELBO optimised item by item, IWAE.

ln p(x) - ELBO splits into what amortisation costs (the encoder gives every item a poorer Gaussian than there is) and
what the Gaussian family costs (Cremer et al. 2018, arXiv 1801.03558). The importance-weighted bound stands for ln p(x).
"""

import math
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from partimento.modeling import DenseVAEModel
from partimento.modeling.dense_vae.latent_dense_vae import kl_to_prior
from partimento.training.latent_training import batches
from partimento.training.reports import markdown_table


@torch.enable_grad()
def optimised_posterior(
    model: DenseVAEModel, values: torch.Tensor, num_steps: int, learning_rate: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """mu and log-variance `[B, J]` that climb the ELBO of each item, from the encoder's; the weights stay.

    Adam with eight draws of z per step, its rate falling to zero along a cosine.
    """
    with torch.no_grad():
        start = model.encode(values)
    mu, logvar = (tensor.detach().clone().requires_grad_() for tensor in start)
    optimizer = torch.optim.Adam([mu, logvar], lr=learning_rate)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        bound = posterior_bound(model, values, mu, logvar, 8, generator)
        mu.grad, logvar.grad = torch.autograd.grad(-bound.sum(), (mu, logvar))
        optimizer.step()
    return mu.detach(), logvar.detach()


def posterior_bound(
    model: DenseVAEModel,
    values: torch.Tensor,
    mu: torch.Tensor,
    logvar: torch.Tensor,
    num_samples: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """ELBO `[B]` of items under a given posterior, in nats."""
    z = model.reparameterize(mu, logvar, num_samples, generator)
    recon = model.log_likelihood(model.decode(z), values).mean(0)
    return recon - kl_to_prior(mu, logvar).sum(-1)


def inference_gap(
    model: DenseVAEModel,
    values: np.ndarray,
    num_importance: int = 500,
    num_steps: int = 300,
    learning_rate: float = 0.05,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[str, Any]:
    """The three bounds over some items: mean and standard error in nats, and the gaps between them.

    Both ELBOs are measured with the same 200 draws of noise.
    """
    found: dict[str, list[torch.Tensor]] = {"amortised": [], "optimised": [], "importance": []}
    generator = torch.Generator(model.device)
    parts = list(batches(values, 100, model.device))
    for number, part in enumerate(tqdm(parts, desc="bounds", disable=not show_progress)):
        generator.manual_seed(seed + number)
        better = optimised_posterior(model, part, num_steps, learning_rate, generator)
        with torch.no_grad():
            for name, (mu, logvar) in (("amortised", model.encode(part)), ("optimised", better)):
                generator.manual_seed(1_000_003 + seed + number)
                found[name].append(posterior_bound(model, part, mu, logvar, 200, generator))
            found["importance"].append(model.iwae(part, num_importance, generator))
    columns = {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}
    columns["amortisation_gap"] = columns["optimised"] - columns["amortised"]
    columns["family_gap"] = columns["importance"] - columns["optimised"]
    columns["inference_gap"] = columns["importance"] - columns["amortised"]
    return {
        name: {"mean": float(column.mean()), "standard_error": float(column.std(ddof=1) / math.sqrt(len(column)))}
        for name, column in columns.items()
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    names = {
        "amortised": "ELBO with the encoder's posterior",
        "optimised": "ELBO with a Gaussian optimised for each item",
        "importance": f"IWAE, {report['importance_samples']} draws",
        "amortisation_gap": "optimised - amortised",
        "family_gap": "IWAE - optimised",
        "inference_gap": "IWAE - amortised",
    }
    rows = [
        [text, *(f"{report['bounds'][name][figure]:.3f}" for figure in ("mean", "standard_error"))]
        for name, text in names.items()
    ]
    return "\n".join(
        [
            f"# Inference gap on {report['data']['data']}, {report['items']:,} items of the {report['split']} split\n",
            f"Model: {report['model']}. Nats per item.\n",
            markdown_table(["bound", "mean", "standard error"], rows),
        ]
    )

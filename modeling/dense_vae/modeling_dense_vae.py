"""A dense variational autoencoder: small, exact, and the instrument on which tools of the latent space are checked.

Kingma, Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114; sizes and initialisation follow F. Arribas
Jara, "Aprendizaje no-supervisado con modelos generativos profundos" (UAM, 2018). Layers of an encoder give mu and the
log-variance l of a Gaussian q(z | x), a mirrored decoder gives the logits a of p(x | z). Per item, in nats:

    KL   = -1/2 sum_j (1 + l_j - mu_j^2 - exp(l_j))
    ELBO = mean_L[ln p(x | z)] - KL,   z = mu + exp(l / 2) * eps
    ln p(x | z): bernoulli    sum_d [x_d a_d - softplus(a_d)]
                 categorical  sum over rows of ln softmax(a_row)[x_row]
                 gaussian     -1/2 sum_d [ln(2 pi s^2) + (x_d - a_d)^2 / s^2], one learned s

Legend: B rows, L draws of z, J latent dimensions; `shape` is `config.input_shape`, its product D.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_dense_vae import DenseVAEConfig
from .latent_dense_vae import interpolate, interpolate_grid, kl_to_prior, log_normal, log_prior, vary
from .networks_dense_vae import DensePosterior, DenseVAEDecoder, DenseVAEEncoder, DenseVAEPreTrainedModel

RESTORE_METHODS = ("chain", "optimise")


@dataclass
class DenseVAEOutput(ModelOutput):
    """Output of `DenseVAEModel.forward`; scalars are means over rows, in nats per item.

    `recon` is -ln p(x | z), averaged over the draws of z; `elbo` = -recon - kl, whatever `beta` and the free bits make
    of `loss`. `mu` and `logvar` are `[B, J]`; `z` `[B, J]` and `logits` `[B, *shape]` are those of the first draw. A
    plain autoencoder has neither kl, elbo nor logvar.
    """

    loss: torch.Tensor | None = None
    recon: torch.Tensor | None = None
    kl: torch.Tensor | None = None
    elbo: torch.Tensor | None = None
    mu: torch.Tensor | None = None
    logvar: torch.Tensor | None = None
    z: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class DenseVAEModel(DenseVAEPreTrainedModel):
    """Dense VAE with the verbs of its latent space: encode, decode, sample, interpolate, vary, restore."""

    def __init__(self, config: DenseVAEConfig):
        super().__init__(config)
        config.validate()
        self.encoder = DenseVAEEncoder(config)
        self.decoder = DenseVAEDecoder(config)
        self.post_init()

    # Objective

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        observed_mask: torch.Tensor | None = None,
        beta: float = 1.0,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        **kwargs,
    ) -> DenseVAEOutput:
        """Loss of `[B, *shape]`, the mean over rows of recon + beta * max(KL - free bits, 0), in nats per item.

        Args:
            labels: what is to be reconstructed, by default `input_values`; a denoiser reads damaged items and
                rebuilds whole ones. The "elbo" of such a call bounds no likelihood of its inputs.
            observed_mask: `[B, *shape]`, False where a cell is missing: it is neither read nor scored. A row of a
                `categorical` model counts when all its cells are observed.
            beta: weight of the KL term.
            num_samples: draws of z per item, by default `config.num_samples`.
        """
        mu, logvar = self.encoder(input_values, observed_mask)
        num_samples = self.config.num_samples if num_samples is None else num_samples
        z = self.reparameterize(mu, logvar, num_samples, generator)
        logits = self.decoder(z)
        targets = input_values if labels is None else labels
        recon = -self.log_likelihood(logits, targets, observed_mask).mean(0)
        if logvar is None:
            return DenseVAEOutput(loss=recon.mean(), recon=recon.mean(), mu=mu, z=z[0], logits=logits[0])
        kl = kl_to_prior(_full(mu), _full(logvar)).sum(-1)
        penalised = (kl - self.config.free_bits * math.log(2)).clamp(min=0) if self.config.free_bits else kl
        return DenseVAEOutput(
            loss=(recon + beta * penalised).mean(),
            recon=recon.mean(),
            kl=kl.mean(),
            elbo=-(recon + kl).mean(),
            mu=mu,
            logvar=logvar,
            z=z[0],
            logits=logits[0],
        )

    def reparameterize(
        self,
        mu: torch.Tensor,
        logvar: torch.Tensor | None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """`[L, B, J]` draws of N(mu, e^logvar); mu itself where there is no variance."""
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be positive")
        if logvar is None:
            return mu[None].expand(num_samples, *mu.shape)
        noise = self._noise((num_samples, *mu.shape), mu.dtype, generator)
        return mu + torch.exp(0.5 * logvar) * noise

    def log_likelihood(
        self, logits: torch.Tensor, values: torch.Tensor, observed_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """ln p(x | z) `[..., B]` in nats, of logits `[..., B, *shape]` and values `[B, *shape]`; fp32 or better."""
        num_axes = len(self.config.input_shape)
        a = _full(logits)
        x = values.to(a)
        if observed_mask is not None:
            seen = observed_mask.bool()
            x = torch.where(seen, x, torch.zeros_like(x))
        if self.config.likelihood == "categorical":
            terms = (a.log_softmax(-1) * x).sum(-1)
            weight = None if observed_mask is None else seen.all(-1)
            num_axes -= 1
        elif self.config.likelihood == "bernoulli":
            terms = x * a - F.softplus(a)
            weight = None if observed_mask is None else seen
        else:
            scale = _full(self.decoder.scale)
            terms = -0.5 * ((x - a) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
            weight = None if observed_mask is None else seen
        if weight is not None:
            terms = torch.where(weight, terms, torch.zeros_like(terms))
        return terms.flatten(terms.dim() - num_axes).sum(-1)

    # Latent space

    def encode(self, input_values: torch.Tensor, observed_mask: torch.Tensor | None = None) -> DensePosterior:
        """Posterior of `[B, *shape]`, with gradients."""
        return self.encoder(input_values, observed_mask)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Logits `[..., *shape]` of `[..., J]`, with gradients; for values see `expected` and `draw`."""
        return self.decoder(z)

    def features(self, input_values: torch.Tensor, observed_mask: torch.Tensor | None = None) -> torch.Tensor:
        """mu `[B, J]`, with gradients: what a classifier reads."""
        return self.encoder(input_values, observed_mask).mu

    def expected(self, logits: torch.Tensor) -> torch.Tensor:
        """E[x | z] of logits: probabilities of cells or choices, or the Gaussian's mean."""
        if self.config.likelihood == "bernoulli":
            return logits.sigmoid()
        return logits.softmax(-1) if self.config.likelihood == "categorical" else logits

    def draw(
        self, logits: torch.Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Values of p(x | z), shaped as `logits`; at temperature 0 the likeliest ones.

        Raises:
            ValueError: negative temperature.
        """
        if temperature < 0:
            raise ValueError(f"temperature={temperature} must not be negative")
        kind = self.config.likelihood
        if kind == "gaussian":
            noise = self._noise(logits.shape, logits.dtype, generator) if temperature else 0.0
            return logits + temperature * self.decoder.scale * noise
        if kind == "bernoulli":
            if temperature == 0:
                return (logits > 0).to(logits)
            return (self._uniform(logits, generator) < (logits / temperature).sigmoid()).to(logits)
        scores = logits
        if temperature > 0:  # the largest of logits with Gumbel noise is a draw of their softmax
            uniform = self._uniform(logits, generator).clamp(1e-20, 1 - 1e-7)
            scores = logits / temperature - torch.log(-torch.log(uniform))
        return F.one_hot(scores.argmax(-1), logits.shape[-1]).to(logits)

    @torch.no_grad()
    def reconstruct(self, input_values: torch.Tensor, observed_mask: torch.Tensor | None = None) -> torch.Tensor:
        """E[x | z] at z = mu, `[B, *shape]`."""
        return self.expected(self.decoder(self.encoder(input_values, observed_mask).mu))

    @torch.no_grad()
    def sample(
        self, num_samples: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Values `[num_samples, *shape]` from draws of the prior; `temperature` as in `draw`.

        Raises:
            ValueError: a plain autoencoder, which has no prior.
        """
        self._need_prior("sample")
        z = self._noise((num_samples, self.config.latent_size), self.dtype, generator)
        return self.draw(self.decoder(z), temperature, generator)

    def interpolate(self, z1: torch.Tensor, z2: torch.Tensor, num_steps: int, method: str = "linear") -> torch.Tensor:
        """Points `[num_steps, ..., J]` from z1 to z2, both included and exact; see `latent_dense_vae.interpolate`."""
        return interpolate(z1, z2, num_steps, method)

    def interpolate_grid(self, corners: torch.Tensor, num_rows: int, num_columns: int) -> torch.Tensor:
        """Lattice `[num_rows, num_columns, J]` between `[4, J]`: top left, top right, bottom left, bottom right."""
        return interpolate_grid(corners, num_rows, num_columns)

    @torch.no_grad()
    def vary(
        self, z: torch.Tensor, similarity: float, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Neighbours `[num_samples, ..., J]` of z: `s z + sqrt(1 - s^2) eps`."""
        return vary(z, similarity, self._noise((num_samples, *z.shape), z.dtype, generator).to(z.device))

    similar = vary

    # Likelihood

    @torch.no_grad()
    def elbo(
        self,
        input_values: torch.Tensor,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
        observed_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Evidence lower bound on ln p(x) (of the observed cells), `[B]` in nats, without free bits, beta 1."""
        self._need_prior("elbo")
        mu, logvar = self.encoder(input_values, observed_mask)
        z = self.reparameterize(mu, logvar, num_samples, generator)
        recon = self.log_likelihood(self.decoder(z), input_values, observed_mask).mean(0)
        return recon - kl_to_prior(_full(mu), _full(logvar)).sum(-1)

    @torch.no_grad()
    def iwae(
        self,
        input_values: torch.Tensor,
        num_samples: int,
        generator: torch.Generator | None = None,
        observed_mask: torch.Tensor | None = None,
        samples_per_call: int = 50,
    ) -> torch.Tensor:
        """Importance-weighted bound on ln p(x) (Burda et al. 2016), `[B]` in nats; rises with `num_samples`.

        Args:
            samples_per_call: draws decoded at once, which bounds the memory.
        """
        self._need_prior("iwae")
        if num_samples < 1 or samples_per_call < 1:
            raise ValueError(f"num_samples={num_samples}, samples_per_call={samples_per_call} must be positive")
        mu, logvar = self.encoder(input_values, observed_mask)
        weights = []
        for start in range(0, num_samples, samples_per_call):
            z = self.reparameterize(mu, logvar, min(samples_per_call, num_samples - start), generator)
            ratio = log_prior(_full(z)) - log_normal(_full(z), _full(mu), _full(logvar))
            weights.append(ratio + self.log_likelihood(self.decoder(z), input_values, observed_mask))
        return torch.cat(weights).logsumexp(0) - math.log(num_samples)

    # Missing cells

    @torch.no_grad()
    def restore(
        self,
        input_values: torch.Tensor,
        observed_mask: torch.Tensor,
        method: str = "chain",
        num_steps: int = 20,
        learning_rate: float = 0.05,
    ) -> torch.Tensor:
        """`[B, *shape]` with E[x | z] in the cells that are not observed; the others are left alone.

        Args:
            method: `chain` encodes and decodes again and again, the observed cells held (Rezende et al. 2014, section
                5.4, with means for draws); a model that reads the mask needs only the first pass. `optimise` climbs to
                the mode of p(z | observed cells) with Adam, from the encoder's guess.
            num_steps: passes, or steps of the optimiser.
            learning_rate: of `optimise`.

        Raises:
            ValueError: unknown method, or no step.
        """
        if method not in RESTORE_METHODS:
            raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(RESTORE_METHODS)}")
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps} must be positive")
        seen = observed_mask.bool()
        values = torch.where(seen, input_values.to(self.dtype), torch.zeros((), device=self.device, dtype=self.dtype))
        z = self.encoder(values, seen).mu
        if method == "optimise":
            z = self._latent_mode(values, seen, z, num_steps, learning_rate)
            return torch.where(seen, values, self.expected(self.decoder(z)))
        values = torch.where(seen, values, self.expected(self.decoder(z)))
        for _ in range(0 if self.config.mask_as_input else num_steps - 1):
            values = torch.where(seen, values, self.reconstruct(values))
        return values

    @torch.enable_grad()
    def _latent_mode(self, values, seen, start, num_steps, learning_rate):
        """argmax over z of ln p(observed cells | z) + ln p(z), `[B, J]`."""
        z = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=learning_rate)
        for _ in range(num_steps):
            score = self.log_likelihood(self.decoder(z), values, seen)
            if self.config.variational:
                score = score + log_prior(_full(z))
            (z.grad,) = torch.autograd.grad(-score.sum(), z)  # weights keep no gradient
            optimizer.step()
        return z.detach()

    # Small things

    def _need_prior(self, verb: str) -> None:
        if not self.config.variational:
            raise ValueError(f"{verb} needs a prior over z: this is a plain autoencoder (variational=False)")

    def _noise(self, shape, dtype, generator):
        device = self.device if generator is None else generator.device
        return torch.randn(shape, dtype=dtype, device=device, generator=generator).to(self.device)

    def _uniform(self, like, generator):
        device = like.device if generator is None else generator.device
        return torch.rand(like.shape, dtype=like.dtype, device=device, generator=generator).to(like.device)


def _full(x: torch.Tensor) -> torch.Tensor:
    """At least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


__all__ = ["DenseVAEDecoder", "DenseVAEEncoder", "DenseVAEModel", "DenseVAEPreTrainedModel"]

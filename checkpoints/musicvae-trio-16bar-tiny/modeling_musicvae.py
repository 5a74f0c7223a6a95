"""MusicVAE: a recurrent variational autoencoder for short pieces of symbolic music.

Roberts, Engel, Raffel, Hawthorne, Eck, "A Hierarchical Latent Vector Model for Learning Long-Term Structure in Music",
ICML 2018, arXiv 1803.05428. A bidirectional LSTM reads a sequence and gives a Gaussian q(z | x) = N(mu, sigma^2); a
decoder, under a conductor for long sequences, writes it again from z. The objective, in nats per sequence:

    L = mean_B[ sum_t CE ] + beta * mean_B[ max(KL(q(z | x) || N(0, 1)) - free_bits * ln 2, 0) ]

Legend: B rows, T steps, K tracks, N = T * K ids, V ids, Z latent size.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import math

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple
from transformers.utils.hub import cached_file

from .cache_musicvae import MusicVAECache, only_track
from .configuration_musicvae import MusicVAEConfig
from .decoder_musicvae import LatentLinear, MusicVAEDecoder, StepDecoder, choose_ids
from .encoder_musicvae import MusicVAEEncoder
from .latent_musicvae import interpolate, interpolate_grid, kl_to_prior, log_normal, vary
from .outputs_musicvae import MusicVAEOutput, Posterior, ReconstructionNLL
from .recurrent_musicvae import LSTMLayer, ThesisGRU

ATTRIBUTES_FILE = "attributes.safetensors"


class MusicVAEPreTrainedModel(PreTrainedModel):
    """Flags and initialisation."""

    config_class = MusicVAEConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is a mean over sequences
    _is_stateful = True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _init_weights(self, module):
        if isinstance(module, LatentLinear):
            init.normal_(module.weight, std=0.001)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LSTMLayer | ThesisGRU):
            for name, parameter in module.named_parameters(recurse=False):
                if name.startswith("weight"):
                    init.xavier_uniform_(parameter)
                    continue
                init.zeros_(parameter)
                is_forget = isinstance(module, LSTMLayer) and name.startswith("bias_ih")  # the sum of both biases is 1
                if is_forget and not getattr(parameter, "_is_hf_initialized", False):
                    init.ones_(parameter[module.hidden_size : 2 * module.hidden_size])


class MusicVAEModel(MusicVAEPreTrainedModel, GenerationMixin):
    """MusicVAE with the verbs of its latent space.

    `generate(input_ids)` reconstructs; `generate(encoder_outputs=BaseModelOutput(last_hidden_state=z[:, None]))`
    decodes given points. Both return `[B, 1 + N]`, the start id first.
    """

    def __init__(self, config: MusicVAEConfig):
        super().__init__(config)
        config.validate()
        self.encoder = MusicVAEEncoder(config)
        self.decoder = MusicVAEDecoder(config)
        self._attributes: dict[str, torch.Tensor] | None = None
        self.post_init()
        self.generation_config.update(
            max_length=config.sequence_length + 1,
            pad_token_id=config.pad_token_id,
            decoder_start_token_id=config.decoder_start_token_id,
        )

    def get_encoder(self, modality: str | None = None) -> MusicVAEEncoder:
        return self.encoder

    # Objective

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        encoder_outputs: ModelOutput | tuple | None = None,
        past_key_values: MusicVAECache | None = None,
        use_cache: bool | None = None,
        control: torch.Tensor | None = None,
        beta: float | None = None,
        sampling_probability: float = 0.0,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> MusicVAEOutput:
        """Reconstruct under teacher forcing, or (with `decoder_input_ids`) predict the next ids.

        Args:
            input_ids: `[B, N]`.
            labels: `[B, N]`, usually `input_ids` again; -100 is ignored. With labels z is drawn from the posterior and
                there is a loss; without them z is mu.
            decoder_input_ids: `[B, n]` start id and the ids so far; with `past_key_values` only the new ones.
            encoder_outputs: its first entry `[B, 1, Z]` is z; instead of `input_ids`.
            control: `[B, T, control size]`.
            beta: weight of the KL term, by default `config.max_beta`.
            sampling_probability: chance per row and step that the decoder reads its own sample at temperature 1
                instead of the true ids (Bengio et al. 2015), in training only; decoded step by step.
            attention_mask: ignored, sequences have one length.
        """
        self._check_control(control)
        if decoder_input_ids is not None:
            return self._predict(input_ids, decoder_input_ids, encoder_outputs, past_key_values, use_cache, control)
        if input_ids is None:
            raise ValueError("input_ids is missing; to decode a latent vector call decode or generate")
        ids = self._by_step(input_ids)
        posterior = self.encoder(input_ids, control)
        mu, sigma = posterior.mu, posterior.sigma
        z = mu if labels is None else mu + sigma * torch.randn_like(mu)
        latents = self.decoder.segment_latents(z.to(self.dtype))
        if sampling_probability > 0 and self.training:
            logits = self._scheduled_sampling(ids, latents, control, sampling_probability)
        else:
            logits = self.decoder(ids, latents, control)
        kl = kl_to_prior(mu, sigma, posterior.log_sigma)
        loss = reconstruction = None
        if labels is not None:
            reconstruction = self.track_nll(logits, self._by_step(labels)).sum(-1).mean()
            weight = self.config.max_beta if beta is None else beta
            loss = reconstruction + weight * self.penalised_kl(kl).mean()
        return MusicVAEOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            kl=kl.sum(-1).mean(),
            kl_per_dim=kl.mean(0),
            mu=mu,
            sigma=sigma,
            z=z,
            logits=logits,
        )

    def track_nll(self, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each track summed over time, `[B, K]` in nats, of logits `[B, T, V]` and ids `[B, T, K]`."""
        sizes = [track["vocab_size"] for track in self.config.tracks]
        result = []
        for i, (part, offset) in enumerate(zip(logits.float().split(sizes, -1), self.config.track_offsets)):
            targets = torch.where(ids[..., i] < 0, -100, ids[..., i] - offset)
            result.append(F.cross_entropy(part.transpose(1, 2), targets, reduction="none").sum(1))
        return torch.stack(result, -1)

    def penalised_kl(self, kl: torch.Tensor) -> torch.Tensor:
        """KL `[B, Z]` to what exceeds the free bits, `[B]` in nats."""
        free = self.config.free_bits * math.log(2)
        if self.config.free_bits_mode == "per_dim":
            return (kl - free).clamp(min=0).sum(-1)
        return (kl.sum(-1) - free).clamp(min=0)

    def _scheduled_sampling(self, ids, latents, control, probability):
        steps = StepDecoder(self.decoder, latents, control)
        result = []
        for true in ids.unbind(1):
            result.append(steps.logits())
            drawn = choose_ids(result[-1].detach(), self.config, 1.0)
            coin = torch.rand(len(ids), 1, device=ids.device) < probability
            steps.push(torch.where(coin, drawn, true))
        return torch.stack(result, 1)

    # Generation

    def _predict(self, input_ids, decoder_input_ids, encoder_outputs, cache, use_cache, control):
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("decoder_input_ids needs encoder_outputs or input_ids")
            encoder_outputs = self.encoder(input_ids, control)
        z = encoder_outputs[0][:, 0]
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if cache is None and not use_cache:
            return MusicVAEOutput(z=z, logits=self._predict_whole(decoder_input_ids, z, control))
        cache = cache if cache is not None else MusicVAECache()
        if cache.steps is None:
            cache.steps = StepDecoder(self.decoder, self.decoder.segment_latents(z.to(self.dtype)), control)
        return MusicVAEOutput(z=z, logits=cache.advance(decoder_input_ids), past_key_values=cache)

    def _predict_whole(self, decoder_input_ids, z, control):
        """Logits `[B, n, V]` of a prefix without a cache."""
        config, num_ids = self.config, decoder_input_ids.shape[1]
        if num_ids > config.sequence_length:
            raise ValueError(f"decoder_input_ids has {num_ids} ids, a sequence {config.sequence_length} with its start")
        ids = F.pad(decoder_input_ids[:, 1:], (0, config.sequence_length - num_ids + 1), value=config.pad_token_id)
        logits = self.decoder(self._by_step(ids), self.decoder.segment_latents(z.to(self.dtype)), control)
        num_tracks = len(config.tracks)
        rows = [only_track(logits[:, i // num_tracks], config, i % num_tracks) for i in range(num_ids)]
        return torch.stack(rows, 1)

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, encoder_outputs=None, **kwargs):
        """Inputs of the next call: the new ids alone when there is a cache."""
        done = 0 if past_key_values is None else past_key_values.get_seq_length()
        return {
            "decoder_input_ids": input_ids[:, done:],
            "encoder_outputs": encoder_outputs,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "control": kwargs.get("control"),
        }

    # Latent space

    @torch.no_grad()
    def encode(
        self,
        input_ids: torch.LongTensor,
        sample: bool = False,
        generator: torch.Generator | None = None,
        control: torch.Tensor | None = None,
    ) -> Posterior:
        """Posterior of `[B, N]` ids; z is mu, or drawn from it when `sample`."""
        self._check_control(control)
        self._by_step(input_ids)
        output = self.encoder(input_ids.to(self.device), control)
        z = output.mu
        if sample:
            z = z + output.sigma * self._noise(z.shape, z.dtype, generator)
        return Posterior(output.mu, output.sigma, z)

    @torch.no_grad()
    def decode(
        self,
        z: torch.Tensor,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        control: torch.Tensor | None = None,
    ) -> torch.LongTensor:
        """Ids `[B, N]` of latent vectors `[B, Z]`.

        Args:
            temperature: 0 takes the most likely id of every step.
            top_k, top_p: keep the k likeliest ids, or those that hold the share p; 0 and 1 keep all. Per track.

        Raises:
            ValueError: another latent size, or sampling settings out of range.
        """
        if z.dim() != 2 or z.shape[1] != self.config.z_size:
            raise ValueError(f"z must be [batch, {self.config.z_size}], not {tuple(z.shape)}")
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature={temperature}, top_k={top_k}, top_p={top_p}: give >= 0, >= 0 and (0, 1]")
        self._check_control(control)
        latents = self.decoder.segment_latents(z.to(self.device, self.dtype))
        steps, result = StepDecoder(self.decoder, latents, control), []
        for _ in range(self.config.num_steps):
            ids = choose_ids(steps.logits(), self.config, temperature, top_k, top_p, generator)
            steps.push(ids)
            result.append(ids)
        return torch.stack(result, 1).flatten(1)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        temperature: float = 0.5,
        same_z: bool = False,
        generator: torch.Generator | None = None,
        **settings,
    ) -> torch.LongTensor:
        """Ids `[num_samples, N]` from draws of the prior; `same_z` decodes one draw several times."""
        z = self._noise((1 if same_z else num_samples, self.config.z_size), torch.float32, generator)
        return self.decode(z.expand(num_samples, -1), temperature, generator=generator, **settings)

    def interpolate(self, z1: torch.Tensor, z2: torch.Tensor, num_steps: int, method: str = "linear") -> torch.Tensor:
        """Points `[num_steps, ..., Z]` from z1 to z2, both included and exact; see `latent_musicvae.interpolate`."""
        return interpolate(z1, z2, num_steps, method)

    def interpolate_grid(self, corners: torch.Tensor, num_rows: int, num_columns: int) -> torch.Tensor:
        """Lattice `[num_rows, num_columns, Z]` between `[4, Z]`: top left, top right, bottom left, bottom right."""
        return interpolate_grid(corners, num_rows, num_columns)

    @torch.no_grad()
    def vary(
        self, z: torch.Tensor, similarity: float, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Neighbours `[num_samples, ..., Z]` of z: `s z + sqrt(1 - s^2) eps`."""
        return vary(z, similarity, self._noise((num_samples, *z.shape), z.dtype, generator).to(z.device))

    similar = vary

    def apply_attribute(self, z: torch.Tensor, name: str, amount: float) -> torch.Tensor:
        """z moved by `amount` times the vector of an attribute, see `attribute_vectors`.

        Raises:
            ValueError: no vectors, or none of that name.
        """
        vectors = self.attribute_vectors
        if name not in vectors:
            raise ValueError(f"attribute {name!r} is unknown; this model has {', '.join(sorted(vectors)) or 'none'}")
        return z + amount * vectors[name].to(z)

    @property
    def attribute_vectors(self) -> dict[str, torch.Tensor]:
        """Vectors `[Z]` by name: those set by hand, or `attributes.safetensors` beside the weights.

        Raises:
            ValueError: neither.
        """
        if self._attributes is None:
            source = self.config._name_or_path
            path = cached_file(source, ATTRIBUTES_FILE, _raise_exceptions_for_missing_entries=False) if source else None
            if path is None:
                raise ValueError(
                    f"{source or 'this model'} has no {ATTRIBUTES_FILE}: compute the vectors with "
                    "training/attribute_vectors.py, or set model.attribute_vectors"
                )
            self.attribute_vectors = load_file(path)
        assert self._attributes is not None
        return self._attributes

    @attribute_vectors.setter
    def attribute_vectors(self, vectors: dict[str, torch.Tensor]) -> None:
        for name, vector in vectors.items():
            if vector.shape != (self.config.z_size,):
                raise ValueError(f"vector {name!r} must be [{self.config.z_size}], not {tuple(vector.shape)}")
        self._attributes = dict(vectors)

    # Likelihood

    @torch.no_grad()
    def reconstruction_nll(
        self,
        input_ids: torch.LongTensor,
        num_samples: int = 0,
        generator: torch.Generator | None = None,
        control: torch.Tensor | None = None,
    ) -> ReconstructionNLL:
        """-ln p(x | z) at z = mu, or its mean over `num_samples` draws of the posterior; not a bound on -ln p(x)."""
        mu, sigma, _ = self.encode(input_ids, control=control)
        points = [mu + sigma * self._noise(mu.shape, mu.dtype, generator) for _ in range(num_samples)] or [mu]
        per_track = torch.stack([self._nll(input_ids, z, control) for z in points]).mean(0)
        per_sequence = per_track.sum(-1)
        return ReconstructionNLL(per_sequence, per_sequence / self.config.num_steps, per_track)

    @torch.no_grad()
    def elbo(
        self, input_ids: torch.LongTensor, num_samples: int = 1, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Evidence lower bound on ln p(x), `[B]` in nats, without free bits and with beta 1."""
        output = self.encoder(input_ids.to(self.device))
        kl = kl_to_prior(output.mu, output.sigma, output.log_sigma).sum(-1)
        return -self.reconstruction_nll(input_ids, max(1, num_samples), generator).per_sequence - kl

    @torch.no_grad()
    def iwae(
        self, input_ids: torch.LongTensor, num_samples: int, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Importance-weighted bound on ln p(x) (Burda et al. 2016), `[B]` in nats; rises with `num_samples`."""
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples} must be positive")
        output = self.encoder(input_ids.to(self.device))
        zero, one = torch.zeros_like(output.mu), torch.ones_like(output.mu)
        weights = []
        for _ in range(num_samples):
            z = output.mu + output.sigma * self._noise(output.mu.shape, output.mu.dtype, generator)
            ratio = log_normal(z, zero, one, zero) - log_normal(z, output.mu, output.sigma, output.log_sigma)
            weights.append(ratio - self._nll(input_ids, z).sum(-1))
        return torch.stack(weights).logsumexp(0) - math.log(num_samples)

    def _nll(self, input_ids, z, control=None):
        ids = self._by_step(input_ids.to(self.device))
        logits = self.decoder(ids, self.decoder.segment_latents(z.to(self.dtype)), control)
        return self.track_nll(logits, ids)

    # Small things

    def _noise(self, shape, dtype, generator):
        device = self.device if generator is None else generator.device
        return torch.randn(shape, dtype=dtype, device=device, generator=generator).to(self.device)

    def _by_step(self, ids: torch.Tensor) -> torch.Tensor:
        """`[B, N]` to `[B, T, K]`."""
        if ids.dim() != 2 or ids.shape[1] != self.config.sequence_length:
            raise ValueError(
                f"ids must be [batch, {self.config.sequence_length}] ({self.config.num_steps} steps, "
                f"{len(self.config.tracks)} track(s)), not {tuple(ids.shape)}"
            )
        return ids.reshape(len(ids), self.config.num_steps, -1)

    def _check_control(self, control: torch.Tensor | None) -> None:
        if (control is not None) != bool(self.config.control_size):
            found = "missing" if control is None else "given"
            raise ValueError(f"control_size={self.config.control_size}, but control is {found}")


__all__ = ["ATTRIBUTES_FILE", "MusicVAEModel", "MusicVAEPreTrainedModel"]

"""Decoder of MusicVAE: latent vector to ids, whole sequences at once under teacher forcing, or step by step.

A *segment* is a stretch that starts from a fresh state: a bar under a conductor, the whole sequence without one. Given
what the conductor says, segments do not depend on each other but for the last ids of the one before, which teacher
forcing knows: they are folded into the batch.

Legend: B rows, T steps, K tracks, U segments, L steps of a segment, C width of a segment's latent, V ids,
Z latent size.
"""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import torch
from torch import nn
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from .configuration_musicvae import MusicVAEConfig
from .recurrent_musicvae import RecurrentStack, StepRunner


class LatentLinear(nn.Linear):
    """Weights N(0, 0.001^2), bias zero: from or to the latent space."""


def k_hot(ids: torch.Tensor, first: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """`[..., k]` ids to `[..., width]` with ones at `ids - first`; an id outside of the range adds nothing."""
    places = ids - first
    places = torch.where((places >= 0) & (places < width), places, width)
    hot = torch.zeros(*ids.shape[:-1], width + 1, dtype=dtype, device=ids.device)
    return hot.scatter_(-1, places, 1)[..., :width]


def choose_ids(
    logits: torch.Tensor,
    config: MusicVAEConfig,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.LongTensor:
    """One id per track `[B, K]` of logits `[B, V]`; temperature 0 takes the likeliest."""
    sizes = [track["vocab_size"] for track in config.tracks]
    result = []
    for part, offset in zip(logits.split(sizes, -1), config.track_offsets):
        if temperature == 0:
            result.append(part.argmax(-1) + offset)
            continue
        scores = part.float() / temperature
        if top_k:
            scores = TopKLogitsWarper(min(top_k, part.shape[-1]))(None, scores)
        if top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)
        result.append(torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0] + offset)
    return torch.stack(result, -1)


class SegmentDecoder(nn.Module):
    """Recurrent decoder of some neighbouring tracks; with several of them one state serves all."""

    def __init__(self, config: MusicVAEConfig, tracks: range):
        super().__init__()
        self.tracks = tracks
        self.first_id = config.track_offsets[tracks.start]
        self.num_ids = sum(config.tracks[i]["vocab_size"] for i in tracks)
        latent = config.segment_latent_size
        inputs = self.num_ids + latent + config.control_size
        self.rnn = RecurrentStack(inputs, config.decoder_hidden_sizes, config.cell_type, config.dropout)
        self.initial = LatentLinear(latent, sum(self.rnn.state_sizes))
        self.head = nn.Linear(config.decoder_hidden_sizes[-1], self.num_ids)

    def initial_state(self, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[B, C]` to the state before the first step."""
        return self.rnn.split_state(torch.tanh(self.initial(latent)))

    def forward(self, previous: torch.Tensor, latent: torch.Tensor, control: torch.Tensor | None = None):
        """Ids of the step before `[B, L, K]` and `[B, C]` to logits `[B, L, num_ids]`."""
        ids = previous[..., self.tracks.start : self.tracks.stop]
        inputs = [
            k_hot(ids, self.first_id, self.num_ids, latent.dtype),
            latent[:, None].expand(-1, ids.shape[1], -1),
            *([] if control is None else [control]),
        ]
        outputs, _ = self.rnn(torch.cat(inputs, -1), self.initial_state(latent))
        return self.head(outputs)


class MusicVAEDecoder(nn.Module):
    """Conductor (if any) and segment decoders: one for all tracks when flat, else one per track."""

    def __init__(self, config: MusicVAEConfig):
        super().__init__()
        self.config = config
        self.num_tracks = len(config.tracks)
        if config.decoder_type == "hierarchical":
            sizes = config.conductor_hidden_sizes
            self.conductor = RecurrentStack(1, sizes, config.cell_type, config.dropout)
            self.conductor_initial = LatentLinear(config.z_size, sum(self.conductor.state_sizes))
            projected = config.conductor_output_size
            self.conductor_projection = nn.Identity() if projected is None else nn.Linear(sizes[-1], projected)
            groups = [range(i, i + 1) for i in range(self.num_tracks)]
        else:
            groups = [range(self.num_tracks)]
        self.segment_decoders = nn.ModuleList([SegmentDecoder(config, tracks) for tracks in groups])

    @property
    def segment_length(self) -> int:
        return self.config.num_steps // self.config.num_segments

    def segment_latents(self, z: torch.Tensor) -> torch.Tensor:
        """`[B, Z]` to what each segment is decoded from, `[B, U, C]`."""
        if self.config.decoder_type == "flat":
            return z[:, None]
        state = self.conductor.split_state(torch.tanh(self.conductor_initial(z)))
        outputs, _ = self.conductor(z.new_zeros(len(z), self.config.num_segments, 1), state)
        return self.conductor_projection(outputs)

    def previous_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids `[B, T, K]` to those of the step before, the start id where nothing is known."""
        start = self.config.vocab_size
        previous = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], 1)
        if not self.config.carry_last_token:
            previous[:, :: self.segment_length] = start
        return previous

    def forward(self, ids: torch.Tensor, latents: torch.Tensor, control: torch.Tensor | None = None) -> torch.Tensor:
        """Teacher forcing: ids `[B, T, K]` and segment latents `[B, U, C]` to logits `[B, T, V]`."""
        folded = self.previous_ids(ids).reshape(-1, self.segment_length, self.num_tracks)
        if control is not None:
            control = control.reshape(len(folded), self.segment_length, -1)
        logits = [decoder(folded, latents.flatten(0, 1), control) for decoder in self.segment_decoders]
        return torch.cat(logits, -1).reshape(*ids.shape[:2], -1)


class StepDecoder:
    """Decoding step by step: `logits()` of the step that is due, then `push` of its ids, and so on."""

    def __init__(self, decoder: MusicVAEDecoder, latents: torch.Tensor, control: torch.Tensor | None = None):
        """
        Args:
            latents: `[B, U, C]`, from `segment_latents`.
            control: `[B, T, control size]`.
        """
        self.decoder, self.latents, self.control = decoder, latents, control
        self.num_pushed = 0
        start = decoder.config.vocab_size
        self.previous = torch.full((len(latents), decoder.num_tracks), start, device=latents.device)
        self.runners: list[StepRunner] = []
        self.states: list[tuple[torch.Tensor, ...]] = []
        self._logits: torch.Tensor | None = None

    def logits(self) -> torch.Tensor:
        """Logits `[B, V]` of the next step; tracks of a step do not depend on each other."""
        if self._logits is None:
            if self.num_pushed >= self.decoder.config.num_steps:
                raise ValueError(f"all {self.decoder.config.num_steps} steps of a sequence are decoded already")
            if self.num_pushed % self.decoder.segment_length == 0:
                self._start_segment(self.num_pushed // self.decoder.segment_length)
            control = None if self.control is None else self.control[:, self.num_pushed]
            outputs = [self._advance(i, control) for i in range(len(self.runners))]
            self._logits = torch.cat(outputs, -1)
        return self._logits

    def push(self, ids: torch.Tensor) -> None:
        """Fix the ids `[B, K]` of the step whose logits were asked for."""
        self.previous, self._logits = ids, None
        self.num_pushed += 1

    def reorder(self, index: torch.Tensor) -> None:
        """Keep the rows `index` `[B']`, which may repeat."""
        self.latents, self.previous = self.latents[index], self.previous[index]
        self.control = None if self.control is None else self.control[index]
        self._logits = None if self._logits is None else self._logits[index]
        self.states = [tuple(part[index] for part in state) for state in self.states]
        for runner in self.runners:
            runner.base = runner.base[index]

    def _start_segment(self, segment: int) -> None:
        latent = self.latents[:, segment]
        decoders = self.decoder.segment_decoders
        self.runners = [StepRunner(decoder.rnn, decoder.num_ids, latent) for decoder in decoders]
        self.states = [decoder.initial_state(latent) for decoder in decoders]
        if not self.decoder.config.carry_last_token:
            self.previous = torch.full_like(self.previous, self.decoder.config.vocab_size)

    def _advance(self, i: int, control: torch.Tensor | None) -> torch.Tensor:
        decoder = self.decoder.segment_decoders[i]
        assert isinstance(decoder, SegmentDecoder)
        ids = self.previous[:, decoder.tracks.start : decoder.tracks.stop] - decoder.first_id
        ids = torch.where((ids >= 0) & (ids < decoder.num_ids), ids, decoder.num_ids)
        output, self.states[i] = self.runners[i].step(ids, self.states[i], control)
        return decoder.head(output)

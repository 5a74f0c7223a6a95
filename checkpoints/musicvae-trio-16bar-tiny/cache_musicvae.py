"""What `generate` keeps between the ids of a MusicVAE: the decoder's states and the step that is being filled."""

# ruff: noqa: TID251 - siblings are imported relatively: this folder is copied as it is to the Hub

import torch
from transformers.cache_utils import Cache

from .decoder_musicvae import StepDecoder


class MusicVAECache(Cache):
    """Cache of `MusicVAEModel`, created by the model itself. It counts ids, and cannot be cropped."""

    is_compileable = False
    is_croppable = False

    def __init__(self):
        super().__init__(layers=[])
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.length = 0
        self.steps: StepDecoder | None = None
        self.pending: list[torch.Tensor] = []  # ids `[B]` of the tracks of the step that is being filled

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows `beam_idx`."""
        if self.steps is not None:
            self.steps.reorder(beam_idx)
            self.pending = [ids[beam_idx] for ids in self.pending]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.steps is not None:
            rows = torch.arange(len(self.steps.previous), device=self.steps.previous.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        self.reorder_cache(indices)

    def advance(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits `[B, n, V]` behind each of the next `[B, n]` ids, the start id first; other tracks are -inf."""
        assert self.steps is not None
        decoder = self.steps.decoder
        config, num_tracks = decoder.config, decoder.num_tracks
        result = []
        for column in ids.unbind(1):
            if self.length:
                self.pending.append(column)
                if len(self.pending) == num_tracks:
                    self.steps.push(torch.stack(self.pending, 1))
                    self.pending = []
            result.append(only_track(self.steps.logits(), config, len(self.pending)))
            self.length += 1
        return torch.stack(result, 1)


def only_track(logits: torch.Tensor, config, track: int) -> torch.Tensor:
    """Logits `[..., V]` with the ids of all other tracks at -inf."""
    if len(config.tracks) == 1:
        return logits
    start = config.track_offsets[track]
    stop = start + config.tracks[track]["vocab_size"]
    masked = torch.full_like(logits, float("-inf"))
    masked[..., start:stop] = logits[..., start:stop]
    return masked

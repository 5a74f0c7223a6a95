"""The contestants of the MusicVAE benchmark do the same work."""

import pytest
import torch

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.training.benchmark_musicvae import bar_by_bar, musicvae_markdown, musicvae_speed, training_step


@pytest.mark.parametrize("preset", ["mel_16bar_tiny", "trio_16bar_tiny"])
def test_folded_and_looped_steps_are_equal(preset):
    torch.manual_seed(0)
    model = MusicVAEModel(MusicVAEConfig.from_preset(preset, num_bars=3))
    sizes = [track["vocab_size"] for track in model.config.tracks]
    columns = [torch.randint(size, (2, 48)) + start for size, start in zip(sizes, model.config.track_offsets)]
    ids = torch.stack(columns, -1)
    latents = model.decoder.segment_latents(torch.randn(2, 64))
    torch.testing.assert_close(bar_by_bar(model.decoder, ids, latents), model.decoder(ids, latents))
    gradients = []
    for folded in (True, False):
        training_step(model, ids.flatten(1), folded)
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*gradients)


def test_report():
    found = musicvae_speed(rounds=1, rows=1)
    assert set(found["milliseconds"]) == {"decode_one", "decode_eight", "encode_one", "step_folded", "step_looped"}
    assert "times as long" in musicvae_markdown(found)

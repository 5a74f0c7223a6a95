"""MusicVAE speed: one latent change to its music, and training steps with bars folded into the batch or one by one."""

import statistics
import time
from typing import Any

import torch

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.training.benchmark_models import clock

DECODING_PRESET = "mel_2bar_small"
TRAINING_PRESET = "mel_16bar_tiny"


def musicvae_speed(rounds: int, rows: int = 16, device: str = "cpu") -> dict[str, Any]:
    """Medians over `rounds`: decoding one code and eight, encoding one window, a training step both ways."""
    torch.manual_seed(0)
    model = MusicVAEModel(MusicVAEConfig.from_preset(DECODING_PRESET)).eval().to(device)
    z = torch.randn(8, model.config.z_size, device=device)
    ids = model.decode(z[:1])
    trained = MusicVAEModel(MusicVAEConfig.from_preset(TRAINING_PRESET)).to(device)
    batch = torch.randint(trained.config.vocab_size, (rows, trained.config.sequence_length), device=device)
    contestants = {
        "decode_one": lambda: model.decode(z[:1]),
        "decode_eight": lambda: model.decode(z),
        "encode_one": lambda: model.encode(ids),
        "step_folded": lambda: training_step(trained, batch, folded=True),
        "step_looped": lambda: training_step(trained, batch, folded=False),
    }
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    work: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():  # in turns, so that a busy machine is unfair to nobody
            started, used = time.perf_counter(), clock(device)
            run()
            if number:  # the first round warms up
                work[name].append(clock(device) - used)
                wall[name].append(time.perf_counter() - started)
    milliseconds = {name: 1000 * statistics.median(times) for name, times in work.items()}
    return {
        "decoding_preset": DECODING_PRESET,
        "training_preset": TRAINING_PRESET,
        "rows": rows,
        "rounds": rounds,
        "milliseconds": {name: round(value, 2) for name, value in milliseconds.items()},
        "wall_milliseconds": {name: round(1000 * statistics.median(times), 2) for name, times in wall.items()},
        "looped_over_folded": round(milliseconds["step_looped"] / milliseconds["step_folded"], 2),
    }


def training_step(model: Any, ids: torch.Tensor, folded: bool) -> torch.Tensor:
    """Forward and backward of a reconstruction; bars side by side in one batch, or one after another."""
    model.zero_grad()
    z = model.encoder(ids).mu
    latents = model.decoder.segment_latents(z)
    steps = ids.reshape(len(ids), model.config.num_steps, -1)
    decode = model.decoder if folded else lambda *inputs: bar_by_bar(model.decoder, *inputs)
    loss = model.track_nll(decode(steps, latents), steps).sum(-1).mean()
    loss.backward()
    return loss.detach()


def bar_by_bar(decoder: Any, ids: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The logits `[B, T, V]` of `decoder(ids, latents)`, each segment by a call of its own."""
    length = decoder.segment_length
    previous = decoder.previous_ids(ids)
    bars = []
    for i, segment in enumerate(previous.split(length, 1)):
        bars.append(torch.cat([part(segment, latents[:, i]) for part in decoder.segment_decoders], -1))
    return torch.cat(bars, 1)


def musicvae_markdown(found: dict[str, Any]) -> str:
    """The figures in sentences."""
    times, wall = found["milliseconds"], found["wall_milliseconds"]
    return (
        f"MusicVAE `{found['decoding_preset']}`: a changed code is music after {times['decode_one']} ms "
        f"({wall['decode_one']} ms wall), eight at once after {times['decode_eight']} ms; a window is encoded in "
        f"{times['encode_one']} ms. Training step, `{found['training_preset']}`, {found['rows']} windows: bars folded "
        f"into the batch {times['step_folded']:,.0f} ms, one by one {times['step_looped']:,.0f} ms, "
        f"{found['looped_over_folded']} times as long. Medians of {found['rounds']}.\n"
    )

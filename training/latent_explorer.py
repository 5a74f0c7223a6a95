"""Sliders for the dimensions of a latent code, in the browser: the grid it decodes to, its sound, its likely label.

A code starts as the posterior mean of a held-out item. A slider changes its own dimension; all others keep the full
precision of the code, whatever their sliders show.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partimento.training.latent_data import LabItems
from partimento.training.latent_models import DenseLatents, Latents
from partimento.training.latent_views import picture

RATE = 16_000  # Hz
SECONDS_PER_STEP = 0.125  # a sixteenth at 120 quarters per minute
CELL = 24  # pixels
HEADS_FILE = "classifiers.pt"


class Explorer:
    """What the page shows of a code.

    Args:
        items: held-out items; their means are the starting points and give the ranges of the sliders.
        heads: softmax regressions on codes (`frozen`) and cells (`raw`), as the command classify stores them.
        num_sliders: the dimensions that vary most get one.
    """

    def __init__(
        self,
        latents: Latents,
        items: LabItems,
        label_names: list[str],
        heads: dict[str, Any] | None = None,
        num_sliders: int = 12,
    ):
        self.latents, self.items, self.label_names = latents, items, label_names
        self.codes = latents.codes(items.values)
        self.dims = np.argsort(-self.codes.var(0), kind="stable")[:num_sliders].tolist()
        reach = np.abs(self.codes).max(0)
        self.reach = np.maximum(3.0, np.ceil(reach)).tolist()
        self.heads = heads or {}
        self.folder = Path(tempfile.mkdtemp(prefix="partimento-explore-"))

    @property
    def is_music(self) -> bool:
        return self.latents.processor is not None

    def start(self, index: float) -> np.ndarray:
        """The code `[J]` of an item, in full precision."""
        return self.codes[int(index) % len(self.codes)].copy()

    def moved(self, z: np.ndarray, dim: int, value: float) -> np.ndarray:
        """A code with one dimension changed, the others as they were."""
        result = z.copy()
        result[dim] = value
        return result

    def image(self, z: np.ndarray) -> np.ndarray:
        """The decoded item as an image `[rows, columns]`, uint8, dark where a cell is on."""
        cells = picture(self.latents.pictures(z[None])[0], self.is_music)
        return np.kron(255 * (1 - cells), np.ones((CELL, CELL))).round().astype(np.uint8)

    def sound(self, z: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Sampling rate and samples of the decoded music, played twice by plain oscillators; images have no sound."""
        return (RATE, synthesise(self.latents.scores(z[None])[0])) if self.is_music else None

    def midi(self, z: np.ndarray) -> str | None:
        """A MIDI file of the decoded music."""
        if not self.is_music:
            return None
        path = self.folder / "code.mid"
        self.latents.scores(z[None])[0].dump_midi(path)
        return str(path)

    def probabilities(self, z: np.ndarray, kind: str) -> dict[str, float]:
        """What a head thinks of the code (`frozen`) or of the cells it decodes to (`raw`): label -> probability."""
        if kind not in self.heads:
            return {}
        read = z if kind == "frozen" else self.latents.pictures(z[None])[0].reshape(-1)
        weight, bias = (self.heads[kind][name].numpy() for name in ("weight", "bias"))
        logits = weight @ read.astype(np.float32) + bias
        odds = np.exp(logits - logits.max())
        return dict(zip(self.label_names, (odds / odds.sum()).tolist()))


def read_heads(path: Path, latents: Latents, label_names: list[str]) -> dict[str, Any] | None:
    """The heads that classify left in `path`, if they fit the model and the labels."""
    if not path.is_file() or not isinstance(latents, DenseLatents):
        return None
    content = torch.load(path, weights_only=True)
    sizes = {"frozen": latents.latent_size, "raw": latents.model.config.input_size}
    if content["labels"] != label_names:
        return None
    return {name: head for name, head in content["heads"].items() if head["weight"].shape[1] == sizes[name]}


def synthesise(score: Any) -> np.ndarray:
    """Samples `[n]` int16 of a score, played twice: pitched notes as decaying sines, drums as short noise."""
    ticks_per_step = score.ticks_per_quarter / 4
    steps = 16 * max(1, math.ceil(score.end() / ticks_per_step / 16))
    length = int(steps * SECONDS_PER_STEP * RATE)
    samples = np.zeros(length + RATE, np.float32)
    noise = np.random.default_rng(0).standard_normal(RATE // 4).astype(np.float32)
    for track in score.tracks:
        for note in track.notes:
            first = int(note.time / ticks_per_step * SECONDS_PER_STEP * RATE)
            seconds = 0.25 if track.is_drum else note.duration / ticks_per_step * SECONDS_PER_STEP
            time = np.arange(max(1, int(seconds * RATE)), dtype=np.float32) / RATE
            if track.is_drum and note.pitch in (35, 36):
                tone = np.sin(2 * np.pi * 60 * time) * np.exp(-18 * time)
            elif track.is_drum:
                tone = 0.4 * noise[: len(time)] * np.exp(-(60 if note.pitch in (42, 44) else 25) * time)
            else:
                frequency = 440 * 2 ** ((note.pitch - 69) / 12)
                tone = sum(np.sin(2 * np.pi * k * frequency * time) / k**2 for k in (1, 2, 3)) * np.exp(-3 * time)
            samples[first : first + len(tone)] += tone[: max(0, len(samples) - first)]
    samples = np.tile(samples[:length], 2)
    return (samples / max(1e-6, np.abs(samples).max()) * 30_000).astype(np.int16)


def build_page(explorer: Explorer, title: str) -> Any:
    """The page, a gradio Blocks.

    Raises:
        ValueError: gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("explore needs gradio: pip install partimento[space]") from None

    def shown(z: np.ndarray) -> list[Any]:
        results: list[Any] = [z, explorer.image(z)]
        if explorer.is_music:
            results += [explorer.sound(z), explorer.midi(z)]
        return results + [explorer.probabilities(z, kind) for kind in explorer.heads]

    def restart(index: float) -> list[Any]:
        """The code of a held-out item, and the sliders where it is."""
        z = explorer.start(index)
        return [*shown(z), *(float(z[dim]) for dim in explorer.dims)]

    with gr.Blocks(title=title) as page:
        gr.Markdown(f"# {title}")
        code = gr.State(explorer.start(0))
        with gr.Row():
            with gr.Column():
                index = gr.Slider(0, len(explorer.items) - 1, 0, step=1, label="held-out item to start from")
                sliders = [
                    gr.Slider(-explorer.reach[d], explorer.reach[d], float(explorer.start(0)[d]), label=f"z{d + 1}")
                    for d in explorer.dims
                ]
            with gr.Column():
                outputs: list[Any] = [code, gr.Image(label="decoded", image_mode="L", type="numpy")]
                if explorer.is_music:
                    outputs += [gr.Audio(label="twice", autoplay=False), gr.File(label="MIDI")]
                outputs += [gr.Label(label=f"classifier on {kind}", num_top_classes=5) for kind in explorer.heads]
        for dim, slider in zip(explorer.dims, sliders):

            def move(z: np.ndarray, value: float, dim: int = dim) -> list[Any]:
                return shown(explorer.moved(z, dim, value))

            slider.input(move, [code, slider], outputs, show_progress="hidden", trigger_mode="always_last")
        index.change(restart, index, [*outputs, *sliders], show_progress="hidden", api_name="restart")
        page.load(restart, index, [*outputs, *sliders])
    return page

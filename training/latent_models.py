"""One face for both models with a latent space: codes of items, grids to look at, scores to listen to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from partimento.modeling import DenseVAEModel, MusicVAEModel
from partimento.tokenization import DenseVAEProcessor, MusicVAEProcessor
from partimento.tokenization.drum_classes import DRUM_CLASSES
from partimento.training.latent_training import by_rows


class DenseLatents:
    """A dense VAE; items are grids or images `[n, *shape]`.

    Args:
        processor: turns grids into scores; `None` for images.
    """

    def __init__(self, model: DenseVAEModel, processor: DenseVAEProcessor | None, name: str = ""):
        self.model, self.processor, self.name = model.eval(), processor, name

    @property
    def latent_size(self) -> int:
        return self.model.config.latent_size

    def codes(self, values: np.ndarray) -> np.ndarray:
        """mu `[n, J]` of items."""
        return by_rows(self.model.features, values, self.model.device)

    @torch.no_grad()
    def pictures(self, z: np.ndarray) -> np.ndarray:
        """E[x | z] `[n, *shape]` in 0 ... 1 of points `[n, J]`."""
        points = torch.from_numpy(np.asarray(z, np.float32)).to(self.model.device)
        return self.model.expected(self.model.decode(points)).cpu().numpy()

    def scores(self, z: np.ndarray) -> list[Any]:
        """Scores of points `[n, J]`, the likeliest music of each. Raises ValueError for images."""
        if self.processor is None:
            raise ValueError(f"{self.name}: its items are images, which have no MIDI")
        return self.processor.batch_decode(self.pictures(z))


class MusicLatents:
    """A MusicVAE; items are sequences of ids `[n, N]`, pictures show its tracks side by side."""

    def __init__(self, model: MusicVAEModel, processor: MusicVAEProcessor, name: str = ""):
        self.model, self.processor, self.name = model.eval(), processor, name

    @property
    def latent_size(self) -> int:
        return self.model.config.z_size

    def codes(self, values: np.ndarray) -> np.ndarray:
        """mu `[n, Z]` of items."""
        return by_rows(lambda part: self.model.encode(part.long()).mu, values, self.model.device)

    def decoded(self, z: np.ndarray) -> np.ndarray:
        """Ids `[n, N]` of points `[n, Z]`, the likeliest of every step."""
        points = torch.from_numpy(np.asarray(z, np.float32)).to(self.model.device)
        return self.model.decode(points).cpu().numpy()

    def cells(self, values: np.ndarray) -> np.ndarray:
        """Grids `[n, steps, width]` of ids: hits of drums, note-ons of melodies."""
        grids = []
        for name, ids in zip(self.processor.tracks, self.processor.split_tracks(values)):
            if name == "drums":
                grids.append(ids[..., None] >> np.arange(len(DRUM_CLASSES)) & 1)
            else:
                grids.append(
                    ids[..., None] == np.arange(2, self.processor.vocab_sizes[self.processor.tracks.index(name)])
                )
        return np.concatenate(grids, -1).astype(np.uint8)

    def pictures(self, z: np.ndarray) -> np.ndarray:
        """Grids of points `[n, Z]`."""
        return self.cells(self.decoded(z))

    def scores(self, z: np.ndarray) -> list[Any]:
        """Scores of points `[n, Z]`."""
        return self.processor.batch_decode(self.decoded(z))


Latents = DenseLatents | MusicLatents


def load_latents(folder: str, device: torch.device | str = "cpu") -> Latents:
    """A model folder or Hub id, in fp32, with the processor beside the weights.

    Raises:
        ValueError: another kind of model. OSError: nothing there.
    """
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device)
    if isinstance(model, MusicVAEModel):
        return MusicLatents(model, MusicVAEProcessor.from_pretrained(folder), folder)
    if not isinstance(model, DenseVAEModel):
        raise ValueError(f"--model {folder}: holds a {type(model).__name__}, which has no latent space")
    try:
        processor = DenseVAEProcessor.from_pretrained(folder)
    except OSError:  # a model of images
        processor = None
    return DenseLatents(model, processor, folder)


def joined_score(scores: Sequence[Any], num_steps: int) -> Any:
    """One score of several, `num_steps` sixteenths each, one after the other."""
    result = scores[0].copy()
    length = num_steps * result.ticks_per_quarter // 4
    for number, score in enumerate(scores[1:], 1):
        for own, other in zip(result.tracks, score.shift_time(number * length).tracks):
            own.notes.extend(other.notes)
    return result


def principal_axes(codes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean `[J]`, directions `[count, J]`, standard deviations along them, and their shares of the variance."""
    mean = codes.mean(0)
    _, singular, directions = np.linalg.svd(codes - mean, full_matrices=False)
    variance = singular**2 / max(1, len(codes) - 1)
    return mean, directions[:count], np.sqrt(variance[:count]), (variance / max(variance.sum(), 1e-12))[:count]

"""The models of the Loops Space, and the sliders that each has: latent dimensions, principal directions, attributes.

Legend: Z latent size. Nothing here knows Gradio.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig

from partimento.checkpoints import list_embedded
from partimento.pipelines import Loop, LoopGenerator
from partimento.pipelines.generation import resolve_model

NO_MODEL = (
    "No MusicVAE checkpoint is installed. Put the folder of one into checkpoints/ and install the package again, or "
    "start with MODEL_ID=<folder or Hub id>; several are separated by commas."
)
DIMENSIONS, DIRECTIONS = "informative dimensions", "principal directions"
MODES = (DIMENSIONS, DIRECTIONS)
FEWEST_SLIDERS, USUAL_SLIDERS, MOST_SLIDERS = 8, 30, 64
ACTIVE_BITS = 0.1  # a dimension that says less is not active
REACH = 2.0  # a slider reaches at least from -2 to 2
DEVIATIONS = 3.0  # of a principal direction, in standard deviations
MOST_ATTRIBUTE = 1.5
FARTHEST = 100.0  # coordinates beyond this are a mistake


class RequestError(ValueError):
    """A request that cannot be fulfilled; the message is for the visitor and holds no path."""


@dataclass(frozen=True)
class Slider:
    """One control over z. Its key is `d17` for dimension 17, `p0` for the first direction, `a:<name>` for an
    attribute."""

    key: str
    name: str
    hint: str
    low: float
    high: float


class Variant:
    """One MusicVAE with its sliders."""

    def __init__(self, generator: LoopGenerator, name: str = "model"):
        self.generator, self.name = generator, name
        self.parameters = sum(parameter.numel() for parameter in generator.model.parameters())
        self.z_size = generator.z_size

    @property
    def title(self) -> str:
        """Such as "2 bars of melody"."""
        bars, tracks = self.generator.num_bars, self.generator.tracks
        return f"{bars} bars of {', '.join(tracks[:-1]) + ' and ' if tracks[:-1] else ''}{tracks[-1]}"

    @cached_property
    def data(self) -> str:
        """The sources of its training data: the datasets of its card, or the first column of its table of data."""
        try:
            source = Path(resolve_model(self.generator.name))
            card = ModelCard.load(source / "README.md" if source.is_dir() else source, ignore_metadata_errors=True)
        except (OSError, ValueError):
            return "It has no card that names its training data."
        section = re.search(r"^## Data$(.*?)(?=^## |\Z)", card.content, re.MULTILINE | re.DOTALL)
        rows = re.findall(r"^\| *([^|\n]+?) *\|", section[1], re.MULTILINE)[2:] if section else []
        names = card.data.get("datasets") or rows
        return f"Trained on {'; '.join(names)}." if names else "Its card does not name its training data."

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights: points of the latent space belong to the model that made them."""
        digest = hashlib.sha256(self.generator.processor.vocab_hash.encode())
        for name, tensor in sorted(self.generator.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    # Sliders

    @property
    def modes(self) -> tuple[str, ...]:
        return MODES if self.generator.latent is not None else MODES[:1]

    @property
    def num_active(self) -> int:
        """Dimensions that say something; all where nothing is known of them."""
        latent = self.generator.latent
        return self.z_size if latent is None else max(1, int((latent.kl_bits >= ACTIVE_BITS).sum()))

    def sliders(self, mode: str = DIMENSIONS, count: int = USUAL_SLIDERS) -> list[Slider]:
        """The first `count` of a mode, the most telling first, and then one per attribute."""
        latent = self.generator.latent
        if mode == DIRECTIONS and latent is not None:
            found = [
                Slider(
                    f"p{k}",
                    f"direction {k + 1}",
                    f"{100 * float(share):.0f} % of the variance",
                    -DEVIATIONS,
                    DEVIATIONS,
                )
                for k, share in enumerate(latent.explained[:count])
            ]
        else:
            order = range(self.z_size) if latent is None else latent.order.tolist()
            found = [self._dimension(dim) for dim in list(order)[:count]]
        return found + self.attribute_sliders

    @cached_property
    def attribute_sliders(self) -> list[Slider]:
        return [
            Slider(f"a:{name}", name.replace("_", " "), "attribute", -MOST_ATTRIBUTE, MOST_ATTRIBUTE)
            for name in self.generator.attributes
        ]

    def _dimension(self, dim: int) -> Slider:
        latent = self.generator.latent
        if latent is None:
            return Slider(f"d{dim}", f"z{dim}", "", -REACH, REACH)
        low = min(-REACH, float(latent.quantiles[0, dim]))
        high = max(REACH, float(latent.quantiles[-1, dim]))
        return Slider(f"d{dim}", f"z{dim}", f"{float(latent.kl_bits[dim]):.2f} bits", round(low, 2), round(high, 2))

    def check_key(self, key: str) -> str:
        """The key of a control that this model has.

        Raises:
            RequestError: it has none of this key.
        """
        kind, number = key[:1], key[1:]
        latent = self.generator.latent
        limit = {"d": self.z_size, "p": 0 if latent is None else len(latent.directions)}.get(kind, 0)
        if (number.isdigit() and int(number) < limit) or (key[:2] == "a:" and key[2:] in self.generator.attributes):
            return key
        raise RequestError("This model has no such slider.")

    # Points. `amounts` says how far each attribute has been turned since z was chosen.

    def position(self, z: torch.Tensor, key: str, amounts: Mapping[str, float]) -> float:
        """Where a slider stands at z `[Z]`."""
        if key.startswith("a:"):
            return float(amounts.get(key, 0.0))
        if key.startswith("d"):
            return float(z[int(key[1:])])
        return float(self.generator.latent.coordinates(z)[int(key[1:])])

    def moved(self, z: torch.Tensor, key: str, value: float, amounts: Mapping[str, float]) -> torch.Tensor:
        """z with one slider at `value`: one coordinate, or one step along one direction; nothing else changes.

        Raises:
            RequestError: no number, or one far outside the latent space.
        """
        value = checked(value)
        if key.startswith("a:"):
            return self.generator.model.apply_attribute(z, key[2:], value - amounts.get(key, 0.0))
        if key.startswith("d"):
            z = z.clone()
            z[int(key[1:])] = value
            return z
        latent, k = self.generator.latent, int(key[1:])
        step = (value - self.position(z, key, amounts)) * latent.deviations[k]
        return z + step * latent.directions[k]

    def held(self, before: torch.Tensor, after: torch.Tensor, locked: Set[str]) -> torch.Tensor:
        """The point nearest to `after` where every locked slider stands as in `before`; attributes cannot be held."""
        dims = sorted(int(key[1:]) for key in locked if key[0] == "d")
        rows = [torch.eye(self.z_size)[dims]]
        latent = self.generator.latent
        if latent is not None:
            rows.append(latent.directions[sorted(int(key[1:]) for key in locked if key[0] == "p")])
        held = torch.cat(rows).double()
        if not len(held):
            return after
        after = after + (torch.linalg.pinv(held) @ (held @ (before - after).double())).to(after)
        after[dims] = before[dims]
        return after

    def decode(self, z: torch.Tensor, temperature: float, seed: int, tempo: float) -> list[Loop]:
        """Loops of points `[Z]` or `[n, Z]`; the seed is used where the temperature is above 0."""
        return self.generator.decode(z, temperature=temperature, seed=seed if temperature else None, tempo=tempo)


def checked(value: float) -> float:
    """A coordinate that can be meant."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise RequestError("A slider takes a number.") from None
    if not math.isfinite(value) or abs(value) > FARTHEST:
        raise RequestError(f"A slider takes a number from -{FARTHEST:g} to {FARTHEST:g}.")
    return value


class Shop:
    """The models there are, under names that can be shown; each is loaded when it is first asked for.

    One lock: one model works at a time.
    """

    def __init__(self, sources: list[str], note: str = ""):
        """`note` says what could not be had."""
        self.note, self.lock = note, threading.RLock()
        self.sources: dict[str, str] = {}
        for source in sources:
            name = label_of(source)
            self.sources[name if name not in self.sources else f"{name} {len(self.sources) + 1}"] = source
        self._variants: dict[str, Variant] = {}

    @property
    def names(self) -> list[str]:
        return list(self.sources)

    def variant(self, name: str | None = None) -> Variant:
        """A model by name, the first where none is given.

        Raises:
            RequestError: there is none, or it cannot be loaded.
        """
        if not self.sources:
            raise RequestError(NO_MODEL)
        name = name or self.names[0]
        if name not in self.sources:
            raise RequestError(f"There is no such model; choose one of {', '.join(self.names)}.")
        with self.lock:
            if name not in self._variants:
                try:
                    self._variants[name] = Variant(LoopGenerator.from_pretrained(self.sources[name]), name)
                except (OSError, ValueError):
                    raise RequestError(f"The model {name} could not be loaded.") from None
            return self._variants[name]


def label_of(name: str) -> str:
    """The name of a model folder (of a run: the name of the run), or a Hub id as it is."""
    if not Path(name).is_dir():
        return name if name.count("/") == 1 and name[0] not in "./~" else Path(name).name
    folder = Path(name).resolve()
    return folder.parent.name if folder.name in ("best", "final", "latest") else folder.name


def open_shop(model: str | None = None) -> Shop:
    """The models of `model` (folders or Hub ids, separated by commas) that are MusicVAEs, or else the embedded ones:
    those of two bars of melody first."""
    asked = [name.strip() for name in (model or "").split(",") if name.strip()]
    found = [name for name in asked if _is_musicvae(name)]
    missing = [label_of(name) for name in asked if name not in found]
    note = f"Not loaded: {', '.join(missing)}. " if missing else ""
    embedded = sorted((name for name in list_embedded() if _is_musicvae(name)), key=lambda name: "mel-2bar" not in name)
    return Shop(found or embedded, note)


def _is_musicvae(name: str) -> bool:
    try:
        return AutoConfig.from_pretrained(resolve_model(name)).model_type == "musicvae"
    except (OSError, ValueError):
        return False

"""Loops from the latent space of a MusicVAE: encode music, walk, come back with music.

Legend: Z latent size, n number of loops.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from symusic.core import ScoreTick

from partimento.modeling import MusicVAEConfig, MusicVAEModel
from partimento.modeling.musicvae.latent_musicvae import vary
from partimento.pipelines.generation import read_config, resolve_model
from partimento.pipelines.latent_info import LatentInfo
from partimento.pipelines.loop_reading import DEFAULT_TEMPO, read_window
from partimento.pipelines.piano_roll import plot_piano_roll
from partimento.pipelines.threads import one_thread
from partimento.tokenization import MusicVAEProcessor
from partimento.tokenization.melody_attributes import measure_attributes
from partimento.tokenization.melody_lines import NO_EVENT, NOTE_OFF
from partimento.tokenization.reading import MidiSource

__all__ = ["DEFAULT_LOOP_MODEL", "Loop", "LoopGenerator", "join_loops"]

DEFAULT_LOOP_MODEL = "musicvae-mel-2bar-small"
MAX_LOOPS = 256


@dataclass(frozen=True, eq=False)
class Loop:
    """A few bars of music and the point of the latent space that they belong to.

    Args:
        ids: `[steps * tracks]` grid ids.
        z: `[Z]` float32 on the CPU: what was decoded, or for music that was read, the mean of its posterior.
        tempo: quarters per minute, for MIDI.
        seed: what the random choices behind it follow from; None where there were none.
        remarks: for music that was read: which window it is and what was left out, in words.
    """

    ids: np.ndarray
    z: torch.Tensor = field(repr=False)
    processor: MusicVAEProcessor = field(repr=False)
    tempo: float = DEFAULT_TEMPO
    seed: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def score(self) -> ScoreTick:
        """The music as a symusic score."""
        return self.processor.decode(self.ids, tempo=self.tempo)

    @property
    def grid(self) -> dict[str, np.ndarray]:
        """Track -> ids `[steps]`, counted from 0: 0 no event, 1 note-off, 2 + k pitch; or sets of nine drum hits."""
        return dict(zip(self.processor.tracks, self.processor.split_tracks(self.ids)))

    @property
    def attributes(self) -> dict[str, float]:
        """The five attributes of a melody, NaN where it has too few notes; empty for other models."""
        if self.processor.tracks != ["melody"]:
            return {}
        measured = measure_attributes(self.ids[None], self.processor.pitch_min)
        return {name: float(value[0]) for name, value in measured.items()}

    @property
    def num_notes(self) -> int:
        return self.score.note_num()

    def save(self, path: str | Path) -> Path:
        """Write a Standard MIDI File and return its path."""
        return self.processor.save_midi(self.ids, path, tempo=self.tempo)

    def piano_roll(self, path: str | Path | None = None, title: str | None = None):
        """Draw the loop; see [`plot_piano_roll`][partimento.pipelines.plot_piano_roll]. Silence cannot be drawn."""
        return plot_piano_roll(self.score, path, title)


Music: TypeAlias = Loop | MidiSource
"""What can be encoded: a loop, or a MIDI file as path, bytes or score."""


def join_loops(loops: Sequence[Loop]) -> Loop:
    """The loops one after another as one, with the tempo of the first; no note sounds across a seam. Its z is empty.

    Raises:
        ValueError: there are none, or they come from models with other tracks.
    """
    if not loops:
        raise ValueError("loops is empty: give at least one")
    processor = loops[0].processor
    if any(loop.processor.vocab_hash != processor.vocab_hash for loop in loops):
        raise ValueError("the loops come from models with other tracks, pitches or bars: join those of one model")
    parts = []
    for loop in loops:
        tracks = processor.split_tracks(loop.ids.copy())
        for name, ids in zip(processor.tracks, tracks):
            if name != "drums" and ids[0] == NO_EVENT:
                ids[0] = NOTE_OFF
        parts.append(processor.join_tracks([ids[None] for ids in tracks])[0])
    return Loop(np.concatenate(parts), loops[0].z.new_zeros(0), processor, loops[0].tempo, loops[0].seed)


class LoopGenerator:
    """A MusicVAE with its processor, and what is known about its latent space.

    Example:
        >>> generator = LoopGenerator.from_pretrained("musicvae-mel-2bar-small")
        >>> first, second = generator.sample(2, seed=7)
        >>> path = generator.interpolate(first, second, steps=8)
        >>> join_loops(path).save("morph.mid")
    """

    def __init__(
        self, model: MusicVAEModel, processor: MusicVAEProcessor, name: str = "", latent: LatentInfo | None = None
    ):
        self.model = model.eval()
        self.processor = processor
        self.name = name or model.config.name_or_path
        self.latent = latent
        """Per-dimension KL, quantiles and principal directions; None where the model folder does not say."""
        for key, value in processor.model_config_kwargs().items():
            if getattr(model.config, key) != value:
                raise ValueError(
                    f"{self.name}: {key} is {getattr(model.config, key)} in the model and {value} in the processor; "
                    "they do not belong together"
                )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT_LOOP_MODEL,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
    ) -> LoopGenerator:
        """Load a model folder, an embedded checkpoint or a Hub model, with float32 weights.

        Args:
            device: a loop is many small steps: for a few loops at once a CPU is as fast as a GPU.
            revision: branch, tag or commit of a Hub model.

        Raises:
            ValueError: `name` is no model, or no MusicVAE.
        """
        source = resolve_model(name)
        config = read_config(name, revision)
        if not isinstance(config, MusicVAEConfig):
            raise ValueError(
                f"{name}: is a {config.model_type}, and loops need a musicvae model, such as {DEFAULT_LOOP_MODEL}"
            )
        model = MusicVAEModel.from_pretrained(source, config=config, dtype=torch.float32, revision=revision)
        processor = MusicVAEProcessor.from_pretrained(source, revision=revision)
        return cls(model.to(device), processor, str(name), LatentInfo.from_pretrained(source, revision))

    @property
    def tracks(self) -> list[str]:
        """Any of melody, bass, drums."""
        return list(self.processor.tracks)

    @property
    def num_bars(self) -> int:
        """Bars of a loop."""
        return self.processor.num_bars

    @property
    def z_size(self) -> int:
        return self.model.config.z_size

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that `apply_attribute` can move; none where the model has no vectors."""
        try:
            return tuple(sorted(self.model.attribute_vectors))
        except ValueError:
            return ()

    # Music to points and back

    def read(
        self,
        midi: MidiSource,
        *,
        bar: int | None = None,
        track: int | str | None = None,
        any_metre: bool = False,
        tempo: float | None = None,
    ) -> Loop:
        """A window of a MIDI file, as it is; its z is the mean of its posterior. Arguments as in `read_window`.

        Raises:
            MidiError: the file cannot be read or has no such window; the message says what to do.
        """
        window = read_window(self.processor, midi, bar, track, any_metre)
        tempo = window.tempo if tempo is None else _checked_tempo(tempo)
        return Loop(window.ids, self._encode_ids(window.ids), self.processor, tempo, remarks=window.remarks)

    def encode(self, music: Music, **window: Any) -> torch.Tensor:
        """The point `[Z]` of a loop (its own z) or of a window of a MIDI file (as `read`)."""
        return self._loop(music, **window).z

    def decode(
        self,
        z: torch.Tensor,
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        tempo: float = DEFAULT_TEMPO,
    ) -> list[Loop]:
        """Loops of points `[n, Z]`, or one loop, in a list, of a point `[Z]`.

        Args:
            temperature: 0 takes the likeliest id of every step and needs no seed.
            seed: 0 ... 2**63-1, drawn at random when None. The same seed, points and machine give the same notes.

        Raises:
            ValueError: another latent size, or a setting out of range.
        """
        z = torch.as_tensor(z, dtype=torch.float32).detach().cpu()
        z = z[None] if z.dim() == 1 else z
        if z.dim() != 2 or z.shape[1] != self.z_size:
            raise ValueError(f"z must be [{self.z_size}] or [n, {self.z_size}], not {list(z.shape)}")
        if not torch.isfinite(z).all():
            raise ValueError("z holds values that are not finite")
        if not 0 <= temperature <= 5:
            raise ValueError(f"temperature={temperature} is out of range; choose 0 (likeliest) to 5; 1 is the model's")
        tempo = _checked_tempo(tempo)
        generator, seed = (None, None) if temperature == 0 else _generator(seed, self.model.device)
        with one_thread(self.model.device):
            ids = self.model.decode(z, temperature, generator=generator).cpu().numpy()
        return [Loop(row, point, self.processor, tempo, seed) for row, point in zip(ids, z)]

    def reconstruct(self, music: Music, *, temperature: float = 0.0, seed: int | None = None, **window: Any) -> Loop:
        """What the model makes of a loop or of a window of a MIDI file (as `read`)."""
        loop = self._loop(music, **window)
        return self.decode(loop.z, temperature=temperature, seed=seed, tempo=loop.tempo)[0]

    # Walks

    def sample(
        self, n: int = 1, *, temperature: float = 0.5, seed: int | None = None, tempo: float = DEFAULT_TEMPO
    ) -> list[Loop]:
        """`n` new loops, from draws of the prior."""
        _check_count("n", n)
        generator, seed = _generator(seed)
        z = torch.randn(n, self.z_size, generator=generator)
        return self._decode_drawn(z, temperature, generator, seed, tempo)

    def interpolate(
        self,
        first: Music,
        second: Music,
        steps: int = 8,
        *,
        method: str = "linear",
        temperature: float = 0.0,
        seed: int | None = None,
        tempo: float | None = None,
    ) -> list[Loop]:
        """`steps` loops from the first music to the second; the ends are exactly their reconstructions.

        Args:
            method: `linear`, or `slerp` along the great circle.
            tempo: default: the tempo of the first.
        """
        _check_count("steps", steps)
        start, end = self._loop(first), self._loop(second)
        path = self.model.interpolate(start.z, end.z, steps, method)
        return self.decode(path, temperature=temperature, seed=seed, tempo=start.tempo if tempo is None else tempo)

    def interpolate_grid(
        self, corners: Sequence[Music], rows: int = 5, columns: int = 5, *, tempo: float | None = None
    ) -> list[list[Loop]]:
        """`rows` by `columns` loops between four: top left, top right, bottom left, bottom right."""
        _check_count("rows * columns", rows * columns)
        if len(corners) != 4:
            raise ValueError(f"corners: give 4 pieces of music, not {len(corners)}")
        loops = [self._loop(corner) for corner in corners]
        lattice = self.model.interpolate_grid(torch.stack([loop.z for loop in loops]), rows, columns)
        cells = self.decode(lattice.flatten(0, 1), tempo=loops[0].tempo if tempo is None else tempo)
        return [cells[row * columns : (row + 1) * columns] for row in range(rows)]

    def vary(
        self,
        music: Music,
        n: int = 8,
        *,
        similarity: float = 0.8,
        temperature: float = 0.0,
        seed: int | None = None,
        tempo: float | None = None,
    ) -> list[Loop]:
        """`n` relatives of some music: `s z + sqrt(1 - s^2) eps`.

        Args:
            similarity: s in 0 (unrelated) ... 1 (the reconstruction, n times).
        """
        _check_count("n", n)
        loop = self._loop(music)
        generator, seed = _generator(seed)
        z = vary(loop.z, similarity, torch.randn(n, self.z_size, generator=generator))
        return self._decode_drawn(z, temperature, generator, seed, loop.tempo if tempo is None else tempo)

    def apply_attribute(self, music: Music, name: str, amount: float, **settings: Any) -> Loop:
        """The music with more (or, with a negative amount, less) of one attribute; see `apply_attributes`."""
        return self.apply_attributes(music, {name: amount}, **settings)

    def apply_attributes(
        self,
        music: Music,
        amounts: Mapping[str, float],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        tempo: float | None = None,
    ) -> Loop:
        """The music moved along several attribute vectors at once.

        Args:
            amounts: attribute -> factor of its vector; from -1.5 to 1.5 was verified.

        Raises:
            ValueError: the model has no vectors, or none of that name.
        """
        loop = self._loop(music)
        z = loop.z
        for name, amount in amounts.items():
            z = self.model.apply_attribute(z, name, amount)
        return self.decode(z, temperature=temperature, seed=seed, tempo=loop.tempo if tempo is None else tempo)[0]

    # Small things

    def _loop(self, music: Music, **window: Any) -> Loop:
        if not isinstance(music, Loop):
            return self.read(music, **window)
        if window:
            raise ValueError(f"{', '.join(window)}: a loop is a window already; windows are chosen in MIDI files")
        if len(music.ids) != self.model.config.sequence_length or len(music.z) != self.z_size:
            raise ValueError("this loop is not of this model: save it as MIDI and read it again")
        return music

    def _encode_ids(self, ids: np.ndarray) -> torch.Tensor:
        with one_thread(self.model.device):
            return self.model.encode(torch.from_numpy(ids)[None].long()).mu[0].float().cpu()

    def _decode_drawn(self, z, temperature, generator, seed, tempo) -> list[Loop]:
        """Loops of points that were drawn by `generator`: they have a seed even at temperature 0."""
        next_seed = int(torch.randint(2**31, (), generator=generator))
        loops = self.decode(z, temperature=temperature, seed=next_seed, tempo=tempo)
        return [replace(loop, seed=seed) for loop in loops]


def _generator(seed: int | None, device: torch.device | str = "cpu") -> tuple[torch.Generator, int]:
    seed = secrets.randbelow(2**31) if seed is None else seed
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed} must lie in 0 to 2**63-1")
    return torch.Generator(device).manual_seed(seed), seed


def _check_count(name: str, value: int) -> None:
    if not 1 <= value <= MAX_LOOPS:
        raise ValueError(f"{name}={value} is out of range; choose 1 to {MAX_LOOPS}")


def _checked_tempo(tempo: float) -> float:
    if not 10 <= tempo <= 400:
        raise ValueError(f"tempo={tempo} is out of range; choose 10 to 400 quarters per minute")
    return float(tempo)

"""What one visitor does with one model: scenes that are never changed, with undo and redo. Nothing here knows Gradio.

The points z are the truth; notes and sliders are views of them.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from loops_files import SAMPLE_NAMES, clean_name, read_z, sample_midi
from loops_models import RequestError, Variant, checked
from loops_reading import check_upload, plain_words

from partimento.modeling.musicvae.latent_musicvae import vary
from partimento.pipelines import Loop

MAX_SAVED, MAX_UNDO, MAX_SEED, MAX_TEMPERATURE = 256, 100, 2**31 - 1, 2.0
FEWEST_STEPS, MOST_STEPS, MOST_MADE = 2, 32, 16
SLOWEST, FASTEST = 40, 240
METHODS = ("linear", "slerp")
NOTHING_SAVED = "Nothing saved yet."


@dataclass(frozen=True)
class Settings:
    """How z becomes notes.

    Args:
        temperature: 0 takes the likeliest notes and needs no seed.
        tempo: quarters per minute.
    """

    temperature: float = 0.0
    seed: int = 0
    tempo: float = 120.0


@dataclass(frozen=True, eq=False)
class Item:
    """A saved loop."""

    key: str
    name: str
    loop: Loop


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that undo brings back.

    Args:
        current, initial: decoded loops; their z are the points.
        original: the window that was read; None where a point was loaded or drawn instead.
        facts: which window it is, and what was left out.
        locked: keys of sliders that keep their place.
        amounts: how far each attribute has been turned since `current` was chosen.
        different: steps of `initial` that differ from `original`; `nll` per step of `original` at its z, in nats.
    """

    initial: Loop
    current: Loop
    original: Loop | None = None
    facts: str = ""
    different: int | None = None
    nll: float | None = None
    saved: tuple[Item, ...] = ()
    locked: frozenset[str] = frozenset()
    amounts: Mapping[str, float] = field(default_factory=dict)


class Desk:
    """The scene of one visitor and one model. An action changes the scene as a whole or raises RequestError."""

    def __init__(self, variant: Variant, settings: Settings = Settings()):
        self.variant = variant
        self.past: list[Scene] = []
        self.future: list[Scene] = []
        self.gesture: Any = None
        self.scene = self._read(sample_midi(SAMPLE_NAMES[0], variant.generator.num_bars), None, None, False, settings)

    def _do(self, scene: Scene, gesture: Any = None) -> None:
        """Shows a new scene; moves of one gesture are one step of undo."""
        if gesture is None or gesture != self.gesture:
            self.past = [*self.past, self.scene][-MAX_UNDO:]
            self.future = []
        self.gesture, self.scene = gesture, scene

    def undo(self) -> bool:
        """Shows the scene before; False where there is none."""
        if not self.past:
            return False
        self.future.append(self.scene)
        self.scene, self.gesture = self.past.pop(), None
        return True

    def redo(self) -> bool:
        """Shows the scene that was undone last; False where there is none."""
        if not self.future:
            return False
        self.past.append(self.scene)
        self.scene, self.gesture = self.future.pop(), None
        return True

    # Where to begin

    def load(self, midi: bytes, bar: Any, track: Any, any_metre: bool, settings: Settings) -> float:
        """A window of a MIDI file becomes original, initial and current; the saved list stays. Its tempo is returned.

        Args:
            bar: first bar from 1; None or 0 for the first usable one.
            track: number from 1, `all`, or None for the usual one.
        """
        scene = self._read(midi, bar, track, any_metre, settings)
        self._do(replace(scene, saved=self.scene.saved, locked=self.scene.locked))
        return scene.original.tempo if scene.original else settings.tempo

    def load_z(self, data: bytes, settings: Settings) -> None:
        """A point from a file becomes initial and current."""
        loop = self._decode(read_z(self.variant, data), settings)
        self._do(Scene(loop, loop, facts="a point from a file", saved=self.scene.saved, locked=self.scene.locked))

    def draw(self, settings: Settings, seed: int) -> None:
        """A draw of the prior becomes current; locked sliders keep their place."""
        noise = torch.randn(self.variant.z_size, generator=torch.Generator().manual_seed(seed))
        self._show(self._held(noise), settings)

    def begin_here(self) -> None:
        """The current loop becomes the initial one as well."""
        self._do(replace(self.scene, initial=self.scene.current, original=None, different=None, nll=None,
                         facts="the loop that was current", amounts={}))  # fmt: skip

    def _read(self, midi: bytes, bar: Any, track: Any, any_metre: bool, settings: Settings) -> Scene:
        generator = self.variant.generator
        check_upload(generator, midi, any_metre)
        with plain_words():
            original = generator.read(midi, bar=bar, track=track, any_metre=any_metre)
            loop = self._decode(original.z, settings)
            ids = torch.from_numpy(original.ids)[None].long()
            nll = float(generator.model.reconstruction_nll(ids).per_step[0])
        tracks = len(generator.tracks)
        different = int((original.ids != loop.ids).reshape(-1, tracks).any(1).sum())
        return Scene(loop, loop, original, "; ".join(original.remarks), different, nll)

    # Sliders

    def move(self, moves: Mapping[str, Any], gesture: Any, settings: Settings) -> None:
        """Sets the given sliders and no other; None puts a slider back to where it stands for the initial loop. Keys of
        another model are ignored, for they come from an old page; locked sliders stay."""
        scene, z = self.scene, self.scene.current.z
        amounts = dict(scene.amounts)
        for key, value in moves.items():
            try:
                self.variant.check_key(str(key))
            except RequestError:
                continue
            if key in scene.locked:
                continue
            before = z
            value = self.variant.position(scene.initial.z, key, {}) if value is None else value
            z = self.variant.moved(z, key, value, amounts)
            if key.startswith("a:"):
                amounts[key] = checked(value)
                z = self.variant.held(before, z, scene.locked)
        self._do(replace(scene, current=self._decode(z, settings), amounts=amounts), gesture)

    def reset(self, settings: Settings, gesture: Any = None) -> None:
        """All sliders that are not locked go back to where they stand for the initial loop."""
        self._show(self._held(self.scene.initial.z), settings, gesture)

    def lock(self, keys: Sequence[str], on: bool) -> None:
        """Locks sliders, or frees them."""
        chosen = {self.variant.check_key(key) for key in keys}
        locked = self.scene.locked | chosen if on else self.scene.locked - chosen
        self._do(replace(self.scene, locked=locked))

    def decode_again(self, settings: Settings) -> None:
        """The current loop with another temperature, seed or tempo."""
        self._do(replace(self.scene, current=self._decode(self.scene.current.z, settings)), "settings")

    def pad(self, corners: Sequence[str], x: Any, y: Any, gesture: Any, settings: Settings) -> None:
        """A point between four loops becomes current.

        Args:
            corners: keys of loops: top left, bottom left, top right, bottom right.
            x, y: 0 (left, top) to 1.
        """
        x, y = (min(max(checked(value), 0.0), 1.0) for value in (x, y))
        a, b, c, d = (self.loop(key).z for key in corners)
        z = (1 - x) * ((1 - y) * a + y * b) + x * ((1 - y) * c + y * d)
        self._show(self._held(z), settings, gesture)

    # The saved list

    def add(self, name: str = "") -> None:
        """Appends the current loop."""
        self._append([(clean_name(name, f"loop {len(self.scene.saved) + 1}"), self.scene.current)])

    def interpolate(self, count: Any, method: str, end: str = "initial") -> None:
        """Appends a path of `count` loops from current to `end`; then current is its end.

        The ends are the loops as they are shown.
        """
        count = whole(count, FEWEST_STEPS, MOST_STEPS)
        if method not in METHODS:
            raise RequestError(f"Choose one of {', '.join(METHODS)}.")
        scene, goal = self.scene, self.loop(end)
        self._room(count)
        with plain_words():
            path = self.variant.generator.model.interpolate(scene.current.z, goal.z, count, method)
            between = self.variant.generator.decode(path[1:-1], tempo=scene.current.tempo) if count > 2 else []
        loops = [scene.current, *between, goal]
        self._append([(f"path {n} of {count}", loop) for n, loop in enumerate(loops, 1)], current=goal)

    def sample(self, count: Any, temperature: Any, seed: int, settings: Settings) -> None:
        """Appends draws of the prior."""
        count = whole(count, 1, MOST_MADE)
        self._room(count)
        with plain_words():
            loops = self.variant.generator.sample(
                count, temperature=float(temperature), seed=seed, tempo=settings.tempo
            )
        self._append([(f"sample {n}, seed {seed}", loop) for n, loop in enumerate(loops, 1)])

    def similar(self, count: Any, similarity: Any, seed: int, settings: Settings) -> None:
        """Appends relatives of the current loop; locked sliders keep their place."""
        count = whole(count, 1, MOST_MADE)
        self._room(count)
        noise = torch.randn(count, self.variant.z_size, generator=torch.Generator().manual_seed(seed))
        points = vary(self.scene.current.z, within(similarity, 0, 1, "similarity"), noise)
        held = torch.stack([self._held(z) for z in points])
        loops = self.variant.decode(held, settings.temperature, seed, settings.tempo)
        self._append([(f"similar {n}, seed {seed}", loop) for n, loop in enumerate(loops, 1)])

    def rename(self, key: str, name: str) -> None:
        self._change([replace(item, name=clean_name(name, item.name)) if item is self.item(key) else item
                      for item in self.scene.saved])  # fmt: skip

    def duplicate(self, key: str) -> None:
        self._room(1)
        place = self.scene.saved.index(self.item(key)) + 1
        item = self.scene.saved[place - 1]
        copy = replace(item, key=_key(), name=clean_name(f"{item.name} copy"))
        self._change([*self.scene.saved[:place], copy, *self.scene.saved[place:]])

    def delete(self, key: str) -> None:
        gone = self.item(key)
        self._change([item for item in self.scene.saved if item is not gone])

    def put(self, key: str, place: Any) -> None:
        """Moves an item to a place of the list, counted from 0."""
        moving = self.item(key)
        rest = [item for item in self.scene.saved if item is not moving]
        place = min(max(int(checked(place)), 0), len(rest))
        self._change([*rest[:place], moving, *rest[place:]])

    def use(self, key: str) -> None:
        """A saved loop becomes current, as it was saved."""
        self._do(replace(self.scene, current=self.item(key).loop, amounts={}))

    def clear(self) -> None:
        self._change([])

    # Looking things up

    def item(self, key: str) -> Item:
        """A saved loop by key."""
        for item in self.scene.saved:
            if item.key == key:
                return item
        raise RequestError("This loop is no longer in the list.")

    def loop(self, key: str) -> Loop:
        """`current`, `initial`, or a saved loop by key."""
        named = {"current": self.scene.current, "initial": self.scene.initial}
        return named[key] if key in named else self.item(key).loop

    def everything(self) -> list[Item]:
        """The saved loops; RequestError where there are none."""
        if not self.scene.saved:
            raise RequestError(NOTHING_SAVED)
        return list(self.scene.saved)

    # Small things

    def _decode(self, z: torch.Tensor, settings: Settings) -> Loop:
        with plain_words():
            return self.variant.decode(z, settings.temperature, settings.seed, settings.tempo)[0]

    def _held(self, z: torch.Tensor) -> torch.Tensor:
        return self.variant.held(self.scene.current.z, z, self.scene.locked)

    def _show(self, z: torch.Tensor, settings: Settings, gesture: Any = None) -> None:
        self._do(replace(self.scene, current=self._decode(z, settings), amounts={}), gesture)

    def _room(self, count: int) -> None:
        if len(self.scene.saved) + count > MAX_SAVED:
            raise RequestError(f"The list holds at most {MAX_SAVED} loops; delete some first.")

    def _append(self, named: Sequence[tuple[str, Loop]], current: Loop | None = None) -> None:
        self._room(len(named))
        items = [Item(_key(), name, loop) for name, loop in named]
        scene = replace(self.scene, saved=(*self.scene.saved, *items))
        self._do(scene if current is None else replace(scene, current=current, amounts={}))

    def _change(self, saved: Sequence[Item]) -> None:
        self._do(replace(self.scene, saved=tuple(saved)))


class Visitor:
    """Everything of one visitor: a desk per model, the opened files, the last seed, the keys of the list on the page,
    and two numbers: of the last answer and of the last slider move that was heard.

    No dataclass: Gradio would write the fields of one into the page.
    """

    def __init__(self):
        self.desks: dict[str, Desk] = {}
        self.files: list[tuple[str, bytes]] = []
        self.revision = 0
        self.acknowledged = 0
        self.seed = 0
        self.listed: list[str] = []

    def desk(self, variant: Variant, settings: Settings) -> Desk:
        """The desk of a model; saved lists of other models stay with them."""
        if variant.name not in self.desks:
            self.desks[variant.name] = Desk(variant, settings)
        return self.desks[variant.name]


def whole(value: Any, low: int, high: int) -> int:
    """A whole number in a range. Raises: RequestError, for anything else."""
    text = str(value).strip()
    if text.isascii() and text.isdigit() and low <= int(text[:9]) <= high:
        return int(text)
    raise RequestError(f"Choose a whole number from {low} to {high}.")


def seed_of(value: Any) -> int:
    """A seed from 0 to 2**31 - 1; drawn where the field is empty or says random."""
    text = str("" if value is None else value).strip().lower()
    if text in ("", "random"):
        return secrets.randbelow(MAX_SEED + 1)
    if text.isascii() and text.isdigit() and int(text[:11]) <= MAX_SEED:
        return int(text)
    raise RequestError(f"Choose a seed from 0 to {MAX_SEED}, or random.")


def settings_of(temperature: Any, seed: Any, tempo: Any) -> Settings:
    """Settings of a page. Raises: RequestError, for values out of range."""
    heat = within(temperature or 0, 0, MAX_TEMPERATURE, "temperature")
    return Settings(heat, seed_of(seed) if heat else 0, within(tempo or 120, SLOWEST, FASTEST, "tempo"))


def within(value: Any, low: float, high: float, what: str) -> float:
    """A number in a range. Raises: RequestError, for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if low <= number <= high:
        return number
    raise RequestError(f"Choose a {what} from {low:g} to {high:g}.")


def _key() -> str:
    return secrets.token_hex(4)

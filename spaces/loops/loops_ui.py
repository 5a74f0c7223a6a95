"""The page of the Loops Space: what its controls do. The layout is in `loops_controls`."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from composer_components import Shelf
from composer_files import render_wav
from composer_serving import MOST_WAITING
from loops_api import add_endpoints
from loops_controls import HIGHEST, INITIAL, USUAL, Controls, banner_of
from loops_desk import Desk, Settings, Visitor, seed_of, settings_of
from loops_files import clean_name, file_name, midi_of, sample_midi, z_json, z_npy
from loops_models import NO_MODEL, RequestError, Shop
from loops_reading import MAX_FILES, check_upload, sentence_for
from loops_view import current_roll, link, reference_rolls, saved_list, slider_values

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
INSTANT = QUIET | {"queue": False}  # for what is never refused: a refusal outside the queue is an error of the server
SOON = QUIET | {"concurrency_id": "soon", "concurrency_limit": 8}
FOLLOW = INSTANT | {"trigger_mode": "multiple"}  # the scripts send one move at a time
MODEL = QUIET | {"concurrency_id": "model", "concurrency_limit": 1}
RESET = "() => { window.dispatchEvent(new CustomEvent('sliders-reset')); }"  # the sliders send it among their moves
RENDER = QUIET | {"concurrency_id": "render", "concurrency_limit": 2, "show_progress": "minimal"}


def build_loops(shop: Shop, shelf: Shelf | None = None) -> gr.Blocks:
    """The page, for `composer_serving.launch_options` of the same shelf. Without a model it says what to do."""
    with gr.Blocks(title="Symbolic Loops", delete_cache=(3600, 3600), analytics_enabled=False) as page:
        gr.Markdown("# Symbolic Loops\nWalk through the latent space of a MusicVAE and keep what you find.")
        if shop.names:
            with shop.lock:
                _Listeners(shop, shelf or Shelf(), Controls(shop, shop.variant())).listen(page)
            add_endpoints(shop)
        else:
            gr.Markdown(f"**{html.escape(shop.note + NO_MODEL)}**", elem_id="banner")
    page.queue(max_size=MOST_WAITING)
    return page


def polite(listener: Callable, outputs: int) -> Callable:
    """The listener with a message where it refuses: a warning, after which all stays as it is. Errors of the program
    are told as such, and the log has them."""

    def told(event: gr.EventData, *values: Any):
        try:
            return listener(event, *values)
        except RequestError as refusal:
            gr.Warning(html.escape(str(refusal), quote=False))
            return gr.skip() if outputs == 1 else [gr.skip()] * outputs
        except Exception as error:
            raise gr.Error(sentence_for(RuntimeError())) from error

    return told


@dataclass(frozen=True)
class Scope:
    """What a listener works on: the values of the controls that every listener gets."""

    visitor: Visitor
    desk: Desk
    settings: Settings
    mode: str
    count: int
    program: int


ALL = "*"  # the key of a move that puts all sliders back
SHARED = 9  # visitor, model, mode, count, active, temperature, seed, tempo, program


class _Listeners:
    def __init__(self, shop: Shop, shelf: Shelf, controls: Controls):
        self.shop, self.shelf, self.controls = shop, shelf, controls

    def listen(self, page: gr.Blocks) -> None:
        c = self.controls
        self.shared = [c.visitor, c.model, c.mode, c.count, c.active, c.temperature, c.seed, c.tempo, c.program]
        drawn = [c.roll, c.references, c.sliders, c.saved]
        self.shown = [c.visitor, *drawn, c.status, c.facts, c.tempo, c.goal, *c.corners]

        self._on(page.load, _nothing, how=INSTANT)
        self._hear(c.sliders.input, self._following(_move), [], [c.roll, c.sliders], FOLLOW)
        self._hear(c.pad.input, self._following(_pad), c.corners, [c.roll, c.sliders], FOLLOW)
        self._on(c.sliders.select, lambda scope, event: scope.desk.lock([str(event.key)], bool(event.on)))
        self._on(c.saved.select, _arrange)
        self._on(c.undo.click, lambda scope, event: "Undone." if scope.desk.undo() else "There is nothing to undo.")
        self._on(c.redo.click, lambda scope, event: "Done again." if scope.desk.redo() else "There is nothing to redo.")
        self._on(c.add.click, lambda scope, event: scope.desk.add())
        self._on(c.here.click, lambda scope, event: scope.desk.begin_here())
        c.reset.click(None, None, None, js=RESET, **INSTANT)
        self._on(c.clear.click, lambda scope, event: scope.desk.clear())
        self._on(c.new.click, _draw, [c.seed], MODEL)
        self._on(c.interpolate.click, lambda scope, event, *how: scope.desk.interpolate(*how),
                 [c.steps, c.method, c.goal], MODEL)  # fmt: skip
        self._on(c.draw.click, _sample, [c.many, c.heat, c.seed], MODEL)
        self._on(c.similar.click, _similar, [c.many, c.likeness, c.seed], MODEL)
        self._on(c.z_open.upload, lambda scope, event, data: scope.desk.load_z(data or b"", scope.settings), [c.z_open])
        self._on(c.sample.input, _use_sample, [c.sample], MODEL)
        self._on(c.window.click, _use_window, [c.file, c.bar, c.track, c.any_metre], MODEL)
        self._on(c.temperature.release, lambda scope, event: scope.desk.decode_again(scope.settings))
        self._on(c.seed.submit, _seed, [c.seed])
        for event in (c.mode.input, c.active.input, c.count.release, c.tempo.release, c.program.input):
            self._on(event, _nothing, how=INSTANT)

        self._hear(c.upload.upload, self._open, [c.upload], [c.file, c.track, *self.shown], MODEL)
        self._hear(c.file.input, self._tracks, [c.file, c.any_metre], [c.track], SOON)
        self._hear(c.model.input, self._switch, [], [c.banner, c.mode, *self.shown], MODEL)
        for button, make in (
            (c.save_all, _all_midi), (c.save_current, _current_midi), (c.z_json, _z_json), (c.z_npy, _z_npy),
        ):  # fmt: skip
            self._hear(button.click, self._saving(make), [c.name], [c.downloads], SOON)
        self._hear(c.wav.click, self._wav, [c.name], [c.downloads], RENDER)

    def _hear(self, event, listener: Callable, inputs: list, outputs: list, how: dict) -> None:
        event(polite(listener, len(outputs)), [*self.shared, *inputs], outputs, **how)

    def _on(self, event, action: Callable, inputs: list | None = None, how: dict = SOON) -> None:
        self._hear(event, self._acting(action), inputs or [], self.shown, how)

    # Kinds of listeners. Every one holds the lock: actions of one visitor never overlap, and one model works at a time.

    def _scope(self, visitor, model, mode, count, active, temperature, seed, tempo, program) -> Scope:
        variant = self.shop.variant(model)
        try:
            number = visitor.seed if str(seed).strip().lower() in ("", "random") else seed_of(seed)
        except RequestError:  # it is told where the seed is asked for, not at every move of a slider
            number = visitor.seed
        settings = settings_of(temperature, number, tempo)
        mode = mode if mode in variant.modes else variant.modes[0]
        count = variant.num_active if active else int(count)
        return Scope(visitor, visitor.desk(variant, settings), settings, mode, count, int(program or 0))

    def _acting(self, action: Callable[..., Any]) -> Callable:
        """Does something on the desk and shows all that came of it. A text that the action returns is shown as status,
        a number becomes the tempo."""

        def listener(event, *values):
            with self.shop.lock:
                scope = self._scope(*values[:SHARED])
                return self._show(scope, action(scope, event, *values[SHARED:]))

        return listener

    def _following(self, action: Callable[..., None]) -> Callable:
        """Follows a drag: no file, no sound, nothing but notes and positions."""

        def listener(event, *values):
            with self.shop.lock:
                scope = self._scope(*values[:SHARED])
                action(scope, event, *values[SHARED:])
                scope.visitor.revision += 1
                return [
                    current_roll(scope.visitor, scope.desk, scope.settings.tempo, scope.program),
                    slider_values(scope.visitor, scope.desk, scope.mode, scope.count),
                ]

        return listener

    def _saving(self, make: Callable[[Scope, str], tuple[str, str, bytes]]) -> Callable:
        """Makes a file and shows its link."""

        def listener(event, *values):
            with self.shop.lock:
                return link(*make(self._scope(*values[:SHARED]), values[SHARED]))

        return listener

    def _show(self, scope: Scope, outcome: Any = None) -> list[Any]:
        """Values of `self.shown`."""
        visitor, desk = scope.visitor, scope.desk
        visitor.revision += 1
        tempo = scope.settings.tempo
        if isinstance(outcome, float):
            tempo = min(max(round(outcome), 40), 240)
        said = outcome if isinstance(outcome, str) else "Ready."
        keys = [item.key for item in desk.scene.saved]
        choices: Any = gr.skip()
        if keys != visitor.listed:
            names = [(f"{n}. {item.name}", item.key) for n, item in enumerate(desk.scene.saved, 1)]
            kept = {} if set(visitor.listed) <= set(keys) else {"value": "initial"}
            choices = gr.update(choices=[INITIAL, *names], **kept)
            visitor.listed = keys
        return [
            visitor,
            current_roll(visitor, desk, tempo, scope.program),
            reference_rolls(visitor, desk, tempo, scope.program),
            slider_values(visitor, desk, scope.mode, scope.count),
            saved_list(visitor, desk, tempo, scope.program),
            html.escape(said),
            html.escape(f"Began with {desk.scene.facts}." if desk.scene.facts else ""),
            tempo if isinstance(outcome, float) else gr.skip(),
            *[choices] * 5,
        ]

    # Listeners with outputs of their own

    def _open(self, event, *values):
        """Files are opened; the first becomes the loop."""
        with self.shop.lock:
            scope = self._scope(*values[:SHARED])
            opened = []
            for path in list(values[SHARED] or [])[:MAX_FILES]:
                data = Path(path).read_bytes()
                bars, _ = check_upload(scope.desk.variant.generator, data, any_metre=True)
                opened.append((clean_name(f"{Path(path).name}, {bars} bars"), data))
            if not opened:
                raise RequestError("No file was opened.")
            tempo = scope.desk.load(opened[0][1], None, None, False, scope.settings)
            scope.visitor.files = opened
            choices = [(name, number) for number, (name, _) in enumerate(opened)]
            tracks = self._track_choices(scope, 0, False)
            return [gr.update(choices=choices, value=0), tracks, *self._show(scope, tempo)]

    def _tracks(self, event, *values):
        with self.shop.lock:
            return self._track_choices(self._scope(*values[:SHARED]), *values[SHARED:])

    def _track_choices(self, scope: Scope, file: int, any_metre: bool):
        _, names = check_upload(scope.desk.variant.generator, _file(scope, file), bool(any_metre))
        numbered = [(f"{number}. {name}", str(number)) for number, name in enumerate(names, 1)]
        return gr.update(choices=[USUAL, HIGHEST, *numbered], value=USUAL)

    def _switch(self, event, *values):
        """Another model, with the desk that this visitor has there."""
        with self.shop.lock:
            scope = self._scope(*values[:SHARED])
            variant = scope.desk.variant
            modes = gr.update(choices=list(variant.modes), value=scope.mode)
            return [banner_of(self.shop, variant), modes, *self._show(scope)]

    def _wav(self, event, *values):
        with self.shop.lock:
            name, _, midi = _all_midi(self._scope(*values[:SHARED]), values[SHARED])
        try:
            sound = render_wav(midi)
        except OSError as error:
            raise RequestError(str(error)) from None
        name = name.removesuffix(".mid") + ".wav"
        return f'<a download="{name}" href="{self.shelf.put(name, "audio/wav", sound)}">Download {name}</a>'


# Actions: (scope, event, values of their own inputs)


def _nothing(scope: Scope, event: Any) -> None:
    """Only shows."""


def _move(scope: Scope, event: Any) -> None:
    if not isinstance(event.moves, dict) or not isinstance(event.request_id, int):
        raise RequestError("A move needs the sliders that were moved, and its number.")
    scope.visitor.acknowledged = event.request_id
    gesture, moves = str(event.gesture), dict(event.moves)
    if ALL in moves:
        del moves[ALL]
        scope.desk.reset(scope.settings, gesture)
    if moves:
        scope.desk.move(moves, gesture, scope.settings)


def _pad(scope: Scope, event: Any, *corners: str) -> None:
    scope.desk.pad(corners, event.x, event.y, str(event.gesture), scope.settings)


def _arrange(scope: Scope, event: Any) -> None:
    """What a button of the saved list does."""
    desk, key = scope.desk, str(event.key)
    if event.action == "rename":
        desk.rename(key, event.name)
    elif event.action == "put":
        desk.put(key, event.place)
    elif event.action in ("use", "duplicate", "delete"):
        getattr(desk, event.action)(key)
    else:
        raise RequestError("The list has no such button.")


def _seed(scope: Scope, event: Any, seed: str) -> None:
    seed_of(seed)
    scope.desk.decode_again(scope.settings)


def _draw(scope: Scope, event: Any, seed: str) -> str:
    scope.visitor.seed = seed_of(seed)
    scope.desk.draw(scope.settings, scope.visitor.seed)
    return f"New loop, seed {scope.visitor.seed}."


def _sample(scope: Scope, event: Any, count: str, temperature: float, seed: str) -> str:
    number = seed_of(seed)
    scope.desk.sample(count, temperature, number, scope.settings)
    return f"Sampled with seed {number}."


def _similar(scope: Scope, event: Any, count: str, similarity: float, seed: str) -> str:
    number = seed_of(seed)
    scope.desk.similar(count, similarity, number, scope.settings)
    return f"Varied with seed {number}."


def _use_sample(scope: Scope, event: Any, name: str) -> float:
    midi = sample_midi(name, scope.desk.variant.generator.num_bars)
    return scope.desk.load(midi, None, None, False, scope.settings)


def _use_window(scope: Scope, event: Any, file: int, bar: float, track: str, any_metre: bool) -> float:
    track = {USUAL: None, HIGHEST: "all"}.get(track, track)
    if "melody" not in scope.desk.variant.generator.tracks:
        track = None
    return scope.desk.load(_file(scope, file), int(bar or 0) or None, track, bool(any_metre), scope.settings)


def _file(scope: Scope, number: Any) -> bytes:
    if not isinstance(number, int) or not 0 <= number < len(scope.visitor.files):
        raise RequestError("Open a MIDI file first.")
    return scope.visitor.files[number][1]


def _all_midi(scope: Scope, name: str) -> tuple[str, str, bytes]:
    items = scope.desk.everything()
    loops, names = [item.loop for item in items], [item.name for item in items]
    return file_name(name), "audio/midi", midi_of(loops, scope.settings.tempo, scope.program, names)


def _current_midi(scope: Scope, name: str) -> tuple[str, str, bytes]:
    midi = midi_of([scope.desk.scene.current], scope.settings.tempo, scope.program)
    return file_name(f"{file_name(name)[:-4]}_current"), "audio/midi", midi


def _z_json(scope: Scope, name: str) -> tuple[str, str, bytes]:
    return file_name(name, "json"), "application/json", z_json(scope.desk.variant, scope.desk.scene.current.z)


def _z_npy(scope: Scope, name: str) -> tuple[str, str, bytes]:
    return file_name(name, "npy"), "application/octet-stream", z_npy(scope.desk.variant, scope.desk.scene.current.z)

"""The page of the Composer Space: prompt and conditions, growing rolls, player, versions, downloads, comparison."""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from composer_api import add_endpoints, refusals
from composer_compare import Comparer
from composer_compare_ui import CompareTab
from composer_components import Player, RollView, Shelf
from composer_controls import INSTRUMENTS, SLOTS, make_controls, read_prompt, request_of, reset_controls, touch
from composer_engine import Composer, Opened, RequestError, Run, shift_towards
from composer_files import NO_WAV, can_render, data_url, file_name, midi_bytes, render_wav
from composer_musicxml import musicxml
from composer_report import downloads_html, measured_facts, report_markdown, roll_value
from composer_serving import MOST_WAITING
from composer_sessions import Session, Version

REWRITING = (
    "Choose bars by dragging over the roll or by their numbers; a click on a single chosen bar frees it. Rewrites from "
    "the left; later bars are kept: the model reads only the bars before the range. Of four candidates the one that "
    "the following bars fit best is taken."
)
EXAMPLES = (
    "slow jazz trio with piano, bass and drums, 16 bars",
    "un vals triste con violín, sin batería, en re menor",
    "fast ska with guitar, trombone and drums in G major",
)
ON_TYPING = "(first, last) => { window.dispatchEvent(new CustomEvent('bars-typed', {detail: [first, last]})); }"
LIVE = "() => { const line = document.querySelector('ID'); if (line) line.setAttribute('aria-live', 'polite'); }"
SAMPLING = ("seed", "temperature", "top_k", "top_p")


def build_composer(composer: Composer, banner: str, shelf: Shelf | None = None) -> gr.Blocks:
    """The page. `banner` names the model; launch it with `composer_serving.launch_options` of the same shelf."""
    return _Page(composer, banner, shelf or Shelf()).build()


class _Page:
    def __init__(self, composer: Composer, banner: str, shelf: Shelf):
        self.composer, self.banner, self.shelf = composer, banner, shelf
        self.stops: dict[str, threading.Event] = {}  # session -> the running generation's stop flag

    # Layout

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="Symbolic Composer", delete_cache=(3600, 3600), analytics_enabled=False) as page:
            gr.Markdown(f"# Symbolic Composer\nText to multi-track MIDI, bar by bar. {html.escape(self.banner)}")
            self.session = gr.State(Session(), time_to_live=3600)
            self.origins = gr.State({}, time_to_live=3600)
            self.read_text = gr.State("", time_to_live=3600)
            self.player = Player(elem_id="player", render=False)
            with gr.Tab("Compose", elem_id="compose-tab"):
                self._compose()
            with gr.Tab("Compare", elem_id="compare-tab") as compare:
                CompareTab(Comparer(self.composer), self.player, self._begin, self.stop_running).build()
            self.player.render()
            self._listen()
            page.load(None, None, None, js=LIVE.replace("ID", "#status"))
            compare.select(None, None, None, js=LIVE.replace("ID", "#compare-status"))
            page.unload(self._leave)
            add_endpoints(self.composer)
        page.queue(max_size=MOST_WAITING)
        return page

    def _compose(self) -> None:
        with gr.Row():  # beside each other where there is room for both
            with gr.Column(scale=2, min_width=340):
                self._wishes()
            with gr.Column(scale=3, min_width=340):
                self._music()
                self._editing()

    def _wishes(self) -> None:
        self.prompt = gr.Textbox(
            label="What shall it be? (English or Spanish)", lines=2, max_length=5000, elem_id="prompt",
            placeholder="a slow sad jazz trio with piano, bass and drums, 16 bars",
        )  # fmt: skip
        with gr.Row():
            self.read = gr.Button("Read prompt", elem_id="read", scale=2, min_width=140)
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", scale=2, min_width=120)
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=70)
        with gr.Row(elem_id="examples"):
            for text in EXAMPLES:
                example = gr.Button(text, size="sm", min_width=140)
                example.click(None, None, self.prompt, js=f"() => {json.dumps(text)}", api_visibility="private")
        self.understood = gr.Markdown(elem_id="understood")
        with gr.Accordion("Conditions", open=True):
            self.controls = make_controls(self.composer)
            self.reset = gr.Button("Reset conditions", size="sm")

    def _music(self) -> None:
        self.status = gr.Markdown("Ready.", elem_id="status")
        self.roll = RollView(elem_id="roll", selectable=True)
        self.selected = gr.Radio([1], value=1, label="Output to play, download and edit", elem_id="selected")
        self.downloads = gr.HTML(elem_id="downloads", elem_classes="downloads")
        with gr.Row():
            self.wav = gr.Button("Make WAV" if can_render() else NO_WAV, interactive=can_render(), size="sm")
            self.xml = gr.Button("Make MusicXML", size="sm")
        self.made = gr.HTML(elem_id="made", elem_classes="downloads")
        self.report = gr.Markdown(elem_id="report", elem_classes="tables")

    def _editing(self) -> None:
        with gr.Accordion("Edit", open=True):
            gr.Markdown(REWRITING)
            with gr.Row():
                self.first = gr.Number(1, label="From bar", precision=0, minimum=1, elem_id="first", min_width=120)
                self.last = gr.Number(1, label="To bar", precision=0, minimum=1, elem_id="last", min_width=120)
                self.rewrite = gr.Button("Rewrite these bars", elem_id="rewrite")
            with gr.Row():
                self.more = gr.Number(8, label="Bars to add", precision=0, minimum=1, elem_id="more", min_width=120)
                self.after = gr.Number(
                    0, label="After bar (0: the last)", precision=0, minimum=0, elem_id="after", min_width=120
                )
                self.proceed = gr.Button("Continue this output", elem_id="continue")
            with gr.Row():
                self.tracks = gr.Dropdown(
                    INSTRUMENTS, value=[], multiselect=True, label="Tracks to keep (none: all)", elem_id="tracks",
                    min_width=200,
                )  # fmt: skip
                self.keep = gr.Button("Keep only these bars and tracks", elem_id="keep")
            self.upload = gr.UploadButton(
                "Open a MIDI file (4/4, up to 2 MB)", file_types=[".mid", ".midi"], type="binary", elem_id="upload"
            )
        with gr.Row():
            self.undo = gr.Button("Undo", size="sm", elem_id="undo", min_width=100)
            self.redo = gr.Button("Redo", size="sm", elem_id="redo", min_width=100)
            self.swap = gr.Button("A/B: the version before", size="sm", elem_id="swap", min_width=100)
            self.copy = gr.Button("Duplicate", size="sm", elem_id="duplicate", min_width=100)
            self.pin = gr.Button("Pin or unpin", size="sm", elem_id="pin", min_width=100)
        self.history = gr.Dropdown([], label="Versions (the newest 20 and all pinned ones)", elem_id="history")

    def _listen(self) -> None:
        controls = list(self.controls.values())
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        instant = quiet | {"queue": False}  # an error of these would reach the browser as HTTP 500, without a sentence
        soon = quiet | {"concurrency_id": "reading", "concurrency_limit": 4}
        model = quiet | {"concurrency_id": "model", "concurrency_limit": 1}
        model |= {"show_progress": "minimal", "show_progress_on": self.status}
        view = [self.roll, self.player, self.selected, self.downloads, self.report, self.history, self.made]
        shown = [self.session, self.status, *view]
        for slot, control in self.controls.items():
            control.input(touch(slot), self.origins, [self.origins, control], **instant)
        reading = [self.understood, self.read_text, self.origins, *controls]
        self.read.click(self._read, [self.prompt, self.origins], reading, **soon)
        self.reset.click(reset_controls, None, [self.origins, self.read_text, *controls], **instant)
        asked = [self.prompt, self.read_text, self.origins, self.session, *controls]
        gr.on(
            [self.generate.click, self.prompt.submit], self._generate, asked, [*reading, *shown],
            trigger_mode="once", **model,
        )  # fmt: skip
        self.stop.click(self.stop_running, None, None, **instant)
        place = [self.session, self.selected]
        self.proceed.click(self._continue, [*place, self.more, self.after, *controls], shown, **model)
        self.rewrite.click(self._rewrite, [*place, self.first, self.last, *controls], shown, **model)
        self.keep.click(self._excerpt, [*place, self.first, self.last, self.tracks], shown, **soon)
        self.upload.upload(self._open, [self.session, self.upload], shown, **soon)
        self.roll.select(self._choose, place, [self.first, self.last, *shown], **instant)
        for field in (self.first, self.last):
            field.input(None, [self.first, self.last], None, js=ON_TYPING, **instant)
        self.undo.click(self._step(Session.undo), place, shown, **instant)
        self.redo.click(self._step(Session.redo), place, shown, **instant)
        self.swap.click(self._swap, place, shown, **instant)
        self.copy.click(self._step(Session.duplicate), place, shown, **instant)
        self.pin.click(self._step(Session.pin), place, shown, **instant)
        self.history.input(self._restore, [self.session, self.history], shown, **instant)
        self.selected.input(self._select, place, shown, **instant)
        render = quiet | {"concurrency_id": "render", "concurrency_limit": 2, "show_progress": "minimal"}
        self.wav.click(self._wav, [*place, self.made], self.made, **render)
        self.xml.click(self._xml, [*place, self.made], self.made, **render)

    # Generation

    def _read(self, prompt: str, origins: dict):
        with refusals():
            return read_prompt(self.composer, prompt, origins)

    def _generate(self, request: gr.Request, prompt, read_text, origins, session, *values):
        values = dict(zip(SLOTS, values))
        untouched: list[Any] = [gr.skip()] * (3 + len(SLOTS))
        if prompt.strip() and prompt != read_text:
            updates = self._read(prompt, origins)
            for slot, update in zip(SLOTS, updates[3:]):
                if "value" in update:
                    values[slot] = update["value"]
            yield [*updates, gr.skip(), "Prompt read; waiting for the model.", *[gr.skip()] * 7]
        asked = request_of(values)
        runs = self.composer.compose(asked, self._begin(request))
        for outputs in self._settled(session, 1, self._follow(runs, session, "generated", prompt, asked)):
            yield [*untouched, *outputs]

    def _continue(self, request: gr.Request, session, selected, more, after, *values):
        version, index = self._place(session, selected, "continue")
        values = dict(zip(SLOTS, values)) | {"bars": more}
        names = ("genre", "instruments", "without", "bars", "num_outputs", *SAMPLING)
        asked = request_of({slot: values[slot] for slot in names}) | ({"after_bar": int(after)} if after else {})
        runs = self.composer.proceed(version.midi[index], asked, self._begin(request))
        yield from self._settled(session, selected, self._follow(runs, session, "continued", "", asked))

    def _rewrite(self, request: gr.Request, session, selected, first, last, *values):
        version, index = self._place(session, selected, "rewrite")
        values = dict(zip(SLOTS, values))
        asked = request_of({slot: values[slot] for slot in ("genre", "instruments", "without", *SAMPLING)})
        first, last = int(first or 0), int(last or 0)
        runs = self.composer.rewrite(version.midi[index], first, last, asked, self._begin(request))
        yield from self._settled(session, selected, self._replaced(runs, session, version, index, first, last, asked))

    def _replaced(self, runs: Iterator[Run], session: Session, version: Version, index: int, first, last, asked: dict):
        """Values of session, status and view while bars of one output are written anew."""
        for run in runs:
            if not run.pieces:
                yield [gr.skip(), self._progress(run), *[gr.skip()] * 7]
                continue
            piece = run.pieces[0]
            asked = asked | {"rewritten": [first, last], "output": index + 1}
            kept = {name: list(getattr(version, name)) for name in ("midi", "bars", "measured", "transposed")}
            kept["midi"][index], kept["bars"][index] = midi_bytes(piece), run.bars[0]
            kept["measured"][index], kept["transposed"][index] = measured_facts(piece), 0
            session.add(
                action=f"bars {first} to {last} rewritten", prompt="", request=asked, seed=piece.seed,
                model=version.model, seconds=run.seconds, complete=True, primer_bars=0, **kept,
            )  # fmt: skip
            view = self._view(session, index + 1, chosen=(first, last))
            yield [session, run.note + self._done(session.shown, index), *view]

    def _settled(self, session: Session, selected: int, steps: Iterator[list[Any]]) -> Iterator[list[Any]]:
        """The steps of a run. Where it is refused on the way, the page shows what it showed before, and says why."""
        try:
            yield from steps
        except RequestError as refusal:
            yield [gr.skip(), html.escape(str(refusal), quote=False), *self._view(session, selected)]
            raise gr.Error(str(refusal), print_exception=False) from None

    def _follow(self, runs: Iterator[Run], session: Session, action: str, prompt: str, asked: dict):
        """Values of session, status and view while a run goes on; a roll travels only when it has grown."""
        drawn = -1
        for run in runs:
            if run.pieces:
                self._keep(session, run, action, prompt, asked)
                yield [session, run.note + self._done(session.shown, 0), *self._view(session, 1)]
                return
            written = sum(map(len, run.bars))
            roll = self._roll(run, asked) if written > drawn else gr.skip()
            drawn = written
            yield [gr.skip(), self._progress(run), roll, *[gr.skip()] * 6]

    def _begin(self, request: gr.Request) -> threading.Event:
        stop = self.stops[request.session_hash or ""] = threading.Event()
        return stop

    def stop_running(self, request: gr.Request) -> None:
        if event := self.stops.get(request.session_hash or ""):
            event.set()

    def _leave(self, request: gr.Request) -> None:
        if event := self.stops.pop(request.session_hash or "", None):
            event.set()

    def _keep(self, session: Session, run: Run, action: str, prompt: str, asked: dict) -> None:
        if not any(piece.score.note_num() for piece in run.pieces):
            raise RequestError("Stopped before the first bar was finished; nothing was kept.")
        session.add(
            action=action, prompt=prompt, request=asked, seed=run.pieces[0].seed, model=run.model,
            midi=[midi_bytes(piece) for piece in run.pieces], bars=run.bars,
            measured=[measured_facts(piece) for piece in run.pieces], seconds=run.seconds, complete=not run.stopped,
            primer_bars=run.primer_bars, transposed=[piece.transposed for piece in run.pieces],
        )  # fmt: skip

    def _open(self, session: Session, data: bytes | None):
        with refusals():
            return self._opened(session, self.composer.open(data or b""), "opened a file")

    def _excerpt(self, session: Session, selected, first, last, tracks):
        version, index = self._place(session, selected, "cut")
        first, last = int(first or 0), int(last or 0)
        with refusals():
            opened = self.composer.excerpt(version.midi[index], first, last, tracks or ())
            return self._opened(session, opened, f"bars {first} to {last} kept")

    def _opened(self, session: Session, opened: Opened, action: str) -> list[Any]:
        session.add(
            action=action, prompt="", request={}, seed=0, model="", midi=[opened.midi], bars=[opened.bars],
            measured=[opened.measured], seconds=0.0, complete=True, primer_bars=len(opened.bars), transposed=[0],
        )  # fmt: skip
        return [session, f"{action.capitalize()}: {opened.facts}", *self._view(session, 1)]

    # What is shown

    def _progress(self, run: Run) -> str:
        counts = [f"{run.kind} {n + 1}: bar {run.written(n)} of {run.total}" for n in range(run.outputs)]
        done = sum(run.written(n) for n in range(run.outputs))
        left = f", about {run.seconds / done * (run.total * run.outputs - done):.0f} s left" if done else ""
        return f"{run.note}{' · '.join(counts)} · {run.seconds:.0f} s{left}"

    def _done(self, version: Version, index: int) -> str:
        state = "Done" if version.complete else "Stopped; the finished bars are kept"
        moved = version.transposed[index]
        moving = f" Moved by {moved:+d} semitones into the asked key." if moved else ""
        return f"{state}. Seed {version.seed}, {version.seconds:.1f} s.{moving}"

    def _roll(self, run: Run, asked: dict) -> dict[str, Any]:
        """The growing roll, drawn in the key to which the finished piece will be moved, as far as it shows yet."""
        outputs = []
        for bars in run.bars:
            shift = shift_towards(bars, asked.get("key"))
            outputs.append([[[p, pitch + shift * (p >= 0), *rest] for p, pitch, *rest in bar] for bar in bars])
        return roll_value(outputs, run.total + run.primer_bars, run.primer_bars, asked.get("tempo"), 0)

    def _view(self, session: Session, selected: int, chosen: tuple[int, int] | None = None) -> list[Any]:
        """Values of roll, player, selected, downloads, report, history and made files for the shown version."""
        version = session.shown
        if version is None:
            return [None, None, gr.skip(), "", "", gr.skip(), ""]
        index = min(max(int(selected or 1), 1), len(version.midi)) - 1
        tempo = version.measured[index].get("tempo")
        choices = [(item.label, number) for number, item in sorted(session.versions.items(), reverse=True)]
        return [
            roll_value(version.bars, 0, version.primer_bars, tempo, index, chosen),
            {"src": data_url(version.midi[index]), "bars": len(version.bars[index])},
            gr.update(choices=list(range(1, len(version.midi) + 1)), value=index + 1),
            downloads_html(version, index),
            report_markdown(version, index),
            gr.update(choices=choices, value=version.number),
            "",
        ]

    def _choose(self, session: Session, selected: int, event: gr.EventData):
        """Bars were chosen on a roll: their numbers, and the output they belong to."""
        output, first, last = int(event.output), int(event.first), int(event.last)
        if session.shown is None or output == selected:
            return [first, last, *[gr.skip()] * 9]
        return [first, last, session, gr.skip(), *self._view(session, output, (first, last))]

    def _step(self, step: Callable[[Session], None]):
        def move(session: Session, selected: int):
            step(session)
            return [session, self._shown_line(session), *self._view(session, selected)]

        return move

    def _swap(self, session: Session, selected: int):
        """A/B: the other version is shown, and heard from the same place where one plays."""
        if not session.swap():
            return [gr.skip(), "There is no other version to compare with.", *[gr.skip()] * 7]
        roll, player, *rest = self._view(session, selected)
        line = f"{self._shown_line(session)} A/B changes to version {session.other}."
        return [session, line, roll, player | {"keep": True}, *rest]

    def _restore(self, session: Session, number: int | None):
        if number in session.versions:
            session.current = number
        return [session, self._shown_line(session), *self._view(session, 1)]

    def _select(self, session: Session, selected: int):
        return [session, gr.skip(), *self._view(session, selected)]

    @staticmethod
    def _shown_line(session: Session) -> str:
        return f"Version {session.shown.label}." if session.shown else "Nothing made yet."

    @staticmethod
    def _place(session: Session, selected: int, what: str) -> tuple[Version, int]:
        if session.shown is None:
            raise gr.Error(
                f"There is nothing to {what} yet: generate something or open a file first.", print_exception=False
            )
        return session.shown, min(int(selected or 1), len(session.shown.midi)) - 1

    # Files

    def _wav(self, session: Session, selected: int, made: str):
        version, index = self._place(session, selected, "render")
        try:
            data = render_wav(version.midi[index])
        except OSError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return self._offer(version, index, "wav", "audio/wav", data, made)

    def _xml(self, session: Session, selected: int, made: str):
        version, index = self._place(session, selected, "write")
        name = file_name(version.request.get("genre"), version.seed, index + 1, "musicxml")
        try:
            data = musicxml(version.midi[index], name.removesuffix(".musicxml"), version.measured[index].get("key"))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return self._offer(version, index, "musicxml", "application/vnd.recordare.musicxml+xml", data, made)

    def _offer(self, version: Version, index: int, ending: str, kind: str, data: bytes, made: str) -> str:
        """The links so far and one more."""
        name = file_name(version.request.get("genre"), version.seed, index + 1, ending)
        path = self.shelf.put(name, kind, data)
        link = f'<a download="{html.escape(name)}" href="{path}">Download .{ending} (output {index + 1})</a>'
        return f"{made or ''} {link}".strip()

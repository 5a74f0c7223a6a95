"""The page of the Composer Space: prompt and conditions, growing rolls, player, versions, downloads."""

from __future__ import annotations

import html
import os
import secrets
import tempfile
import threading
from pathlib import Path
from typing import Any

import gradio as gr
from composer_api import add_endpoints
from composer_engine import MAX_BARS, MAX_OUTPUTS, Composer, RequestError, Run
from composer_files import NO_WAV, can_render, data_url, file_name, midi_bytes, render_wav, write_download
from composer_report import downloads_html, measured_facts, report_markdown, roll_value
from composer_sessions import Session, Version

from partimento.tokenization import FAMILY_PROGRAMS
from partimento.tokenization.conditions import KEYS
from partimento.tokenization.general_midi import PROGRAM_NAMES

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("vendor/Tone.js", "vendor/magenta-core.js", "vendor/midi-player.min.js")  # in this order
ANY, AUTO = "any", "auto"
SLOTS = (
    "genre", "tempo", "key", "instruments", "without", "density", "bars", "num_outputs", "seed", "temperature",
    "top_k", "top_p",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "genre": ANY, "tempo": 0, "key": AUTO, "instruments": [], "without": [], "density": 0, "bars": 16,
    "num_outputs": 2, "seed": -1, "temperature": 1.0, "top_k": 0, "top_p": 0.95,
}  # fmt: skip
ORIGIN = {"default": "default", "prompt": "from the prompt", "you": "set by you"}
PLAYER = '<midi-player aria-label="Player" class="player"></midi-player>'
PLAYER_JS = """
watch("value", () => {
  const player = element.querySelector("midi-player");
  if (props.value && props.value.src) player.setAttribute("src", props.value.src); else player.removeAttribute("src");
});
"""
ROLL = '<div class="rolls" aria-live="off"></div>'
CSS = """
.rolls figure { margin: 0 0 12px; } .rolls canvas { width: 100%; height: 190px; display: block; color: inherit;
  border: 1px solid var(--border-color-primary); border-radius: 6px; }
.rolls figcaption, .legend { font-size: 13px; padding: 3px 0; }
.legend .key { margin-right: 12px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 4px; border-radius: 2px; }
.player { display: block; width: 100%; } .downloads a { display: inline-block; margin: 0 8px 8px 0; padding: 7px 12px;
  border: 1px solid var(--border-color-primary); border-radius: 6px; text-decoration: none; color: inherit; }
#report th, #report td { word-break: normal; overflow-wrap: normal; padding: 4px 8px; font-size: 13px; }
:root, .dark { --block-info-text-color: var(--body-text-color); }
.downloads a:focus-visible { outline: 3px solid #D55E00; }
"""


class RollView(gr.HTML):
    """Piano rolls; the value is {outputs: [{bars, total, primer, caption}], selected, tempo, names}."""

    def __init__(self, value: Any = None, **kwargs):
        code = (STATIC / "roll.js").read_text(encoding="utf-8")
        super().__init__(value=value, html_template=ROLL, js_on_load=code, **kwargs)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


class Player(gr.HTML):
    """html-midi-player; the value is {src}, a data URL. No `sound-font`: that would fetch samples from elsewhere."""

    def __init__(self, value: Any = None, **kwargs):
        head = "".join(f'<script src="/gradio_api/file={STATIC / name}"></script>' for name in SCRIPTS)
        super().__init__(value=value, html_template=PLAYER, js_on_load=PLAYER_JS, head=head, **kwargs)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def build_composer(composer: Composer, banner: str) -> gr.Blocks:
    """The page. `banner` names the model."""
    gr.set_static_paths([STATIC])
    return _Page(composer, banner).build()


class _Page:
    def __init__(self, composer: Composer, banner: str):
        self.composer, self.banner = composer, banner
        self.stops: dict[str, threading.Event] = {}  # session -> the running generation's stop flag

    # Layout

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="Symbolic Composer", delete_cache=(3600, 3600), analytics_enabled=False) as page:
            self.session = gr.State(Session(), time_to_live=3600)
            self.origins = gr.State({}, time_to_live=3600)
            self.read_text = gr.State("", time_to_live=3600)
            gr.Markdown(f"# Symbolic Composer\nText to multi-track MIDI, bar by bar. {html.escape(self.banner)}")
            self.prompt = gr.Textbox(
                label="What shall it be? (English or Spanish)", lines=2, max_length=2000, elem_id="prompt",
                placeholder="a slow sad jazz trio with piano, bass and drums, 16 bars",
            )  # fmt: skip
            with gr.Row():
                self.read = gr.Button("Read prompt", elem_id="read")
                self.generate = gr.Button("Generate", variant="primary", elem_id="generate")
                self.stop = gr.Button("Stop", variant="stop", elem_id="stop")
            self.understood = gr.Markdown(elem_id="understood")
            with gr.Accordion("Conditions", open=True):
                self.controls = self._controls()
                self.reset = gr.Button("Reset conditions", size="sm")
            self.status = gr.Markdown("Ready.", elem_id="status")
            self.roll = RollView(elem_id="roll")
            self.player = Player(elem_id="player")
            self.selected = gr.Radio([1], value=1, label="Output to play, download and continue", elem_id="selected")
            self.downloads = gr.HTML(elem_id="downloads", elem_classes="downloads")
            with gr.Row():
                self.wav = gr.Button("Make WAV" if can_render() else NO_WAV, interactive=can_render(), size="sm")
                self.wav_file = gr.File(label="WAV", visible=False, elem_id="wav")
            self.report = gr.Markdown(elem_id="report")
            with gr.Row():
                self.more = gr.Slider(1, 32, value=8, step=1, label="Bars to add")
                self.proceed = gr.Button("Continue this output", elem_id="continue")
            with gr.Accordion("Continue a MIDI file", open=False):
                self.upload = gr.File(label="MIDI file in 4/4, up to 2 MB", file_types=[".mid", ".midi"], type="binary",
                                      elem_id="upload")  # fmt: skip
                self.proceed_file = gr.Button("Continue the file", elem_id="continue-file")
            with gr.Row():
                self.undo = gr.Button("Undo", size="sm", elem_id="undo")
                self.redo = gr.Button("Redo", size="sm", elem_id="redo")
                self.history = gr.Dropdown([], label="Versions", elem_id="history")
            self._listen(page)
            add_endpoints(self.composer)
        page.queue(max_size=16)
        return page

    def _controls(self) -> dict[str, Any]:
        controls: dict[str, Any] = {}
        names = [*FAMILY_PROGRAMS, *PROGRAM_NAMES]

        def info(slot):
            return {"info": ORIGIN["default"], "elem_id": slot}

        with gr.Row():
            controls["genre"] = gr.Dropdown([ANY, *self.composer.labels("genre")], value=ANY, label="Genre",
                                            **info("genre"))  # fmt: skip
            controls["key"] = gr.Dropdown([AUTO, *KEYS], value=AUTO, label="Key", **info("key"))
            controls["tempo"] = gr.Number(0, label="Tempo (24 to 200 bpm; 0: auto)", **info("tempo"))
        with gr.Row():
            controls["instruments"] = gr.Dropdown(names, value=[], multiselect=True, label="Instruments",
                                                  **info("instruments"))  # fmt: skip
            controls["without"] = gr.Dropdown(names, value=[], multiselect=True, label="Without", **info("without"))
        with gr.Row():
            controls["bars"] = gr.Slider(4, MAX_BARS, value=16, step=1, label="Bars", **info("bars"))
            controls["num_outputs"] = gr.Slider(1, MAX_OUTPUTS, value=2, step=1, label="Outputs", **info("num_outputs"))
        with gr.Accordion("Sampling", open=False):
            with gr.Row():
                controls["density"] = gr.Number(0, label="Notes per bar (0: auto)", **info("density"))
                controls["seed"] = gr.Number(-1, label="Seed (-1: random)", precision=0, **info("seed"))
            with gr.Row():
                controls["temperature"] = gr.Slider(0.1, 2, value=1, step=0.05, label="Temperature",
                                                    **info("temperature"))  # fmt: skip
                controls["top_k"] = gr.Slider(0, 100, value=0, step=1, label="Top-k (0: off)", **info("top_k"))
                controls["top_p"] = gr.Slider(0.1, 1, value=0.95, step=0.01, label="Top-p", **info("top_p"))
        return {slot: controls[slot] for slot in SLOTS}

    def _listen(self, page: gr.Blocks) -> None:
        controls = list(self.controls.values())
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        model = quiet | {"concurrency_id": "model", "concurrency_limit": 1}
        view = [self.roll, self.player, self.selected, self.downloads, self.report, self.history, self.wav_file]
        shown = [self.session, self.status, *view]
        for slot, control in self.controls.items():
            control.input(self._touch(slot), self.origins, [self.origins, control], queue=False, **quiet)
        reading = [self.understood, self.read_text, self.origins, *controls]
        self.read.click(self._read, [self.prompt, self.origins], reading, queue=False, **quiet)
        self.reset.click(self._reset, None, [self.origins, self.read_text, *controls], queue=False, **quiet)
        asked = [self.prompt, self.read_text, self.origins, self.session, *controls]
        gr.on(
            [self.generate.click, self.prompt.submit], self._generate, asked, [*reading, *shown],
            trigger_mode="once", **model,
        )  # fmt: skip
        self.stop.click(self._stop, None, None, queue=False, **quiet)
        extra = [self.session, self.selected, self.more, self.upload, *controls]
        self.proceed.click(self._continue_shown, extra, shown, **model)
        self.proceed_file.click(self._continue_file, extra, shown, **model)
        self.undo.click(self._step(Session.undo), [self.session, self.selected], shown, queue=False, **quiet)
        self.redo.click(self._step(Session.redo), [self.session, self.selected], shown, queue=False, **quiet)
        self.history.input(self._restore, [self.session, self.history], shown, queue=False, **quiet)
        self.selected.input(self._select, [self.session, self.selected], shown, queue=False, **quiet)
        self.wav.click(
            self._wav, [self.session, self.selected], self.wav_file,
            concurrency_id="render", concurrency_limit=2, **quiet,
        )  # fmt: skip
        page.unload(self._leave)

    # Prompt and conditions

    def _touch(self, slot: str):
        def touch(origins: dict):
            return {**origins, slot: "you"}, gr.update(info=ORIGIN["you"])

        return touch

    def _read(self, prompt: str, origins: dict):
        with _told():
            reading = self.composer.read(prompt)
        found, updates, origins = reading.request(), [], dict(origins)
        for slot in SLOTS:
            if origins.get(slot) == "you":
                updates.append(gr.skip())
                continue
            origins[slot] = "prompt" if slot in found else "default"
            value = found.get(slot, DEFAULTS[slot])
            value = min(max(value, 4), MAX_BARS) if slot == "bars" else value
            updates.append(gr.update(value=value, info=ORIGIN[origins[slot]]))
        kept = [slot for slot in SLOTS if origins.get(slot) == "you" and slot in found and slot != "num_outputs"]
        lines = reading.explain() + [f"note        {slot}: your setting goes before the prompt" for slot in kept]
        if reading.conditions.get("bars", 4) > MAX_BARS or reading.conditions.get("bars", 4) < 4:
            lines.append(f"note        bars: this page writes 4 to {MAX_BARS}")
        text = "\n".join(f"- {html.escape(line)}" for line in lines) if prompt.strip() else ""
        return [text, prompt, origins, *updates]

    def _reset(self):
        return [{}, "", *(gr.update(value=DEFAULTS[slot], info=ORIGIN["default"]) for slot in SLOTS)]

    def _request(self, values: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the generator; what is neutral is left out."""
        request = {slot: value for slot, value in values.items() if value not in (None, ANY, AUTO, [], "")}
        for slot, automatic in (("tempo", 0), ("density", 0), ("seed", -1)):
            if request.get(slot) == automatic:
                del request[slot]
        for slot in ("bars", "num_outputs", "seed", "top_k"):
            if slot in request:
                request[slot] = int(request[slot])
        request.setdefault("seed", secrets.randbelow(2**31))
        return request

    # Generation

    def _generate(self, request: gr.Request, prompt, read_text, origins, session, *values):
        values = dict(zip(SLOTS, values))
        untouched: list[Any] = [gr.skip()] * (3 + len(SLOTS))
        if prompt.strip() and prompt != read_text:
            updates = self._read(prompt, origins)
            for slot, update in zip(SLOTS, updates[3:]):
                if "value" in update:
                    values[slot] = update["value"]
            yield [*updates, gr.skip(), "Prompt read; waiting for the model.", *[gr.skip()] * 7]
        asked = self._request(values)
        stop = self._begin(request)
        with _told():
            for run in self.composer.compose(asked, stop):
                if run.pieces:
                    session = self._keep(session, run, "generated", prompt, asked)
                    yield [*untouched, session, self._done(session.shown), *self._view(session, 1)]
                else:
                    yield [*untouched, gr.skip(), self._progress(run), self._roll(run, asked), *[gr.skip()] * 6]

    def _continue_shown(self, request: gr.Request, session, selected, more, upload, *values):
        if not session.shown:
            raise gr.Error("There is nothing to continue yet: generate something first.", print_exception=False)
        midi = session.shown.midi[min(int(selected or 1), len(session.shown.midi)) - 1]
        yield from self._proceed(session, midi, "continued", more, values, request)

    def _continue_file(self, request: gr.Request, session, selected, more, upload, *values):
        if not upload:
            raise gr.Error("Choose a MIDI file first.", print_exception=False)
        yield from self._proceed(session, upload, "continued a file", more, values, request)

    def _proceed(self, session, midi, action, more, values, request):
        values = dict(zip(SLOTS, values)) | {"bars": more}
        names = ("genre", "instruments", "without", "bars", "num_outputs", "seed", "temperature", "top_k", "top_p")
        asked = self._request({slot: values[slot] for slot in names})
        stop = self._begin(request)
        with _told():
            for run in self.composer.proceed(midi, asked, stop):
                if run.pieces:
                    session = self._keep(session, run, action, "", asked)
                    yield [session, self._done(session.shown), *self._view(session, 1)]
                else:
                    yield [gr.skip(), self._progress(run), self._roll(run, asked), *[gr.skip()] * 6]

    def _begin(self, request: gr.Request) -> threading.Event:
        stop = self.stops[request.session_hash or ""] = threading.Event()
        return stop

    def _stop(self, request: gr.Request) -> None:
        if event := self.stops.get(request.session_hash or ""):
            event.set()

    def _leave(self, request: gr.Request) -> None:
        if event := self.stops.pop(request.session_hash or "", None):
            event.set()

    def _keep(self, session: Session, run: Run, action: str, prompt: str, asked: dict) -> Session:
        if not any(piece.score.note_num() for piece in run.pieces):
            raise RequestError("Stopped before the first bar was finished; nothing was kept.")
        session.add(
            action=action, prompt=prompt, request=asked, seed=run.pieces[0].seed, model=self.composer.generator.name,
            midi=[midi_bytes(piece) for piece in run.pieces], bars=run.bars,
            measured=[measured_facts(piece) for piece in run.pieces], seconds=run.seconds, complete=not run.stopped,
            primer_bars=run.primer_bars,
        )  # fmt: skip
        return session

    # What is shown

    def _progress(self, run: Run) -> str:
        counts = [f"Output {n + 1}: bar {run.written(n)} of {run.total}" for n in range(run.outputs)]
        done = sum(run.written(n) for n in range(run.outputs))
        left = f", about {run.seconds / done * (run.total * run.outputs - done):.0f} s left" if done else ""
        return f"{' · '.join(counts)} · {run.seconds:.0f} s{left}"

    def _done(self, version: Version) -> str:
        state = "Done" if version.complete else "Stopped; the finished bars are kept"
        return f"{state}. Seed {version.seed}, {version.seconds:.1f} s."

    def _roll(self, run: Run, asked: dict) -> dict[str, Any]:
        return roll_value(run.bars, run.total + run.primer_bars, run.primer_bars, asked.get("tempo"), 0)

    def _view(self, session: Session, selected: int) -> list[Any]:
        """Values of roll, player, selected, downloads, report, history and WAV for the shown version."""
        version = session.shown
        if version is None:
            return [None, None, gr.skip(), "", "", gr.skip(), gr.update(visible=False)]
        outputs = len(version.midi)
        index = min(max(int(selected or 1), 1), outputs) - 1
        roll = roll_value(version.bars, 0, version.primer_bars, version.measured[index].get("tempo"), index)
        choices = [(item.label, number) for number, item in sorted(session.versions.items(), reverse=True)]
        return [
            roll,
            {"src": data_url(version.midi[index])},
            gr.update(choices=list(range(1, outputs + 1)), value=index + 1),
            downloads_html(version, index),
            report_markdown(version, index),
            gr.update(choices=choices, value=version.number),
            gr.update(value=None, visible=False),
        ]

    def _step(self, step):
        def move(session: Session, selected: int):
            step(session)
            return [session, self._shown_line(session), *self._view(session, selected)]

        return move

    def _restore(self, session: Session, number: int | None):
        if number in session.versions:
            session.current = number
        return [session, self._shown_line(session), *self._view(session, 1)]

    def _select(self, session: Session, selected: int):
        return [session, gr.skip(), *self._view(session, selected)]

    @staticmethod
    def _shown_line(session: Session) -> str:
        return f"Version {session.shown.label}." if session.shown else "Nothing made yet."

    def _wav(self, session: Session, selected: int):
        version = session.shown
        if version is None:
            raise gr.Error("There is nothing to render yet.", print_exception=False)
        index = min(int(selected or 1), len(version.midi)) - 1
        try:
            data = render_wav(version.midi[index])
        except OSError as error:
            raise gr.Error(str(error), print_exception=False) from None
        name = file_name(version.request.get("genre"), version.seed, index + 1, "wav")
        return gr.update(value=write_download(Path(_scratch()), name, data), visible=True)


def _scratch() -> str:
    """A fresh folder below Gradio's temporary one, which is emptied every hour."""
    root = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(dir=root)


class _told:  # noqa: N801 - a context manager, used like a function
    """Shows a refused request to the visitor instead of a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, RequestError):
            raise gr.Error(str(error), print_exception=False) from None
        return False

"""The tab that lets three models write the same bars side by side, with their names or without."""

from __future__ import annotations

import base64
import html
import secrets
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr
from composer_api import refusals
from composer_compare import MAX_NEW_BARS, MAX_PRIMER_BARS, SIMILARITY, Comparer, Comparison, archive
from composer_components import Player, RollView
from composer_engine import MAX_UPLOAD_BYTES
from composer_files import data_url
from composer_report import roll_value

ABOUT = (
    "Three families write the same number of bars at the same tempo, temperature and seed. With a file, the LSTM and "
    f"Museformer continue its first bars, and MusicVAE varies the last of them (similarity {SIMILARITY}); without one, "
    "all three begin from nothing, for piano. Likelihoods are not compared: the vocabularies differ."
)


class CompareTab:
    """Layout and listeners; `begin` makes the stop flag of a visitor's run, `stop` sets it."""

    def __init__(
        self,
        comparer: Comparer,
        player: Player,
        begin: Callable[[gr.Request], threading.Event],
        stop: Callable[[gr.Request], None],
    ):
        self.comparer, self.player, self.begin, self.stop_running = comparer, player, begin, stop

    def build(self) -> None:
        """Draws the tab into the current Blocks."""
        gr.Markdown(ABOUT)
        self.result = gr.State(None, time_to_live=3600)
        self.votes = gr.BrowserState([], storage_key="partimento-preferences")
        self.primer = gr.State(None, time_to_live=3600)
        with gr.Row():
            self.upload = gr.UploadButton(
                "Begin with a MIDI file (optional)", file_types=[".mid", ".midi"], type="binary",
                elem_id="compare-upload",
            )  # fmt: skip
            self.clear = gr.Button("Begin from nothing", elem_id="compare-clear")
        self.about_primer = gr.Markdown("No file: all three begin from nothing.", elem_id="compare-primer")
        with gr.Row():
            self.primer_bars = gr.Number(
                4, label=f"Bars of the file (1 to {MAX_PRIMER_BARS})", precision=0, elem_id="compare-primer-bars"
            )
            self.bars = gr.Number(
                4, label=f"New bars (1 to {MAX_NEW_BARS})", precision=0, elem_id="compare-bars", min_width=120
            )
            self.temperature = gr.Slider(0.1, 2, value=1, step=0.05, label="Temperature", elem_id="compare-heat")
            self.seed = gr.Number(-1, label="Seed (-1: random)", precision=0, elem_id="compare-seed", min_width=120)
        self.blind = gr.Checkbox(False, label="Blind: names are hidden until you have chosen", elem_id="compare-blind")
        with gr.Row():
            self.run = gr.Button("Compare", variant="primary", elem_id="compare-run")
            self.stop = gr.Button("Stop comparing", variant="stop", elem_id="compare-stop")
        self.status = gr.Markdown("Ready.", elem_id="compare-status")
        self.roll = RollView(elem_id="compare-roll", selectable=False)
        self.selected = gr.Radio([], label="Piece to play", elem_id="compare-selected", visible=False)
        self.prefer = gr.Radio([], label="Which do you prefer?", elem_id="compare-prefer", visible=False)
        self.table = gr.Markdown(elem_id="compare-table", elem_classes="tables")
        self.downloads = gr.HTML(elem_id="compare-downloads", elem_classes="downloads")
        self._listen()

    def _listen(self) -> None:
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        instant = quiet | {"queue": False}
        view = [self.status, self.roll, self.player, self.selected, self.prefer, self.table, self.downloads]
        soon = quiet | {"concurrency_id": "reading", "concurrency_limit": 4}
        self.upload.upload(self._open, self.upload, [self.primer, self.about_primer], **soon)
        self.clear.click(lambda: (None, "No file: all three begin from nothing."), None,
                         [self.primer, self.about_primer], **instant)  # fmt: skip
        asked = [self.primer, self.primer_bars, self.bars, self.temperature, self.seed, self.blind]
        model = quiet | {"concurrency_id": "model", "concurrency_limit": 1}
        model |= {"show_progress": "minimal", "show_progress_on": self.status}
        self.run.click(self._run, asked, [self.result, *view], trigger_mode="once", **model)
        self.stop.click(self.stop_running, None, None, **instant)
        self.selected.input(self._select, [self.result, self.selected], [self.roll, self.player], **instant)
        self.prefer.input(
            self._prefer, [self.result, self.prefer, self.selected, self.votes], [self.result, *view, self.votes],
            **instant,
        )  # fmt: skip

    def _open(self, data: bytes | None):
        if not data or len(data) > MAX_UPLOAD_BYTES:
            raise gr.Error("Choose a MIDI file of at most 2 MB.", print_exception=False)
        with refusals():
            return data, f"File: {self.comparer.composer.open(data).facts}"

    def _run(self, request: gr.Request, primer, primer_bars, bars, temperature, seed, blind):
        seed = secrets.randbelow(2**31) if seed in (None, -1) else int(seed)
        stop, count = self.begin(request), (int(primer_bars or 0), int(bars or 0))
        with refusals():
            for number, comparison in enumerate(
                self.comparer.run(primer, *count, float(temperature), seed, bool(blind), stop), 1
            ):
                if not comparison.finished:
                    text = f"{comparison.label(number - 1)} is writing ({number} of {len(comparison.columns)})."
                    yield [gr.skip(), text, self._roll(comparison, 0), *[gr.skip()] * 5]
                    continue
                yield [comparison, *self._view(comparison, self._first(comparison))]

    @staticmethod
    def _first(comparison: Comparison) -> int:
        """The first column that can be played."""
        return next((index for index, column in enumerate(comparison.columns) if column.midi), 0)

    def _roll(self, comparison: Comparison, selected: int) -> dict[str, Any]:
        total = comparison.primer_bars + comparison.settings["bars"]
        columns = comparison.columns
        value = roll_value(
            [column.bars for column in columns], total, comparison.primer_bars, comparison.tempo, selected
        )
        for index, (output, column) in enumerate(zip(value["outputs"], columns)):
            output["title"] = comparison.label(index)
            output["caption"] = column.error or ("" if comparison.blind else column.what) or "…"
        return value

    def _view(self, comparison: Comparison, index: int) -> list[Any]:
        """Values of status, roll, player, selected, prefer, table and downloads."""
        columns = comparison.columns
        playable = [(comparison.label(i), i) for i, column in enumerate(columns) if column.midi]
        state = "Stopped." if comparison.stopped else f"{len(playable)} of {len(columns)} models have written."
        if comparison.preferred:
            state = f"You preferred {comparison.preferred}."
        midi = columns[index].midi
        link = ""
        if playable and not comparison.blind:
            packed = base64.b64encode(archive(comparison)).decode("ascii")
            name = f"compare_{comparison.settings['seed']}.zip"
            link = f'<a download="{name}" href="data:application/zip;base64,{packed}">Download all (.zip)</a>'
        return [
            f"{state} Seed {comparison.settings['seed']}.",
            self._roll(comparison, index),
            {"src": data_url(midi), "bars": len(columns[index].bars)} if midi else None,
            gr.update(choices=playable, value=index, visible=bool(playable)),
            gr.update(choices=playable, value=None, visible=comparison.blind and bool(playable)),
            self._table(comparison),
            link,
        ]

    @staticmethod
    def _table(comparison: Comparison) -> str:
        """Facts of the columns; in blind mode only what the notes themselves say."""
        names = [name for column in comparison.columns for name in column.measures]
        lines = [
            f"| | {' | '.join(comparison.label(i) for i in range(len(comparison.columns)))} |",
            "|---|---|---|---|",
        ]
        rows: list[list[str]] = []
        if not comparison.blind:
            rows.append(["does", *(html.escape(column.error or column.what) for column in comparison.columns)])
            rows.append(["parameters", *(f"{column.parameters:,}" for column in comparison.columns)])
            rows.append(["seconds", *(f"{column.seconds:.1f}" for column in comparison.columns)])
        for name in dict.fromkeys(names):
            values = [column.measures.get(name) for column in comparison.columns]
            rows.append([name, *("–" if value is None else f"{value:.2f}" for value in values)])
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])

    def _select(self, comparison: Comparison | None, index: int | None):
        if comparison is None or index is None:
            return [gr.skip(), gr.skip()]
        column = comparison.columns[index]
        return [self._roll(comparison, index), {"src": data_url(column.midi), "bars": len(column.bars)}]

    def _prefer(self, comparison: Comparison | None, index: int | None, selected: int | None, votes: list | None):
        """The choice is kept in this browser, and the names are shown."""
        if comparison is None or index is None:
            return [gr.skip()] * 9
        chosen = comparison.columns[index].title
        comparison.preferred = f"{comparison.label(index)}, which is by {chosen}"
        comparison.blind = False
        votes = [*(votes or []), chosen]
        view = self._view(comparison, index if selected is None else selected)
        counts = ", ".join(f"{name} {votes.count(name)}" for name in dict.fromkeys(votes))
        return [comparison, f"{view[0]} Your choices so far: {counts}.", *view[1:], votes]

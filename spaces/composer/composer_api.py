"""Named, stateless endpoints of the Composer Space for `gradio_client`. Files travel as base64."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
from composer_engine import (
    MAX_BARS,
    MAX_BARS_IN_ALL,
    MAX_OUTPUTS,
    MAX_UPLOAD_BYTES,
    Composer,
    RequestError,
    Run,
    sentence_for,
)
from composer_files import can_render, file_name, midi_bytes, render_wav
from composer_musicxml import musicxml

from partimento.tokenization import FAMILY_PROGRAMS
from partimento.tokenization.conditions import KEYS


def add_endpoints(composer: Composer) -> None:
    """Registers /describe, /parse_prompt, /generate, /continue_midi, /regenerate_bars, /render_audio and
    /export_musicxml on the current Blocks."""

    def describe() -> dict:
        """The model, its labels and the limits of this Space."""
        return {
            "model": composer.generator.name,
            "genres": composer.labels("genre"),
            "artists": composer.labels("artist"),
            "moods": composer.labels("mood"),
            "keys": list(KEYS),
            "instruments": list(FAMILY_PROGRAMS),
            "max_bars": MAX_BARS,
            "max_outputs": MAX_OUTPUTS,
            "max_bars_in_all": MAX_BARS_IN_ALL,
            "audio": can_render(),
        }

    def parse_prompt(prompt: str) -> dict:
        """What a text in English or Spanish asks for.

        Args:
            prompt: such as "slow sad jazz with piano and drums, no bass, 32 bars".
        """
        with refusals():
            reading = composer.read(prompt)
        return {
            "request": reading.request(),
            "conditions": reading.conditions,
            "programs": {family: list(programs) for family, programs in reading.programs.items()},
            "without": reading.without,
            "unmatched": reading.unmatched,
            "nearest": reading.nearest,
            "contradictions": reading.contradictions,
            "warnings": reading.warnings,
            "explanation": reading.explain(),
        }

    def generate(prompt: str = "", settings: dict | None = None) -> Iterator[dict]:
        """New pieces; a value per bar, the last with files and what was measured.

        Args:
            prompt: free text; see /parse_prompt.
            settings: go before the prompt: genre, key, tempo, instruments, without, density, bars (16), num_outputs
                (1), seed, temperature, top_k, top_p.
        """
        with refusals():
            request = {"bars": 16, "num_outputs": 1} | composer.read(prompt).request() | allowed(settings)
            yield from events(lambda stop: composer.compose(request, stop))

    def continue_midi(midi: str, settings: dict | None = None) -> Iterator[dict]:
        """More bars after a MIDI file in 4/4; values as of /generate.

        Args:
            midi: the file in base64, at most 2 MB.
            settings: bars (8), after_bar (the last; later bars are dropped), num_outputs (1), genre, instruments,
                without, seed, temperature, top_k, top_p.
        """
        with refusals():
            request = {"bars": 8, "num_outputs": 1} | allowed(settings, _CONTINUING)
            data = decoded(midi)
            yield from events(lambda stop: composer.proceed(data, request, stop))

    def regenerate_bars(midi: str, first: int, last: int, settings: dict | None = None) -> Iterator[dict]:
        """Bars of a MIDI file written anew from the bars before them; all other bars stay. The model does not see the
        later bars while it writes; of four candidates the one that they fit best is kept. While it runs, each output is
        a candidate; the last value holds the whole piece.

        Args:
            midi: the file in base64, at most 2 MB.
            first: first bar to rewrite, from 1.
            last: last bar to rewrite.
            settings: genre, instruments, without, seed, temperature, top_k, top_p.
        """
        with refusals():
            request, data = allowed(settings, _REWRITING), decoded(midi)
            yield from events(lambda stop: composer.rewrite(data, int(first), int(last), request, stop))

    def render_audio(midi: str) -> dict:
        """Sound of a MIDI file: {"wav": base64}.

        Args:
            midi: the file in base64, at most 2 MB.
        """
        with refusals():
            data = decoded(midi)
            composer.primer(data)
            try:
                return {"wav": base64.b64encode(render_wav(data)).decode("ascii")}
            except OSError as error:
                raise RequestError(str(error)) from None

    def export_musicxml(midi: str, title: str = "partimento") -> dict:
        """Score of a MIDI file of at most 64 bars: {"musicxml": text}.

        Args:
            midi: the file in base64, at most 2 MB.
            title: stands above the score.
        """
        with refusals():
            piece = composer.open(decoded(midi))
            try:
                score = musicxml(piece.midi, title[:200], piece.measured.get("key"))
            except ValueError as error:
                raise RequestError(str(error)) from None
            return {"musicxml": score.decode()}

    def events(begin) -> Iterator[dict]:
        stop = threading.Event()
        sent: dict[int, int] = {}
        for run in begin(stop):
            yield from news(run, sent)

    model = {"concurrency_id": "model", "concurrency_limit": 1}
    gr.api(describe, api_name="describe", queue=False)
    gr.api(parse_prompt, api_name="parse_prompt", queue=False)
    gr.api(generate, api_name="generate", **model)
    gr.api(continue_midi, api_name="continue_midi", **model)
    gr.api(regenerate_bars, api_name="regenerate_bars", **model)
    gr.api(export_musicxml, api_name="export_musicxml", concurrency_id="render", concurrency_limit=2)
    gr.api(render_audio, api_name="render_audio", concurrency_id="render", concurrency_limit=2)


def news(run: Run, sent: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Events of a run since the last call: one per output with new bars; at the end one per output with its file.

    `transposed`: semitones by which the file lies above the notes that were sent while it was written.
    """
    if not run.pieces:
        fresh = [output for output in range(run.outputs) if len(run.bars[output]) > sent.get(output, 0)]
        for output in fresh:
            notes = [note for bar in run.bars[output][sent.get(output, 0) :] for note in bar]
            sent[output] = len(run.bars[output])
            yield event(run, output, "running", notes)
        return
    for output, piece in enumerate(run.pieces):
        genre = piece.conditions.get("genre")
        files = {file_name(genre, piece.seed, output + 1, "mid"): base64.b64encode(midi_bytes(piece)).decode("ascii")}
        report = {"requested": piece.conditions, "measured": piece.measured() if piece.score.note_num() else {}}
        state = "done" if piece.complete else "stopped"
        known = 0 if run.kind == "Candidate" else sent.get(output, 0)
        notes = [note for bar in run.bars[output][known:] for note in bar]
        last = {"seed": piece.seed, "files": files, "report": report, "transposed": piece.transposed}
        yield event(run, output, state, notes) | last


def event(run: Run, output: int, state: str, notes: list) -> dict[str, Any]:
    """{run_id, output, state, bar, bars_total, new_notes}, and a note where something is to be known."""
    return {
        "run_id": run.run_id,
        "output": output,
        "state": state,
        "bar": run.written(output),
        "bars_total": run.total,
        "new_notes": notes,
    } | ({"note": run.note.strip()} if run.note else {})


_SAMPLING = {"genre", "instruments", "without", "seed", "temperature", "top_k", "top_p"}
_GENERATING = _SAMPLING | {"artist", "mood", "key", "tempo", "density", "bars", "num_outputs"}
_CONTINUING = _SAMPLING | {"bars", "after_bar", "num_outputs"}
_REWRITING = _SAMPLING


_NUMBERS = {"tempo", "density", "temperature", "top_p"}
_WHOLE = {"bars", "num_outputs", "after_bar", "seed", "top_k"}
_LISTS = {"instruments", "without"}


def allowed(settings: dict | None, names: set[str] = _GENERATING) -> dict[str, Any]:
    """The settings, checked by name and kind."""
    if settings is not None and not isinstance(settings, dict):
        raise RequestError('settings must be an object such as {"bars": 8}.')
    if unknown := set(settings or {}) - names:
        raise RequestError(f"Unknown settings: {', '.join(sorted(unknown))}. Known: {', '.join(sorted(names))}.")
    for name, value in (settings or {}).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _NUMBERS and not number:
            raise RequestError(f"{name} must be a number.")
        if name in _WHOLE and not (number and float(value).is_integer()):
            raise RequestError(f"{name} must be a whole number.")
        if name in _LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise RequestError(f"{name} must be a list of names.")
        if name not in _NUMBERS | _WHOLE | _LISTS and not isinstance(value, str):
            raise RequestError(f"{name} must be a text.")
    return {name: int(value) if name in _WHOLE else value for name, value in (settings or {}).items()}


def decoded(midi: str) -> bytes:
    """The bytes of a file in base64."""
    if isinstance(midi, str) and len(midi) > 4 * MAX_UPLOAD_BYTES // 3 + 4:
        raise RequestError(f"The file is too large; the limit is {MAX_UPLOAD_BYTES:,} bytes.")
    try:
        return base64.b64decode(midi, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise RequestError("midi must be a file in base64.") from None


class refusals:  # noqa: N801 - a context manager, used like a function
    """A refused request reaches the visitor or client as its sentence; errors of the program as one that says nothing
    about it, and the log has them."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, RequestError):
            raise gr.Error(str(error), print_exception=False) from None
        if isinstance(error, Exception) and not isinstance(error, gr.Error):
            raise gr.Error(sentence_for(RuntimeError())) from error
        return False

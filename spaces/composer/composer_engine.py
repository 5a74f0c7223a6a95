"""Requests, limits and running generations of the Composer Space; nothing here knows Gradio."""

from __future__ import annotations

import contextvars
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from symusic import Note, Score, Tempo, TimeSignature, Track

from partimento.pipelines import GeneratedMidi, MidiGenerator, PromptReader, PromptReading, rewrite_bars
from partimento.pipelines.instruments import programs_of
from partimento.pipelines.keys import semitones_between
from partimento.tokenization import (
    DroppedTracksWarning,
    EmptyMidiError,
    MidiError,
    MidiParseError,
    MidiProcessor,
    MidiTooLongError,
    NotMidiError,
    TimeSignatureError,
)
from partimento.tokenization.conditions import estimate_key
from partimento.tokenization.general_midi import program_name

MAX_BARS, MAX_OUTPUTS, MAX_BARS_IN_ALL = 64, 4, 128
MAX_UPLOAD_BYTES, MAX_UPLOAD_NOTES = 2_000_000, 20_000
MAX_SECONDS = 600.0
MAX_UPLOAD_BARS = 512
CANDIDATES = 4  # versions of rewritten bars, of which the best fitting is kept
POLL = 0.25  # seconds between looks at a running generation
Notes = list[list[float]]
"""[program (-1 = drums), pitch, start in beats, length in beats, velocity] each."""


class RequestError(ValueError):
    """A request that cannot be fulfilled; the message is for the visitor and holds no path."""


class NoGpuError(RuntimeError):
    """There is no GPU for this job; the message is for the visitor."""


@dataclass(frozen=True)
class Job:
    """What a model shall write, in a form that can be sent to another process."""

    method: str
    """A method of `MidiGenerator`, or `rewrite_bars`."""
    arguments: tuple[Any, ...]
    settings: dict[str, Any]
    bars: int
    outputs: int

    def perform(self, generator: MidiGenerator, **how: Any) -> list[GeneratedMidi]:
        """Lets a model write it; `how` says on_music, stop and max_seconds."""
        if self.method == "rewrite_bars":
            return [rewrite_bars(generator, *self.arguments, **how, **self.settings).piece]
        return getattr(generator, self.method)(*self.arguments, **how, **self.settings)


@dataclass
class Opened:
    """An uploaded piece as the model hears it."""

    midi: bytes = field(repr=False)
    bars: list[Notes] = field(repr=False)
    measured: dict[str, Any]
    facts: str
    """What it is and what was changed, in a sentence."""


def shift_towards(bars: list[Notes], key: str | None) -> int:
    """Semitones by which these notes would be moved to `key`, as the finished piece will be."""
    weights = np.zeros(12)
    for bar in bars:
        for program, pitch, _, length, _ in bar:
            if program >= 0:
                weights[int(pitch) % 12] += length
    found = estimate_key(weights) if key and weights.any() else None
    return semitones_between(found, key) if found and key else 0


def notes_by_bar(score, num_bars: int) -> list[Notes]:
    """The notes of a score in 4/4, one list per bar, each in the order of time."""
    bars: list[Notes] = [[] for _ in range(num_bars)]
    quarter = score.ticks_per_quarter
    for track in score.tracks:
        program = -1 if track.is_drum else track.program
        notes = track.notes.numpy()
        for time_, duration, pitch, velocity in zip(*(notes[k] for k in ("time", "duration", "pitch", "velocity"))):
            bar = int(time_) // (4 * quarter)
            if bar < num_bars:
                note = [program, int(pitch), round(int(time_) / quarter, 4), round(int(duration) / quarter, 4)]
                bars[bar].append([*note, int(velocity)])
    for bar in bars:
        bar.sort(key=lambda note: (note[2], note[0], note[1]))
    return bars


@dataclass
class Run:
    """One running generation and what it has written."""

    total: int
    """Bars per output that will be written."""
    outputs: int
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))
    bars: list[list[Notes]] = field(default_factory=list)
    """Finished bars per output, the primer's first."""
    pieces: list[GeneratedMidi] = field(default_factory=list)
    """The result, once it is there."""
    primer_bars: int = 0
    kind: str = "Output"
    """What each of the outputs is called while they are written."""
    seconds: float = 0.0
    stopped: bool = False
    note: str = ""
    """What the visitor should know of the way it is written."""
    model: str = ""
    """What writes it."""

    def written(self, output: int) -> int:
        """Finished new bars of an output."""
        if self.pieces and self.kind == "Candidate":
            return self.total
        return len(self.bars[output]) - self.primer_bars


class Worker:
    """One thread in which all work of models is done, one thing after another; it does not outlive the program."""

    def __init__(self):
        self.jobs: queue.Queue = queue.Queue()
        threading.Thread(target=self._run, daemon=True, name="model").start()

    def submit(self, job: Callable[[], Any]) -> Future:
        """What `job` returns or raises, once its turn has come."""
        future: Future = Future()
        self.jobs.put((future, job))
        return future

    def _run(self) -> None:
        while True:
            future, job = self.jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # it is raised again by who waits for the result
                future.set_exception(error)


class Composer:
    """A model, its prompt reader, and generations that can be watched and stopped."""

    def __init__(self, generator: MidiGenerator):
        self.generator, self.processor = generator, generator.processor
        self.local = generator  # what works in this process, always
        self.remote: Callable[..., list[GeneratedMidi]] | None = None  # called as `_write` calls it
        self.reader = PromptReader(generator.processor)
        self.worker = Worker()

    def read(self, prompt: str) -> PromptReading:
        """The prompt as it is understood."""
        try:
            return self.reader.read(prompt or "")
        except ValueError as error:
            raise RequestError(str(error).capitalize() + ".") from None

    def labels(self, slot: str) -> list[str]:
        """Labels the model knows for genre, artist or mood."""
        return self.processor.labels(slot)

    def compose(self, request: dict[str, Any], stop: threading.Event) -> Iterator[Run]:
        """New pieces: yields the run after each bar, and at least every quarter of a second. The last has pieces."""
        self._check(request)
        run = Run(int(request["bars"]), int(request["num_outputs"]))
        run.bars = [[] for _ in range(run.outputs)]
        yield from self._watch(run, stop, Job("generate", (), request, run.total, run.outputs))

    def proceed(self, midi: bytes, request: dict[str, Any], stop: threading.Event) -> Iterator[Run]:
        """More bars after a MIDI file; else as `compose`. The primer's notes are the first bars of each output."""
        self._check(request)
        primer = self.primer(midi)
        end = request.get("after_bar")
        end = primer.num_bars if end is None else int(end)
        if not 0 <= end <= primer.num_bars:
            raise RequestError(f"The piece has {primer.num_bars} bars; choose a bar from 0 to {primer.num_bars}.")
        run = Run(int(request["bars"]), int(request["num_outputs"]), primer_bars=end)
        run.bars = [notes_by_bar(primer.to_score(), end) for _ in range(run.outputs)]
        score = primer.to_score(exact_tempos=True)
        yield from self._watch(run, stop, Job("continue_midi", (score,), request, run.total, run.outputs))

    def rewrite(
        self, midi: bytes, first: int, last: int, request: dict[str, Any], stop: threading.Event
    ) -> Iterator[Run]:
        """Bars `first` to `last` (from 1) written anew; else as `compose`. While it runs, each output is a candidate
        for these bars; the last run has one piece, whole."""
        piece = self.primer(midi)
        if not 1 <= first <= last <= piece.num_bars:
            raise RequestError(f"The piece has bars 1 to {piece.num_bars}; choose the first and the last to rewrite.")
        candidates = CANDIDATES if last < piece.num_bars else 1
        self._check({"bars": last - first + 1, "num_outputs": candidates})
        run = Run(last - first + 1, candidates, kind="Candidate")
        run.bars = [[] for _ in range(candidates)]
        arguments = (piece.to_score(exact_tempos=True), first, last)
        job = Job("rewrite_bars", arguments, {"candidates": candidates, **request}, run.total, candidates)
        for state in self._watch(run, stop, job):
            if state.stopped:
                raise RequestError("Stopped; the bars are as they were.")
            yield state

    def open(self, midi: bytes) -> Opened:
        """An uploaded file on the grid of the model."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DroppedTracksWarning)
            piece = self.primer(midi)
        score = piece.to_score(exact_tempos=True)
        names = [program_name(-1 if track.is_drum else track.program) for track in score.tracks]
        measured = self.processor.measure_conditions(piece, exact_tempo=True) | {"programs": names}
        dropped = sum(issubclass(item.category, DroppedTracksWarning) for item in caught)
        facts = (
            f"{piece.num_bars} bars in 4/4 at {measured['tempo']:.4g} bpm, {piece.num_notes:,} notes: "
            f"{', '.join(names)}. Times are on a grid of twelfths of a beat."
        )
        facts += " Tracks of programs that the model does not know were left out." if dropped else ""
        return Opened(score.resample(480).dumps_midi(), notes_by_bar(score, piece.num_bars), measured, facts)

    def excerpt(self, midi: bytes, first: int, last: int, tracks: Sequence[str] = ()) -> Opened:
        """Bars `first` to `last` (from 1) of a piece as a piece of its own, with the tracks of these families or
        programs, or all where none is named. Their notes stay as they are; what sounds on behind the last bar ends with
        it."""
        piece = self.primer(midi)
        if not 1 <= first <= last <= piece.num_bars:
            raise RequestError(f"The piece has bars 1 to {piece.num_bars}; choose the first and the last to keep.")
        with _plain_words():
            programs = {program for name in tracks for program in programs_of(name)[1]}
        score = piece.to_score(exact_tempos=True)
        bar = 4 * score.ticks_per_quarter
        begin, end = bar * (first - 1), bar * last
        part = Score(score.ticks_per_quarter)
        part.time_signatures.append(TimeSignature(0, 4, 4))
        for tempo in score.tempos:
            if tempo.time < end:
                while tempo.time <= begin and len(part.tempos):
                    part.tempos.pop()
                part.tempos.append(Tempo(max(tempo.time - begin, 0), tempo.qpm))
        for track in score.tracks:
            if programs and (-1 if track.is_drum else track.program) not in programs:
                continue
            kept = Track(name=track.name, program=track.program, is_drum=track.is_drum)
            for note in track.notes:
                if begin <= note.time < end:
                    length = min(note.duration, end - note.time)
                    kept.notes.append(Note(note.time - begin, length, note.pitch, note.velocity))
            if len(kept.notes):
                part.tracks.append(kept)
        if not part.tracks:
            raise RequestError("These bars hold no notes of these tracks; choose others.")
        return self.open(part.resample(480).dumps_midi())

    def primer(self, midi: bytes):
        """The piece in an uploaded file, checked against the limits."""
        if len(midi) > MAX_UPLOAD_BYTES:
            raise RequestError(f"The file has {len(midi):,} bytes; the limit is {MAX_UPLOAD_BYTES:,}.")
        with _plain_words():
            piece = self.processor.load_piece(midi)
        if piece.num_notes > MAX_UPLOAD_NOTES:
            raise RequestError(f"The file has {piece.num_notes:,} notes; the limit is {MAX_UPLOAD_NOTES:,}.")
        if piece.num_bars > MAX_UPLOAD_BARS:
            raise RequestError(f"The file has {piece.num_bars:,} bars; the limit is {MAX_UPLOAD_BARS:,}.")
        return piece

    def _check(self, request: dict[str, Any]) -> None:
        try:
            bars, outputs = int(request["bars"]), int(request["num_outputs"])
        except (TypeError, ValueError):
            raise RequestError("Bars and outputs must be whole numbers.") from None
        if not 1 <= bars <= MAX_BARS or not 1 <= outputs <= MAX_OUTPUTS:
            raise RequestError(f"Choose 1 to {MAX_BARS} bars and 1 to {MAX_OUTPUTS} outputs.")
        if bars * outputs > MAX_BARS_IN_ALL:
            raise RequestError(f"{bars} bars × {outputs} outputs exceeds the limit of {MAX_BARS_IN_ALL} bars.")

    def _watch(self, run: Run, stop: threading.Event, job: Job) -> Iterator[Run]:
        """Runs `job` in the model's thread; however this iterator ends, the thread is told to stop."""
        news: queue.Queue = queue.Queue()
        context = contextvars.copy_context()  # of the event: whose quota it is, where a GPU is lent

        def work() -> None:
            try:
                news.put(self._write(job, run, news, stop))
            except BaseException as error:  # it is raised again by the reader of the queue
                news.put(error)

        started = time.monotonic()
        self.worker.submit(lambda: context.run(work))
        try:
            while True:
                try:
                    item = news.get(timeout=POLL)
                except queue.Empty:
                    item = None
                run.seconds = time.monotonic() - started
                if isinstance(item, BaseException):
                    with _plain_words():
                        raise item
                if isinstance(item, list):
                    self._finish(run, item)
                    yield run
                    return
                if item is not None:
                    output, bars, notes = item
                    written = run.written(output)
                    shift = 4.0 * run.primer_bars
                    run.bars[output] += [
                        [[p, pitch, start + shift, length, velocity] for p, pitch, start, length, velocity in bar]
                        for bar in notes[written:bars]
                    ]
                yield run
        finally:
            stop.set()

    def _write(self, job: Job, run: Run, news: queue.Queue, stop: threading.Event) -> list[GeneratedMidi]:
        """The pieces of a job, by the model that is elsewhere, or here where there is none or it cannot be had."""

        def heard(processor: MidiProcessor) -> Callable[[int, int, list[int]], None]:
            return lambda output, bars, ids: news.put((output, bars, notes_by_bar(processor.decode(ids), bars)))

        run.model = self.generator.name
        if self.remote is not None:
            try:
                return self.remote(job, heard(self.processor), stop)
            except NoGpuError as refusal:
                run.note, run.model = f"{refusal} ", self.local.name
        return job.perform(self.local, on_music=heard(self.local.processor), stop=stop, max_seconds=MAX_SECONDS)

    @staticmethod
    def _finish(run: Run, pieces: list[GeneratedMidi]) -> None:
        run.pieces = pieces
        run.stopped = not all(piece.complete for piece in pieces)
        run.bars = [notes_by_bar(piece.score, piece.num_bars) for piece in pieces]


class _plain_words:  # noqa: N801 - a context manager, used like a function
    """Errors of the input as sentences for the visitor; errors of the program as one that says nothing about it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if error is None or isinstance(error, RequestError):
            return False
        raise RequestError(sentence_for(error)) from None


def sentence_for(error: BaseException) -> str:
    """What a visitor is told of an error."""
    if isinstance(error, EmptyMidiError):
        return "This MIDI contains no notes."
    if isinstance(error, (MidiParseError, NotMidiError)):
        return "This file could not be read as MIDI. It may be damaged; export it again as Standard MIDI (.mid)."
    if isinstance(error, TimeSignatureError):
        return f"This model works in 4/4; the file {error.reason}."
    if isinstance(error, MidiTooLongError):
        return f"The file {error.reason}."
    if isinstance(error, MidiError):
        return f"This file cannot be used: it {error.reason}."
    if isinstance(error, ValueError):
        text = str(error)
        return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    return "Something went wrong on our side. Please try again."


def load_composer(model: str | None = None, fallback: str | Path = "museformer-small") -> tuple[Composer, str]:
    """(composer, a line about its model): the Hub model `model`, or the embedded one where that cannot be had."""
    if model:
        try:
            return Composer(MidiGenerator.from_pretrained(model)), f"Model {model}"
        except (OSError, ValueError):
            note = f"The model {model} could not be loaded; this is the embedded one. "
            generator = MidiGenerator.from_pretrained(fallback)
            return Composer(generator), note + f"Model {fallback}"
    return Composer(MidiGenerator.from_pretrained(fallback)), f"Model {fallback} (embedded)"

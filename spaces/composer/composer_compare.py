"""Three families of models on one task: the same bars, tempo, temperature and seed; nothing here knows Gradio."""

from __future__ import annotations

import io
import json
import os
import random
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from composer_engine import MAX_SECONDS, Composer, Notes, RequestError, notes_by_bar, sentence_for
from symusic import Score, Tempo, TimeSignature, Track
from transformers import AutoConfig

from partimento.checkpoints import list_embedded
from partimento.pipelines import LoopGenerator, MidiGenerator, join_loops
from partimento.pipelines.generation import resolve_model
from partimento.pipelines.loops import DEFAULT_LOOP_MODEL
from partimento.tokenization.general_midi import program_name

MAX_NEW_BARS, MAX_PRIMER_BARS = 16, 16
TEMPO = 120.0  # of pieces without a primer
SIMILARITY = 0.8
QUARTER = 480
COLUMNS = ("LSTM baseline", "MusicVAE", "Museformer")
FAMILIES = dict(zip(COLUMNS, ("music_recurrent", "musicvae", "museformer")))  # model_type
VARIABLES = dict(zip(COLUMNS, ("COMPARE_LSTM", "COMPARE_MUSICVAE", "COMPARE_MUSEFORMER")))


@dataclass
class Column:
    """What one model made, or why it did not."""

    title: str
    what: str = ""
    """What it did with the request, in words."""
    parameters: int = 0
    seconds: float = 0.0
    bars: list[Notes] = field(default_factory=list, repr=False)
    """Notes by bar, the primer's first."""
    midi: bytes = field(default=b"", repr=False)
    measures: dict[str, float | None] = field(default_factory=dict)
    error: str = ""


@dataclass
class Comparison:
    """Columns in the order in which they are shown; `labels` hide the names in blind mode."""

    columns: list[Column]
    settings: dict[str, Any]
    primer_bars: int
    tempo: float
    blind: bool = False
    stopped: bool = False
    finished: bool = False
    preferred: str | None = None

    def label(self, index: int) -> str:
        """Name of a column as the visitor may see it."""
        return f"Piece {'ABC'[index]}" if self.blind else self.columns[index].title


class Comparer:
    """The models of the three columns, loaded when they are first needed."""

    def __init__(self, composer: Composer):
        self.composer = composer
        self.loaded: dict[str, MidiGenerator | LoopGenerator] = {}

    def run(
        self, primer: bytes | None, primer_bars: int, bars: int, temperature: float, seed: int, blind: bool,
        stop: threading.Event,
    ) -> Iterator[Comparison]:  # fmt: skip
        """Yields the comparison before each column and when all are done; a column that fails says so in its place."""
        if not 1 <= bars <= MAX_NEW_BARS:
            raise RequestError(f"Choose 1 to {MAX_NEW_BARS} bars.")
        if not 1 <= primer_bars <= MAX_PRIMER_BARS:
            raise RequestError(f"Choose 1 to {MAX_PRIMER_BARS} bars of the file.")
        if not 0 <= seed < 2**31:
            raise RequestError("The seed lies in 0 to 2147483647.")
        piece = self.composer.primer(primer).first_bars(primer_bars) if primer else None
        start = piece.to_score().resample(QUARTER) if piece and piece.num_notes else None
        if piece and start is None:
            raise RequestError(f"The first {primer_bars} bars hold no notes; choose more bars.")
        length = piece.num_bars if piece else 0
        tempo = float(start.tempos[0].qpm) if start else TEMPO
        columns = [Column(title) for title in COLUMNS]
        if blind:
            random.Random(seed).shuffle(columns)
        settings = {"bars": bars, "temperature": temperature, "seed": seed, "primer_bars": length, "tempo": tempo}
        comparison = Comparison(columns, settings, length, tempo, blind)
        for column in columns:
            if stop.is_set():
                comparison.stopped = True
                column.error = "Stopped."
                continue
            yield comparison
            self._fill(column, start, length, bars, tempo, temperature, seed, stop)
        comparison.finished = True
        yield comparison

    def _fill(self, column, start, length, bars, tempo, temperature, seed, stop) -> None:
        """Lets one model write its column; whatever goes wrong stays in this column."""
        write = {"LSTM baseline": self._continue, "Museformer": self._continue, "MusicVAE": self._vary}[column.title]
        try:
            model = self._load(column.title)
            column.parameters = sum(parameter.numel() for parameter in model.model.parameters())

            def work() -> tuple[Score, str, float]:
                begun = time.perf_counter()
                score, what = write(model, start, length, bars, tempo, temperature, seed, stop)
                return score, what, time.perf_counter() - begun

            new, column.what, column.seconds = self.composer.worker.submit(work).result()
        except RequestError as error:
            column.error = str(error)
            return
        except Exception as error:  # the other columns go on; the sentence says nothing of the program
            column.error = sentence_for(error)
            return
        whole = joined(start, length, new, bars, tempo)
        column.midi, column.bars = whole.dumps_midi(), notes_by_bar(whole, length + bars)
        column.measures = measures(column.bars[length:])

    def _load(self, title: str) -> Any:
        if title not in self.loaded:
            name = os.environ.get(VARIABLES[title]) or self._find(title)
            kind = LoopGenerator if title == "MusicVAE" else MidiGenerator
            how = {"device": "cpu"} if self.composer.remote else {}  # a GPU that is lent by the call is not here
            try:
                self.loaded[title] = name if isinstance(name, MidiGenerator) else kind.from_pretrained(name, **how)
            except (OSError, ValueError):
                raise RequestError(f"The model of this column could not be loaded ({VARIABLES[title]}).") from None
        return self.loaded[title]

    def _find(self, title: str) -> str | MidiGenerator:
        """The generator of the page, or the first embedded checkpoint of the family."""
        if self.composer.local.model.config.model_type == FAMILIES[title]:
            return self.composer.local
        for name in sorted(list_embedded(), key=lambda name: name != DEFAULT_LOOP_MODEL):  # of the MusicVAE: a melody's
            if AutoConfig.from_pretrained(resolve_model(name)).model_type == FAMILIES[title]:
                return name
        raise RequestError(
            f"No {title} checkpoint is installed here; set {VARIABLES[title]} to a model folder or a Hub id."
        )

    @staticmethod
    def _continue(generator, start, length, bars, tempo, temperature, seed, stop) -> tuple[Score, str]:
        how = {"bars": bars, "temperature": temperature, "seed": seed, "stop": stop, "max_seconds": MAX_SECONDS}
        if start is None:
            piece = generator.generate(tempo=tempo, instruments=["piano"], **how)[0]
            what = "writes a new piece for piano"
        else:
            piece = generator.continue_midi(start, after_bar=length, **how)[0]
            what = f"continues the {length} bars"
        if stop.is_set() and not piece.complete:
            raise RequestError("Stopped.")
        return piece.score.resample(QUARTER), what

    @staticmethod
    def _vary(generator, start, length, bars, tempo, temperature, seed, stop) -> tuple[Score, str]:
        count = -(-bars // generator.num_bars)
        if start is None:
            loops = generator.sample(count, temperature=temperature, seed=seed, tempo=tempo)
            draws = "a draw" if count == 1 else f"{count} draws, one after another,"
            what = f"{draws} of {generator.num_bars} bars from its prior"
        else:
            first = max(length - generator.num_bars, 0) + 1
            window = generator.read(start, bar=first, tempo=tempo)
            how = {"similarity": SIMILARITY, "temperature": temperature, "seed": seed, "tempo": tempo}
            loops = generator.vary(window, count, **how)
            what = f"varies bars {first} to {length} ({', '.join(generator.tracks)}; similarity {SIMILARITY})"
        score = join_loops(loops).score.resample(QUARTER).shift_time(4 * QUARTER * length)
        return score, what


def joined(start: Score | None, length: int, new: Score, bars: int, tempo: float) -> Score:
    """The primer and the notes of `new` that begin in the `bars` bars behind it, at one tempo."""
    begin, end = 4 * QUARTER * length, 4 * QUARTER * (length + bars)
    whole = Score(QUARTER)
    whole.tempos.append(Tempo(0, tempo))
    whole.time_signatures.append(TimeSignature(0, 4, 4))
    tracks: dict[int, Track] = {}
    for score, low, high in ((start, 0, begin), (new, begin, end)):
        for track in score.tracks if score is not None else ():
            program = -1 if track.is_drum else track.program
            into = tracks.setdefault(
                program, Track(name=program_name(program), program=max(program, 0), is_drum=track.is_drum)
            )
            for note in track.notes:
                if low <= note.time < high:
                    into.notes.append(note.copy())
    for program in sorted(tracks, key=lambda program: (program < 0, program)):
        if len(tracks[program].notes):
            whole.tracks.append(tracks[program])
    return whole


def measures(bars: list[Notes]) -> dict[str, float | None]:
    """Notes per bar; entropy of the pitch classes in bits (0 to 3.585); groove consistency (0 to 1), the mean share of
    sixteenths at which the onsets of two neighbouring bars agree. None where there is nothing to measure."""
    notes = [note for bar in bars for note in bar]
    counts = np.bincount([int(note[1]) % 12 for note in notes if note[0] >= 0], minlength=12)
    entropy = None
    if counts.any():
        shares = counts[counts > 0] / counts.sum()
        entropy = abs(float((shares * np.log2(shares)).sum()))
    patterns = np.zeros((len(bars), 16), bool)
    for index, bar in enumerate(bars):
        patterns[index, [int(note[2] * 4 + 1e-6) % 16 for note in bar]] = True
    groove = float((patterns[1:] == patterns[:-1]).mean()) if len(bars) > 1 else None
    return {
        "notes per bar": len(notes) / max(len(bars), 1),
        "pitch-class entropy (bits)": entropy,
        "groove consistency": groove,
    }


def archive(comparison: Comparison) -> bytes:
    """A zip with the MIDI of every column and the settings."""
    facts = [
        {"name": column.title, "does": column.what, "parameters": column.parameters, "seconds": column.seconds,
         "error": column.error, **column.measures}
        for column in comparison.columns
    ]  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for number, column in enumerate(comparison.columns, 1):
            if column.midi:
                zipped.writestr(f"{number}_{column.title.lower().replace(' ', '_')}.mid", column.midi)
        settings = comparison.settings | {"preferred": comparison.preferred, "columns": facts}
        zipped.writestr("settings.json", json.dumps(settings, indent=2))
    return packed.getvalue()

"""Music for the benchmark: long token sequences of real songs, or a piece that the benchmark writes itself."""

import statistics
import time
from pathlib import Path

import numpy as np
from symusic import Note, Score, Tempo, TimeSignature, Track

from partimento.tokenization import MidiError, MidiProcessor
from partimento.training.token_corpus import TokenCorpus

TOKENS_PER_BAR = (120, 190)  # the songs of the Museformer paper have 158 on average


def example_band(num_bars: int, variant: int = 0) -> Score:
    """A piece for piano, guitar, bass and drums in 4/4, 36 notes a bar, 12 ticks a beat."""
    score = Score(12)
    score.tempos.append(Tempo(0, 120))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    piano, guitar, bass = Track("Piano", 0), Track("Guitar", 25), Track("Bass", 33)
    drums = Track("Drums", 0, is_drum=True)
    for bar in range(num_bars):
        start, root = 48 * bar, 36 + (0, 9, 5, 7)[bar % 4]
        for beat in range(4):
            bass.notes.append(Note(start + 12 * beat, 11, root, 90))
            for interval in (12, 16, 19):
                piano.notes.append(Note(start + 12 * beat + 6, 5, root + interval, 70))
            drums.notes.append(Note(start + 12 * beat, 3, 36 if beat % 2 == 0 else 38, 100))
            for half in (0, 6):
                drums.notes.append(Note(start + 12 * beat + half, 3, 42, 60 + 10 * (half == 0)))
                guitar.notes.append(
                    Note(start + 12 * beat + half, 6, root + 24 + (bar * 7 + beat * 3 + half + variant) % 12, 80)
                )
    score.tracks.extend([piano, guitar, bass, drums])
    return score


def long_sequence(processor: MidiProcessor, corpus: Path | None, length: int) -> list[int]:
    """At least `length` tokens: BOS, conditions, then bars without EOS.

    With a prepared `corpus` the bars of its training songs with `TOKENS_PER_BAR`, one song after the other (and from
    the start again if they do not suffice); otherwise those of `example_band`.

    Raises:
        ValueError: no song of the corpus has bars of that size.
    """
    if corpus is None:
        piece = processor.encode(example_band(64))[:-1]
        first = piece.index(processor.bar_token_id)
        return piece[:first] + piece[first:] * (1 + length // (len(piece) - first))
    songs = TokenCorpus.from_parquet(corpus, "train", processor.vocabulary)
    bars = songs.end_bar - songs.first_bar
    per_bar = np.diff(songs.offsets) / bars
    chosen = np.flatnonzero((per_bar >= TOKENS_PER_BAR[0]) & (per_bar <= TOKENS_PER_BAR[1]) & (bars >= 16))
    if not len(chosen):
        raise ValueError(f"corpus={corpus}: no song of 16 bars or more has {TOKENS_PER_BAR} tokens per bar")
    ids = songs.song(chosen[0])[: songs.prefix_lengths[chosen[0]]].tolist()
    while len(ids) < length:
        for index in chosen:
            song = songs.song(index)[songs.prefix_lengths[index] :]
            ids += song[song != processor.eos_token_id].tolist()
            if len(ids) >= length:
                break
    return ids


def tokenisation_speed(processor: MidiProcessor, files: list[Path], limit: int) -> dict:
    """Files per second and core of `MidiProcessor.encode`, reading included, on files of 1,200 to 1,800 notes."""
    chosen, notes = [], []
    for path in files:
        try:
            count = processor.load(path).note_num()
        except MidiError:
            continue
        if 1200 <= count <= 1800:
            chosen.append(path)
            notes.append(count)
        if len(chosen) == limit:
            break
    if not chosen:
        return {"files": 0, "mean_notes": None, "files_per_second": None}
    speeds = []
    for _ in range(3):
        started = time.process_time()
        for path in chosen:
            processor.encode(path)
        speeds.append(len(chosen) / (time.process_time() - started))
    speed = round(statistics.median(speeds), 1)
    return {"files": len(chosen), "mean_notes": round(statistics.fmean(notes)), "files_per_second": speed}

"""Some bars of a piece written anew, everything else as it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from partimento.pipelines.generation import GeneratedMidi, MidiGenerator
from partimento.pipelines.threads import one_thread
from partimento.tokenization.canonical import Piece, assemble
from partimento.tokenization.codec import encode_piece

if TYPE_CHECKING:
    from symusic import Score

__all__ = ["Rewriting", "rewrite_bars"]

CONTEXT_BARS = 64
_NOTE_FIELDS = ("onsets", "programs", "pitches", "velocities", "durations")


@dataclass
class Rewriting:
    """The outcome of [`rewrite_bars`]."""

    piece: GeneratedMidi
    """The whole piece; `seconds` is the time of drawing the candidates, and `complete` is False where that was stopped
    before the last of the bars was finished."""
    fits: list[float] = field(default_factory=list)
    """For each candidate the nats per token of the bars that follow; empty when none follow."""
    chosen: int = 0
    """The candidate that was taken: the one with the lowest fit."""


def rewrite_bars(
    generator: MidiGenerator,
    midi: str | Path | bytes | Score,
    first: int,
    last: int,
    *,
    candidates: int = 4,
    look_ahead: int = 4,
    **settings: Any,
) -> Rewriting:
    """Bars `first` to `last` of a piece (from 1, both included) written anew from the bars before them.

    The model reads from the left: it does not see the bars behind the range while it writes. Several versions are
    drawn, and the one after which the next bars are likeliest is kept. Notes that begin outside the range stay exactly
    as they are on the grid of the tokenizer, and so does the tempo; a new note is left out where one of them still
    sounds on its pitch.

    Args:
        midi: file, bytes or score in 4/4.
        candidates: versions drawn, as one batch; one when the range ends the piece.
        look_ahead: bars behind the range whose likelihood is compared.
        settings: as in `MidiGenerator.continue_midi`: genre, instruments, without, seed, temperature, on_music, stop...

    Raises:
        MidiError: the piece cannot be read.
        ValueError: there are no such bars; and as in `continue_midi`.
    """
    processor = generator.processor
    original = processor.load_piece(midi)
    if not 1 <= first <= last <= original.num_bars:
        raise ValueError(f"bars {first} to {last} cannot be rewritten: the piece has bars 1 to {original.num_bars}")
    if candidates < 1:
        raise ValueError(f"candidates={candidates} must be at least 1")
    behind = min(look_ahead, original.num_bars - last)
    drawn = generator.continue_midi(
        original.to_score(exact_tempos=True),
        bars=last - first + 1,
        after_bar=first - 1,
        total_bars=original.num_bars,
        num_outputs=candidates if behind else 1,
        **settings,
    )
    prefix, _ = processor.split_prefix(drawn[0].ids)
    bodies = [
        encode_piece(with_new_bars(original, processor.decode_piece(piece.ids), first, last)).tolist()
        for piece in drawn
    ]
    fits = [_nats_per_token(generator, prefix, body, last, behind) for body in bodies] if behind else []
    chosen = int(np.argmin(fits)) if fits else 0
    ids = [*prefix, *bodies[chosen], processor.eos_token_id]
    piece = GeneratedMidi(
        ids=ids,
        score=processor.decode(ids, original.exact_tempos),
        conditions=drawn[chosen].conditions,
        seed=drawn[chosen].seed,
        num_bars=processor.count_bars(ids),
        seconds=drawn[chosen].seconds,
        transposed=0,
        complete=drawn[chosen].complete,
        processor=processor,
        exact_tempos=original.exact_tempos,
    )
    return Rewriting(piece, fits, chosen)


def with_new_bars(original: Piece, new: Piece, first: int, last: int) -> Piece:
    """`original` with the notes that begin in bars `first` to `last` (from 1) taken from `new`."""
    start, end = original.metre.bar_start(np.array([first - 1, last])).tolist()
    kept = (original.onsets < start) | (original.onsets >= end)
    taken = (new.onsets >= start) & (new.onsets < end) & ~_sounding(original, new, start)
    notes = [np.concatenate([getattr(original, name)[kept], getattr(new, name)[taken]]) for name in _NOTE_FIELDS]
    onsets, programs, pitches, velocities, durations = notes
    return assemble(
        original.vocabulary, original.metre, onsets, programs, pitches, velocities, durations,
        original.tempo_ticks, original.tempos,
    )  # fmt: skip


def _sounding(original: Piece, new: Piece, start: int) -> np.ndarray:
    """For each note of `new` whether one of `original` that began before `start` still sounds on its pitch."""
    steps = original.metre.step_ticks[original.metre.segment(original.onsets)]
    ends = original.onsets + original.vocabulary.durations[original.durations] * steps
    held = (original.onsets < start) & (ends > start)
    until = np.zeros(129 * 128, np.int64)
    np.maximum.at(until, original.programs[held] * 128 + original.pitches[held], ends[held])
    return new.onsets < until[new.programs * 128 + new.pitches]


@torch.inference_mode()
def _nats_per_token(generator: MidiGenerator, prefix: list[int], body: list[int], last: int, behind: int) -> float:
    """Mean negative log-likelihood of the `behind` bars after bar `last`, given up to 64 bars before them."""
    processor = generator.processor
    start = max(0, last - CONTEXT_BARS)
    read = [*prefix, *processor.window(body, start, last - start + behind)]
    ids = torch.tensor([read], device=generator.model.device)
    bars = (ids[0] == processor.bar_token_id).cumsum(0) + start
    extra = generator.bar_offset(start, 1)
    with one_thread(generator.model.device):
        logits = generator.model(input_ids=ids, **extra).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return float(losses[bars[1:] > last].mean())

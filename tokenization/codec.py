"""Canonical piece <-> token ids, vectorised: no Python loop over notes. Ids equal those of MidiTok's REMI."""

import numpy as np

from partimento.tokenization.canonical import Metre, Piece, assemble, clean_tempos
from partimento.tokenization.vocabulary import DRUM_RANK, FOUR_FOUR, TokenType, Vocabulary


def encode_piece(piece: Piece) -> np.ndarray:
    """Body ids [tokens] of a piece: bars without BOS, conditions and EOS.

    Events are the tempo changes and the notes, ordered by (tick, tempo first, program, pitch). Each writes the new
    bars before it, a Position if the tick is new, and then either Tempo or [Program] Pitch Velocity Duration.
    """
    vocabulary, metre = piece.vocabulary, piece.metre
    starts = vocabulary.starts
    num_tempos, num_notes = len(piece.tempos), piece.num_notes
    ticks = np.concatenate([piece.tempo_ticks, piece.onsets])
    order = np.argsort(ticks, kind="stable")  # tempos come first in the list, so also at equal ticks
    ticks = ticks[order]
    segment = metre.segment(ticks)
    local = ticks - metre.ticks[segment]
    bars = metre.bars[segment] + local // metre.bar_ticks[segment]
    positions = local % metre.bar_ticks[segment] // metre.step_ticks[segment]
    new_bars = np.diff(bars, prepend=-1)
    new_tick = np.diff(ticks, prepend=-1) != 0
    is_note = order >= num_tempos
    change = np.zeros(num_tempos + num_notes, bool)  # in event order: the note needs a Program token
    change[is_note] = np.diff(piece.programs, prepend=-1) != 0
    bar_width = 2 if vocabulary.has_metres else 1
    length = new_bars * bar_width + new_tick + np.where(is_note, 3 + change, 1)
    end = np.cumsum(length)
    ids = np.full(int(end[-1]) if len(end) else 0, vocabulary.bar, np.int64)

    if vocabulary.has_metres:
        first = np.repeat(end - length, new_bars)  # slot of the first bar written by the event of each bar
        index = np.arange(len(first)) - np.repeat(np.cumsum(new_bars) - new_bars, new_bars)
        bar_numbers = np.arange(len(first))
        signatures = metre.indices[metre.segment_of_bar(bar_numbers)]
        ids[first + 2 * index + 1] = starts[TokenType.TIME_SIGNATURE] + signatures
    at_position = (end - length + new_bars * bar_width)[new_tick]
    ids[at_position] = starts[TokenType.POSITION] + positions[new_tick]
    ids[end[~is_note] - 1] = starts[TokenType.TEMPO] + piece.tempos
    note_end = end[is_note]
    pitch_start = np.where(piece.programs == DRUM_RANK, starts[TokenType.DRUM], starts[TokenType.PITCH])
    ids[note_end - 1] = starts[TokenType.DURATION] + piece.durations
    ids[note_end - 2] = starts[TokenType.VELOCITY] + piece.velocities
    ids[note_end - 3] = pitch_start + piece.pitches
    changed = change[is_note]
    ids[note_end[changed] - 4] = vocabulary.program_ids[piece.programs[changed]]
    return ids


def last_index(mask: np.ndarray) -> np.ndarray:
    """For each place the index of the last True up to and including it, or -1."""
    return np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1)) if len(mask) else np.zeros(0, np.int64)


def decode_ids(ids: np.ndarray, vocabulary: Vocabulary) -> Piece:
    """Piece of a token sequence. Never raises for known ids: tokens that make no note or change are passed over.

    Special and condition tokens are ignored, so is all that follows EOS. A note is Pitch Velocity Duration; it starts
    at the last Position of its bar (the bar line if there is none) and belongs to the last Program (0 if none).
    """
    ends = np.flatnonzero(ids == vocabulary.eos)
    ids = ids[: ends[0]] if len(ends) else ids
    ids = ids[vocabulary.types[ids] > TokenType.CONDITION]
    types, starts = vocabulary.types[ids], vocabulary.starts
    bars = np.maximum(np.cumsum(types == TokenType.BAR) - 1, 0)
    metre = metre_of_tokens(ids, types, bars, vocabulary)

    last_place = last_index((types == TokenType.BAR) | (types == TokenType.POSITION))
    has_position = (last_place >= 0) & (types[last_place] == TokenType.POSITION)
    positions = np.where(has_position, ids[last_place] - starts[TokenType.POSITION], 0)
    ticks = metre.bar_start(bars) + positions * metre.step_ticks[metre.segment_of_bar(bars)]

    is_pitch = (types == TokenType.PITCH) | (types == TokenType.DRUM)
    note = np.flatnonzero(is_pitch[:-2] & (types[1:-1] == TokenType.VELOCITY) & (types[2:] == TokenType.DURATION))
    last_program = last_index(types == TokenType.PROGRAM)[note]
    programs = np.where(last_program >= 0, vocabulary.program_of_id[ids[last_program]], 0) if len(note) else note
    pitch_start = np.where(types[note] == TokenType.DRUM, starts[TokenType.DRUM], starts[TokenType.PITCH])
    tempo = np.flatnonzero(types == TokenType.TEMPO)
    order = np.argsort(ticks[tempo], kind="stable")
    tempo_ticks, tempos = clean_tempos(ticks[tempo][order], (ids[tempo] - starts[TokenType.TEMPO])[order])
    return assemble(
        vocabulary,
        metre,
        ticks[note],
        programs,
        ids[note] - pitch_start,
        ids[note + 1] - starts[TokenType.VELOCITY],
        ids[note + 2] - starts[TokenType.DURATION],
        tempo_ticks,
        tempos,
    )


def metre_of_tokens(ids: np.ndarray, types: np.ndarray, bars: np.ndarray, vocabulary: Vocabulary) -> Metre:
    """Time signatures of a token sequence; the last one in a bar holds from that bar on."""
    default = vocabulary.time_signatures.index(FOUR_FOUR)
    where = np.flatnonzero(types == TokenType.TIME_SIGNATURE)
    if not len(where):
        return Metre.from_changes([(0, default)], vocabulary)
    signatures = ids[where] - vocabulary.starts[TokenType.TIME_SIGNATURE]
    last = np.append(bars[where][1:] != bars[where][:-1], True)
    at_bars, signatures = bars[where][last], signatures[last]
    if at_bars[0] > 0:
        at_bars, signatures = np.append(0, at_bars), np.append(default, signatures)
    new = np.append(True, signatures[1:] != signatures[:-1])
    at_bars, signatures = at_bars[new], signatures[new]
    numerators, denominators = np.array(vocabulary.time_signatures).T[:, signatures]
    bar_ticks = numerators * (vocabulary.ticks_per_quarter * 4 // denominators)
    ticks = np.concatenate([[0], np.cumsum(np.diff(at_bars) * bar_ticks[:-1])])
    return Metre(ticks, at_bars, signatures, bar_ticks, vocabulary.ticks_per_position(denominators))

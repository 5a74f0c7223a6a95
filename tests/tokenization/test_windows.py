"""Windows: at every bar grammatical and with the notes of those bars; prefix and counting."""

import numpy as np
import pytest

from partimento.tokenization.vocabulary import TokenType


def notes_by_bar(processor, ids) -> list[list[tuple]]:
    """Notes of each bar as (program, tick within the bar, pitch, velocity, duration index)."""
    piece = processor.decode_piece(ids)
    bars = piece.metre.bar(piece.onsets)
    local = piece.onsets - piece.metre.bar_start(bars)
    columns = (piece.programs, local, piece.pitches, piece.velocities, piece.durations)
    rows = list(zip(*(column.tolist() for column in columns)))
    return [[row for row, at in zip(rows, bars.tolist()) if at == bar] for bar in range(processor.count_bars(ids))]


def running_tempo(processor, ids) -> list[int]:
    """Tempo token in force at the first position of each bar, -1 before the first one."""
    vocabulary, tempo, at_bars = processor.vocabulary, -1, []
    for index, token in enumerate(ids):
        kind = vocabulary.types[token]
        if kind == TokenType.BAR:
            width = 1 + vocabulary.has_metres
            at_zero = ids[index + width : index + width + 1] == [vocabulary.ids["Position_0"]]
            follows = ids[index + width + 1] if at_zero else -1
            at_bars.append(follows if at_zero and vocabulary.types[follows] == TokenType.TEMPO else tempo)
        elif kind == TokenType.TEMPO:
            tempo = token
    return at_bars


def check_windows(processor, ids, sizes=(1, 3), num_columns=5):
    def notes(tokens):
        return [[row[:num_columns] for row in bar] for bar in notes_by_bar(processor, tokens)]

    whole, tempos = notes(ids), running_tempo(processor, ids)
    for first in range(len(whole)):
        for size in sizes:
            window = processor.window(ids, first, size)
            processor.validate(window)
            assert window[0] == processor.bar_token_id
            assert notes(window) == whole[first : first + size]
            assert running_tempo(processor, window) == tempos[first : first + size]
            assert (window[-1] == processor.eos_token_id) == (first + size >= len(whole))


@pytest.mark.parametrize("preset", ["multitrack", "metres"])
def test_every_bar_of_written_files(processors, midi_files, preset):
    for file in midi_files[:6]:
        check_windows(processors[preset], processors[preset].encode(file, "measured"))


@pytest.mark.parametrize("preset", ["multitrack", "metres"])
def test_every_bar_of_random_sequences(processors, preset):
    """They also have bars without tempo and tempi without notes. Decoding cuts a note where its pitch restarts, which
    may be outside the window, so durations are left out here."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        ids = processors[preset].grammar.random_sequence(rng, num_bars=6, notes_per_bar=2)
        check_windows(processors[preset], ids, num_columns=4)


def test_every_bar_of_real_files(processors, sample_files):
    for file in [path for path in sample_files if "freedoom" in str(path)][:4]:
        check_windows(processors["metres"], processors["metres"].encode(file), sizes=(2,))


def test_whole_piece_is_its_own_window(processor, midi_files):
    ids = processor.encode(midi_files[0], "measured")
    prefix, body = processor.split_prefix(ids)
    assert processor.window(ids, 0, 999) == body
    assert prefix + body == ids
    assert processor.vocabulary.types[prefix].max() <= TokenType.CONDITION
    for first, size in ((-1, 1), (processor.count_bars(ids), 1), (0, 0)):
        with pytest.raises(ValueError, match="the sequence has bars 0 to"):
            processor.window(ids, first, size)


def test_prefix_without_bars(processor):
    jazz = processor.condition_ids({"genre": "Jazz"})
    assert processor.split_prefix([1, *jazz]) == ([1, *jazz], [])
    assert processor.split_prefix([1, *jazz, 2]) == ([1, *jazz], [2])
    assert processor.split_prefix([0, 0, 1, 4, 2]) == ([0, 0, 1], [4, 2])
    assert processor.split_prefix([]) == ([], [])

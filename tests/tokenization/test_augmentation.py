"""Augmentation: invertible where it should be, drums and grid untouched, still grammatical."""

import numpy as np
import pytest

from partimento.tokenization.conditions import SLOTS, mean_tempo
from partimento.tokenization.vocabulary import TokenType


@pytest.fixture(scope="module")
def pieces(processor, midi_files):
    labels = {"genre": "Jazz", "artist": "Scott Joplin", "mood": "Q1"}
    return [
        np.array(processor.encode(file, labels | processor.measure_conditions(file), max_bars=300))
        for file in midi_files
    ]


def test_transposition_is_invertible_and_keeps_drums(processor, pieces):
    types = processor.vocabulary.types
    for ids in pieces:
        for semitones in range(-5, 7):
            shifted = processor.transpose(ids, semitones)
            assert (processor.transpose(shifted, -semitones) == ids).all()
            processor.validate(shifted)
            moved = types[ids] == TokenType.PITCH
            assert (shifted[moved] == ids[moved] + semitones).all()
            is_key = np.char.startswith(np.array(processor.vocabulary.tokens)[ids], "Key_")
            assert (shifted[~moved & ~is_key] == ids[~moved & ~is_key]).all()
        assert (processor.transpose(ids, 12)[is_key] == ids[is_key]).all()


def test_tokenising_a_transposed_score_shifts_the_tokens(processor, midi_files, pieces):
    for file in midi_files:
        for semitones in (-5, 3, 6):
            score = processor.load(file)
            for track in score.tracks:
                if not track.is_drum:
                    track.shift_pitch(semitones, inplace=True)
            ids = processor.encode(file, conditions="measured")
            assert processor.encode(score, conditions="measured") == processor.transpose(ids, semitones).tolist()


def test_key_moves_along(processor):
    names = lambda ids: [processor.vocabulary.tokens[index] for index in ids]  # noqa: E731
    ids = processor.condition_ids({"key": "A-minor"}) + processor.condition_ids({"key": "C-major"})
    assert names(processor.transpose(ids, 3)) == ["Key_C-minor", "Key_Eb-major"]
    assert names(processor.transpose(ids, -1)) == ["Key_G#-minor", "Key_B-major"]


def test_transposition_out_of_range(processor, pieces):
    low, high = processor.augmentation.transposition_range(pieces[0])
    for semitones in (low, high):
        assert (processor.transpose(processor.transpose(pieces[0], semitones), -semitones) == pieces[0]).all()
    for semitones in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"allows {low} to {high}"):
            processor.transpose(pieces[0], semitones)


def test_tempo_scaling(processor, pieces):
    vocabulary = processor.vocabulary
    for ids in pieces:
        before = processor.decode_piece(ids)
        for factor in (0.9, 1.0, 1.07, 1.1, 3.0, 0.01):
            scaled = processor.scale_tempo(ids, factor)
            processor.validate(scaled)
            after = processor.decode_piece(scaled)
            for name in ("onsets", "programs", "pitches", "velocities", "durations"):
                assert (getattr(after, name) == getattr(before, name)).all()
            wanted = np.clip(vocabulary.tempos[before.tempos] * factor, 24, 200)
            at = np.searchsorted(after.tempo_ticks, before.tempo_ticks, side="right") - 1
            assert (np.abs(vocabulary.tempos[after.tempos][at] / wanted - 1) < 0.04).all()  # half a bin is 3.5 %
            end = int(after.metre.bar_start(np.array([after.num_bars]))[0])
            mean = mean_tempo(after.tempo_ticks, vocabulary.tempos[after.tempos], end)
            expected = processor.condition_ids({"tempo": mean})
            bins = [token for token in scaled.tolist() if vocabulary.tokens[token].startswith("TempoBin_")]
            assert bins == expected
        assert (processor.scale_tempo(ids, 1.0) == ids).all()


def test_emptied_positions_go(processor):
    def encoded(text):
        return [processor.vocabulary.ids[name] for name in text.split()]

    note = "Program_0 Pitch_60 Velocity_99 Duration_1.0.12"
    ids = encoded(f"Bar_None Position_0 Tempo_186.78 Position_4 Tempo_200.0 Position_8 {note}")
    assert processor.scale_tempo(ids, 2.0).tolist() == encoded(f"Bar_None Position_0 Tempo_200.0 Position_8 {note}")
    ids = encoded(f"Bar_None Position_0 Tempo_186.78 Position_4 Tempo_200.0 {note}")
    assert processor.scale_tempo(ids, 2.0).tolist() == encoded(f"Bar_None Position_0 Tempo_200.0 Position_4 {note}")
    with pytest.raises(ValueError, match="factor=0"):
        processor.scale_tempo(ids, 0)


def test_conditions_are_dropped_by_slot(processor, pieces):
    prefix, _ = processor.split_prefix(pieces[0])
    tokens, rng = processor.vocabulary.tokens, np.random.default_rng(0)
    slots = [tokens[token].partition("_")[0] for token in prefix[1:]]
    assert set(slots) == set(SLOTS)
    kept = dict.fromkeys(SLOTS, 0)
    nothing, trials = 0, 4000
    for _ in range(trials):
        rest = processor.drop_conditions(prefix, rng).tolist()
        assert rest[0] == processor.bos_token_id
        left = [tokens[token].partition("_")[0] for token in rest[1:]]
        assert left == [slot for slot in slots if slot in left]  # whole slots, in order
        nothing += not left
        for slot in set(left):
            kept[slot] += 1
    for slot in SLOTS:
        assert kept[slot] / trials == pytest.approx(0.9 * 0.8, abs=0.03)
    assert nothing / trials == pytest.approx(0.1, abs=0.02)
    assert processor.drop_conditions(prefix, rng, 0.0, 0.0).tolist() == prefix
    assert processor.drop_conditions(prefix, rng, 0.0, 1.0).tolist() == [processor.bos_token_id]
    assert processor.drop_conditions([], rng).tolist() == []

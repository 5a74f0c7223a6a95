"""Conditions: names and bins there and back, measurement, messages for unknown labels."""

import numpy as np
import pytest
from symusic import Note, Score, Tempo, Track

from partimento.tokenization import FAMILY_PROGRAMS
from partimento.tokenization.conditions import KEYS, estimate_key, parse_key

EVERYTHING = {
    "bars": 32,
    "density": 20.0,
    "instruments": ["drums", "bass", "piano"],
    "tempo": 97.0,
    "key": "A-minor",
    "mood": "Q2",
    "artist": "Scott Joplin",
    "genre": "Pop_Rock",
}


def tokens_of(processor, conditions):
    return [processor.vocabulary.tokens[index] for index in processor.condition_ids(conditions)]


def test_slot_order_and_names(processor):
    assert tokens_of(processor, EVERYTHING) == [
        "Genre_Pop-Rock",
        "Artist_Scott-Joplin",
        "Mood_Q2",
        "Key_A-minor",
        "TempoBin_3",
        "Inst_Piano",
        "Inst_Bass",
        "Inst_Drums",
        "Density_3",
        "Bars_32",
    ]
    assert processor.condition_ids({}) == processor.condition_ids({"genre": None}) == []


@pytest.mark.parametrize(
    "conditions",
    [EVERYTHING, {"genre": "jazz"}, *({"tempo": t, "density": t / 3, "bars": t} for t in (1, 59, 60, 112, 140, 400))],
)
def test_parse_is_the_inverse(processor, conditions):
    ids = processor.condition_ids(conditions)
    assert processor.condition_ids(processor.parse_conditions([1, *ids, 4])) == ids


def test_bars_use_upper_edges(processor):
    names = [tokens_of(processor, {"bars": n})[0] for n in (1, 8, 9, 256, 300)]
    assert names == ["Bars_8", "Bars_8", "Bars_16", "Bars_256", "Bars_256"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"genre": "Jaz"}, "unknown genre 'Jaz'; nearest: Jazz"),
        ({"artist": "Scot Joplin"}, "nearest: Scott-Joplin"),
        ({"mood": "zzzz"}, "unknown mood 'zzzz'; known: Q1, Q2"),
        ({"instruments": ["paino"]}, "unknown instrument 'paino'; nearest: piano"),
        ({"tempi": 3}, "unknown condition 'tempi'; nearest: tempo"),
        ({"key": "H-minor"}, "C-major or A-minor"),
        ({"tempo": -1}, "tempo=-1 must be a positive number"),
        ({"bars": "many"}, "bars='many' must be a positive number"),
    ],
)
def test_unknown_values_are_named(processor, conditions, message):
    with pytest.raises(ValueError, match=message):
        processor.condition_ids(conditions)


def test_key_spellings():
    spellings = {"Am": "A-minor", "a minor": "A-minor", "C": "C-major", "A#-major": "Bb-major", "Db_minor": "C#-minor"}
    assert {text: parse_key(text) for text in spellings} == spellings
    assert [parse_key(key) for key in KEYS] == list(KEYS)


def test_key_estimate_of_scales():
    major = np.array([3, 0, 1, 0, 2, 1, 0, 2.5, 0, 1, 0, 0.5])
    minor = np.array([3, 0, 1, 2, 0, 1, 0, 2.5, 1, 0, 0.5, 0.5])
    for tonic in range(12):
        assert estimate_key(np.roll(major, tonic)) == KEYS[tonic]
        assert estimate_key(np.roll(minor, tonic)) == KEYS[12 + tonic]
    assert estimate_key(np.zeros(12)) is None
    assert estimate_key(np.ones(12)) is None


def test_measurement(processor):
    """Two bars at 60 and two at 120 quarters per minute: 16 quarters in 8 + 4 seconds are 80 per minute."""
    score, piano, drums = Score(12), Track(program=1), Track(program=0, is_drum=True)
    for tick in range(0, 192, 12):
        piano.notes.append(Note(tick, 12, 60 + (0, 4, 7, 12)[tick // 12 % 4], 80))
        drums.notes.append(Note(tick, 12, 38, 80))
    score.tracks.extend([piano, drums])
    score.tempos.extend([Tempo(0, 58.39), Tempo(96, 123.91)])
    measured = processor.measure_conditions(score, genre="Jazz")
    expected = 16 / (8 / 58.39 + 8 / 123.91)
    assert measured.pop("tempo") == pytest.approx(expected)
    assert measured == {"key": "C-major", "instruments": ["piano", "drums"], "density": 8.0, "bars": 4, "genre": "Jazz"}
    assert processor.measure_conditions(score, key="A-minor")["key"] == "A-minor"


def test_drums_alone_have_no_key(processor, make_score):
    measured = processor.measure_conditions(make_score(0, programs=(-1,)))
    assert "key" not in measured
    assert measured["instruments"] == ["drums"]


def test_measured_conditions_in_encode(processor, midi_files):
    ids = processor.encode(midi_files[0], conditions="measured")
    measured = processor.condition_ids(processor.measure_conditions(midi_files[0]))
    assert ids == [1, *measured, *processor.encode(midi_files[0], add_special_tokens=False), 2]
    processor.validate(ids)
    with pytest.raises(ValueError, match="measured"):
        processor.encode(midi_files[0], conditions="guess")


def test_families_cover_general_midi():
    programs = sorted(program for family in FAMILY_PROGRAMS.values() for program in family)
    assert programs == list(range(-1, 128))
    assert len(FAMILY_PROGRAMS) == 17

"""Transposition to an asked key: arithmetic, and that an asked key is the one that comes out."""

import pytest

from partimento.checkpoints import list_embedded
from partimento.pipelines import MidiGenerator
from partimento.pipelines.keys import semitones_between
from partimento.tokenization.conditions import KEYS


@pytest.mark.parametrize(
    ("found", "asked", "semitones"),
    [
        ("C-major", "C-major", 0),
        ("C-major", "D-major", 2),
        ("D-major", "C-major", -2),
        ("C-major", "F#-major", 6),
        ("C-major", "G-major", -5),
        ("C-major", "A-minor", 0),
        ("A-minor", "C-major", 0),
        ("D-major", "A-minor", -2),
        ("B-minor", "Eb-major", 1),
    ],
)
def test_semitones(found, asked, semitones):
    assert semitones_between(found, asked) == semitones


def test_every_pair_ends_in_the_key_or_its_relative():
    scales = {name: {(KEYS.index(name) + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)} for name in KEYS[:12]}
    scales |= {name: {(KEYS.index(name) + step) % 12 for step in (0, 2, 3, 5, 7, 8, 10)} for name in KEYS[12:]}
    for found in KEYS:
        for asked in KEYS:
            moved = {(pitch + semitones_between(found, asked)) % 12 for pitch in scales[found]}
            assert moved == scales[asked], (found, asked)


@pytest.mark.skipif(not list_embedded(), reason="no embedded checkpoint is installed")
def test_an_asked_key_comes_out():
    generator = MidiGenerator.from_pretrained()
    request = {"genre": "folk", "instruments": ["guitar", "bass"], "bars": 4, "num_outputs": 6, "seed": 1}
    told = generator.generate(key="E-minor", constrain=False, **request)
    pieces = generator.generate(key="E-minor", **request)
    assert any(piece.transposed for piece in pieces)
    assert not any(piece.transposed for piece in told)
    for piece in pieces:
        assert piece.measured()["key"] in ("E-minor", "G-major")
        assert generator.processor.parse_conditions(piece.ids)["key"] == "E-minor"
        assert generator.processor.decode(piece.ids).note_num() == piece.score.note_num()

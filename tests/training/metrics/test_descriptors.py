"""Figures of one piece, computed by hand; notes from lists, tokens and files are the same."""

import math

import numpy as np
import pytest

from partimento.tokenization import MidiProcessor
from partimento.training.metrics.descriptors import (
    DESCRIPTORS,
    empty_bars,
    groove_consistency,
    notes_per_bar,
    pitch_class_entropy,
    polyphony,
    scale_consistency,
)
from partimento.training.metrics.notes import Notes, skyline


def piece(*notes, **options):
    """Notes (onset, duration, pitch[, program]) in quarters."""
    return Notes.from_list(notes, **options)


def test_pitch_classes_by_hand():
    assert pitch_class_entropy(piece((0, 1, 60), (1, 1, 72), (2, 1, 36, -1))) == 0
    assert pitch_class_entropy(piece((0, 1, 60), (1, 1, 64), (2, 1, 67), (3, 1, 48))) == pytest.approx(1.5)
    assert pitch_class_entropy(piece(*((i, 1, 40 + i) for i in range(12)))) == pytest.approx(math.log2(12))
    assert pitch_class_entropy(piece((0, 1, 36, -1))) is None


def test_scale_by_hand():
    c_major = [(i, 1, pitch) for i, pitch in enumerate((60, 62, 64, 65, 67, 69, 71))]
    assert scale_consistency(piece(*c_major)) == 1
    assert scale_consistency(piece(*c_major, (8, 1, 61))) == 7 / 8
    assert scale_consistency(piece(*((i, 1, 40 + i) for i in range(12)))) == 7 / 12
    a_minor = [(i, 1, pitch) for i, pitch in enumerate((57, 59, 60, 62, 64, 65, 67))]
    assert scale_consistency(piece(*a_minor)) == 1
    assert scale_consistency(piece((0, 1, 61, -1))) is None


def test_groove_by_hand():
    # sixteen positions; bars: {0, 4}, {0, 8}, {0, 8}: 14 of 16 agree, then 16 of 16
    notes = [(0, 1, 60), (1, 1, 60), (4, 1, 60), (6, 1, 36, -1), (8, 1, 60), (10, 1, 60)]
    assert groove_consistency(piece(*notes)) == pytest.approx((14 / 16 + 1) / 2)
    assert groove_consistency(piece(*notes[:2])) is None
    assert groove_consistency(piece((0, 1, 60), (3.5, 1, 60), quarters_per_bar=3)) == pytest.approx(10 / 12)  # 0, 2


def test_polyphony_by_hand():
    # C for 2 quarters, E from 1 to 3, a rest, G for 1; C again in another program, doubled: (2 + 2 + 1) / (3 + 1)
    notes = [(0, 2, 60, 0), (1, 2, 64, 0), (5, 1, 67, 0), (0, 1, 60, 40), (3, 1, 36, -1)]
    assert polyphony(piece(*notes)) == pytest.approx(5 / 4)
    assert polyphony(piece((0, 1, 60))) == 1
    assert polyphony(piece((0, 1, 36, -1))) is None


def test_bars_by_hand():
    notes = piece((0, 1, 60), (9, 1, 60), (9, 1, 36, -1), num_bars=4)
    assert (empty_bars(notes), notes_per_bar(notes)) == (0.5, 0.75)
    silent = piece(num_bars=3)
    assert (empty_bars(silent), notes_per_bar(silent)) == (1, 0)
    assert empty_bars(piece()) is notes_per_bar(piece()) is None


def test_transposition_changes_no_figure():
    rng = np.random.default_rng(0)
    notes = [(float(on) / 4, 0.5, int(p)) for on, p in zip(rng.integers(0, 64, 80), rng.integers(40, 80, 80))]
    higher = [(on, d, p + 5) for on, d, p in notes]
    for name, measure in DESCRIPTORS.items():
        assert measure(piece(*notes)) == pytest.approx(measure(piece(*higher))), name


def test_skyline():
    notes = piece((0, 1, 60), (0, 2, 67), (0, 1, 67, 30), (0, 1, 90, -1), (1, 1, 50), (3, 1, 52), (3, 1, 40))
    top = skyline(notes)
    assert list(zip((top.onsets / 480).tolist(), top.pitches.tolist(), (top.durations / 480).tolist())) == [
        (0, 67, 2), (1, 50, 1), (3, 52, 1),
    ]  # fmt: skip
    assert len(skyline(piece((0, 1, 36, -1)))) == 0


@pytest.mark.parametrize(
    ("note", "words"), [((0, 1), "give .onset"), ((0, 0, 60), "duration > 0"), ((0, 1, 128), r"\[0, 1, 128\]")]
)
def test_impossible_notes(note, words):
    with pytest.raises(ValueError, match=words):
        piece((0, 1, 60), note)


def test_too_few_bars():
    with pytest.raises(ValueError, match="the last note is in bar 3"):
        piece((8, 1, 60), num_bars=2)


def test_a_file_a_token_sequence_and_a_list_are_the_same_piece(tmp_path, make_score):
    processor = MidiProcessor.from_preset("multitrack")
    path = tmp_path / "piece.mid"
    make_score(3, num_bars=5).dump_midi(path)
    of_file = Notes.from_midi(path, processor)
    of_ids = Notes.from_ids(processor.encode(path), processor)
    ticks = of_file.ticks_per_quarter
    rows = zip(of_file.onsets / ticks, of_file.durations / ticks, of_file.pitches, of_file.programs)
    of_list = Notes.from_list(list(rows), num_bars=of_file.num_bars, ticks_per_quarter=ticks)
    for other in (of_ids, of_list):
        for name in ("onsets", "durations", "pitches", "programs", "bars", "bar_onsets", "bar_ticks"):
            assert np.array_equal(getattr(of_file, name), getattr(other, name)), name
    assert of_file.first_bars(2).num_bars == 2
    assert of_file.first_bars(2).onsets.max() < 2 * 4 * ticks

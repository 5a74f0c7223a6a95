"""Our figures of a piece against those of MusPy (Dong et al., ISMIR 2020), where both define the same."""

import math

import numpy as np
import pytest

from partimento.training.metrics import descriptors
from partimento.training.metrics.notes import Notes

muspy = pytest.importorskip(
    "muspy", reason="the second opinion on metrics needs MusPy: pip install muspy", exc_type=ImportError
)
RESOLUTION, MEASURE = 4, 16  # steps of a quarter and of a bar


def draw_notes(seed: int, programs=(0, 33, -1), bars: int = 9) -> list[tuple[int, int, int, int]]:
    """Notes (step, steps, pitch, program): on the sixteenth grid, each ends inside its bar, bar 4 is empty.

    MusPy counts bars up to the end of the last note and takes a bar into which a note rings for played; ours count
    onsets. On such pieces both mean the same.
    """
    rng = np.random.default_rng(seed)
    notes = [((bars - 1) * MEASURE, 2, 60, programs[0])]
    for _ in range(60):
        bar, step = int(rng.integers(bars)), int(rng.integers(MEASURE - 2))
        if bar != 4:
            length = int(rng.integers(1, MEASURE - 1 - step)) if step < MEASURE - 2 else 1
            notes.append((bar * MEASURE + step, length, int(rng.integers(48, 66)), int(rng.choice(programs))))
    return sorted(set(notes))


def as_muspy(notes):
    tracks = [
        muspy.Track(
            program=max(program, 0),
            is_drum=program < 0,
            notes=[muspy.Note(time=t, pitch=p, duration=d, velocity=64) for t, d, p, own in notes if own == program],
        )
        for program in sorted({note[3] for note in notes})
    ]
    return muspy.Music(resolution=RESOLUTION, tracks=tracks)


def ours(notes):
    return Notes.from_list([(t / RESOLUTION, d / RESOLUTION, p, program) for t, d, p, program in notes])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pitch_class_entropy", {}),
        ("scale_consistency", {}),
        ("polyphony", {}),
        ("groove_consistency", {"measure_resolution": MEASURE}),
    ],
)
def test_figures_are_those_of_muspy(seed, name, options):
    notes = draw_notes(seed)
    expected = getattr(muspy, name)(as_muspy(notes), **options)
    assert getattr(descriptors, name)(ours(notes)) == pytest.approx(expected)
    assert 0 < expected < 10


@pytest.mark.parametrize("seed", range(5))
def test_empty_bars_are_those_of_muspy(seed):
    notes = draw_notes(seed)
    expected = muspy.empty_measure_rate(as_muspy(notes), MEASURE)
    assert descriptors.empty_bars(ours(notes)) == pytest.approx(expected)
    assert expected >= 1 / 9


def test_a_piece_of_drums_has_no_pitches_for_either():
    notes = draw_notes(0, programs=(-1,))
    for name in ("pitch_class_entropy", "scale_consistency", "polyphony"):
        assert math.isnan(getattr(muspy, name)(as_muspy(notes)))
        assert getattr(descriptors, name)(ours(notes)) is None

"""Attributes of hand-made melodies."""

import numpy as np
import pytest

from partimento.tokenization.melody_attributes import measure_attributes


def line(**pitches):
    """16 steps with note-ons: step_<n>=pitch."""
    ids = np.zeros(16, int)
    for step, pitch in pitches.items():
        ids[int(step[1:])] = pitch - 21 + 2
    return ids


def test_by_hand():
    windows = np.stack(
        [
            line(s0=60, s4=62, s8=61, s12=72),  # on the beat; C D C# C
            line(s1=60, s3=60, s4=60, s7=66),  # 1 and 3 and 7 are off the sixteenths, each after a rest
            line(s2=60, s5=64, s6=67, s10=71),  # 2 and 10 are syncopated eighths, 6 follows 5
            line(s6=50),
            np.ones(16, int),  # note-offs only
        ]
    )
    values = measure_attributes(windows)
    np.testing.assert_allclose(values["c_diatonic"], [0.75, 0.75, 1.0, 1.0, np.nan])
    np.testing.assert_allclose(values["note_density"], [0.25, 0.25, 0.25, 1 / 16, 0])
    np.testing.assert_allclose(values["average_interval"], [(2 + 1 + 11) / 3, 2.0, (4 + 3 + 4) / 3, np.nan, np.nan])
    np.testing.assert_allclose(values["syncopation_16th"], [0, 0.75, 0.25, 0, np.nan])
    np.testing.assert_allclose(values["syncopation_8th"], [0, 0, 0.5, 1, np.nan])


@pytest.mark.parametrize(("step", "expected"), [(1, 1.0), (2, 0.0)])
def test_an_onset_just_before_takes_the_syncopation_away(step, expected):
    """Steps 1 and 3 are both syncopated; step 3 right behind step 2 is not, and step 2 is no odd step."""
    windows = line(**{f"s{step}": 50, "s3": 60})[None]
    assert measure_attributes(windows)["syncopation_16th"][0] == expected

"""Nine drum classes of General MIDI percussion: every hit is one bit of a step's id.

Roberts et al. 2018 reduce the 61 percussion sounds (pitches 27 to 87) to nine classes; pitches 22 and 26 are the
hi-hat edges of the Groove recordings (Gillick et al. 2019). The first pitch of a class is the one that is written.
"""

import numpy as np

DRUM_CLASSES = {
    "kick": (36, 35),
    "snare": (38, 27, 28, 31, 32, 33, 34, 37, 39, 40, 56, 65, 66, 75, 85),
    "closed_hat": (42, 44, 54, 68, 69, 70, 71, 73, 78, 80, 22),
    "open_hat": (46, 67, 72, 74, 79, 81, 26),
    "low_tom": (45, 29, 41, 43, 61, 64, 84),
    "mid_tom": (48, 47, 60, 63, 77, 86, 87),
    "high_tom": (50, 30, 62, 76, 83),
    "crash": (49, 52, 55, 57, 58),
    "ride": (51, 53, 59, 82),
}
NUM_DRUM_IDS = 2 ** len(DRUM_CLASSES)
OUTPUT_PITCHES = np.array([pitches[0] for pitches in DRUM_CLASSES.values()])


def _bits_of_pitches() -> np.ndarray:
    bits = np.zeros(128, np.int16)
    for bit, pitches in enumerate(DRUM_CLASSES.values()):
        bits[list(pitches)] = 1 << bit
    return bits


PITCH_BITS = _bits_of_pitches()  # [128]: 2 ** class, 0 for a pitch without class


def hits_to_ids(steps: np.ndarray, pitches: np.ndarray, num_steps: int) -> tuple[np.ndarray, int]:
    """Ids `[num_steps]` of hits at `steps` with General MIDI `pitches`, and how many hits have no class."""
    bits = PITCH_BITS[pitches]
    ids = np.zeros(num_steps, np.int16)
    inside = (steps >= 0) & (steps < num_steps)
    np.bitwise_or.at(ids, steps[inside], bits[inside])
    return ids, int((bits == 0).sum())


def ids_to_hits(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and pitches of the hits of drum ids, in order of time, then class."""
    steps, classes = np.nonzero(np.asarray(ids)[:, None] >> np.arange(len(DRUM_CLASSES)) & 1)
    return steps, OUTPUT_PITCHES[classes]
